"""A door without its database."""

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from billing_common.refusals import install_refusals


@pytest.mark.parametrize("error", [ConnectionRefusedError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError])
async def test_a_door_whose_database_is_away_asks_to_come_again(error: type[Exception]) -> None:
    app = FastAPI()
    install_refusals(app)

    @app.get("/door")
    async def door() -> None:
        raise error("host=db user=checkout")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
        answer = await client.get("/door")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "user" not in answer.text
