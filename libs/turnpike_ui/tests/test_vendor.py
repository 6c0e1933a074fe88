"""Files of others are what the list says: nothing was changed, added or forgotten."""

import hashlib
import json
import re

from turnpike_ui.assets import STATIC
from turnpike_ui.pages import TEMPLATES

VENDOR = STATIC / "vendor"


def test_every_vendored_file_is_in_the_list_with_its_licence_and_sum() -> None:
    entries = json.loads((VENDOR / "vendor.json").read_text())
    assert {entry["file"]: entry["sha256"] for entry in entries} == {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "vendor.json"
    }
    for entry in entries:
        assert entry["licence"]
        assert (VENDOR / entry["file"]).parent.joinpath("LICENSE").is_file()
        assert entry["version"] in entry["file"]


def test_icons_named_by_the_shared_templates_are_in_the_sprite() -> None:
    sprite = next(VENDOR.glob("lucide-static-*/icons.svg")).read_text()
    have = set(re.findall(r'<symbol id="([^"]+)"', sprite))
    templates = "".join(path.read_text() for path in TEMPLATES.glob("*.html"))
    named = set(re.findall(r'icon\("([^"]+)"\)', templates))
    assert named
    assert named <= have
