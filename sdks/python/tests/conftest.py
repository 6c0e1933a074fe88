"""An app in memory behind the middleware, and a spool in a folder of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from turnpike_asgi import Options, Recorder

MakeRecorder = Callable[..., Recorder]


@pytest.fixture
def make_recorder(tmp_path: Path) -> Iterator[MakeRecorder]:
    """Recorders whose door is away: what they record stays in the spool."""
    made: list[Recorder] = []

    def make(**options: Any) -> Recorder:
        given = {
            "url": "http://127.0.0.1:9",
            "key": "tps_test",
            "source": "/gateways/test",
            "subject": lambda scope: dict(scope["headers"]).get(b"x-subject", b"").decode() or None,
            "spool_folder": tmp_path / "spool",
            "backoff_seconds": 5.0,
            "shutdown_seconds": 1.0,
        }
        made.append(Recorder(Options(**{**given, **options})))
        return made[-1]

    yield make
    for recorder in made:
        recorder.close()
