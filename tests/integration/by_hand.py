"""What people do beside the pages: they run the command, and change a table by hand."""

import asyncio
import json
from typing import Any

import asyncpg
from typer.testing import CliRunner
from whole_system import Customer, World, eventually

from turnpike_cli.__main__ import app


async def turnpike(world: World, *arguments: str, code: int = 0) -> str:
    """Run the command; returns what it printed."""
    words = [*arguments, "--data", str(world.stack.folder)]
    done = await asyncio.to_thread(CliRunner(env={"COLUMNS": "200"}).invoke, app, words)
    assert done.exit_code == code, (words, done.output[-2000:], done.exception)
    return done.stdout


async def told(world: World, *arguments: str) -> Any:
    return json.loads(await turnpike(world, *arguments, "--json"))


async def alter(world: World, service: str, sql: str, customer: Customer) -> None:
    """Change one row by hand, as a careless administrator would, once it is there."""
    connection = await asyncpg.connect(world.stack.wiring.database_url(service), timeout=10)
    try:
        await connection.execute(f'set search_path to "{service}"')
        await eventually("a row to alter", lambda: connection.execute(sql, customer.subscription_id), lambda tag: tag == "UPDATE 1")
    finally:
        await connection.close(timeout=5)
