"""What any JSON door answers to a request it cannot even read: a sentence and a 4xx, never a failure of ours, never the value itself."""

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

BODY_BYTES_MAX = 8 * 1024 * 1024  # the largest body at an internal door is a catalogue, which has a limit of its own below this


def install_refusals(app: FastAPI) -> None:
    """Add them to an application; one that shows pages puts its own in their place."""

    @app.exception_handler(RequestValidationError)
    async def not_valid(_request: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats the input: a NaN in it cannot be written as JSON, and it may hold a secret.
        problems = [{"type": one["type"], "loc": one["loc"], "msg": one["msg"]} for one in error.errors()[:20]]
        return JSONResponse({"detail": problems}, 422)

    @app.exception_handler(asyncpg.CharacterNotInRepertoireError)
    async def holds_a_zero_byte(_request: Request, _error: asyncpg.CharacterNotInRepertoireError) -> JSONResponse:
        return JSONResponse({"detail": "the request holds a zero byte: no id and no text of ours has one"}, 400)
