"""The doctor against real Kafka and Postgres, a small Stripe, and Azure's own errors: each illness has its remedy."""

import json
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from unittest.mock import Mock

import asyncpg
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError
from typer.testing import Result

from embedded_servers.ports import free_port
from turnpike_cli import doctor, doctor_apim, doctor_kafka, doctor_postgres, doctor_stripe
from turnpike_cli.doctor import Patient, find_patient
from turnpike_cli.environment import DATABASE
from turnpike_cli.errors import CommandError
from turnpike_cli.findings import Finding
from turnpike_cli.parts import BY_NAME, SERVICE_NAMES
from turnpike_cli.stack import Stack
from usage_collector.settings import Settings as CollectorSettings


def settings_of(stack: Stack, *names: str) -> dict[str, dict[str, str]]:
    return {name: stack.wiring.settings(BY_NAME[name]) for name in names}


def verdicts(findings: list[Finding]) -> set[str]:
    return {finding.verdict for finding in findings}


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


async def test_a_healthy_postgres_and_kafka_have_no_findings_but_ok(stack: Stack) -> None:
    settings = settings_of(stack, *SERVICE_NAMES)
    assert verdicts(await doctor_postgres.examine(settings)) == {"ok"}
    assert verdicts(await doctor_kafka.examine(settings)) == {"ok"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda url: url.rsplit(":", 1)[0] + f":{free_port()}/turnpike", "does not answer"),
        (lambda url: url.replace("@", "x@"), "the password is refused"),
        (lambda _: "no address", "correct DATABASE_URL"),
    ],
)
async def test_a_postgres_that_cannot_be_used_is_told_with_the_setting(stack: Stack, change: Callable[[str], str], text: str) -> None:
    settings = settings_of(stack, "checkout")
    settings["checkout"]["DATABASE_URL"] = change(settings["checkout"]["DATABASE_URL"])
    finding = only(await doctor_postgres.examine(settings))
    assert finding.verdict == "failed"
    assert text in f"{finding.text} {finding.remedy}"
    assert stack.secrets.database_passwords["checkout"] not in f"{finding.text} {finding.remedy}"


async def test_a_role_that_sees_another_schema_and_a_missing_schema_are_found(stack: Stack) -> None:
    admin = await asyncpg.connect(stack.wiring.postgres.dsn(DATABASE))
    try:
        await admin.execute("grant usage on schema checkout to usage_collector; alter schema stripe_reporter rename to elsewhere")
        findings = await doctor_postgres.examine(settings_of(stack, "usage_collector", "stripe_reporter"))
    finally:
        await admin.execute("revoke usage on schema checkout from usage_collector; alter schema elsewhere rename to stripe_reporter")
        await admin.close()
    assert [(finding.verdict, finding.text) for finding in findings] == [
        ("warning", "usage_collector: its role can look into checkout"),
        ("failed", "stripe_reporter: its schema does not exist"),
    ]


async def test_missing_topics_and_an_unreachable_kafka_are_found(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(stack, "checkout")
    monkeypatch.setattr(doctor_kafka, "all_topics", lambda: ("account.registered", "not.there"))
    assert only(await doctor_kafka.examine(settings)).text == "topics are missing: not.there"
    settings["checkout"]["KAFKA_BOOTSTRAP_SERVERS"] = f"127.0.0.1:{free_port()}"
    finding = only(await doctor_kafka.examine(settings))
    assert "needed by checkout" in finding.text
    assert "KAFKA_BOOTSTRAP_SERVERS" in finding.remedy


async def test_a_broker_that_would_refuse_the_collectors_is_found_with_both_settings(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(stack, "checkout", "usage_collector")
    settings["usage_collector"]["SESSION_TIMEOUT_MS"] = "1999"  # the broker of the stack takes 2000
    finding = only(await doctor_kafka.examine(settings))
    assert finding.verdict == "failed"
    assert finding.text == "group.min.session.timeout.ms is 2000: usage_collector, which asks for 1999, is refused"
    assert (
        finding.remedy == "set group.min.session.timeout.ms of the brokers to 1999 or less, or USAGE_COLLECTOR_SESSION_TIMEOUT_MS to 2000"
    )
    assert only(await doctor_kafka.examine({"checkout": settings["checkout"]})).verdict == "ok"  # the others ask for what all take
    monkeypatch.setattr(doctor_kafka, "LOWEST_TIMEOUT", "not.told")
    assert only(await doctor_kafka.examine(settings)).verdict == "warning"
    settings["usage_collector"]["SESSION_TIMEOUT_MS"] = "6000"
    assert only(await doctor_kafka.examine(settings)).verdict == "ok"


async def calls_finding(stack: Stack, **given: str) -> Finding:
    """What is found of a second Kafka that holds the calls."""
    settings = settings_of(stack, "usage_collector")
    known = {"BOOTSTRAP_SERVERS": stack.wiring.kafka, "SECURITY_PROTOCOL": "PLAINTEXT"} | given
    settings["usage_collector"] |= {f"CALLS_{'KAFKA_' if name != 'TOPIC' else ''}{name}": value for name, value in known.items()}
    common, calls = await doctor_kafka.examine(settings)
    assert common.verdict == "ok"
    return calls


async def test_the_kafka_of_the_calls_is_looked_at_where_it_is_another(stack: Stack) -> None:
    found = await calls_finding(stack)
    assert (found.verdict, "topic gateway.calls of the calls is there" in found.text) == ("ok", True)
    found = await calls_finding(stack, TOPIC="other.calls")
    assert (found.verdict, "other.calls" in found.text, "USAGE_COLLECTOR_CALLS_TOPIC" in found.remedy) == ("failed", True, True)
    found = await calls_finding(stack, BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}")
    assert (found.verdict, "does not answer" in found.text) == ("failed", True)
    assert "USAGE_COLLECTOR_CALLS_KAFKA_BOOTSTRAP_SERVERS" in found.remedy


async def test_a_kafka_of_the_calls_that_lets_nobody_in_is_told_with_its_settings(stack: Stack) -> None:
    found = await calls_finding(stack, SECURITY_PROTOCOL="SASL_PLAINTEXT", SASL_PASSWORD="Endpoint=sb://x/;SharedAccessKey=topsecret")
    assert (found.verdict, "listens but does not let it in" in found.text) == ("failed", True)
    assert "USAGE_COLLECTOR_CALLS_KAFKA_SASL_MECHANISM, _USERNAME and _PASSWORD" in found.remedy
    assert "topsecret" not in f"{found.text} {found.remedy}"
    found = await calls_finding(stack, SECURITY_PROTOCOL="SASL_SSL")
    assert (found.verdict, "USAGE_COLLECTOR_CALLS_KAFKA_SASL_PASSWORD is not set" in found.text) == ("failed", True)


@pytest.mark.parametrize(
    ("code", "verdict", "word"), [(0, "ok", "2 partitions"), (3, "failed", "is missing"), (29, "failed", "no rights on calls")]
)
def test_what_the_kafka_of_the_calls_says_of_their_topic_is_told(code: int, verdict: str, word: str) -> None:
    found = doctor_kafka._calls_topic("ns.servicebus.windows.net:9093", "calls", code, 2)
    assert (found.verdict, word in found.text, bool(found.remedy)) == (verdict, True, verdict == "failed")


def test_the_doctor_takes_what_is_not_set_for_the_calls_as_the_collector_does() -> None:
    fields = CollectorSettings.model_fields
    assert fields["calls_kafka_security_protocol"].default == "SASL_SSL"
    assert fields["calls_kafka_sasl_username"].default == "$ConnectionString"
    assert fields["calls_kafka_sasl_mechanism"].default == "PLAIN"


def test_the_doctor_knows_what_a_collector_asks_for_where_nothing_is_set() -> None:
    assert CollectorSettings.model_fields["session_timeout_ms"].default == doctor_kafka.COLLECTOR_TIMEOUT_MS


@pytest.fixture
def stripe_that_answers() -> Iterator[Callable[..., str]]:
    """Return a function that starts a Stripe answering paths with a status (200 where none is named); it returns its address."""
    servers = []

    def start(**statuses: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                resource = self.path.partition("?")[0].rsplit("/", 1)[1]
                status = statuses.get(resource, statuses.get("everything", 200))
                ok = {"object": "list", "data": [], "has_more": False}
                body = json.dumps(ok if status == 200 else {"error": {"type": "invalid_request_error", "message": "no"}}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def stripe_settings(address: str, key: str = "rk_live_abc") -> dict[str, dict[str, str]]:
    return {"stripe_reporter": {"STRIPE_API_KEY": key, "STRIPE_API_BASE": address}}


async def test_a_restricted_key_without_a_permission_is_told_which(stripe_that_answers: Callable[..., str]) -> None:
    finding = only(await doctor_stripe.examine(stripe_settings(stripe_that_answers(meters=403))))
    assert finding == Finding(
        "Stripe",
        "failed",
        "stripe_reporter: the key may not read Billing Meters",
        "give the restricted key the permission Billing Meters: Read",
    )


async def test_stripe_keys_that_are_wrong_or_too_strong_and_a_stripe_that_is_away(stripe_that_answers: Callable[..., str]) -> None:
    assert "the key is refused" in only(await doctor_stripe.examine(stripe_settings(stripe_that_answers(everything=401)))).text
    assert "does not answer" in only(await doctor_stripe.examine(stripe_settings(f"http://127.0.0.1:{free_port()}"))).text
    strong = only(await doctor_stripe.examine(stripe_settings(stripe_that_answers(), "sk_live_abc")))
    assert (strong.verdict, "restricted key" in strong.remedy) == ("warning", True)
    assert only(await doctor_stripe.examine(stripe_settings(stripe_that_answers()))).verdict == "ok"


def azure_error(status: int) -> HttpResponseError:
    error = HttpResponseError(message="no")
    error.status_code = status
    return error


@pytest.mark.parametrize(
    ("error", "verdict", "text", "remedy"),
    [
        (azure_error(404), "failed", "cannot be found", "APIM_SERVICE_NAME"),
        (azure_error(403), "failed", "may not read users", "API Management Service Contributor"),
        (azure_error(429), "warning", "limits the rate", "in a minute"),
        (azure_error(500), "failed", "answers 500", "activity log"),
        (ClientAuthenticationError("no"), "failed", "credential is refused", "az login"),
        (ServiceRequestError("no"), "failed", "does not answer", "APIM_BASE_URL"),
    ],
)
async def test_each_refusal_of_azure_has_its_remedy(error: Exception, verdict: str, text: str, remedy: str) -> None:
    async def question() -> Any:
        raise error

    asked: Callable[[], Awaitable[Any]] = question
    _, finding = await doctor_apim._ask("checkout", "users", asked)
    assert finding is not None
    assert finding.verdict == verdict
    assert text in finding.text
    assert remedy in finding.remedy


async def test_missing_apim_settings_are_named() -> None:
    finding = only(await doctor_apim.examine({"checkout": {"APIM_SERVICE_NAME": "contoso"}}))
    assert "APIM_SUBSCRIPTION_ID, APIM_RESOURCE_GROUP are missing" in finding.text


def test_a_missing_or_wrong_setting_is_named_as_the_service_names_it(stack: Stack) -> None:
    settings = settings_of(stack, *SERVICE_NAMES)
    del settings["checkout"]["DATABASE_URL"]
    settings["webhook_ingress"]["INTERNAL_PORT"] = "http"
    settings["stripe_reporter"] |= {"ENVIRONMENT": "production"}
    failures = [finding.text for finding in doctor.settings(Patient(settings, None)) if finding.verdict == "failed"]
    assert "CHECKOUT_DATABASE_URL is not set" in failures
    assert any(text.startswith("WEBHOOK_INGRESS_INTERNAL_PORT is wrong") for text in failures)
    assert "STRIPE_REPORTER_STRIPE_API_KEY is a test key in production" in failures


def test_the_environment_is_examined_when_it_names_a_service_and_no_stack_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Mock(spec=Stack)
    idle.running.return_value = []
    with pytest.raises(CommandError, match="run `turnpike up`"):
        find_patient(idle, None)
    monkeypatch.setenv("CHECKOUT_DATABASE_URL", "postgresql://real")
    patient = find_patient(idle, None)
    assert (patient.stack, patient.settings["checkout"]) == (None, {"DATABASE_URL": "postgresql://real"})


def test_the_command_ends_with_1_and_names_what_failed(run: Callable[..., Result], stack: Stack) -> None:
    answer = run("doctor", "--json")  # the stand-ins are no Stripe and no Azure, so something is wrong
    findings = json.loads(answer.stdout)
    assert answer.exit_code == 1
    failed = [finding for finding in findings if finding["verdict"] == "failed"]
    assert failed
    assert all(finding["remedy"] for finding in failed)
    assert {finding["area"] for finding in failed} <= {"Stripe", "API Management"}
