"""Set-up of the servers: `python -m embedded_servers.install` fetches what the machine lacks; `--missing` only names it."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from embedded_servers import java as java_runtime
from embedded_servers import places
from embedded_servers.errors import ServerError
from embedded_servers.jars import install_jars
from embedded_servers.kafka import archive_path, installed_java, jars_folder, write_archive
from embedded_servers.postgres_binaries import find_postgres, machine_postgres, wheel_postgres


def missing() -> list[str]:
    """Name what neither the machine nor a wheel has: `java`, `postgres`."""
    lacking = []
    if java_runtime.machine_java() is None and java_runtime.wheel_java() is None:
        lacking.append("java")
    if machine_postgres() is None and wheel_postgres() is None:
        lacking.append("postgres")
    return lacking


def install() -> None:
    places.software().mkdir(parents=True, exist_ok=True)
    _require_space(places.software())
    install_jars(jars_folder(), _say)
    java = java_runtime.find_java()
    java_runtime.remember(java, places.software() / "java.json")
    _say(f"Java {java.major}: {java.path}")
    _say(f"Postgres: {find_postgres()}")
    if not archive_path(java).exists():
        _write_archive()


def _require_space(folder: Path, megabytes: int = 250) -> None:
    free = shutil.disk_usage(folder).free // 1_000_000
    if free < megabytes:
        raise ServerError(
            f"The disk is full: {folder} has {free} MB left and Kafka needs {megabytes} MB; free some, then run `make setup` again."
        )


def _write_archive() -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="archive-", dir=places.software()) as scratch:
        write_archive(Path(scratch))
    installed = archive_path(installed_java())
    if installed.exists():
        _say(f"Kafka: class archive written ({installed.stat().st_size // 1_000_000} MB, {time.monotonic() - started:.1f} s)")


def _say(line: str) -> None:
    print(f"  {line}", flush=True)  # noqa: T201  # a command prints its progress


def main() -> int:
    try:
        if "--missing" in sys.argv[1:]:
            print(" ".join(missing()))  # noqa: T201  # read by tools/setup.py
        else:
            install()
    except ServerError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; free space or correct the rights, then run `make setup` again.", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
