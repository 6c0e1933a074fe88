"""What can be set, with its defaults and limits."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from turnpike_asgi.events import Call, Scope, Usage

SPOOL_FOLDER_VARIABLE = "TURNPIKE_SPOOL_DIR"
SPOOL_BYTES_MIN = 64 * 1024
PATH = "/v1/events"


class ConfigurationError(ValueError):
    """An option is wrong: the app should not start. The message names the option and the remedy."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def default_folder() -> Path:
    return Path(os.environ.get(SPOOL_FOLDER_VARIABLE) or "turnpike-spool")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`url`, `key`, `source` and `subject` have to be given; the README explains each of the others."""

    url: str
    key: str | Callable[[], str]
    source: str
    subject: Callable[[Scope], str | Awaitable[str | None] | None]
    usage: Callable[[Call], Usage | None] | None = None
    template: Callable[[Scope], str | None] | None = None
    spool_folder: Path | str | None = None
    spool_bytes_max: int = 1 << 30
    spool_age_max: timedelta = timedelta(days=34)  # the door refuses what is older than 35 days
    durability: Literal["disk", "process"] = "disk"
    when_full: Literal["block", "drop"] = "block"
    wait_seconds: float = 5.0
    memory_events_max: int = 10_000
    rejected_max: int = 10_000
    batch_events_max: int = 500
    batch_bytes_max: int = 512 * 1024
    flush_seconds: float = 1.0
    timeout_seconds: float = 30.0
    backoff_seconds: float = 0.5
    backoff_max_seconds: float = 60.0
    unauthorized_pause_seconds: float = 60.0
    shutdown_seconds: float = 5.0
    clock: Callable[[], datetime] = utc_now
    on_rejected: Callable[[dict[str, Any], str, str], None] | None = None
    on_dropped: Callable[[int], None] | None = None
    on_error: Callable[[str, str], None] | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ConfigurationError("url must be the collector's address, e.g. https://usage.example.com")
        if isinstance(self.key, str) and (not self.key.isascii() or not self.key.strip()):
            raise ConfigurationError("key must be the sender's key (tps_...), or a function that returns it")
        if not 0 < len(self.source) <= 256 or any(letter.isspace() or letter == "\0" for letter in self.source):
            raise ConfigurationError("source must be the source of the sender's key, or one below it, e.g. /gateways/one")
        if not callable(self.subject):
            raise ConfigurationError("subject must be a function from the request to its subscription id")
        if self.spool_bytes_max < SPOOL_BYTES_MIN:
            raise ConfigurationError(f"spool_bytes_max must be at least {SPOOL_BYTES_MIN}")
        if not 1 <= self.batch_events_max <= 1000:
            raise ConfigurationError("batch_events_max must lie between 1 and 1000, which is what the door takes at once")
        if self.durability not in {"disk", "process"} or self.when_full not in {"block", "drop"}:
            raise ConfigurationError("durability is disk or process, when_full is block or drop")

    @property
    def folder(self) -> Path:
        return Path(self.spool_folder) if self.spool_folder is not None else default_folder()

    @property
    def address(self) -> str:
        base = self.url.rstrip("/")
        return base if base.endswith(PATH) else base + PATH

    def current_key(self) -> str:
        return self.key if isinstance(self.key, str) else self.key()
