"""contracts/ is what the code says, and a published event only gains optional fields."""

import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from billing_common.events import ALL_EVENTS

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ROOT / "contracts"
USAGE = json.loads((CONTRACTS / "events" / "usage.collected.schema.json").read_text())
INVOICE = json.loads((CONTRACTS / "events" / "invoice.paid.schema.json").read_text())


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


changes = _load("contract_changes")


def test_contracts_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "contracts.py", "--check"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_every_event_has_a_schema_that_is_one() -> None:
    for event in ALL_EVENTS:
        Draft202012Validator.check_schema(json.loads((CONTRACTS / "events" / f"{event.topic}.schema.json").read_text()))


def test_every_reference_leads_somewhere() -> None:
    for path in (CONTRACTS / "asyncapi").glob("*.json"):
        document = json.loads(path.read_text())
        for operation in document["operations"].values():
            for message in operation["messages"]:
                channel, name = message["$ref"].removeprefix("#/channels/").split("/messages/")
                payload = document["components"]["messages"][name].get("payload", {"$ref": f"{path}"})
                assert name in document["channels"][channel]["messages"]
                assert (path.parent / payload["$ref"]).exists()


def test_everything_that_is_received_is_sent_by_somebody() -> None:
    documents = [json.loads(path.read_text()) for path in (CONTRACTS / "asyncapi").glob("*.json")]
    operations = [name.split(".", 1) for document in documents for name in document["operations"]]
    sent = {topic for action, topic in operations if action == "send"}
    received = {topic for action, topic in operations if action == "receive"}
    assert received - sent == {"gateway.calls"}, "API Management itself writes the calls"


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda schema: schema["properties"].pop(name)


def _field(name: str, **shape: Any) -> Callable[[dict[str, Any]], None]:
    return lambda schema: schema["properties"].update({name: shape})


def _required(name: str) -> Callable[[dict[str, Any]], None]:
    def change(schema: dict[str, Any]) -> None:
        schema["properties"].setdefault(name, {"type": "string"})
        schema["required"].append(name)

    return change


def _optional(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda schema: schema["required"].remove(name)


def _renamed(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    return lambda schema: schema["properties"].update({new: schema["properties"].pop(old)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("quantity"), "quantity is gone"),
        (_renamed("hour", "hour_start"), "hour is gone"),
        (_field("quantity", type="string"), "quantity was"),
        (_field("quantity", anyOf=[{"type": "integer"}, {"type": "null"}]), "quantity was"),
        (_required("tenant"), "tenant is new and required"),
        (_required("event_id"), "event_id became required"),
        (_optional("meter_id"), "meter_id became optional"),
        (_field("revision", type="integer", minimum=0), "revision was"),
    ],
)
def test_a_change_that_breaks_readers_is_refused(change: Callable[[dict[str, Any]], None], said: str) -> None:
    schema = copy.deepcopy(USAGE)
    change(schema)
    assert any(sentence.startswith(said) for sentence in changes.incompatibilities(USAGE, schema))


@pytest.mark.parametrize(
    "change",
    [_field("note", type="string"), _field("quantity", type="integer", title="Total", description="in other words"), lambda _: None],
)
def test_a_new_optional_field_and_new_words_are_no_break(change: Callable[[dict[str, Any]], None]) -> None:
    schema = copy.deepcopy(USAGE)
    change(schema)
    assert changes.incompatibilities(USAGE, schema) == []


@pytest.mark.parametrize("field", ["amount_minor", "price_id"])
def test_a_break_inside_a_list_is_found(field: str) -> None:
    schema = copy.deepcopy(INVOICE)
    schema["$defs"]["InvoiceLine"]["properties"].pop(field)
    assert changes.incompatibilities(INVOICE, schema) == [f"lines[].{field} is gone"]


def test_another_value_of_a_closed_list_is_a_break() -> None:
    schema = copy.deepcopy(INVOICE)
    schema["properties"]["status"]["enum"].append("disputed")
    assert changes.incompatibilities(INVOICE, schema)
