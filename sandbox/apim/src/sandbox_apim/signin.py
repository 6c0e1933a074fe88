"""Sign-in tokens (SSO) and delegation signatures: what crosses between portal, management API and the delegate's site."""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

TOKEN_FORM = re.compile(r"([\w\-]{1,80})&(\d{12})&([A-Za-z0-9+/]{86}==)")  # the portal's own pattern: other user ids cannot sign in
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


def _mac(key: bytes, user_id: str, minute: str) -> bytes:
    return hmac.new(key, f"{user_id}\n{minute}".encode(), hashlib.sha512).digest()


def make_token(key: bytes, user_id: str, expiry: datetime) -> str:
    """Return `<userId>&<yyyyMMddHHmm>&<base64>`; seconds are cut off, as Azure does."""
    minute = expiry.astimezone(UTC).strftime("%Y%m%d%H%M")
    return f"{user_id}&{minute}&{base64.b64encode(_mac(key, user_id, minute)).decode()}"


def token_user(keys: list[bytes], token: str, now: datetime) -> str | None:
    """Return the user a token signs in; None: forged, malformed or expired."""
    match = TOKEN_FORM.fullmatch(token)
    if match is None:
        return None
    user_id, minute, signature = match.groups()
    given = base64.b64decode(signature)
    genuine = [hmac.compare_digest(_mac(key, user_id, minute), given) for key in keys]
    try:
        expiry = datetime.strptime(minute, "%Y%m%d%H%M").replace(tzinfo=UTC)
    except ValueError:
        return None
    return user_id if any(genuine) and now < expiry else None


def is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False


def delegation_signature(validation_key: str, salt: str, *values: str) -> str:
    """Return base64(HMAC-SHA512(decoded key, values joined by line feeds))."""
    key = base64.b64decode(validation_key, validate=True)
    return base64.b64encode(hmac.new(key, "\n".join((salt, *values)).encode(), hashlib.sha512).digest()).decode()


def delegation_url(base_url: str, validation_key: str, operation: str, parameters: dict[str, str], salt: str | None = None) -> str:
    """Return the address the browser is sent to; a query the base address has stays in front."""
    salt = salt or base64.b64encode(secrets.token_bytes(32)).decode()
    signature = delegation_signature(validation_key, salt, *(parameters[field] for field in SIGNED_FIELDS[operation]))
    parts = urlsplit(base_url)
    query = [
        *parse_qsl(parts.query, keep_blank_values=True),
        *parameters.items(),
        ("operation", operation),
        ("salt", salt),
        ("sig", signature),
    ]
    return urlunsplit(parts._replace(query=urlencode(query)))
