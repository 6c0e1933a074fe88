"""Finds a Chromium to test pages with: named, installed, cached, fetched from npm, or installed by root. None if there is none."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from embedded_servers import places

ON_PATH = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
SPARTICUZ = "@sparticuz/chromium"
SPARTICUZ_VERSION = "153.0.0"
SPARTICUZ_SHA256 = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"
NO_BROWSER = (
    "browser tests skipped: no browser. Install Chromium (`apt-get install chromium-headless-shell`), or set CHROMIUM_PATH to its program."
)


def required() -> bool:
    """Whether a missing browser is a failure instead of a skip."""
    return os.environ.get("REQUIRE_BROWSER", "") not in {"", "0"} or os.environ.get("CI", "").lower() in {"1", "true"}


def find() -> Path | None:
    """Return the program to start; slow only the first time that one has to be fetched."""
    return _named() or _installed() or _cached() or _fetched() or _installed_by_root()


def _named() -> Path | None:
    name = os.environ.get("CHROMIUM_PATH")
    return Path(name) if name and Path(name).is_file() else None


def _installed() -> Path | None:
    return next((Path(found) for name in ON_PATH if (found := shutil.which(name))), None)


def _folder() -> Path:
    return places.software() / f"chromium-{SPARTICUZ_VERSION}"


def _cached() -> Path | None:
    program = _folder() / "chromium"
    return program if program.is_file() else None


def _fetched() -> Path | None:
    """Inflate npm's Chromium into the folder of fetched software; it brings its own libraries."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return None
    with tempfile.TemporaryDirectory(prefix="turnpike-chromium-") as name:
        work = Path(name)
        if not _runs(["npm", "pack", "--silent", "--ignore-scripts", f"{SPARTICUZ}@{SPARTICUZ_VERSION}"], work):
            return None
        package = next(work.glob("*.tgz"))
        if hashlib.sha256(package.read_bytes()).hexdigest() != SPARTICUZ_SHA256:
            return None
        with tarfile.open(package) as archive:
            archive.extractall(work, filter="data")
        target = work / "inflated"
        target.mkdir()
        for source in sorted((work / "package" / "bin").glob("*.br")):
            _inflate(source, target)
        if not (target / "chromium").is_file():
            return None
        (target / "chromium").chmod(0o755)
        shutil.copytree(target, _folder(), dirs_exist_ok=True)
    return _cached()


def _inflate(source: Path, target: Path) -> None:
    """Undo brotli with Node, which has it built in; unpack what is a tar archive inside."""
    plain = target / source.name.removesuffix(".br")
    script = (
        "const [from, to] = process.argv.slice(1); const {pipeline} = require('stream'); const fs = require('fs');"
        "const plain = require('zlib').createBrotliDecompress();"
        "pipeline(fs.createReadStream(from), plain, fs.createWriteStream(to), (error) => process.exit(error ? 1 : 0))"
    )
    if _runs(["node", "-e", script, str(source), str(plain)], target) and plain.suffix == ".tar":
        with tarfile.open(plain) as archive:
            archive.extractall(target / plain.stem if plain.stem.startswith("al") else target, filter="data")
        plain.unlink()


def _installed_by_root() -> Path | None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "--no-install-recommends", "chromium-headless-shell"]):
        if not _runs(command, Path("/")):
            return None
    return _installed()


def environment(program: Path) -> dict[str, str]:
    """Return the environment the program needs: the fetched one has its libraries beside it."""
    libraries = program.parent / "al2023" / "lib"
    return {**os.environ, **({"LD_LIBRARY_PATH": str(libraries)} if libraries.is_dir() else {})}


def _runs(command: list[str], folder: Path) -> bool:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=180, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def axe() -> str:
    """Return axe-core as text, refusing a file that is not the one that was vendored."""
    text = (Path(__file__).parent / "vendor" / "axe-core-4.14.1" / "axe.min.js").read_bytes()
    found = hashlib.sha256(text).hexdigest()
    assert found == "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c", f"axe.min.js was changed: {found}"
    return text.decode()
