"""The static files: read once, named by their content, served as immutable."""

import gzip
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

STATIC = Path(__file__).parent / "static"
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
YEAR_SECONDS = 31_536_000


@dataclass(frozen=True)
class Asset:
    content: bytes
    compressed: bytes | None
    content_type: str


class Assets:
    """Maps `turnpike.css` to `/static/turnpike.<hash>.css`: a changed file gets a new address, so caches never hold an old one."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._names: dict[str, str] = {}
        self._assets: dict[str, Asset] = {}
        files = sorted(path for path in folder.rglob("*") if path.suffix in CONTENT_TYPES)
        for path in sorted(files, key=lambda path: path.suffix == ".css"):  # stylesheets last: they name other files
            self._add(folder, path)

    def _add(self, folder: Path, path: Path) -> None:
        content = path.read_bytes()
        if path.suffix == ".css":
            content = re.sub(rb'url\("([^"]+)"\)', self._hashed_address, content)
        digest = hashlib.sha256(content).hexdigest()[:12]
        name = path.relative_to(folder).as_posix()
        hashed = f"{name.removesuffix(path.suffix)}.{digest}{path.suffix}"
        compressed = None if path.suffix == ".woff2" else gzip.compress(content, 9, mtime=0)
        self._names[name] = hashed
        self._assets[hashed] = Asset(content=content, compressed=compressed, content_type=CONTENT_TYPES[path.suffix])

    def _hashed_address(self, match: re.Match[bytes]) -> bytes:
        return f'url("{self.url(match.group(1).decode())}")'.encode()

    def url(self, name: str) -> str:
        """Return the address of a file; a name that does not exist is a mistake of the template."""
        return f"/static/{self._names[name]}"

    async def serve(self, request: Request) -> Response:
        asset = self._assets.get(request.path_params["path"])
        if asset is None:
            raise HTTPException(404)
        headers = {"Cache-Control": f"public, max-age={YEAR_SECONDS}, immutable", "Vary": "Accept-Encoding"}
        if asset.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(asset.compressed, media_type=asset.content_type, headers=headers | {"Content-Encoding": "gzip"})
        return Response(asset.content, media_type=asset.content_type, headers=headers)
