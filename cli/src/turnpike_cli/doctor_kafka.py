"""Looks at Kafka: reachable, topics there, and what the credentials may do."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from billing_common.events import GATEWAY_CALLS_TOPIC
from billing_common.topics import all_topics
from turnpike_cli.findings import Finding, failed, fine, warning

AREA = "Kafka"
TIMEOUT_SECONDS = 8.0
COLLECTOR = "usage_collector"
COLLECTOR_TIMEOUT_MS = 3000  # its own default, for where its package is not installed
TAKEN_BY_DEFAULT_MS = 6000
CALLS = f"{COLLECTOR.upper()}_CALLS_KAFKA_"
LOWEST_TIMEOUT = "group.min.session.timeout.ms"
NO_ACCESS = {29: "no access to topic", 30: "no access to group", 31: "no access to cluster"}


async def examine(settings: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Ask each different Kafka once; the services that share it are named."""
    different: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, given in settings.items():
        key = tuple(sorted((field, value) for field, value in given.items() if field.startswith("KAFKA_")))
        if given.get("KAFKA_BOOTSTRAP_SERVERS"):
            different.setdefault(key, []).append(name)
    asked = int(settings.get(COLLECTOR, {}).get("SESSION_TIMEOUT_MS", COLLECTOR_TIMEOUT_MS))
    clusters = ((dict(key), names, asked if COLLECTOR in names else None) for key, names in different.items())
    groups = await asyncio.gather(*(_examine_cluster(*cluster) for cluster in clusters))
    calls = await _examine_calls(settings.get(COLLECTOR, {}))
    return [*(finding for group in groups for finding in group), *calls]


def _arguments(given: Mapping[str, str]) -> dict[str, Any]:
    protocol = given.get("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")
    found: dict[str, Any] = {
        "bootstrap_servers": given["KAFKA_BOOTSTRAP_SERVERS"],
        "security_protocol": protocol,
        "request_timeout_ms": 5000,
    }
    if "SSL" in protocol:
        found["ssl_context"] = ssl.create_default_context()
    if protocol.startswith("SASL"):
        found["sasl_mechanism"] = given.get("KAFKA_SASL_MECHANISM", "PLAIN")
        found["sasl_plain_username"] = given.get("KAFKA_SASL_USERNAME", "")
        found["sasl_plain_password"] = given.get("KAFKA_SASL_PASSWORD", "")
    return found


async def _examine_cluster(given: Mapping[str, str], services: list[str], collector_timeout_ms: int | None) -> list[Finding]:
    where = given["KAFKA_BOOTSTRAP_SERVERS"]
    admin = AIOKafkaAdminClient(**_arguments(given))
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await admin.start()
            topics = await admin.describe_topics(list(all_topics()))
            brokers = (await admin.describe_cluster())["brokers"]
            lowest = None if collector_timeout_ms is None else await _lowest_timeout(admin, [broker["node_id"] for broker in brokers])
    except (KafkaError, OSError, TimeoutError) as error:
        remedy = "start Kafka, or correct KAFKA_BOOTSTRAP_SERVERS, KAFKA_SECURITY_PROTOCOL and KAFKA_SASL_*"
        return [failed(AREA, f"{where} does not answer ({type(error).__name__}), needed by {', '.join(services)}", remedy)]
    finally:
        await admin.close()
    findings = _topics(topics) + ([] if collector_timeout_ms is None else _timeouts(collector_timeout_ms, lowest))
    count = f"{len(brokers)} broker{'s' if len(brokers) != 1 else ''}"
    return findings or [fine(AREA, f"{where}: {count}, all {len(topics)} topics there")]


async def _examine_calls(given: Mapping[str, str]) -> list[Finding]:
    """Ask the Kafka that holds the stream of calls, where it is another one (Event Hubs)."""
    where, topic = given.get("CALLS_KAFKA_BOOTSTRAP_SERVERS", ""), given.get("CALLS_TOPIC", GATEWAY_CALLS_TOPIC)
    if not where:
        return []
    told = {name.removeprefix("CALLS_"): value for name, value in given.items() if name.startswith("CALLS_KAFKA_")}
    told = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "$ConnectionString", **told}  # as the collector has them
    if told["KAFKA_SECURITY_PROTOCOL"].startswith("SASL") and not told.get("KAFKA_SASL_PASSWORD"):
        remedy = "set it to Event Hubs' whole connection string with the right to Listen, or to the user's password"
        return [failed(AREA, f"{CALLS}SASL_PASSWORD is not set: {where} lets nobody read calls without it", remedy)]
    admin = AIOKafkaAdminClient(**_arguments(told))
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await admin.start()
            (found,) = await admin.describe_topics([topic])
    except (KafkaError, OSError, TimeoutError) as error:
        return [await _calls_are_away(where, type(error).__name__)]
    finally:
        await admin.close()
    return [_calls_topic(where, topic, found["error_code"], len(found["partitions"]))]


async def _calls_are_away(where: str, error: str) -> Finding:
    """Tell a server that is not there from one that does not let the collector in: a client reports both alike."""
    if await _listens(where):
        remedy = (
            f"correct {CALLS}SECURITY_PROTOCOL and {CALLS}SASL_MECHANISM, _USERNAME and _PASSWORD "
            "(Event Hubs: SASL_SSL, PLAIN, $ConnectionString and the whole connection string)"
        )
        return failed(AREA, f"{where}, where {COLLECTOR} reads calls, listens but does not let it in ({error})", remedy)
    remedy = (
        f"correct {CALLS}BOOTSTRAP_SERVERS (Event Hubs: <namespace>.servicebus.windows.net:9093), or let its firewall pass this machine"
    )
    return failed(AREA, f"{where}, where {COLLECTOR} reads calls, does not answer ({error})", remedy)


async def _listens(where: str) -> bool:
    for address in where.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            async with asyncio.timeout(2):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, TimeoutError, ValueError, OverflowError):
            continue
        writer.close()
        return True
    return False


def _calls_topic(where: str, topic: str, error_code: int, partitions: int) -> Finding:
    if error_code in NO_ACCESS:
        return failed(AREA, f"{where}: no rights on {topic}", f"give what {CALLS}SASL_* names the right to read it (Event Hubs: Listen)")
    if error_code != 0:
        remedy = f"make it (an event hub of that name), or set {COLLECTOR.upper()}_CALLS_TOPIC to where log-to-eventhub writes"
        return failed(AREA, f"{where}: topic {topic} of the calls is missing", remedy)
    return fine(AREA, f"{where}: topic {topic} of the calls is there, {partitions} partition{'s' if partitions != 1 else ''}")


def _topics(topics: list[dict[str, Any]]) -> list[Finding]:
    missing = [topic["topic"] for topic in topics if topic["error_code"] == 3]
    refused = [topic["topic"] for topic in topics if topic["error_code"] in NO_ACCESS]
    thin = [topic["topic"] for topic in topics if topic["error_code"] == 0 and any(not p["leader"] >= 0 for p in topic["partitions"])]
    findings = []
    if missing:
        findings.append(
            failed(AREA, f"topics are missing: {', '.join(missing)}", "run `turnpike up`, or make them before the services start")
        )
    if refused:
        remedy = "allow the principal to describe, read and write them (Event Hubs: Listen and Send)"
        findings.append(failed(AREA, f"no rights on {', '.join(refused)}", remedy))
    if thin:
        findings.append(warning(AREA, f"partitions without a leader: {', '.join(thin)}", "see to the brokers that are down"))
    return findings


async def _lowest_timeout(admin: AIOKafkaAdminClient, brokers: list[int]) -> int | None:
    """Return the shortest session time-out that every broker takes; None where that is not told (Event Hubs, or no right to ask)."""
    wanted = [ConfigResource(ConfigResourceType.BROKER, str(broker), {LOWEST_TIMEOUT: ""}) for broker in brokers]
    try:
        answers = await admin.describe_configs(wanted)
    except KafkaError:
        return None
    entries = [entry for answer in answers for resource in answer.resources if resource[0] == 0 for entry in resource[4]]
    return max((int(value) for name, value, *_ in entries if name == LOWEST_TIMEOUT and value), default=None)


def _timeouts(asked: int, lowest: int | None) -> list[Finding]:
    """Compare what the collectors ask for with what the brokers take: below it they never join and nothing is counted."""
    setting = f"{COLLECTOR.upper()}_SESSION_TIMEOUT_MS"
    remedy = f"set {LOWEST_TIMEOUT} of the brokers to {asked} or less"
    if lowest is None and asked < TAKEN_BY_DEFAULT_MS:
        text = f"the brokers do not say which session time-outs they take; {COLLECTOR} asks for {asked} ms"
        return [warning(AREA, text, f"{remedy}, or {setting} to {TAKEN_BY_DEFAULT_MS}, which brokers take unless told otherwise")]
    if lowest is not None and asked < lowest:
        return [
            failed(
                AREA,
                f"{LOWEST_TIMEOUT} is {lowest}: {COLLECTOR}, which asks for {asked}, is refused",
                f"{remedy}, or {setting} to {lowest}",
            )
        ]
    return []
