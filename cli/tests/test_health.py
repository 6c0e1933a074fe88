"""What `turnpike status` says of a part that is ready but holds an event."""

import json

import pytest

from turnpike_cli import health
from turnpike_cli.health import Health, ask_health
from turnpike_cli.parts import BY_NAME

HELD = {"topic": "usage.recorded", "partition": 2, "since": "2027-01-05T10:20:30.123456+00:00", "tries": 37, "error": "LookupError"}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"ready": True, "reasons": [], "held": []}, Health("ready", "")),
        (200, {"ready": True, "reasons": []}, Health("ready", "")),  # a sandbox
        (200, {"ready": True, "reasons": [], "held": [HELD]},
         Health("ready", "holds usage.recorded partition 2 since 2027-01-05T10:20:30 UTC: LookupError, 37 tries")),
        (503, {"ready": False, "reasons": ["Kafka does not answer"], "held": [HELD]}, Health("starting", "Kafka does not answer")),
    ],
)  # fmt: skip
def test_a_ready_part_says_what_it_holds(status: int, body: object, expected: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_get", lambda _: (status, json.dumps(body).encode()))
    assert ask_health(BY_NAME["usage_collector"], 1) == expected
