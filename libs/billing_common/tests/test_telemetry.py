"""What a log line says about an error, and what it never says."""

import json
import logging
import subprocess
import sys

import pytest

from billing_common.telemetry import Sparingly

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
