"""The management API's certificate: a CA made at the first start and kept; the server's certificate is made anew at each start."""

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificate:
    ca_file: Path  # what clients trust: connection_verify=<this>
    chain_file: Path
    key_file: Path


def ensure_certificate(folder: Path, names: list[str]) -> Certificate:
    """Return the files, making what is missing. The CA's key is readable for the owner only."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_file, ca_key = folder / "ca.pem", folder / "ca.key"
    if ca_file.exists() and ca_key.exists():
        authority = trustme.CA.from_pem(ca_file.read_bytes(), ca_key.read_bytes())
    else:
        authority = trustme.CA(organization_name="Turnpike sandbox")
        _write(ca_key, authority.private_key_pem.bytes())
        ca_file.write_bytes(authority.cert_pem.bytes())
    wanted = dict.fromkeys(["localhost", "127.0.0.1", "::1", *(name for name in names if name and not _is_any(name))])
    server = authority.issue_cert(*wanted)
    chain_file, key_file = folder / "server.pem", folder / "server.key"
    chain_file.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    _write(key_file, server.private_key_pem.bytes())
    return Certificate(ca_file, chain_file, key_file)


def _is_any(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return False


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
