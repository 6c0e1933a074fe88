"""Kafka's jars: fetched from Maven's central registry by jgo, every one at a pinned version and checked by hash."""

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

from embedded_servers.errors import ServerError

PARALLEL_DOWNLOADS = 8
TIMEOUT_SECONDS = 30

Say = Callable[[str], None]


def coordinates() -> list[str]:
    return files("embedded_servers").joinpath("kafka-coordinates.txt").read_text().split()


def expected_hashes() -> dict[str, str]:
    lines = files("embedded_servers").joinpath("kafka-jars.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def fingerprint() -> str:
    """Return what changes when any jar of the list does."""
    return hashlib.sha256("".join(sorted(expected_hashes().values())).encode()).hexdigest()[:12]


def class_path(folder: Path) -> str:
    """Return the jars in a stated order: the class archive is valid for just this order."""
    missing = [name for name in expected_hashes() if not (folder / name).is_file()]
    if missing:
        raise ServerError(f"{len(missing)} of Kafka's jars are missing from {folder}; run `make setup`.")
    return ":".join(str(folder / name) for name in sorted(expected_hashes()))


def install_jars(folder: Path, say: Say) -> None:
    """Fetch what is missing; a jar enters the folder only after its hash was found right."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = expected_hashes()
    wanted = [coordinate for coordinate in coordinates() if not _is_right(folder / _jar_name(coordinate), expected)]
    cache = folder.with_name(folder.name + ".part")
    try:
        for done, name in enumerate(_fetch_all(wanted, cache, folder, expected), start=1):
            if done % 10 == 0 or done == len(wanted):
                say(f"Kafka: {done} of {len(wanted)} jars fetched and checked (last: {name})")
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _fetch_all(wanted: list[str], cache: Path, folder: Path, expected: dict[str, str]) -> Iterator[str]:
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        yield from pool.map(lambda coordinate: _fetch(coordinate, cache, folder, expected), wanted)


def _jar_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


def _fetch(coordinate: str, cache: Path, folder: Path, expected: dict[str, str]) -> str:
    name = _jar_name(coordinate)
    fetched = _download(coordinate, cache)
    try:
        if _sha256(fetched) != expected.get(name):
            raise ServerError(
                f"The hash of {name} is not the pinned one, so it was thrown away; run `make setup` again, "
                "and when it stays so, find out what stands between this machine and Maven's registry."
            )
        fetched.replace(folder / name)
    except OSError as error:
        raise _explain(error, name) from error
    return name


def _download(coordinate: str, cache: Path) -> Path:
    import requests  # both are wanted at set-up only, and slow to import
    from jgo.maven import MavenContext

    group, artifact, version = coordinate.split(":")
    context = MavenContext(repo_cache=cache, timeout=TIMEOUT_SECONDS)
    try:
        return context.project(group, artifact).at_version(version).artifact().resolve()
    except requests.RequestException as error:
        raise ServerError(
            f"Maven's registry does not answer ({type(error).__name__} at {coordinate}); "
            "check the network or the proxy settings (HTTPS_PROXY), then run `make setup` again."
        ) from error
    except OSError as error:
        raise _explain(error, coordinate) from error
    except RuntimeError as error:
        raise ServerError(
            f"Maven's registry refuses {coordinate}; if a mirror stands between, let it pass, then run `make setup`."
        ) from error


def _explain(error: OSError, name: str) -> ServerError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ServerError(f"The disk is full: {name} could not be stored; free at least 200 MB, then run `make setup` again.")
    return ServerError(f"{name} could not be stored ({error.strerror or type(error).__name__}); check the rights on the folder .turnpike.")


def _is_right(jar: Path, expected: dict[str, str]) -> bool:
    return jar.is_file() and _sha256(jar) == expected.get(jar.name)


def _sha256(jar: Path) -> str:
    with jar.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
