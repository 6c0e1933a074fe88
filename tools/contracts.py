"""Writes contracts/ from the code: `python tools/contracts.py`, or with `--check` says whether it is what the code says.

An incompatible change of an event that is already there is refused: it needs a new version beside it (`usage.recorded.v2`).
`--unreleased` allows it for events that no release has published.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from contract_changes import incompatibilities
from pydantic_settings import BaseSettings

from billing_common.catalogue import Catalogue
from billing_common.events import ALL_EVENTS, GATEWAY_CALLS_TOPIC, USAGE_RECORDED_TOPIC, Event, SubscriptionCreated, SubscriptionDeleted
from billing_common.service import Service
from billing_common.topics import SERVICES, dead_letter_topic

FOLDER = Path(__file__).resolve().parent.parent / "contracts"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
EVENT_TOPICS = {event.topic: event for event in ALL_EVENTS}
ALSO_SENT_BY: dict[str, tuple[type[Event], ...]] = {"checkout": (SubscriptionCreated, SubscriptionDeleted)}  # of free products
RAW_SENT_BY = {"usage_collector": (USAGE_RECORDED_TOPIC,)}
MADE_UP = "Y29udHJhY3Rz" * 6  # long enough for a key, valid base64, and no secret
HEADERS = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time")


def build() -> dict[str, str]:
    """Return what contracts/ must hold: path -> text."""
    documents: dict[str, Any] = {"monetizationModels.schema.json": Catalogue.json_schema()}
    documents |= {_event_path(topic): _event_schema(event) for topic, event in EVENT_TOPICS.items()}
    documents |= {_event_path(topic): {"$schema": DIALECT, "$id": f"{topic}.schema.json", **schema} for topic, schema in _raw_topics()}
    for name in SERVICES:
        service = _create(name)
        documents[f"asyncapi/{name}.json"] = _asyncapi(service)
        documents[f"openapi/{name}.internal.json"] = service.internal.openapi()
        if service.public is not None:
            documents[f"openapi/{name}.public.json"] = service.public.openapi()
    return {path: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for path, document in documents.items()}


def _event_path(topic: str) -> str:
    return f"events/{topic}.schema.json"


def _event_schema(event: type[Event]) -> dict[str, Any]:
    """The schema of what consumers take; publishers always write every field."""
    return {"$schema": DIALECT, "$id": f"{event.topic}.schema.json", **event.model_json_schema(mode="validation")}


def _raw_topics() -> Iterator[tuple[str, dict[str, Any]]]:
    """Topics that carry no event of ours but what senders write, as the collector reads it."""
    decoding: Any = importlib.import_module("usage_collector.decoding")
    yield GATEWAY_CALLS_TOPIC, msgspec.json.schema(decoding.Call)
    yield USAGE_RECORDED_TOPIC, msgspec.json.schema(list[decoding.Recorded])


def _create(name: str) -> Service:
    """Build a service from made-up settings; it connects to nothing before it runs."""
    settings_class = importlib.import_module(f"{name}.settings").Settings
    for variable in [one for one in os.environ if one.startswith(f"{name.upper()}_")]:
        del os.environ[variable]  # contracts do not depend on who writes them
    service: Service = importlib.import_module(f"{name}.app").create_service(settings_class(**_made_up(settings_class)))
    return service


def _made_up(settings_class: type[BaseSettings]) -> dict[str, str]:
    required = [name for name, field in settings_class.model_fields.items() if field.is_required()]
    return {name: "http://localhost" if name.endswith("_url") else MADE_UP for name in required}


def _asyncapi(service: Service) -> dict[str, Any]:
    received = sorted({topic for subscriber in service.broker.subscribers for topic in _topics(subscriber)})
    events = [event.topic for event in ALL_EVENTS if event.publisher == service.name]
    sent = [*events, *(event.topic for event in ALSO_SENT_BY.get(service.name, ())), *RAW_SENT_BY.get(service.name, ())]
    dead_letters = [dead_letter_topic(service.name)] if received else []
    topics = sorted({*received, *sent, *dead_letters})
    operations = {f"receive.{topic}": _operation("receive", topic, f"{service.name}.{topic}") for topic in received}
    operations |= {f"send.{topic}": _operation("send", topic) for topic in [*sent, *dead_letters]}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": service.name, "version": "0.1.0", "description": "What this service receives from Kafka and sends to it."},
        "defaultContentType": "application/json",
        "channels": {topic: _channel(topic) for topic in topics},
        "operations": operations,
        "components": {"messages": {_message_name(topic): _message(topic) for topic in topics}},
    }


def _topics(subscriber: Any) -> list[str]:
    return [topic if isinstance(topic, str) else topic.name for topic in subscriber.topics]


def _channel(topic: str) -> dict[str, Any]:
    name = _message_name(topic)
    return {"address": topic, "messages": {name: {"$ref": f"#/components/messages/{name}"}}, "bindings": {"kafka": {"topic": topic}}}


def _operation(action: str, topic: str, group: str | None = None) -> dict[str, Any]:
    channel = f"#/channels/{topic}"
    operation: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{_message_name(topic)}"}],
    }
    if group is not None:
        operation["bindings"] = {"kafka": {"groupId": {"type": "string", "const": group}}}
    return operation


def _message_name(topic: str) -> str:
    event = EVENT_TOPICS.get(topic)
    return event.__name__ if event else "".join(part.capitalize() for part in topic.replace(".", "_").split("_"))


def _message(topic: str) -> dict[str, Any]:
    """An event with its CloudEvents headers and key; or a sender's record; or a dead letter, which holds any bytes."""
    if topic.endswith(".dlq"):
        cause = {name: {"type": "string"} for name in ("dlq-error", "dlq-message", "dlq-topic", "dlq-partition", "dlq-offset")}
        return {
            "name": topic,
            "summary": "A record that no retry can help, as it came, with its cause in the headers.",
            "headers": {"type": "object", "properties": cause},
        }
    message: dict[str, Any] = {"name": topic, "payload": {"$ref": f"../{_event_path(topic)}"}}
    event = EVENT_TOPICS.get(topic)
    if event is None:
        return message
    return {
        **message,
        "summary": (event.__doc__ or "").strip().splitlines()[0] if "__doc__" in event.__dict__ and event.__doc__ else event.__name__,
        "contentType": "application/json",
        "headers": {"type": "object", "required": list(HEADERS), "properties": {name: {"type": "string"} for name in HEADERS}},
        "bindings": {"kafka": {"key": {"type": "string", "description": "the CloudEvents subject: subscription, account or catalogue"}}},
    }


def broken_events(built: dict[str, str], folder: Path) -> list[str]:
    """Return what in the built event schemas would break who relies on those in the folder."""
    broken = []
    for topic in (*EVENT_TOPICS, USAGE_RECORDED_TOPIC, GATEWAY_CALLS_TOPIC):
        path = _event_path(topic)
        if (folder / path).exists():
            changes = incompatibilities(json.loads((folder / path).read_text()), json.loads(built[path]))
            broken += [f"{topic}: {change}" for change in changes]
    return broken


def differences(built: dict[str, str], folder: Path) -> list[str]:
    """Return which files are missing, out of date or no longer made."""
    there = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.json")} if folder.exists() else {}
    missing = [f"{path} is missing" for path in built if path not in there]
    stale = [f"{path} is out of date" for path, text in built.items() if path in there and there[path] != text]
    return sorted([*missing, *stale, *(f"{path} is no longer made" for path in there if path not in built)])


def write(built: dict[str, str], folder: Path) -> None:
    for path, text in built.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    for file in list(folder.rglob("*.json")):
        if str(file.relative_to(folder)) not in built:
            file.unlink()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="write contracts/ from the code")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when contracts/ is not what the code says")
    parser.add_argument("--unreleased", action="store_true", help="allow incompatible changes: no release has published these events")
    given = parser.parse_args(arguments)
    built = build()
    if (broken := broken_events(built, FOLDER)) and not given.unreleased:
        print("\n".join(broken))
        print(f"contracts: {len(broken)} incompatible changes of published events: make a new version beside each instead (topic .v2)")
        return 1
    changed = differences(built, FOLDER)
    if given.check:
        print("\n".join([*changed, f"contracts: {len(changed)} of {len(built)} files differ{': run make contracts' if changed else ''}"]))
        return 1 if changed else 0
    write(built, FOLDER)
    print(f"contracts: {len(built)} files, {len(changed)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
