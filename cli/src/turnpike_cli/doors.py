"""The internal doors, as the command uses them: a signed token for services, none for the sandboxes."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from turnpike_cli.errors import CommandError, DoorClosedError, DoorRefusedError
from turnpike_cli.parts import BY_NAME, SERVICE_NAMES
from turnpike_cli.stack import Stack

CALLER = "turnpike"
TOKEN_KEPT_SECONDS = 30.0  # they live for 60
TIMEOUT_SECONDS = 15.0
SCOPES = (
    "status:read", "clock:write", "dead_letters:read", "dead_letters:write", "catalogue:read", "catalogue:write", "quotes:read",
    "webhooks:write", "usage:read", "usage:write", "reports:read", "reports:write", "access:read", "access:write",
    "senders:read", "senders:write",
)  # fmt: skip


class Doors:
    """Asks the doors of a running stack. Use it as an async context manager; one connection per door is kept."""

    def __init__(self, stack: Stack) -> None:
        self._keys: Sequence[str]
        self._bases: dict[str, str]
        if addresses := os.environ.get("TURNPIKE_DOORS", ""):
            self._bases, self._keys = _elsewhere(addresses)
        else:
            self._keys = (stack.wiring.secrets.internal_token_key,)  # says so when nothing was ever started
            self._bases = {name: stack.door(name) for name in stack.state.ports if BY_NAME[name].kind != "server"}
        self._token = ""
        self._token_made = -TOKEN_KEPT_SECONDS
        self._client = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._client.aclose()

    @property
    def names(self) -> list[str]:
        return list(self._bases)

    async def ask(
        self,
        name: str,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: Any = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Any:
        """Return the decoded answer. Raises CommandError with the door's own words, DoorClosedError without an answer."""
        if name not in self._bases:
            raise CommandError(f"The door of {name} is not known: add `{name}=http://host:8001` to TURNPIKE_DOORS.")
        headers = {"authorization": f"Bearer {self._fresh_token()}"} if name in SERVICE_NAMES else {}
        try:
            answer = await self._client.request(
                method, self._bases[name] + path, params=params, json=body, headers=headers, timeout=timeout_seconds
            )
        except httpx.HTTPError as error:
            raise DoorClosedError(f"{name} does not answer ({type(error).__name__}); see `turnpike status`.") from error
        if answer.status_code >= 400:
            content = _content(answer)
            raise DoorRefusedError(f"{name} refuses {method} {path}", _words(answer, content), content=content)
        return answer.json() if answer.content else None

    async def download(self, name: str, path: str, file: Path, *, params: dict[str, Any]) -> int:
        """Write what a door streams into a file; returns how many bytes. Raises like `ask`."""
        if name not in self._bases:
            raise CommandError(f"The door of {name} is not known: add `{name}=http://host:8001` to TURNPIKE_DOORS.")
        headers = {"authorization": f"Bearer {self._fresh_token()}"}
        written = 0
        try:
            async with self._client.stream("GET", self._bases[name] + path, params=params, headers=headers, timeout=60) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    content = _content(answer)
                    raise DoorRefusedError(f"{name} refuses GET {path}", _words(answer, content), content=content)
                with file.open("wb") as target:
                    async for part in answer.aiter_bytes():
                        written += target.write(part)
        except httpx.HTTPError as error:
            raise DoorClosedError(f"{name} does not answer ({type(error).__name__}); see `turnpike status`.") from error
        return written

    async def status(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self.ask(name, "GET", self._path(name, "status"))
        return answer

    async def clock(self, name: str) -> dict[str, Any]:
        """Return `offset_seconds` and `now`; only the sandboxes tell their offset."""
        answer: dict[str, Any] = await self.ask(name, "GET", self._path(name, "clock"))
        return answer

    async def set_clock(self, name: str, offset_seconds: float) -> None:
        await self.ask(name, "PUT", self._path(name, "clock"), body={"offset_seconds": int(offset_seconds)})

    def _path(self, name: str, door: str) -> str:
        return f"/{door}" if name in SERVICE_NAMES else f"/_sandbox/{door}"

    def _fresh_token(self) -> str:
        from billing_common.internal_auth import issue_token  # imports FastAPI: half a second that most commands do not need

        if time.monotonic() - self._token_made >= TOKEN_KEPT_SECONDS:
            self._token = issue_token(self._keys, caller=CALLER, scopes=SCOPES)
            self._token_made = time.monotonic()
        return self._token


def path_part(text: str, what: str) -> str:
    """Quote an id for an address. One with a slash is none: a door would take it for another address."""
    if "/" in text or text in {"", ".", ".."}:
        raise CommandError(f"{what} {text!r} is not known: no id looks like this.")
    return quote(text, safe="")


def _elsewhere(addresses: str) -> tuple[dict[str, str], list[str]]:
    """Read doors in containers: TURNPIKE_DOORS is `checkout=http://checkout:8001,...`; the keys are a setting or a file."""
    bases = {}
    for entry in filter(None, (part.strip() for part in addresses.split(","))):
        name, _, address = entry.partition("=")
        if name not in BY_NAME or not address.startswith(("http://", "https://")):
            raise CommandError(f"TURNPIKE_DOORS: {entry} is not SERVICE=http://host:port; services are {', '.join(SERVICE_NAMES)}.")
        bases[name] = address.rstrip("/")
    file = os.environ.get("TURNPIKE_INTERNAL_TOKEN_KEYS_FILE")
    keys = Path(file).read_text() if file else os.environ.get("TURNPIKE_INTERNAL_TOKEN_KEYS", "")
    if not keys.strip():
        raise CommandError(
            "TURNPIKE_DOORS needs the services' keys: set TURNPIKE_INTERNAL_TOKEN_KEYS or TURNPIKE_INTERNAL_TOKEN_KEYS_FILE."
        )
    return bases, [key.strip() for key in keys.split(",")]


def _content(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _words(answer: httpx.Response, content: Any) -> str:
    if content is None:
        return f"HTTP {answer.status_code}"
    for name in ("detail", "error", "message"):
        if isinstance(content, dict) and name in content:
            content = content[name]
    if isinstance(content, list) and all(isinstance(entry, dict) and {"loc", "msg"} <= entry.keys() for entry in content):
        return "; ".join(f"{'.'.join(map(str, entry['loc'][1:])) or entry['loc'][0]}: {entry['msg']}" for entry in content)
    return content if isinstance(content, str) else str(content)
