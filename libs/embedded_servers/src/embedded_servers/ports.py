"""Which port a server gets: the wanted one, else the next that is free."""

import socket
from collections.abc import Collection

from embedded_servers.errors import ServerError

HOST = "127.0.0.1"
TRIES = 200


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def require_free(port: int) -> None:
    """Refuse a taken port before a server starts: else we would take the answers of another for its own."""
    if not is_free(port):
        raise ServerError(f"Port {port} is in use: stop what holds it, or choose another.")


def choose_port(preferred: int, taken: Collection[int] = ()) -> int:
    """Return the preferred port or the next free one; `taken` are promised to others that have not opened them yet."""
    for port in range(preferred, min(preferred + TRIES, 65536)):
        if port not in taken and is_free(port):
            return port
    raise ServerError(f"No free port between {preferred} and {preferred + TRIES - 1}: stop what holds them.")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
