"""What survives: restarts, kills, and a Kafka that is away."""

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from billing_common.clock import BusinessClock

LOG = (
    '<log-to-eventhub logger-id="usage" partition-key="@(context.Subscription?.Id ?? "none")">'
    "@(context.RequestId.ToString())</log-to-eventhub>"
)
POLICY = (
    '<policies><inbound><base /><quota calls="5" renewal-period="0" /></inbound><backend><base /></backend>'
    f"<outbound><base />{LOG}</outbound><on-error><base />{LOG}</on-error></policies>"
)


async def prepare(arm: Any) -> dict[str, str]:
    await arm.product()
    await arm.logger(hub=TOPIC)
    await arm.policy(POLICY)
    return {"Ocp-Apim-Subscription-Key": await arm.subscription()}


TOPIC = f"calls.{os.getpid()}"


async def test_everything_is_found_again_after_a_restart(start: Callable[..., Any], client_for: Callable[..., Any], arm_for: Any) -> None:
    async with start() as sandbox, client_for(sandbox) as client:
        headers = await prepare(arm_for(client))
        subscription = await client.subscription.get(*arm_for.at, "sub-1")
        authority = sandbox.certificate.ca_file.read_bytes()
        async with httpx.AsyncClient(base_url=sandbox.gateway_url, headers=headers) as gateway:
            assert [(await gateway.get("/orders")).status_code for _ in range(3)] == [200] * 3
    async with start() as sandbox, client_for(sandbox) as client:
        assert sandbox.certificate.ca_file.read_bytes() == authority
        assert (await client.subscription.get(*arm_for.at, "sub-1")).as_dict() == subscription.as_dict()
        async with httpx.AsyncClient(base_url=sandbox.gateway_url, headers=headers) as gateway:
            assert [(await gateway.get("/orders")).status_code for _ in range(3)] == [200, 200, 403]
            assert (await gateway.get("/_sandbox/calls", params={"sid": "sub-1"})).json()["total"] == 6


async def test_no_answered_call_is_lost_when_the_process_is_killed(tmp_path: Path, client_for: Any, arm_for: Any, start: Any) -> None:
    names = {"DATA_DIR": str(tmp_path), "ARM_PORT": "0", "PORTAL_PORT": "0", "GATEWAY_PORT": "0", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    environment = os.environ | {f"SANDBOX_APIM_{name}": value for name, value in names.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox_apim", env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    started = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
    at = SimpleAddress(started)
    async with client_for(at) as client:
        headers = await prepare(arm_for(client))
    async with httpx.AsyncClient(base_url=started["gateway"], headers=headers) as gateway:
        answers = [(await gateway.get("/orders")).status_code for _ in range(7)]
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert answers == [200] * 5 + [403] * 2
    async with start(kafka_bootstrap_servers="127.0.0.1:1") as sandbox:
        assert len(sandbox.journal.take()) == 7
        assert sandbox.reports.counted("sub-1", sandbox.clock.now() - timedelta(hours=1), sandbox.clock.now())["total"] == 7


class SimpleAddress:
    """Looks enough like a sandbox for the client."""

    def __init__(self, started: dict[str, str]) -> None:
        self.management_url = started["management"]
        self.certificate = type("Certificate", (), {"ca_file": started["ca_file"]})


async def test_lines_wait_while_kafka_is_away_and_arrive_once_it_is_back(
    kafka_bootstrap: str, start: Callable[..., Any], client_for: Callable[..., Any], arm_for: Any
) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, num_partitions=2, replication_factor=1)])
    await admin.close()
    async with start(kafka_bootstrap_servers="127.0.0.1:1") as sandbox, client_for(sandbox) as client:
        headers = await prepare(arm_for(client))
        async with httpx.AsyncClient(base_url=sandbox.gateway_url, headers=headers) as gateway:
            assert [(await gateway.get("/orders")).status_code for _ in range(7)] == [200] * 5 + [403] * 2
            assert (await gateway.get("/health/ready")).status_code == 503
        expected = {value.decode() for _, _, _, value in sandbox.journal.take()}
    async with start(kafka_bootstrap_servers=kafka_bootstrap) as sandbox:
        async with asyncio.timeout(20):
            while sandbox.waiting_for():
                await asyncio.sleep(0.05)
        assert sandbox.not_ready() == []
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest", group_id=None)
    received: list[Any] = []
    try:
        async with asyncio.timeout(20):
            await consumer.start()
            while len(received) < 7:
                received += [record for batch in (await consumer.getmany(timeout_ms=500)).values() for record in batch]
    finally:
        await consumer.stop()
    assert {record.value.decode() for record in received} == expected
    assert {record.key for record in received} == {b"sub-1"}


async def test_a_full_buffer_refuses_calls_instead_of_losing_lines(
    start: Callable[..., Any], client_for: Callable[..., Any], arm_for: Any
) -> None:
    async with start(kafka_bootstrap_servers="127.0.0.1:1", outbox_rows_max=100) as sandbox, client_for(sandbox) as client:
        headers = await prepare(arm_for(client))
        async with httpx.AsyncClient(base_url=sandbox.gateway_url, headers=headers) as gateway:
            statuses = [(await gateway.get("/orders")).status_code for _ in range(101)]
        assert statuses[99:] == [403, 503]
        assert sandbox.journal.waiting == 100


async def test_a_call_that_cannot_be_recorded_is_not_served(sandbox: Any, arm: Any, gateway: httpx.AsyncClient) -> None:
    headers = await prepare(arm)
    sandbox.database.execute("PRAGMA query_only=ON")  # as a full disk: nothing can be written
    assert (await gateway.get("/orders", headers=headers)).status_code == 503
    sandbox.database.execute("PRAGMA query_only=OFF")
    assert (await gateway.get("/orders", headers=headers)).status_code == 200


async def test_the_management_api_is_reached_only_with_its_own_authority(sandbox: Any) -> None:
    async with httpx.AsyncClient(verify=ssl.create_default_context()) as stranger:
        with pytest.raises(httpx.ConnectError):
            await stranger.get(sandbox.management_url)
    assert oct((sandbox.settings.data_dir / "ca.key").stat().st_mode & 0o777) == "0o600"


async def test_a_port_in_use_ends_the_start_with_one_sentence(sandbox: Any, tmp_path: Path) -> None:
    environment = os.environ | {"SANDBOX_APIM_GATEWAY_PORT": str(sandbox.gateway_port), "SANDBOX_APIM_DATA_DIR": str(tmp_path / "other")}
    environment |= {"SANDBOX_APIM_ARM_PORT": "0", "SANDBOX_APIM_PORTAL_PORT": "0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox_apim", env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert errors.decode().count("\n") == 1
    assert "in use" in errors.decode()


async def test_the_clock_offset_can_be_given_at_start(start: Callable[..., Any]) -> None:
    async with start(BusinessClock(timedelta(days=40), offset_allowed=True)) as sandbox, httpx.AsyncClient() as client:
        answer = (await client.get(f"{sandbox.gateway_url}/_sandbox/clock")).json()
    assert answer["offset_seconds"] == 40 * 86_400


def test_answers_do_not_wait_for_acknowledgements(sandbox: Any) -> None:
    assert {listener.proto for listener in sandbox._sockets} == {socket.IPPROTO_TCP}  # else Nagle costs 40 ms a call
