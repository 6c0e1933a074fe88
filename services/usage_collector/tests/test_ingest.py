"""The public door: what is taken, what is refused and how, and that 2xx waits for Kafka."""

import asyncio
import gc
import gzip
import json
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import jsonschema
import pytest
import uvicorn
from aiokafka.errors import KafkaTimeoutError
from fastapi import FastAPI
from pydantic import SecretStr

from billing_common.events import derive_id
from usage_collector import public_contract, sender_store
from usage_collector.cloud_events import Incoming, Limits, RequestError, check, parse
from usage_collector.decoding import decode_recorded
from usage_collector.ingest import Ingest, IngestDoor
from usage_collector.properties import digest
from usage_collector.refusals import Refusals, rejected
from usage_collector.senders import UNKNOWN_PAUSE_SECONDS, Sender, Senders, new_key
from usage_collector.settings import Settings

from .conftest import START, FixedClock, Publish, catalogue_applied

SINGLE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


@dataclass
class Log:
    """Kafka's producer as the door sees it: keeps records, acknowledges when it may, fails on demand."""

    records: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    acknowledge: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False

    async def partitions_for(self, _topic: str) -> set[int]:
        return {0, 1, 2, 3}

    async def send(self, _topic: str, value: bytes, *, key: bytes, partition: int) -> asyncio.Task[None]:
        self.records.append((partition, key, value))
        return asyncio.ensure_future(self._answer())

    async def holds(self, records: int) -> None:
        async with asyncio.timeout(0.9):
            while len(self.records) < records:
                await asyncio.sleep(0.005)

    async def _answer(self) -> None:
        if self.fails:
            raise KafkaTimeoutError
        await self.acknowledge.wait()


PAUSE_SECONDS = 0.02
CONTRACT = public_contract.document("usage_collector")


def check_against_contract(answer: httpx.Response) -> None:
    """Every answer of this file's tests is one that the contract describes."""
    described = CONTRACT["paths"]["/v1/events"]["post"]["responses"][str(answer.status_code)]
    reference = described["content"]["application/json"]["schema"]
    jsonschema.validate(answer.json(), {**reference, "components": CONTRACT["components"]})
    assert set(described.get("headers", {})) <= {name.title() for name in answer.headers}
    if "error" in answer.json():
        assert answer.json()["error"]["code"] in described["description"]


@dataclass
class Door:
    """The app, the log behind it and the keys that open it."""

    app: IngestDoor
    client: httpx.AsyncClient
    log: Log
    refusals: Refusals
    key: str
    narrow_key: str

    async def post(self, body: Any, kind: str = BATCH, *, key: str | None = None, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes | AsyncIterator) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.client.post(
            "/v1/events", content=content, headers={"authorization": f"Bearer {key or self.key}", "content-type": kind, **given}
        )
        check_against_contract(answer)
        return answer


@pytest.fixture
async def door(pool: asyncpg.Pool, publish: Publish, clock: FixedClock) -> AsyncIterator[Door]:
    await publish(catalogue_applied())
    keys = []
    for subscriptions in (None, ["sub-1"]):
        sender_id, key, key_sha256 = new_key()
        await sender_store.add_sender(
            pool, sender_id, name="G", key_sha256=key_sha256, source_prefix="/gw", subscriptions=subscriptions, now=START, by="test"
        )
        keys.append(key)
    settings = Settings(
        database_url=SecretStr("postgresql://unused"),
        kafka_bootstrap_servers="unused:9092",
        internal_token_keys=SecretStr("k" * 32),
        ingest_body_max_bytes=20_000,
        ingest_bytes_max=45_000,
        ingest_sender_bytes_max=30_000,
        ingest_events_max=50,
        ingest_sender_requests_max=2,
        ingest_requests_max=3,
        ingest_ack_timeout_seconds=1.0,
        ingest_refusal_pause_seconds=PAUSE_SECONDS,
    )
    log = Log()
    log.acknowledge.set()
    refusals = Refusals()
    ingest = Ingest(log, Senders(pool, refresh_seconds=60), refusals, clock=clock, settings=settings)  # type: ignore[arg-type]
    app = IngestDoor(FastAPI(), "/v1/events", lambda: ingest)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://outside") as client:
        yield Door(app, client, log, refusals, *keys)


def event(name: str = "e1", **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"specversion": "1.0", "id": name, "source": "/gw/eu", "type": "turnpike.usage", "subject": "sub-1"}
    return {**values, "time": START.isoformat(), "data": {"meter": "calls", "quantity": 3}, **more}


async def test_a_batch_becomes_one_record_per_partition_that_the_collector_can_read(door: Door) -> None:
    events = [event(f"e{n}", subject=f"sub-{n}") for n in range(20)]
    answer = await door.post(events)
    assert (answer.status_code, answer.json()["accepted"], answer.json()["rejected"]) == (202, 20, 0)
    assert len(door.log.records) == len({partition for partition, *_ in door.log.records})
    for partition, key, value in door.log.records:
        assert {zlib.crc32(one["subject"].encode()) % 4 for one in json.loads(value)} == {partition}
        assert key.decode() == json.loads(value)[0]["subject"]
    seen, bad = decode_recorded([value for _, _, value in door.log.records])
    assert bad == []
    assert {one.external_id for one in seen} == {f"e{n}" for n in range(20)}
    assert {one.id for one in seen} == {derive_id("/gw/eu", f"e{n}", START.date().isoformat()) for n in range(20)}
    assert all((one.quantity, one.stated_meter, one.origin) == (3, "calls", "ingest") for one in seen)


async def test_structured_binary_and_gzip_say_the_same(door: Door) -> None:
    assert (await door.post(event(), SINGLE)).status_code == 202
    attributes = {f"ce_{name}": value for name, value in event().items() if name != "data"}
    assert (await door.post(event()["data"], "application/json", **attributes)).status_code == 202
    assert (await door.post(gzip.compress(json.dumps([event()]).encode()), content_encoding="gzip")).status_code == 202
    assert len({value for _, _, value in door.log.records}) == 1


async def test_headers_of_binary_mode_are_percent_decoded_as_the_binding_asks(door: Door) -> None:
    named = event('ä "100%" %41\\', subject="sub-ü€")
    assert (await door.post(named, SINGLE)).status_code == 202
    encoded = {f"ce_{name}": quote(value) for name, value in named.items() if name != "data"}
    quoted = {**encoded, "ce_id": '"%C3%A4 \\"100%25\\" %2541\\\\"'}
    for attributes in (encoded, quoted):
        assert (await door.post(named["data"], "application/json", **attributes)).status_code == 202
    assert len(door.log.records) == 3
    assert len({value for _, _, value in door.log.records}) == 1
    nul = await door.post({}, "application/json", **{**encoded, "ce_subject": "a%00b"})
    assert (nul.status_code, nul.json()["results"][0]["reason"]) == (422, "bad_text")


async def test_gzip_may_have_two_names_and_several_members_as_its_standards_say(door: Door) -> None:
    text = json.dumps([event()]).encode()
    members = gzip.compress(text[:20]) + gzip.compress(text[20:])
    for body, encoding in ((members, "gzip"), (gzip.compress(text), "X-GZIP")):
        assert (await door.post(body, content_encoding=encoding)).status_code == 202
    assert len({value for _, _, value in door.log.records}) == 1


async def test_a_nul_spoils_only_its_own_event_and_only_where_it_is_kept(door: Door) -> None:
    good = [event("good"), event("dropped", data={"note": "\0"}), event("written out", subject="\\u0000")]
    answer = await door.post([*good, event("bad", subject="a\0")])
    assert (answer.status_code, [one["status"] for one in answer.json()["results"]]) == (202, ["accepted"] * 3 + ["rejected"])
    assert "subject must not hold the character NUL" in answer.json()["results"][3]["message"]
    assert decode_recorded([value for _, _, value in door.log.records])[1] == []


async def test_an_event_without_data_is_told_what_to_send(door: Door) -> None:
    bare = {name: value for name, value in event().items() if name != "data"}
    assert 'send "data": {} for one call' in (await door.post([event("good"), bare])).json()["results"][1]["message"]
    assert 'send "data": {} for one call' in (await door.post(bare, SINGLE)).json()["error"]["message"]


async def test_only_whole_numbers_and_what_meters_need_reach_the_topic(door: Door) -> None:
    data = {"quantity": 1, "status": 200, "method": "GET", "template": "/a", "tokens": 7, "email": "a@b.c", "nested": {"x": 1}}
    assert (await door.post(event(data=data), SINGLE)).status_code == 202
    assert json.loads(door.log.records[0][2])[0]["data"] == {"quantity": 1, "status": 200, "method": "GET", "template": "/a", "tokens": 7}


async def test_the_answer_waits_for_the_acknowledgement(door: Door) -> None:
    door.log.acknowledge.clear()
    waiting = asyncio.create_task(door.post([event()]))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    door.log.acknowledge.set()
    assert (await waiting).status_code == 202


async def test_what_kafka_did_not_acknowledge_is_to_be_sent_again(door: Door) -> None:
    door.log.acknowledge.clear()
    late = await door.post([event()])
    door.log.fails = True
    failed = await door.post([event()])
    for answer in (late, failed):
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["error"]["code"]) == (503, "1", "not_stored")


async def test_too_many_requests_at_once_are_asked_to_wait(door: Door) -> None:
    door.log.acknowledge.clear()
    waiting = [asyncio.create_task(door.post([event()])) for _ in range(2)]
    await door.log.holds(2)
    same = await door.post([event()])
    other = asyncio.create_task(door.post([event()], key=door.narrow_key))
    await door.log.holds(3)
    full = await door.post([event()])
    assert (same.status_code, same.headers["retry-after"]) == (429, "1")
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    door.log.acknowledge.set()
    assert [(await one).status_code for one in (*waiting, other)] == [202] * 3


def large(kilobytes: int) -> bytes:
    return json.dumps([event(padding="x" * kilobytes * 1000)]).encode()


async def in_parts(content: bytes) -> AsyncIterator[bytes]:
    """A body whose length is not stated."""
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]


async def test_too_many_bytes_at_once_are_asked_to_wait_however_they_come(door: Door) -> None:
    door.log.acknowledge.clear()
    waiting = [asyncio.create_task(door.post(large(18))), asyncio.create_task(door.post(large(18), key=door.narrow_key))]
    await door.log.holds(2)
    own, everybodys = (429, "1", "too_many_requests"), (503, "1", "busy")
    zipped = gzip.compress(large(18))
    cases: list[tuple[Any, dict[str, str], tuple[int, str, str]]] = [
        (large(18), {}, own),
        (zipped, {"content_encoding": "gzip"}, own),
        (large(10), {}, everybodys),
        (in_parts(large(18)), {}, everybodys),  # refused as soon as there is no room, and before it is the sender's own limit
    ]
    for content, headers, expected in cases:
        answer = await door.post(content, **headers)
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["error"]["code"]) == expected
    unread = in_parts(large(18))
    assert (await door.post(unread, content_length="18000")).status_code == 429
    assert len([part async for part in unread]) > 10, "a stated length is refused before the body is read"
    door.log.acknowledge.set()
    assert [(await one).status_code for one in waiting] == [202] * 2
    assert [(await door.post(large(18))).status_code for _ in range(4)] == [202] * 4, "what was held is free again"


def test_limits_that_would_never_let_a_body_in_stop_the_start() -> None:
    given = {"database_url": "postgresql://x", "kafka_bootstrap_servers": "x:1", "internal_token_keys": "k" * 32}
    for limits in ({"ingest_body_max_bytes": 2 << 20, "ingest_sender_bytes_max": 1 << 20}, {"ingest_bytes_max": 1 << 20}):
        with pytest.raises(ValueError, match="INGEST_SENDER_BYTES_MAX"):
            Settings.model_validate({**given, **limits})


async def test_each_event_of_a_batch_gets_its_own_answer(door: Door, clock: FixedClock) -> None:
    faults = {
        "invalid_quantity": [event(data={"quantity": q}) for q in (-1, 10**9, 10**30, 1.5, "3", True, None)],
        "unknown_meter": [event(data={"meter": "cals"}), event(data={"meter": 7})],
        "in_the_future": [event(time=(clock.now() + timedelta(minutes=6)).isoformat()), event(time="9999-12-31T23:59:59Z")],
        "too_old": [event(time="1970-01-01T00:00:00Z"), event(time="0001-01-01T00:00:00+14:00")],
        "foreign_source": [event(source="/gwx"), event(source="/other")],
        "foreign_subscription": [event(subject="sub-2")],
        "unknown_type": [event(type="other"), event(specversion="0.3")],
        "invalid_attribute": [event(""), event("x" * 257), event(subject="")],
        "invalid_status": [event(data={"status": 99})],
        "invalid_method": [event(data={"method": "x" * 33})],
        "invalid_property": [event(data={"tokens": -1})],
        "too_many_properties": [event(data={f"p{n}": 1 for n in range(40)})],
        "bad_text": [
            event("\0"),
            event("a\0"),
            event(data={"\0": 1}),
            *(event(data={name: "\0"}) for name in ("meter", "method", "template")),
        ],
        "invalid_event": [{"id": "\0"}, {"id": "e9"}, event(time="yesterday"), event(time="2027-01-10T12:30:00"), event(data=3), 7],
    }
    good = event("good")
    answer = await door.post([good, *(one for kind in faults.values() for one in kind)], key=door.narrow_key)
    assert answer.status_code == 202
    results = answer.json()["results"]
    assert results[0] == {"id": "good", "status": "accepted"}
    assert [result["reason"] for result in results[1:]] == [reason for reason, kind in faults.items() for _ in kind]
    assert all(result["message"] for result in results[1:])
    assert not any("\0" in str(result) for result in results)
    (message,) = {result["message"] for result in results if result.get("reason") == "foreign_source"}
    assert "set source to /gw or to one below it (/gw/...)" in message
    assert [one["id"] for _, _, value in door.log.records for one in json.loads(value)] == ["good"]


@pytest.mark.parametrize("name", ["id", "source", "subject"])
@pytest.mark.parametrize("length", [0, 1, 256, 257])
async def test_a_batch_says_of_an_envelope_what_a_single_event_hears(door: Door, name: str, length: int) -> None:
    given = event(**{name: ("/gw/" + "\N{GRINNING FACE}" * 256)[:length] if name == "source" and length > 4 else "\u00e9" * length})
    alone = await door.post(given, SINGLE)
    among = await door.post([event("x"), given, event("y")])
    assert among.json()["results"][1] == alone.json()["results"][0]
    assert [one["status"] for one in among.json()["results"][::2]] == ["accepted"] * 2


async def test_times_reach_the_topic_in_utc(door: Door) -> None:
    elsewhere = START.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert (await door.post([event("a"), event("b", time=elsewhere.isoformat())])).status_code == 202
    written = [one["time"] for _, _, value in door.log.records for one in json.loads(value)]
    assert written == [START.isoformat().replace("+00:00", "Z")] * 2


async def test_a_text_is_kept_only_where_a_meter_counts_it_and_only_as_a_digest(door: Door, publish: Publish) -> None:
    users = {"name": "Users", "property": "user", "aggregation": "unique"}
    product = {"id": "t", "name": "T", "model": "Metered", "source": "ingest", "price": {"usage": [{"meter": "users", "amount": "1"}]}}
    await publish(catalogue_applied({"version": 1, "meters": {"users": users}, "products": [product]}, version=2))
    texts = [{"user": "ada@example.com", "note": "x"}, {"user": "ada@example.com"}, {"user": 42}, {"user": ""}, {"user": "x" * 257}]
    answer = await door.post([event(f"e{n}", data=data) for n, data in enumerate(texts)])
    assert [result.get("reason") for result in answer.json()["results"]] == [None, None, None, "invalid_property", "invalid_property"]
    sent = [one["data"] for _, _, value in door.log.records for one in json.loads(value)]
    assert sent[0] == sent[1] == {"user": digest("user", "ada@example.com")}
    assert sent[2] == {"user": 42}
    assert "ada" not in json.dumps(sent)
    seen, poison = decode_recorded([value for _, _, value in door.log.records])
    assert [one.properties for one in seen] == sent
    assert poison == []


async def test_a_request_without_one_good_event_is_refused(door: Door) -> None:
    assert (await door.post([event(data={"quantity": -1})])).status_code == 422
    assert (await door.post([event(subject="sub-2"), event(source="/x")], key=door.narrow_key)).status_code == 403
    assert door.log.records == []


REFUSED: dict[str, tuple[int, str, bytes, str, dict[str, str]]] = {
    "no JSON": (400, "malformed_json", b"[{", BATCH, {}),
    "an object for a batch": (400, "invalid_event", b"{}", BATCH, {}),
    "an array for a single event": (400, "invalid_event", b"[]", SINGLE, {}),
    "no events": (400, "empty_batch", b"[]", BATCH, {}),
    "NaN": (400, "malformed_json", b'[{"data": {"quantity": NaN}}]', BATCH, {}),
    "no UTF-8": (400, "malformed_json", b'[{"id": "\xff"}]', BATCH, {}),
    "a header that is no UTF-8": (400, "bad_text", b"{}", "application/json", {"ce_id": "%ff"}),
    "binary mode without data": (400, "invalid_event", b"", "application/json", {"ce_id": "1"}),
    "deep nesting": (400, "malformed_json", b'[{"data": ' + b"[" * 9000 + b"]" * 9000 + b"}]", BATCH, {}),
    "too many events": (413, "too_many_events", b"[" + b",".join([b"{}"] * 51) + b"]", BATCH, {}),
    "too many bytes": (413, "body_too_large", b" " * 20_001, BATCH, {}),
    "a gzip bomb": (413, "body_too_large", gzip.compress(b" " * 10_000_000), BATCH, {"content_encoding": "gzip"}),
    "no gzip": (400, "bad_gzip", b"[]", BATCH, {"content_encoding": "gzip"}),
    "a gzip bomb of several members": (413, "body_too_large", gzip.compress(b" " * 15_000) * 2, BATCH, {"content_encoding": "gzip"}),
    "gzip of very many members": (400, "bad_gzip", gzip.compress(b" ") * 65, BATCH, {"content_encoding": "gzip"}),
    "something behind gzip": (400, "bad_gzip", gzip.compress(b"[]") + b"x", BATCH, {"content_encoding": "gzip"}),
    "gzip cut off": (400, "bad_gzip", gzip.compress(b"[]" * 50)[:-9], BATCH, {"content_encoding": "gzip"}),
    "another encoding": (415, "unsupported_encoding", b"[]", BATCH, {"content_encoding": "br"}),
    "another type": (415, "unsupported_media_type", b"[]", "text/plain", {}),
    "binary mode with another type": (415, "unsupported_media_type", b"x", "text/plain", {"ce_id": "1"}),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_request_that_cannot_be_read_is_refused_with_a_code(door: Door, name: str) -> None:
    status, code, body, kind, headers = REFUSED[name]
    answer = await door.post(body, kind, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["message"]


NUMBERS = {"9" * 4300: "invalid_quantity", "9" * 4301: "invalid_event", "9" * 4301 + ".0": "invalid_event", "1e999999": "invalid_event"}


@pytest.mark.parametrize("kind", [BATCH, SINGLE])
@pytest.mark.parametrize("number", NUMBERS, ids=len)
async def test_a_number_of_any_length_is_refused_with_a_code(door: Door, number: str, kind: str) -> None:
    text = json.dumps(event()).replace('"quantity": 3', f'"quantity": {number}')
    answer = await door.post((f"[{text}]" if kind == BATCH else text).encode(), kind)
    assert 400 <= answer.status_code < 500
    assert NUMBERS[number] in answer.text


async def test_nothing_of_a_refused_request_stays_in_memory_until_garbage_is_looked_for(door: Door) -> None:
    gc.collect()
    gc.disable()
    try:
        for _, _, body, kind, headers in REFUSED.values():
            await door.post(body, kind, **headers)
        assert [one for one in gc.get_objects() if isinstance(one, RequestError)] == []
    finally:
        gc.enable()


async def timed(answer: Awaitable[Any]) -> tuple[Any, float]:
    started = time.monotonic()
    return await answer, time.monotonic() - started


async def test_who_is_refused_waits_a_moment_for_the_answer_and_takes_no_place_meanwhile(door: Door) -> None:
    await door.post([event()])
    _, took = await timed(door.post([event("a", source="/other")]))
    assert took >= PAUSE_SECONDS, "nothing of it was taken"
    partly = [event("a"), event("b", data={})]
    assert min([(await timed(door.post(partly)))[1] for _ in range(5)]) < PAUSE_SECONDS, "what is taken does not wait for what is not"
    waiting = asyncio.gather(*(door.post(b"[", key=key) for key in (door.key, door.narrow_key, "nobody's") for _ in range(10)))
    answers, took = await timed(waiting)
    assert took >= PAUSE_SECONDS
    assert Counter(answer.status_code for answer in answers) == {400: 20, 401: 10}, "places are for 3 requests at once, 2 of one sender"


async def test_who_sends_ten_megabytes_hears_why_they_were_refused(door: Door) -> None:
    server = uvicorn.Server(uvicorn.Config(door.app, port=0, log_level="critical", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(60):
        while not server.started:
            await asyncio.sleep(0.01)
    headers = {"authorization": f"Bearer {door.key}", "content-type": BATCH}
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=address) as client:
            for content in (b" " * 10_000_000, in_parts(b" " * 10_000_000)):
                answer = await client.post("/v1/events", content=content, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    finally:
        server.should_exit = True
        await serving


async def test_a_key_that_is_bound_to_meters_sends_only_for_these_and_always_names_one(door: Door, pool: asyncpg.Pool) -> None:
    sender_id, key, key_sha256 = new_key()
    await sender_store.add_sender(
        pool, sender_id, name="M", key_sha256=key_sha256, source_prefix="/gw", subscriptions=None, meters=["calls"], now=START, by="test"
    )
    await asyncio.sleep(UNKNOWN_PAUSE_SECONDS)  # the door was asked before
    bad = [event("other", data={"meter": "traffic"}), event("none", data={"status": 200}), event("wrong", data={"meter": ["calls"]})]
    answer = await door.post([event("good"), *bad], key=key)
    results = answer.json()["results"]
    assert answer.status_code == 202
    assert [one.get("reason") for one in results] == [None, "foreign_meter", "foreign_meter", "unknown_meter"]
    assert results[1]["message"] == "this key is bound to meters: set data.meter to one of calls; it may send for no other"
    assert "without one all meters of the plan would count the event" in results[2]["message"]
    assert [one["id"] for _, _, value in door.log.records for one in json.loads(value)] == ["good"]
    assert (await door.post(bad[:2], key=key)).status_code == 403
    assert (await door.post(bad[:2])).status_code == 202, "a key without a scope of meters sends for all of them"


async def test_nobody_enters_without_a_valid_key(door: Door, pool: asyncpg.Pool) -> None:
    sender_id = door.key.split("_")[1]
    for key in ("", "x", f"tps_{sender_id}_wrong", f"tps_{'0' * 16}_{door.key.split('_', 2)[2]}", door.key + "x"):
        answer = await door.post([event()], key=key or " ")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        message = answer.json()["error"]["message"]
        assert ("unknown or was revoked" in message) == bool(key), "who sends none hears that one is needed"
        assert all(word in message for word in ("Bearer tps_", "`turnpike senders list`", "`turnpike senders add`"))


async def test_a_revoked_key_is_refused_after_the_next_look(door: Door, pool: asyncpg.Pool) -> None:
    senders = Senders(pool, refresh_seconds=0.001)
    assert await senders.find(f"Bearer {door.key}") is not None
    assert await sender_store.revoke_sender(pool, door.key.split("_")[1], now=START)
    await asyncio.sleep(0.01)
    assert await senders.find(f"Bearer {door.key}") is None
    stored = await pool.fetch("select key_sha256 from sender")
    assert all(door.key.encode() not in row["key_sha256"] for row in stored)


async def test_what_is_refused_is_listed(door: Door, pool: asyncpg.Pool, clock: FixedClock) -> None:
    await door.post([event("a"), event("b", data={"quantity": -1}), {"id": "d"}])
    await door.refusals.flush(pool)
    found = (await rejected(pool, None, clock.now(), clock.now() + timedelta(seconds=1), limit=10))["at_the_door"]
    assert {(one["sender"], one["subscription_id"], one["reason"], one["last_event_id"]) for one in found} == {
        ("G", "sub-1", "invalid_quantity", "b"),
        ("G", "", "invalid_event", "d"),
    }


def test_the_contracts_examples_are_events_that_are_taken() -> None:
    content = CONTRACT["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert set(content) == {SINGLE, BATCH, "application/json"}
    for described in content.values():
        jsonschema.validate(described["example"], {**described["schema"], "components": CONTRACT["components"]})
    (taken,) = parse(BATCH, {}, json.dumps(content[BATCH]["example"]).encode(), events_max=1)
    assert isinstance(taken, Incoming)
    assert check(taken, Sender("s", b"", "/gateways", None), Limits(taken.time, taken.time, 100, frozenset({"calls"}))) is None


async def test_a_key_that_cannot_be_checked_is_asked_for_again_and_nothing_is_stored(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(sender_store, "senders", refuse)
    answer = await door.post([event()])
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (503, "unchecked_key", "1")
    assert door.log.records == []


async def test_events_are_sent_with_post_and_other_paths_are_the_applications(door: Door) -> None:
    answer = await door.client.get("/v1/events")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert (await door.client.post("/v1/other")).status_code == 404
