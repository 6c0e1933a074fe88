"""Poison in every topic that any service reads is set aside with its cause, the partition goes on, and a person can send it again."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from whole_system import World, eventually

from billing_common.events import ALL_EVENTS
from embedded_servers import places
from turnpike_cli.parts import SERVICE_NAMES

pytestmark = pytest.mark.timeout(420)
POISONS: dict[str, bytes | None] = {
    "no JSON": b"this is no event {",
    "no text": b"\xff\xfe\x00",
    "wrong fields": b'{"event_id": 7}',
    "empty": b"",
    "tombstone": None,
}
LIKE: dict[str, tuple[str, dict[str, Any]]] = {  # topics that the fixture's story does not reach: a sister's record, changed a little
    "access.restored": ("access.granted", {}),
    "account.closed": ("account.registered", {}),
    "checkout.expired": ("checkout.completed", {}),
    "invoice.payment_failed": ("invoice.paid", {}),
    "subscription.keys_changed": ("subscription.requested", {"revision": 1, "keys": []}),
    "subscription.request_failed": ("subscription.requested", {"reason": "unknown_product"}),
    "usage.corrected": (
        "usage.collected",
        {"correction_id": "00000000-0000-0000-0000-000000000000", "kind": "late", "amounts": {}, "at": "2026-01-01T00:00:00Z"}
        | {"segment_start": "2026-01-01T00:00:00Z", "segment_end": None, "after_close": False},
    ),
    "usage.threshold_reached": ("usage.collected", {"period_start": "2026-01-01T00:00:00Z", "threshold": "0.5"}),
}


@dataclass(frozen=True)
class Placed:
    """Where a topic's poison lies, and the good record behind it."""

    topic: str
    partition: int
    key: bytes
    poisons: tuple[int, ...]
    good: int


def readers() -> list[tuple[str, str]]:
    """Return (service, topic) of everything that is read, as the contracts say."""
    found = []
    for service in SERVICE_NAMES:
        contract = json.loads((places.checkout() / "contracts" / "asyncapi" / f"{service}.json").read_text())
        for operation in contract["operations"].values():
            if operation["action"] == "receive":
                channel = operation["channel"]["$ref"].rpartition("/")[2]
                found.append((service, contract["channels"][channel]["address"]))
    return found


def turnpike(world: World, *words: str) -> str:
    """Run the command as a person does and return what it says."""
    command = [sys.executable, "-m", "turnpike_cli", *words, "--data", str(world.stack.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"
    return done.stdout


def letters_of(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(turnpike(world, "dlq", "list", "--json"))
    return found


@pytest.fixture(scope="module")
async def placed(world: World) -> list[Placed]:
    """Let one person buy, call, send and leave, so that most topics hold a record; then put poison before a repeat of it."""
    caller, sender = await world.join("standard"), await world.join("enterprise")
    await caller.person.change_card("4242 4242 4242 4242")
    await world.send_usage(sender, 5)
    await world.change_plan(caller, "pro", "period_end")
    await world.clock.settle()
    await caller.person.browser.submit(await caller.person.browser.open(caller.person.page), "Keep", action="/change/withdraw")
    await world.clock.settle()
    await caller.person.unsubscribe("now")
    await world.status_at_stripe(caller, "canceled")
    await world.clock.settle()
    topics = sorted({topic for _, topic in readers()})
    producer = AIOKafkaProducer(bootstrap_servers=world.stack.wiring.kafka, acks="all")
    try:
        await producer.start()
        records = await last_records(world, producer, {*topics, *(source for source, _ in LIKE.values())})
        found = [await put(producer, topic, good_record(topic, records)) for topic in topics]
    finally:
        await producer.stop()
    await world.clock.settle()
    return found


async def last_records(world: World, producer: AIOKafkaProducer, topics: set[str]) -> dict[str, Any]:
    """Return each topic's newest record."""
    consumer = AIOKafkaConsumer(bootstrap_servers=world.stack.wiring.kafka, enable_auto_commit=False)
    try:
        await consumer.start()
        parts = [TopicPartition(topic, number) for topic in topics for number in await producer.partitions_for(topic)]
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        found: dict[str, Any] = {}
        for part, end in ends.items():
            if end:
                consumer.seek(part, end - 1)
                record = await consumer.getone(part)
                if record.topic not in found or found[record.topic].timestamp < record.timestamp:
                    found[record.topic] = record
    finally:
        await consumer.stop()
    return found


def good_record(topic: str, records: dict[str, Any]) -> Any:
    """Return a record of the topic that changes nothing when it comes again."""
    source, changes = LIKE.get(topic, (topic, {}))
    assert source in records, f"the story of this test put nothing on {source}"
    record = records[source]
    if source != topic:
        content = json.loads(record.value) | changes
        content.pop("event_id")
        event = next(event for event in ALL_EVENTS if event.topic == topic).model_validate(content)
        record = replace(record, value=event.model_dump_json().encode())
    return record


async def put(producer: AIOKafkaProducer, topic: str, good: Any) -> Placed:
    poisons = []
    for value in POISONS.values():
        sent = await producer.send_and_wait(topic, value, key=good.key, partition=good.partition)
        poisons.append(sent.offset)
    sent = await producer.send_and_wait(topic, good.value, key=good.key, partition=good.partition, headers=list(good.headers))
    return Placed(topic, good.partition, good.key, tuple(poisons), sent.offset)


async def test_poison_in_every_topic_is_set_aside_by_every_reader_and_the_partition_goes_on(world: World, placed: list[Placed]) -> None:
    pairs = readers()
    assert len(pairs) > 40
    assert {topic for _, topic in pairs} == {place.topic for place in placed}
    by_topic = {place.topic: place for place in placed}
    for service, topic in pairs:
        place = by_topic[topic]
        committed = await committed_offset(world, f"{service}.{topic}", place)
        assert committed > place.good, f"{service} stands at {committed} of {topic}, before the good record {place.good}"
    letters = {(letter["service"], letter["topic"], letter["partition"], letter["offset"]): letter for letter in letters_of(world)}
    for (service, topic), (number, kind) in product(pairs, enumerate(POISONS)):
        place = by_topic[topic]
        letter = letters.get((service, topic, place.partition, place.poisons[number]))
        assert letter is not None, f"{service} has no dead letter for {topic} with {kind}"
        assert letter["error"], f"{service}, {topic}, {kind}: without a cause"
        assert letter["key"] == place.key.decode()
    good = [key for key in letters if any(key[1:] == (place.topic, place.partition, place.good) for place in placed)]
    assert not good, "a good record was set aside"


async def committed_offset(world: World, group: str, place: Placed) -> int:
    """Wait until the group has passed the good record; returns where it stands."""
    consumer = AIOKafkaConsumer(bootstrap_servers=world.stack.wiring.kafka, group_id=group, enable_auto_commit=False)
    part = TopicPartition(place.topic, place.partition)
    try:
        await consumer.start()
        consumer.assign([part])

        async def ask() -> int:
            return await consumer.committed(part) or 0

        return await eventually(f"{group} to pass offset {place.good}", ask, lambda offset: offset > place.good)
    finally:
        await consumer.stop()


async def test_a_person_lists_shows_and_sends_dead_letters_again(world: World, placed: list[Placed]) -> None:
    place = next(place for place in placed if place.topic == "subscription.updated")

    def mine() -> list[dict[str, Any]]:
        return [letter for letter in letters_of(world) if letter["service"] == "checkout" and letter["topic"] == place.topic]

    before = mine()
    letter = next(letter for letter in before if letter["offset"] == place.poisons[0])
    assert letter["id"] in turnpike(world, "dlq", "list", "--service", "checkout")
    shown = json.loads(turnpike(world, "dlq", "show", letter["id"]))
    assert shown["topic"] == place.topic
    assert POISONS["no JSON"].decode() in json.dumps(shown, ensure_ascii=False)  # type: ignore[union-attr]
    assert "sent again" in turnpike(world, "dlq", "requeue", letter["id"])

    async def ask() -> list[dict[str, Any]]:
        return mine()

    after = await eventually("the record to be set aside again", ask, lambda found: len(found) == len(before) + 1)
    states = Counter(one["requeued"] for one in after)
    assert states == {True: 1, False: len(before)}
    assert next(one for one in after if one["requeued"])["id"] == letter["id"]
