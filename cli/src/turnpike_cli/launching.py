"""Asks the launcher for several services at once and returns who they are."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from embedded_servers.processes import Identity, keep_former
from turnpike_cli.environment import Wiring
from turnpike_cli.errors import CommandError
from turnpike_cli.parts import Part


def launch_together(parts: Iterable[Part], wiring: Wiring, logs: Path) -> dict[str, Identity]:
    """Start the services from one process that has loaded their libraries."""
    specifications = []
    for part in parts:
        log = logs / f"{part.name}.log"
        keep_former(log)
        environment = wiring.environment(part)
        specifications.append({"name": part.name, "log": str(log), "folder": str(wiring.folder), "environment": environment})
    done = subprocess.run(
        [sys.executable, "-P", "-m", "turnpike_cli.launcher"],
        input=json.dumps(specifications),
        capture_output=True,
        text=True,
        check=False,
        cwd=wiring.folder,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CommandError(f"The services could not be launched: {reason}")
    fields = [line.split() for line in done.stdout.splitlines()]
    return {name: Identity(int(pid), float(created)) for name, pid, created in fields}
