"""Delegation signatures against the published vectors, and sign-in tokens."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from sandbox_apim.signin import SIGNED_FIELDS, delegation_signature, delegation_url, make_token, token_user

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
SALT = "5P+a/7Kq3w=="
VECTORS = [
    ("SignIn", {"returnUrl": "/"}, "cjphrp8SKKp9TP5QhNQNGHeoun75qYG8PVSfL7MO7Kxm5AezxtItkIgzQNgQU3Q7jS5RjyLoPzTM+y8ZkYrAxQ=="),
    ("SignUp", {"returnUrl": "/"}, "cjphrp8SKKp9TP5QhNQNGHeoun75qYG8PVSfL7MO7Kxm5AezxtItkIgzQNgQU3Q7jS5RjyLoPzTM+y8ZkYrAxQ=="),
    (
        "SignIn",
        {"returnUrl": "/products?a=1&b=ü"},
        "XrL0DX2y1RvmxPMnCkH9KOfpnBz3E28Op1xnZSl5727NPV/pYp7XNIWHsl+M5ikF/gy7hR1RyIJzEoFy+FOpMA==",
    ),
    ("SignOut", {"userId": "user-1"}, "o89jR5PP4Kxp5md8avBk6NckfiJ1kg+ab4ATznuDfKevy/sbCAT1JSWZvY0n4T5cX4FCByvn76Sdwuo3XTmIjw=="),
    (
        "Subscribe",
        {"productId": "starter", "userId": "user-1"},
        "F9lEWBFXDi5jiY0Sm1CztYrVHUFX/skuiiqZiOykT++ThTQpg/PopUvvAc7Zq3xtCpLPL152K6EXXZncUkb99g==",
    ),
    (
        "Unsubscribe",
        {"subscriptionId": "sub-42"},
        "fqFb3Turr58XgkuSOTp5SIY3EbWrJuN+OxVOdBXW/r2Xy9pFhxQMBrosn9mHPEJbvwLb7z+/7Zlm+H1K4nZ3aw==",
    ),
]


@pytest.mark.parametrize(("operation", "parameters", "signature"), VECTORS)
def test_a_signature_is_the_published_one(operation: str, parameters: dict[str, str], signature: str) -> None:
    address = delegation_url("https://billing.example/delegation?tenant=a", KEY, operation, parameters, SALT)
    query = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    assert query == {"tenant": "a", **parameters, "operation": operation, "salt": SALT, "sig": signature}


def test_the_encoded_form_survives_a_query() -> None:
    address = delegation_url("https://billing.example/d", KEY, "Subscribe", {"productId": "starter", "userId": "user-1"}, SALT)
    assert urlsplit(address).query == (
        "productId=starter&userId=user-1&operation=Subscribe&salt=5P%2Ba%2F7Kq3w%3D%3D&sig=F9lEWBFXDi5jiY0Sm1CztYrVHUFX%2FskuiiqZiOykT"
        "%2B%2BThTQpg%2FPopUvvAc7Zq3xtCpLPL152K6EXXZncUkb99g%3D%3D"
    )


def test_each_redirect_has_a_salt_of_its_own() -> None:
    addresses = {delegation_url("https://b.example/", KEY, "SignIn", {"returnUrl": "/"}) for _ in range(20)}
    assert len(addresses) == 20


def test_the_order_of_the_fields_matters() -> None:
    assert delegation_signature(KEY, SALT, "user-1", "starter") != VECTORS[4][2]
    assert list(SIGNED_FIELDS["Subscribe"]) == ["productId", "userId"]


NOW = datetime(2026, 1, 2, 3, 0, 30, tzinfo=UTC)
SIGN_IN_KEY = b"k" * 64


def test_a_token_has_the_form_that_portals_parse_and_names_its_user() -> None:
    token = make_token(SIGN_IN_KEY, "user-1", NOW + timedelta(minutes=4))
    assert token.startswith("user-1&202601020304&")
    assert token.endswith("==")
    assert token_user([b"other", SIGN_IN_KEY], token, NOW) == "user-1"


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token.replace("user-1", "user-2"),
        lambda token: token.replace("202601020304", "202701020304"),
        lambda token: token[:-10] + "AAAAAAAA==",
        lambda token: token.split("&")[0],
        lambda token: token + "\n",
        lambda _: "",
    ],
)
def test_a_changed_token_is_refused(change: object) -> None:
    token = make_token(SIGN_IN_KEY, "user-1", NOW + timedelta(minutes=4))
    assert token_user([SIGN_IN_KEY], change(token), NOW) is None  # type: ignore[operator]


def test_an_expired_token_is_refused() -> None:
    token = make_token(SIGN_IN_KEY, "user-1", NOW)
    assert token_user([SIGN_IN_KEY], token, NOW) is None  # seconds are cut off: it ended at 03:00
