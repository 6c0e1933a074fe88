"""The commands in docs/how-to/send-usage.md are taken by the door as they stand there."""

import json
import re
import shlex
from pathlib import Path

import pytest

from .conftest import START
from .test_ingest import Door, door

__all__ = ["door"]  # the fixture
GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "send-usage.md"
VALUES = {"$SUBSCRIPTION": "sub-1", "$NOW": START.isoformat(), "/gateways/orders": "/gw", "\\\n": " "}


def commands() -> list[list[str]]:
    """Return the guide's calls of curl as words, its variables filled in."""
    text = GUIDE.read_text()
    for name, value in VALUES.items():
        text = text.replace(name, value)
    return [shlex.split(block) for block in re.findall(r"^```sh\n(curl .*?)^```", text, re.DOTALL | re.MULTILINE)]


def test_the_contract_the_guide_points_to_describes_the_door() -> None:
    contract = json.loads((GUIDE.parents[2] / "contracts" / "openapi" / "usage_collector.public.json").read_text())
    answers = contract["paths"]["/v1/events"]["post"]["responses"]
    described = set(re.findall(r"^\| (\d{3}) \|", GUIDE.read_text(), re.MULTILINE))
    assert described == set(answers)
    assert contract["components"]["schemas"]["Result"]["properties"]["reason"]["enum"]


@pytest.mark.parametrize("words", commands(), ids=["one", "batch", "binary"])
async def test_a_command_of_the_guide_is_taken(door: Door, words: list[str]) -> None:
    headers = dict(words[place + 1].split(": ", 1) for place, word in enumerate(words) if word == "-H")
    assert headers["Authorization"] == "Bearer $KEY"
    headers["Authorization"] = f"Bearer {door.key}"
    answer = await door.client.post("/v1/events", content=words[words.index("-d") + 1].encode(), headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.json()["rejected"] == 0
