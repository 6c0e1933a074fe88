"""`turnpike provision` against a real Postgres, a real Kafka and the Stripe sandbox: made once, found again, said clearly."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from typer.testing import CliRunner, Result

from billing_common.topics import all_topics
from embedded_servers.ports import choose_port
from turnpike_cli.__main__ import app
from turnpike_cli.errors import CommandError
from turnpike_cli.parts import SERVICE_NAMES
from turnpike_cli.stack import Stack

STRIPE_KEY = "sk_test_turnpike_sandbox"
WEBHOOK_URL = "http://127.0.0.1:9/webhooks/stripe"
DATABASE = "provisioned"


@pytest.fixture(scope="session")
def stripe_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = choose_port(26300, set())  # below those that the system gives to outgoing connections
    settings = {"SANDBOX_STRIPE_HTTP_PORT": str(port), "SANDBOX_STRIPE_DATA_PATH": str(tmp_path_factory.mktemp("stripe") / "s.sqlite3")}
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "-m", "sandbox_stripe"], env=settings, stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                try:
                    httpx.get(f"{address}/health/ready", trust_env=False).raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.1)
            else:
                raise TimeoutError(f"the sandbox did not answer at {address} within 30 s")
            yield address
        finally:
            process.terminate()


@pytest.fixture
def environment(stack: Stack, stripe_sandbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "DATABASE_ADMIN_URL": stack.wiring.superuser_dsn,
        "DATABASE_NAME": DATABASE,
        "KAFKA_BOOTSTRAP_SERVERS": stack.wiring.kafka,
        "STRIPE_API_KEY": STRIPE_KEY,
        "STRIPE_API_BASE": stripe_sandbox,
        "WEBHOOK_URL": WEBHOOK_URL,
    }
    for name, value in values.items():
        monkeypatch.setenv(f"TURNPIKE_{name}", value)


def provision(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["provision", *map(str, arguments)])


def contents(folder: Path) -> dict[str, str]:
    return {f"{path.parent.name}/{path.name}": path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def endpoints(base: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{base}/v1/webhook_endpoints", headers={"authorization": f"Bearer {STRIPE_KEY}"}, trust_env=False)
    return list(answer.json()["data"])


async def who_and_where(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        return str(await connection.fetchval("select current_user || ' ' || current_schema()"))
    finally:
        await connection.close()


@pytest.mark.usefixtures("environment")
def test_everything_is_made_once_and_found_again(tmp_path: Path, stripe_sandbox: str) -> None:
    first = provision(tmp_path)
    assert first.exit_code == 0, first.output or first.exception
    made = contents(tmp_path)
    second = provision(tmp_path)
    assert second.exit_code == 0
    assert contents(tmp_path) == made
    assert f"0 topics made, {len(all_topics())} were there" in second.output
    assert f"Stripe sends to {WEBHOOK_URL} already" in second.output
    assert [endpoint["url"] for endpoint in endpoints(stripe_sandbox)] == [WEBHOOK_URL]
    assert made["webhook_ingress/WEBHOOK_INGRESS_STRIPE_WEBHOOK_SECRETS"].startswith("whsec_")
    for service in SERVICE_NAMES:
        assert asyncio.run(who_and_where(made[f"{service}/{service.upper()}_DATABASE_URL"])) == f"{service} {service}"
    assert len({made[f"{service}/{service.upper()}_INTERNAL_TOKEN_KEYS"] for service in SERVICE_NAMES}) == 1


@pytest.mark.usefixtures("environment")
def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    assert provision(tmp_path, "--only", "secrets").exit_code == 0
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o600}


@pytest.mark.usefixtures("environment")
def test_a_lost_signing_secret_is_replaced_with_one_endpoint_and_not_two(tmp_path: Path, stripe_sandbox: str) -> None:
    assert provision(tmp_path, "--only", "webhook").exit_code == 0
    secret = tmp_path / "webhook_ingress" / "WEBHOOK_INGRESS_STRIPE_WEBHOOK_SECRETS"
    old = secret.read_text()
    secret.unlink()
    assert provision(tmp_path, "--only", "webhook").exit_code == 0
    assert secret.read_text() != old
    assert len(endpoints(stripe_sandbox)) == 1


@pytest.mark.usefixtures("environment")
def test_each_service_gets_what_the_environment_names_and_nothing_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "authority.pem").write_text("a certificate")
    monkeypatch.setenv("TURNPIKE_APIM_CA_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("TURNPIKE_APIM_STATIC_TOKEN", "token-of-the-sandbox")
    monkeypatch.setenv("CHECKOUT_STRIPE_API_KEY", "rk_test_of_checkout")
    assert provision(tmp_path / "out", "--only", "secrets").exit_code == 0
    made = contents(tmp_path / "out")
    assert made["checkout/CHECKOUT_STRIPE_API_KEY"] == "rk_test_of_checkout"
    assert made["stripe_reporter/STRIPE_REPORTER_STRIPE_API_KEY"] == STRIPE_KEY
    assert {name for name in made if name.startswith("stripe_reporter/")} == {
        f"stripe_reporter/STRIPE_REPORTER_{name}" for name in ("DATABASE_URL", "INTERNAL_TOKEN_KEYS", "STRIPE_API_KEY")
    }
    assert made["subscription_enforcer/ca.pem"] == "a certificate"
    assert all(name.split("/")[1].startswith((name.split("/")[0].upper(), "ca.pem")) for name in made)


def test_what_is_not_set_is_named_with_the_way_out(tmp_path: Path) -> None:
    result = provision(tmp_path, "--only", "topics", "--only", "webhook")
    assert isinstance(result.exception, CommandError)
    assert str(result.exception) == (
        "Not set: TURNPIKE_KAFKA_BOOTSTRAP_SERVERS, TURNPIKE_STRIPE_API_KEY, TURNPIKE_WEBHOOK_URL. "
        "Set them, or leave their steps out with --only."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "variable", "value", "said"),
    [
        ("database", "DATABASE_ADMIN_URL", "postgresql://postgres:x@127.0.0.1:9/postgres", "Check TURNPIKE_DATABASE_ADMIN_URL"),
        ("topics", "KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9", "Kafka at 127.0.0.1:9"),
        ("webhook", "STRIPE_API_KEY", "sk_test_wrong", "Stripe"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_a_system_that_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, variable: str, value: str, said: str
) -> None:
    assert provision(tmp_path, "--only", "secrets").exit_code == 0
    monkeypatch.setenv(f"TURNPIKE_{variable}", value)
    result = provision(tmp_path, "--only", step)
    assert isinstance(result.exception, CommandError), result.output
    assert said in str(result.exception)
