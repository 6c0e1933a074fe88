"""The demo's example apps: found or said to be missing, started, and gone afterwards."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from turnpike_cli.story.example_apps import GoExample, MissingError, Wiring, express_command, running, stop

WIRING = Wiring("http://127.0.0.1:1", "tps_x", "/s", {"a consumer's key": "sub-1"}, 0.0)
APP = "import os, time; print('listening 4711' if 'keys' in os.environ['EXAMPLE_KEYS'] else '', flush=True); time.sleep(60)"


async def test_what_is_not_on_the_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="node not found"):
        express_command()
    go = GoExample(tmp_path / "go")
    await go.begin()
    with pytest.raises(MissingError, match="go not found"):
        await go.command()
    await go.end()


async def test_a_go_that_cannot_compile_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "go").symlink_to(shutil.which("false") or "/bin/false")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    go = GoExample(tmp_path / "out")
    await go.begin()
    with pytest.raises(MissingError, match="does not compile"):
        await go.command()


async def test_an_app_runs_with_hashes_of_keys_only_and_is_gone_afterwards(tmp_path: Path) -> None:
    async with running([sys.executable, "-c", APP], tmp_path / "app", WIRING) as (base, process):
        assert base == "http://127.0.0.1:4711"
        assert "a consumer" not in (tmp_path / "app" / "keys.json").read_text()
    assert process.returncode is not None


async def test_an_app_is_ended_with_sigterm(tmp_path: Path) -> None:
    async with running([sys.executable, "-c", APP], tmp_path / "app", WIRING) as (_, process):
        assert await stop(process)


async def test_an_app_that_does_not_start_is_named_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"app\.log"):
        async with running([sys.executable, "-c", "print('no')"], tmp_path / "app", WIRING):
            pass
