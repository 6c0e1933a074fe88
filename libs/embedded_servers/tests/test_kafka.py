"""A real broker is started, killed and used."""

from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from embedded_servers import Kafka, ServerError, kafka
from embedded_servers.kafka import answers, new_cluster_id
from embedded_servers.processes import is_alive


async def create_topic(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await admin.close()


async def send(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, value, partition=0)


async def read_first(bootstrap: str, topic: str) -> bytes | None:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        return (await consumer.getone()).value


async def test_a_shared_broker_takes_and_gives_records(kafka_bootstrap: str) -> None:
    topic = f"test.{uuid4().hex}"
    await create_topic(kafka_bootstrap, topic)
    await send(kafka_bootstrap, topic, b"hello")
    assert await read_first(kafka_bootstrap, topic) == b"hello"


async def test_acknowledged_records_survive_a_kill_and_a_change_of_ports(tmp_path: Path) -> None:
    with Kafka(tmp_path) as broker:
        await create_topic(broker.bootstrap_servers, "kept")
        await send(broker.bootstrap_servers, "kept", b"paid")
        broker.kill()
        assert not answers(broker.port)
    with Kafka(tmp_path) as again:
        assert await read_first(again.bootstrap_servers, "kept") == b"paid"
        identity = again.identity
        assert identity is not None
        assert is_alive(identity)
    assert not is_alive(identity)


def test_a_taken_port_is_said_in_one_sentence(tmp_path: Path, kafka_bootstrap: str) -> None:
    port = int(kafka_bootstrap.rsplit(":", 1)[1])
    with pytest.raises(ServerError, match="is in use"):
        Kafka(tmp_path, port=port).start()


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").write_text("version=99\n")
    with pytest.raises(ServerError, match=r"(?s)ended while starting.*version"):
        Kafka(tmp_path).start()


def test_without_jars_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "jars_folder", lambda: tmp_path / "none")
    with pytest.raises(ServerError, match="run `make setup`"):
        Kafka(tmp_path).start()


def test_a_cluster_id_never_looks_like_an_option() -> None:
    ids = {new_cluster_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(len(name) == 22 and not name.startswith("-") for name in ids)
