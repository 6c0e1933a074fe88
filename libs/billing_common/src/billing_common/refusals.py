"""What any JSON door answers to a request it cannot read, or without its database: a sentence, never a trace, never the value itself."""

import asyncpg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

log = structlog.get_logger(__name__)
DATABASE_AWAY = (ConnectionError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
BODY_BYTES_MAX = 8 * 1024 * 1024  # the largest body at an internal door is a catalogue, which has a limit of its own below this


def install_refusals(app: FastAPI) -> None:
    """Add them to an application; one that shows pages puts its own in their place."""

    @app.exception_handler(RequestValidationError)
    async def not_valid(_request: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats the input: a NaN in it cannot be written as JSON, and it may hold a secret.
        problems = [{"type": one["type"], "loc": one["loc"], "msg": one["msg"]} for one in error.errors()[:20]]
        return JSONResponse({"detail": problems}, 422)

    @app.exception_handler(asyncpg.CharacterNotInRepertoireError)
    async def holds_a_zero_byte(request: Request, _error: asyncpg.CharacterNotInRepertoireError) -> JSONResponse:
        named = [name for name, value in {**request.query_params, **request.path_params}.items() if "\x00" in str(value)]
        where = ", ".join(f"`{name.replace(chr(0), '')[:100]}`" for name in named) or "the body"
        return JSONResponse({"detail": f"{where} holds a zero byte: no id and no text of ours has one"}, 400)

    async def database_is_away(_request: Request, error: Exception) -> JSONResponse:
        log.warning("answered 503: the database does not answer", error=type(error).__name__)
        return JSONResponse({"detail": "the database does not answer: try again in a few seconds"}, 503, {"Retry-After": "5"})

    for kind in DATABASE_AWAY:
        app.add_exception_handler(kind, database_is_away)
