"""The stack is started, found again, killed and stopped: processes, ports, secrets and logs."""

import stat
import subprocess
import sys
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from embedded_servers import processes
from embedded_servers.processes import Identity
from turnpike_cli.errors import CommandError
from turnpike_cli.parts import PARTS, SERVICE_NAMES
from turnpike_cli.provisioning import provision
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import describe
from turnpike_cli.state import Secrets, State, locked


def environment(stack: Stack, name: str) -> dict[str, str]:
    """What the process was really given."""
    return dict(httpx.get(f"{stack.door(name)}/environment", trust_env=False).json())


def test_every_part_runs_and_says_that_it_is_ready(stack: Stack) -> None:
    document = describe(stack)
    assert document["ready"]
    assert [part["name"] for part in document["parts"]] == [part.name for part in PARTS]
    assert all(psutil.pid_exists(part["pid"]) for part in document["parts"])


def test_no_two_parts_share_a_port_and_all_are_on_this_machine_only(stack: Stack) -> None:
    numbers = [number for ports in stack.state.ports.values() for number in ports.values()]
    assert len(numbers) == len(set(numbers))
    for part in describe(stack)["parts"]:
        addresses = {connection.laddr.ip for connection in psutil.Process(part["pid"]).net_connections() if connection.status == "LISTEN"}
        assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def test_a_second_start_finds_everything_and_changes_nothing(stack: Stack, folder: Path) -> None:
    before = State.read(folder / "state.json")
    again = type(stack)(folder, fast=True)
    assert again.start() == []
    assert State.read(folder / "state.json") == before


def test_a_start_brings_back_what_died_and_nothing_else(stack: Stack) -> None:
    before = dict(stack.state.processes)
    stack.kill("checkout")
    assert stack.health("checkout").state == "died"
    assert not describe(stack)["ready"]
    assert stack.start() == ["checkout"]
    after = stack.state.processes
    assert after["checkout"] != before["checkout"]
    assert {name: after[name] for name in after if name != "checkout"} == {name: before[name] for name in before if name != "checkout"}


def test_a_killed_postgres_comes_back_at_its_port_with_its_data(stack: Stack) -> None:
    port = stack.state.ports["postgres"]["sql"]
    stack.kill("postgres")
    stack.restart("postgres")
    assert stack.state.ports["postgres"]["sql"] == port
    assert stack.health("postgres").state == "ready"
    provision(stack.wiring)


async def test_each_service_gets_a_role_that_sees_only_its_own_schema(stack: Stack) -> None:
    for name in SERVICE_NAMES[:2]:
        connection = await asyncpg.connect(environment(stack, name)[f"{name.upper()}_DATABASE_URL"])
        assert await connection.fetchval("select current_schema()") == name
        visible = await connection.fetch("select nspname from pg_namespace where has_schema_privilege(oid, 'usage')")
        assert {row["nspname"] for row in visible} & set(SERVICE_NAMES) == {name}
        await connection.close()


def test_only_who_speaks_to_stripe_gets_its_key(stack: Stack) -> None:
    with_key = {name for name in SERVICE_NAMES if stack.secrets.stripe_api_key in environment(stack, name).values()}
    assert with_key == {"checkout", "webhook_ingress", "stripe_reporter"}


def test_the_webhook_secret_that_stripe_gave_reaches_the_ingress(stack: Stack) -> None:
    assert environment(stack, "webhook_ingress")["WEBHOOK_INGRESS_STRIPE_WEBHOOK_SECRETS"] == "whsec_made_by_the_fake"
    assert stack.state.webhook_url == stack.addresses()["webhook_ingress"]["http"] + "/webhooks/stripe"


def test_secrets_are_for_their_owner_alone_and_stand_in_no_log_or_state(stack: Stack, folder: Path) -> None:
    assert stat.S_IMODE((folder / "secrets.json").stat().st_mode) == 0o600
    secrets = stack.secrets
    visible = (folder / "state.json").read_text() + "".join(log.read_text() for log in (folder / "logs").iterdir())
    for secret in (secrets.internal_token_key, secrets.stripe_api_key, secrets.arm_token, *secrets.database_passwords.values()):
        assert secret not in visible


def test_the_callers_variables_win_over_ours(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECKOUT_LOG_LEVEL", "DEBUG")
    stack.restart("checkout")
    assert environment(stack, "checkout")["CHECKOUT_LOG_LEVEL"] == "DEBUG"


def test_a_process_that_ends_while_starting_is_told_with_its_own_words(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "import sys; sys.exit('setting CHECKOUT_DATABASE_URL is not set')"
    monkeypatch.setattr(type(stack), "_command", lambda *_: [sys.executable, "-c", broken])
    with pytest.raises(CommandError, match=r"(?s)checkout ended while starting.*CHECKOUT_DATABASE_URL is not set"):
        stack.restart("checkout")
    monkeypatch.undo()
    assert stack.start() == ["checkout"]


def test_a_pid_that_belongs_to_somebody_else_by_now_is_left_alone(stack: Stack) -> None:
    stranger = subprocess.Popen(["sleep", "30"])
    ours = stack.state.processes["checkout"]
    try:
        stack.state.processes["checkout"] = Identity(stranger.pid, psutil.Process(stranger.pid).create_time() - 100)
        assert not stack.is_running("checkout")
        stack.kill("checkout")
        assert stranger.poll() is None
    finally:
        stack.state.processes["checkout"] = ours
        stranger.kill()
        stranger.wait()


def test_a_part_stops_gracefully_and_only_then_is_killed(stack: Stack) -> None:
    identity = stack.state.processes["usage_collector"]
    stack.stop_part("usage_collector")
    assert not processes.is_alive(identity)
    assert stack.health("usage_collector").state == "stopped"
    assert stack.start() == ["usage_collector"]


def test_two_starts_at_once_are_refused(stack: Stack, folder: Path) -> None:
    with locked(folder), pytest.raises(CommandError, match="Another turnpike command"):
        stack.start()


def test_a_folder_where_nothing_was_started_is_said_in_one_sentence(tmp_path: Path) -> None:
    empty = Stack(tmp_path / "new")
    with pytest.raises(CommandError, match="run `turnpike up`"):
        _ = empty.wiring
    assert empty.stop() == []
    assert not describe(empty)["ready"]


def test_taken_ports_are_stepped_over_and_kept_afterwards(tmp_path: Path, stack: Stack) -> None:
    other = Stack(tmp_path)
    other._choose_ports(PARTS)  # while the shared stack holds its ports
    ours = {number for ports in stack.state.ports.values() for number in ports.values()}
    theirs = {number for ports in other.state.ports.values() for number in ports.values()}
    assert not ours & theirs
    chosen = other.state.ports.copy()
    Stack(tmp_path)._choose_ports(PARTS)
    assert State.read(tmp_path / "state.json").ports == chosen


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(CommandError, match="is damaged"):
        Stack(tmp_path)


def test_two_installations_share_no_secret(tmp_path: Path) -> None:
    one, other = Secrets.load(tmp_path / "one.json"), Secrets.load(tmp_path / "other.json")
    assert one.internal_token_key != other.internal_token_key
    assert not set(one.database_passwords.values()) & set(other.database_passwords.values())
    assert Secrets.load(tmp_path / "one.json") == one
