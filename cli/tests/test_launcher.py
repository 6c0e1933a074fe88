"""The launcher forks real children; each must be what `python -m` would have made of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from embedded_servers import processes
from embedded_servers.processes import Identity

Launch = Callable[..., dict[str, str]]
REPORT = """
import json, os, sys
print(json.dumps({"environment": dict(os.environ), "session": os.getsid(0) == os.getpid(), "name": __name__,
                  "arguments": sys.argv, "folder": os.getcwd(), "input": sys.stdin.read()}))
"""


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LEFT_BEHIND", "secret of the caller")

    def run(**programs: str) -> dict[str, str]:
        specifications = []
        for name, text in programs.items():
            (tmp_path / f"{name}.py").write_text(text)
            environment = {"ONLY": name}
            specifications.append({"name": name, "log": str(tmp_path / f"{name}.log"), "folder": str(tmp_path), "environment": environment})
        without_libraries = "import sys; from turnpike_cli import launcher; launcher.SHARED = ('msgspec',); sys.exit(launcher.main())"
        command = [sys.executable, "-P", "-c", without_libraries]
        done = subprocess.run(command, input=json.dumps(specifications), capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            name, pid, created = line.split()
            assert name in programs
            processes.wait_until_gone(Identity(int(pid), float(created)), 20)
        return {name: (tmp_path / f"{name}.log").read_text() for name in programs}

    return run


def test_each_child_has_its_own_session_environment_folder_and_log(launch: Launch, tmp_path: Path) -> None:
    logs = launch(first_service=REPORT, second_service=REPORT)
    for name, log in logs.items():
        report = json.loads(log)
        environment = {key: value for key, value in report["environment"].items() if key != "LC_CTYPE"}
        assert environment == {"ONLY": name}
        assert report["session"]
        assert (report["name"], report["input"], report["folder"]) == ("__main__", "", str(tmp_path))
        assert len(report["arguments"]) == 1


def test_a_child_that_ends_with_a_sentence_or_an_error_leaves_it_in_its_log(launch: Launch) -> None:
    logs = launch(
        one_service="raise SystemExit('setting X is not set')",
        other_service="raise ValueError('broken')",
        fine_service="print('well')",
    )
    assert logs["one_service"] == "setting X is not set\n"
    assert logs["other_service"].splitlines()[-1] == "ValueError: broken"
    assert logs["fine_service"] == "well\n"
    assert os.environ["LEFT_BEHIND"] not in "".join(logs.values())
