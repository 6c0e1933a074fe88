"""Pictures and tables of the docs are what the measurements say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("tool", ["charts.py", "scaling.py"])
def test_the_docs_say_what_was_measured(root: Path, tool: str) -> None:
    done = subprocess.run([sys.executable, str(root / "tools" / tool), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("picture", ["usage-rates.svg", "usage-growth.svg"])
def test_a_picture_runs_nothing_and_loads_nothing(root: Path, picture: str) -> None:
    text = (root / "docs" / "images" / picture).read_text()
    assert "<script" not in text
    assert "xlink:href" not in text


def test_what_a_day_needs_is_computed_for_other_numbers_too(root: Path) -> None:
    def ask(*words: str) -> str:
        return subprocess.run(
            [sys.executable, str(root / "tools" / "scaling.py"), *words], capture_output=True, text=True, check=True
        ).stdout

    stored = json.loads((root / "bench" / "results" / "usage_growth.json").read_text())["figures"]
    size = [step for name, step in stored.items() if name.endswith(" stored in one day")][-1]["stored_bytes_per_event"]
    text = ask("--calls", "200000000", "--peak", "2", "--retention", "120")
    assert f"| disk for a day's events and their index | {200_000_000 * size / 1e9:,.0f} GB |" in text
    assert "2,315 and 4,630" in text
    assert "120 days" in text
