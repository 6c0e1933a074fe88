"""Bundles Express into one file for the SDK's tests and example, so that neither needs a registry; with the licences of its parts.

Run it by hand when the version changes: `python tools/vendor_express.py`. It needs npm; the product does not.
"""

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path

EXPRESS, ESBUILD = "5.3.0", "0.28.2"
TARGET = Path(__file__).parents[1] / "sdks" / "express" / "vendor"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "package.json").write_text("{}")
        subprocess.run(["npm", "install", "--silent", f"express@{EXPRESS}", f"esbuild@{ESBUILD}"], cwd=folder, check=True)
        kind = ["--platform=node", "--target=node20", "--format=cjs", "--legal-comments=none"]
        bundle = ["npx", "esbuild", "--bundle", "--minify", "--metafile=meta.json", *kind]
        subprocess.run([*bundle, "--outfile=express.cjs", "node_modules/express/index.js"], cwd=folder, check=True)
        packages = sorted(packages_in(json.loads((folder / "meta.json").read_text())))
        TARGET.mkdir(exist_ok=True)
        code = (folder / "express.cjs").read_bytes()
        (TARGET / "express.cjs").write_bytes(code)
        (TARGET / "LICENSES.txt").write_text("\n\n".join(licence(folder / "node_modules" / package) for package in packages))
        facts = {"express": EXPRESS, "made_by": f"esbuild {ESBUILD}", "sha256": hashlib.sha256(code).hexdigest(), "packages": len(packages)}
        (TARGET / "vendored.json").write_text(json.dumps(facts, indent=2) + "\n")


def packages_in(meta: dict[str, dict[str, object]]) -> set[str]:
    """Return the packages whose files are in the bundle."""
    found = set()
    for path in meta["inputs"]:
        parts = path.rpartition("node_modules/")[2].split("/")
        found.add("/".join(parts[: 2 if parts[0].startswith("@") else 1]))
    return found


def licence(package: Path) -> str:
    facts = json.loads((package / "package.json").read_text())
    texts = [path.read_text().strip() for path in sorted(package.iterdir()) if path.name.lower().startswith(("license", "licence"))]
    return "\n".join([f"== {facts['name']} {facts['version']} ({facts.get('license', 'see below')})", *texts])


if __name__ == "__main__":
    main()
