"""What the data folder knows: ports and processes (`state.json`), secrets (`secrets.json`, 0600), and a lock over both."""

import fcntl
import json
import os
import secrets
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embedded_servers.processes import Identity
from turnpike_cli.errors import CommandError
from turnpike_cli.parts import SERVICE_NAMES


@dataclass
class State:
    """Read at the start of each action and written after each change, so that nothing started is ever forgotten."""

    ports: dict[str, dict[str, int]] = field(default_factory=dict)
    processes: dict[str, Identity] = field(default_factory=dict)
    provisioned: str = ""  # fingerprint of the roles, schemas and topics that were made
    webhook_url: str | None = None  # the address registered at Stripe

    @classmethod
    def read(cls, path: Path) -> "State":
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return cls()
        except ValueError as error:
            raise CommandError(f"{path} is damaged; delete it after you stopped what runs on Turnpike's ports.") from error
        processes = {name: Identity(**identity) for name, identity in content["processes"].items()}
        return cls(ports=content["ports"], processes=processes, webhook_url=content["webhook_url"], provisioned=content["provisioned"])

    def write(self, path: Path) -> None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1))
        part.replace(path)


@dataclass(frozen=True)
class Secrets:
    """Made once per data folder. None of them is a default that two installations share."""

    internal_token_key: str
    delegation_key: str
    stripe_api_key: str
    arm_token: str
    database_passwords: dict[str, str]
    webhook_secret: str | None = None

    @classmethod
    def load(cls, path: Path) -> "Secrets":
        """Return the folder's secrets; make them at the first call."""
        if not path.exists():
            made = cls(
                internal_token_key=secrets.token_hex(32),
                delegation_key=b64encode(secrets.token_bytes(64)).decode(),
                stripe_api_key=f"sk_test_{secrets.token_hex(16)}",
                arm_token=secrets.token_urlsafe(32),
                database_passwords={name: secrets.token_urlsafe(24) for name in SERVICE_NAMES},
            )
            made.save(path)
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(self), file, indent=1)
        part.replace(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two commands that start or stop at once would lose processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(
                f"Another turnpike command is starting or stopping the stack in {folder}; wait until it has ended."
            ) from error
        yield
