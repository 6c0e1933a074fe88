"""What a log line says about an error, and what it never says."""

import json
import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import asyncpg
import pytest
from pydantic import BaseModel, Field, ValidationError
from structlog.testing import capture_logs

from billing_common.dead_letters import park
from billing_common.events import InvalidEventError
from billing_common.telemetry import Sparingly, describe
from billing_common.traces import without_values

SCRIPT = """
import logging, structlog
from pydantic import BaseModel
from billing_common.telemetry import configure_logging

class Form(BaseModel):
    number: int

def handle(form):
    try:
        Form.model_validate(form)
    except ValueError as cause:
        raise RuntimeError("the form broke\\nDETAIL: (email)=(ada@example.com)") from cause

configure_logging("checkout", "INFO")
try:
    handle({"number": "four words make one"})
except RuntimeError as error:
    if %r == "library":
        logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=error)
    else:
        structlog.get_logger("checkout").exception("failed")
"""


@pytest.mark.parametrize("writer", ["library", "ours"])
def test_a_failure_is_logged_with_its_place_and_cause_but_without_what_the_request_held(writer: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT % writer], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    entry = json.loads(line)
    assert [one["type"] for one in entry["exception"]] == ["RuntimeError", "ValidationError"]
    assert entry["exception"][0]["message"] == "the form broke"
    assert entry["exception"][0]["frames"][-1].endswith(" handle")
    assert "four words" not in done.stdout + done.stderr
    assert "ada@example.com" not in done.stdout + done.stderr


class Form(BaseModel):
    number: int
    kind: Literal["a"] = "a"
    numbers: dict[str, int] = Field(default_factory=dict)
    mail: Annotated[str, Field(pattern="^x$")] = "x"


SECRET = "ada@example.com"
WRONG: dict[str, Any] = {
    "a text for a number": {"number": SECRET},
    "another word": {"number": 1, "kind": SECRET},
    "another pattern": {"number": 1, "mail": SECRET},
    "a text in a map": {"number": 1, "numbers": {"calls": SECRET}},
    "no object": SECRET,
}
OF_POSTGRES = [
    asyncpg.DataError(f"invalid input for query argument $2: '{SECRET}' ('str' object cannot be interpreted as an integer)"),
    asyncpg.InterfaceError(f"invalid input for query argument $2: '{SECRET}' (expected str, got int)"),
    asyncpg.InvalidTextRepresentationError(f'invalid input syntax for type uuid: "{SECRET}"'),
    asyncpg.UniqueViolationError(f'duplicate key value violates unique constraint "account_pkey"\nDETAIL: Key (mail)=({SECRET})'),
]


def validation_error(given: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Form.model_validate(given)
    return caught.value


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_with_an_event_is_told_without_its_values(name: str) -> None:
    error = validation_error(WRONG[name])
    assert SECRET in str(error), "else this shows nothing"
    headers = await parked(error)
    assert describe(error)
    assert SECRET not in describe(error)
    assert SECRET.encode() not in b" ".join(headers.values())


@pytest.mark.parametrize("error", OF_POSTGRES, ids=lambda error: type(error).__name__)
def test_an_error_of_postgres_is_told_without_the_value_at_fault(error: Exception) -> None:
    entry = without_values(None, "error", {"exc_info": (type(error), error, None)})
    assert describe(error)
    assert SECRET not in describe(error) + json.dumps(entry)


async def test_half_a_letter_in_a_bad_event_keeps_it_from_no_dead_letter() -> None:
    headers = await parked(InvalidEventError("the catalogue's product \ud800 cannot be read"))
    assert headers["dlq-message"] == b"the catalogue's product \\ud800 cannot be read"


async def parked(error: Exception) -> dict[str, bytes]:
    """Return the headers of a record that was parked for an error; nothing of it may be in the log."""
    sent: dict[str, bytes] = {}

    class Producer:
        async def send_and_wait(self, _topic: str, *, headers: list[tuple[str, bytes]], **_more: Any) -> None:
            sent.update(headers)

    record = SimpleNamespace(topic="t", partition=0, offset=7, headers=[], value=SECRET.encode(), key=b"k")
    producer: Any = Producer()
    with capture_logs() as entries:
        await park(producer, "checkout", record, error)
    assert SECRET not in str(entries)
    return sent


def _record(name: str, text: str, at: float, *, argument: object = 1, error: bool = False) -> logging.LogRecord:
    record = logging.makeLogRecord({"name": name, "msg": text, "args": (argument,), "created": at})
    if error:
        record.exc_info = (ValueError, ValueError("no"), None)
    return record


def test_what_aiokafka_says_again_and_again_is_logged_once_in_a_while() -> None:
    passes = Sparingly().filter
    assert passes(_record("aiokafka", "Unable connect to node %s", 100.0))
    assert not passes(_record("aiokafka", "Unable connect to node %s", 109.9, argument=2))
    assert passes(_record("aiokafka.consumer.fetcher", "Unable connect to node %s", 101.0))
    assert passes(_record("aiokafka", "Unexpected error", 101.0, error=True))
    assert passes(_record("aiokafka", "Unexpected error", 101.1, error=True))
    assert passes(_record("checkout", "draft held", 101.0))
    assert passes(_record("checkout", "draft held", 101.1))
    assert passes(_record("aiokafka", "Unable connect to node %s", 110.1))
