"""The signature of delegation links: which fields are signed, how a link is checked and how one is made."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

SIGNED_FIELDS = {
    "SignIn": ("returnUrl",),
    "SignUp": ("returnUrl",),
    "ChangePassword": ("userId",),
    "ChangeProfile": ("userId",),
    "CloseAccount": ("userId",),
    "SignOut": ("userId",),
    "Subscribe": ("productId", "userId"),
    "Unsubscribe": ("subscriptionId",),
    "Renew": ("subscriptionId",),
}
VALUE_CHARACTERS_MAX = 2_000


class LinkIncompleteError(Exception):
    """The link lacks a part, has one twice or holds what no portal sends."""


class LinkForgedError(Exception):
    """No key verifies the link."""


@dataclass(frozen=True)
class Link:
    """A link whose signature was checked. The operation is not part of what is signed: authorise every one by the session."""

    operation: str
    values: Mapping[str, str]
    salt: str
    sig: str

    @property
    def link_id(self) -> str:
        """The same for every use of one link, whichever way its parts were encoded."""
        fields = (self.salt.replace(" ", "+"), *(self.values[name] for name in SIGNED_FIELDS[self.operation]))
        return hashlib.sha256("\x1f".join((self.operation, *fields)).encode()).hexdigest()

    def parameters(self) -> dict[str, str]:
        return {"operation": self.operation, **self.values, "salt": self.salt, "sig": self.sig}


def sign(key: str, salt: str, *values: str) -> str:
    """Return the signature APIM makes: HMAC-SHA512 keyed with the decoded key, over the lines, as base64."""
    message = "\n".join((salt, *values)).encode()
    return base64.b64encode(hmac.new(base64.b64decode(key, validate=True), message, hashlib.sha512).digest()).decode()


def read_link(keys: Sequence[str], parameters: Sequence[tuple[str, str]]) -> Link:
    """Check a link given as decoded name and value pairs. Raises LinkIncompleteError or LinkForgedError, nothing else."""
    query = dict(parameters)
    if len(query) != len(parameters):
        raise LinkIncompleteError
    fields = SIGNED_FIELDS.get(query.get("operation", ""))
    if fields is None:
        raise LinkIncompleteError
    salt, sig = query.get("salt", ""), query.get("sig", "")
    values = [query.get(name, "") for name in fields]
    # A line feed inside a value could shift the fields of what is signed.
    if any(not value or len(value) > VALUE_CHARACTERS_MAX or "\n" in value or "\r" in value for value in (salt, sig, *values)):
        raise LinkIncompleteError
    if not _verifies(keys, salt, values, sig):
        raise LinkForgedError
    return Link(query["operation"], dict(zip(fields, values, strict=True)), salt, sig)


def _verifies(keys: Sequence[str], salt: str, values: Sequence[str], sig: str) -> bool:
    try:
        # A proxy that decodes and emits raw "+" turns them into blanks; base64 never holds a blank.
        given = base64.b64decode(sig.replace(" ", "+"), validate=True)
    except (binascii.Error, ValueError):
        return False
    salts = dict.fromkeys((salt, salt.replace(" ", "+")))
    wanted = [base64.b64decode(sign(key, one, *values)) for key in keys for one in salts]
    return any([hmac.compare_digest(want, given) for want in wanted])  # noqa: C419 # a list: all are compared, so the time says nothing


def make_link(key: str, operation: str, salt: str, **values: str) -> str:
    """Return the query of a link signed like the portal's, for the plans on our own pages."""
    ordered = [values[name] for name in SIGNED_FIELDS[operation]]
    return urlencode({"operation": operation, **values, "salt": salt, "sig": sign(key, salt, *ordered)})
