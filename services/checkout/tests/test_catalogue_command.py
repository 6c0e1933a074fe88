"""`turnpike catalogue` against the service itself, over HTTP, with both sandboxes behind it: what a person reads."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import stripe
from typer.testing import CliRunner, Result

from billing_common.testing import served
from checkout import store_catalogue
from checkout.carrying import Outside
from checkout.store_catalogue import Version
from checkout.stripe_gateway import StripeUnavailableError
from turnpike_cli.__main__ import app as command
from turnpike_cli.errors import CommandError

from .conftest import FILE, KEYS, internal_app

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def run(
    pool: asyncpg.Pool, outside: Outside, applied: Version, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Run]:
    """Run the command in a thread, as a process of its own would: only over the socket."""
    async with served(internal_app(pool, outside)) as address:
        monkeypatch.setenv("TURNPIKE_DOORS", f"checkout={address}")
        monkeypatch.setenv("TURNPIKE_INTERNAL_TOKEN_KEYS", KEYS[0])
        monkeypatch.setenv("TURNPIKE_HOME", str(tmp_path))
        yield lambda *arguments: asyncio.to_thread(CliRunner().invoke, command, ["catalogue", *map(str, arguments)])


@pytest.fixture
def dearer(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The repository's catalogue with another price and rate limit of payg."""
    file = tmp_path / "dearer.json"
    amount = getattr(request, "param", "0.16")
    file.write_text(FILE.read_text().replace('"0.15"', f'"{amount}"').replace('"calls": 200,', '"calls": 222,'))
    return file


async def test_plan_apply_history_show_and_back(run: Run, dearer: Path) -> None:
    nothing = await run("plan")
    assert (nothing.exit_code, "Nothing to do: everything is as version 1 says" in nothing.stdout) == (0, True)
    plan = await run("plan", "--file", dearer)
    assert plan.exit_code == 2
    lines = [line.strip() for line in plan.stdout.splitlines()]
    assert lines[:2] == ["payg (Pay as you go)", "File"]
    assert "replaced   price: usage of API calls: USD 0.15 per 100 calls -> USD 0.16 per 100 calls" in lines
    assert "untouched  1 product, 1 meter" in lines
    assert "none       nobody is subscribed: the new price is for those who come" in lines
    assert "untouched: free, developer, basic, standard, pro, enterprise" in lines
    assert lines[-1].startswith("3 changes at Stripe and API Management, ")
    code = lines[-1].rsplit("(plan ", 1)[1].rstrip(")")
    assert json.loads((await run("plan", "--file", dearer, "--json")).stdout)["plan"] == code
    done = await run("apply", "--file", dearer, "--plan", code, "--by", "Anna Lee")
    assert done.exit_code == 0, done.output
    steps = [line.strip().split("  ", 1) for line in done.stdout.splitlines() if "[info" not in line]  # the service logs in this process
    assert [number for number, *_ in steps[:-1]] == ["1/3", "2/3", "3/3"]
    assert steps[0][1].startswith("stripe: create price turnpike:payg:usage:calls:usd:")
    assert steps[-1] == ["catalogue version 2 is applied"]
    history = (await run("history")).stdout
    assert "version 2, applied by Anna Lee on " in history
    assert '  payg: price.usage[calls].amount: "0.15" -> "0.16"' in history
    assert "  created price payg usage:calls usd: price_" in history
    shown = (await run("show", "--version", 1)).stdout
    assert "usage of API calls    USD 0.15 per 100 calls  [price_" in shown
    assert json.loads((await run("show", "--json")).stdout)["version"] == 2
    assert "catalogue version 3 is applied" in (await run("apply")).stdout


async def test_drift_and_repair(run: Run, stripe_api: stripe.StripeClient) -> None:
    none = await run("drift")
    assert (none.exit_code, "No drift: " in none.stdout) == (0, True)
    await stripe_api.v1.products.update_async("turnpike_pro", {"name": "Professional"})
    found = await run("drift")
    assert found.exit_code == 2
    assert '  Stripe, product pro: product turnpike_pro: name is "Professional", applied was "Pro"' in found.stdout
    assert json.loads((await run("drift", "--json")).stdout)["findings"][0]["kind"] == "product"
    repaired = await run("apply", "--repair")
    assert repaired.stdout.splitlines()[-1] == "everything is as catalogue version 1 says"
    assert (await run("drift")).exit_code == 0
    refused = await run("apply", "--repair", "--file", FILE)
    assert "--repair goes back to the applied version" in str(refused.exception)


@pytest.mark.parametrize("dearer", ["0.161"], indirect=True)  # a price that no test before has made
async def test_what_stops_an_apply_is_told_with_what_is_done_and_what_is_left(
    run: Run, dearer: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: Any, **__: Any) -> None:
        raise StripeUnavailableError("HTTP 500")

    with monkeypatch.context() as outage:
        outage.setattr(outside.stripe, "archive_price", down)
        error = (await run("apply", "--file", dearer)).exception
    assert isinstance(error, CommandError)
    first, *rest = str(error).splitlines()
    assert first.startswith("Stripe: archive price turnpike:payg:usage:calls:usd:")
    assert "HTTP 500; " in first
    assert [line.split(" (")[0].rsplit(":", 1)[0] for line in rest] == [
        "Done",
        "  stripe: create price turnpike:payg:usage:calls:usd",
        "  apim",
        "Left",
        "  stripe: archive price turnpike:payg:usage:calls:usd",
    ]
    half = await run("drift")
    assert "ended half-way (2 steps done, 1 left): what it did shows as drift" in half.stdout
    assert "catalogue version 2 is applied" in (await run("apply", "--file", dearer)).stdout
    await run("apply")


async def test_a_second_apply_and_a_moved_world_are_told_in_a_sentence(run: Run, pool: asyncpg.Pool, dearer: Path) -> None:
    async with store_catalogue.apply_lock(pool):
        error = (await run("apply", "--file", dearer)).exception
    assert str(error).startswith("Another apply of a catalogue is at work")
    moved = (await run("apply", "--plan", "0123456789abcdef")).exception
    assert str(moved) == "API Management, Stripe or the file is not as it was when the plan was made: plan again."


async def test_a_file_that_cannot_be_sold_is_told_with_its_name_and_every_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_text(FILE.read_text().replace('"model": "Metered"', '"model": "Meterd"').replace('"keys": 5', '"keys": 0'))
    for action in ("plan", "apply"):
        first, *lines = str((await run(action, "--file", file)).exception).splitlines()
        assert first == f"{file}: the catalogue has 2 problems; nothing was touched:"
        assert [line.split(": ")[0].split(", ")[1] for line in lines] == ["$.products[2].model", "$.products[5].keys"]


async def test_before_the_first_apply_there_is_nothing_to_show_or_to_compare(run: Run, pool: asyncpg.Pool) -> None:
    await pool.execute("truncate catalogue_version")
    assert str((await run("show")).exception) == "Nothing is applied yet."
    assert str((await run("drift")).exception).startswith("No catalogue has been applied yet: `turnpike catalogue apply`")
    assert (await run("history")).stdout == "Nothing has been applied yet.\n"
