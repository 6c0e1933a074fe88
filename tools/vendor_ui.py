"""Copies the font and the icons that pages use out of their npm packages, and writes the list that a test checks.

Run it by hand when a version changes: `python tools/vendor_ui.py`. It needs npm; the product does not.
"""

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

STATIC = Path(__file__).parents[1] / "libs" / "turnpike_ui" / "src" / "turnpike_ui" / "static"
INTER = ("@fontsource-variable/inter", "5.3.0", "OFL-1.1", "inter-5.3.0")
LUCIDE = ("lucide-static", "1.62.0", "ISC", "lucide-static-1.62.0")
FONT_FILE = "inter-latin-wght-normal.woff2"
ICONS = [
    "activity",
    "arrow-left",
    "arrow-right",
    "ban",
    "calendar",
    "chart-column",
    "check",
    "chevron-right",
    "circle-alert",
    "circle-check",
    "circle-x",
    "clock",
    "code",
    "copy",
    "credit-card",
    "download",
    "external-link",
    "eye",
    "eye-off",
    "file-text",
    "flask-conical",
    "gauge",
    "hourglass",
    "info",
    "key-round",
    "lock",
    "log-out",
    "mail",
    "package",
    "pause",
    "plus",
    "receipt",
    "refresh-cw",
    "search",
    "settings",
    "shopping-cart",
    "terminal",
    "triangle-alert",
    "user",
    "webhook",
    "x",
]


def unpack(package: str, version: str, folder: Path) -> Path:
    """Fetch one package with the npm client and return the folder of its files."""
    packed = subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=folder, check=True, capture_output=True, text=True)
    with tarfile.open(folder / packed.stdout.strip()) as archive:
        archive.extractall(folder / version, filter="data")
    return folder / version / "package"


def sprite(icons: Path) -> str:
    """Return one SVG with a symbol per icon; the drawing attributes stand on `.icon` in the stylesheet."""
    symbols = []
    for name in ICONS:
        text = (icons / f"{name}.svg").read_text()
        body = re.search(r"<svg[^>]*>(.*)</svg>", text, re.DOTALL)
        if body is None:
            raise SystemExit(f"{name}.svg holds no <svg>")
        inner = re.sub(r"\s*\n\s*", "", body.group(1))
        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{inner}</symbol>')
    return '<svg xmlns="http://www.w3.org/2000/svg">\n' + "\n".join(symbols) + "\n</svg>\n"


def main() -> None:
    entries = []
    vendor = STATIC / "vendor"
    shutil.rmtree(vendor, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        for package, version, licence, name in (INTER, LUCIDE):
            source = unpack(package, version, Path(temporary))
            target = vendor / name
            target.mkdir(parents=True)
            shutil.copy(source / "LICENSE", target / "LICENSE")
            if (package, version) == INTER[:2]:
                shutil.copy(source / "files" / FONT_FILE, target / FONT_FILE)
            else:
                (target / "icons.svg").write_text(sprite(source / "icons"))
            for file in sorted(target.iterdir()):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                entries.append(
                    {"file": f"{name}/{file.name}", "package": package, "version": version, "licence": licence, "sha256": digest}
                )
    (vendor / "vendor.json").write_text(json.dumps(entries, indent=2) + "\n")
    print(f"{len(entries)} files written to {vendor}")


if __name__ == "__main__":
    main()
