"""Delegation links: the published vectors, both keys, and everything that must be refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delegation_gateway.signature import LinkForgedError, LinkIncompleteError, make_link, read_link, sign

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
OTHER_KEY = "Pz49PDs6OTg3NjU0MzIxMC8uLSwrKikoJyYlJCMiISAfHh0cGxoZGBcWFRQTEhEQDw4NDAsKCQgHBgUEAwIBAA=="
SALT = "5P+a/7Kq3w=="
VECTORS = [
    ("SignIn", {"returnUrl": "/"}, "cjphrp8SKKp9TP5QhNQNGHeoun75qYG8PVSfL7MO7Kxm5AezxtItkIgzQNgQU3Q7jS5RjyLoPzTM+y8ZkYrAxQ=="),
    ("SignUp", {"returnUrl": "/"}, "cjphrp8SKKp9TP5QhNQNGHeoun75qYG8PVSfL7MO7Kxm5AezxtItkIgzQNgQU3Q7jS5RjyLoPzTM+y8ZkYrAxQ=="),
    (
        "SignIn",
        {"returnUrl": "/products?a=1&b=ü"},
        "XrL0DX2y1RvmxPMnCkH9KOfpnBz3E28Op1xnZSl5727NPV/pYp7XNIWHsl+M5ikF/gy7hR1RyIJzEoFy+FOpMA==",
    ),
    *(
        (operation, {"userId": "user-1"}, "o89jR5PP4Kxp5md8avBk6NckfiJ1kg+ab4ATznuDfKevy/sbCAT1JSWZvY0n4T5cX4FCByvn76Sdwuo3XTmIjw==")
        for operation in ("ChangePassword", "ChangeProfile", "CloseAccount", "SignOut")
    ),
    (
        "Subscribe",
        {"productId": "starter", "userId": "user-1"},
        "F9lEWBFXDi5jiY0Sm1CztYrVHUFX/skuiiqZiOykT++ThTQpg/PopUvvAc7Zq3xtCpLPL152K6EXXZncUkb99g==",
    ),
    *(
        (
            operation,
            {"subscriptionId": "sub-42"},
            "fqFb3Turr58XgkuSOTp5SIY3EbWrJuN+OxVOdBXW/r2Xy9pFhxQMBrosn9mHPEJbvwLb7z+/7Zlm+H1K4nZ3aw==",
        )
        for operation in ("Unsubscribe", "Renew")
    ),
]
FORGED = [
    (
        "Subscribe",
        {"productId": "starter", "userId": "user-1"},
        "BQ1rXBaseGmhFE9tbUSbGLEn8iiuc+lem2gg16ZeJary8RyFNn7n+6J1wts2bUd2N5mok0fJwbzJM42HK1+RgA==",
    ),
    ("ChangeProfile", {"userId": "user-1"}, "5xvtlxA/ODsHLsBo4J0w24Z5GaPUfmHiTelyX8JFqc5toO5ghbEvNgznwE1KqtPVY6EZ705pL/G706qo/gXxWA=="),
    ("SignIn", {"returnUrl": "/"}, "iYpEfuqk2eQm9asQ5Y7R1aVmUX4TEc8TfT+CwQ7BhwvGTy/86iBr/CrXCoGShJqhL3CEpT4W/NKfY4PU8Wg2Og=="),
    ("SignIn", {"returnUrl": "/"}, "not base64 at all"),
    ("SignIn", {"returnUrl": "/"}, "AAAA"),
]


def parameters(operation: str, values: dict[str, str], sig: str, salt: str = SALT) -> list[tuple[str, str]]:
    return [("operation", operation), *values.items(), ("salt", salt), ("sig", sig)]


@pytest.mark.parametrize(("operation", "values", "sig"), VECTORS)
def test_a_link_signed_by_the_portal_is_accepted(operation: str, values: dict[str, str], sig: str) -> None:
    link = read_link([KEY], parameters(operation, values, sig))
    assert (link.operation, dict(link.values)) == (operation, values)


@pytest.mark.parametrize(("operation", "values", "sig"), VECTORS)
def test_signing_gives_the_published_signature(operation: str, values: dict[str, str], sig: str) -> None:
    assert sign(KEY, SALT, *values.values()) == sig


@pytest.mark.parametrize(("operation", "values", "sig"), FORGED)
def test_a_link_signed_otherwise_is_forged(operation: str, values: dict[str, str], sig: str) -> None:
    with pytest.raises(LinkForgedError):
        read_link([KEY], parameters(operation, values, sig))


def test_either_of_two_keys_verifies_and_a_third_does_not() -> None:
    operation, values, sig = VECTORS[0]
    assert read_link([OTHER_KEY, KEY], parameters(operation, values, sig)).operation == operation
    with pytest.raises(LinkForgedError):
        read_link([OTHER_KEY], parameters(operation, values, sig))


def test_blanks_made_of_plus_signs_by_a_proxy_are_repaired() -> None:
    operation, values, sig = VECTORS[0]
    link = read_link([KEY], parameters(operation, values, sig.replace("+", " "), SALT.replace("+", " ")))
    assert link.link_id == read_link([KEY], parameters(operation, values, sig)).link_id


@pytest.mark.parametrize(
    "broken",
    [
        [],
        [("operation", "SignIn")],
        parameters("Delete", {"userId": "user-1"}, VECTORS[0][2]),
        parameters("signin", {"returnUrl": "/"}, VECTORS[0][2]),
        parameters("SignIn", {}, VECTORS[0][2]),
        parameters("SignIn", {"returnUrl": ""}, VECTORS[0][2]),
        parameters("SignIn", {"returnUrl": "/"}, ""),
        parameters("SignIn", {"returnUrl": "/"}, VECTORS[0][2], salt=""),
        [*parameters(*VECTORS[0]), ("returnUrl", "/other")],
        parameters("Subscribe", {"productId": "starter\nuser-1", "userId": "x"}, "AAAA"),
        parameters("SignIn", {"returnUrl": "/" * 3000}, "AAAA"),
    ],
)
def test_a_link_with_a_part_missing_repeated_or_odd_is_incomplete(broken: list[tuple[str, str]]) -> None:
    with pytest.raises(LinkIncompleteError):
        read_link([KEY], broken)


def test_a_line_feed_does_not_move_a_signature_to_another_operation() -> None:
    signed_for_sign_in = sign(KEY, SALT, "starter\nuser-1")
    assert signed_for_sign_in == sign(KEY, SALT, "starter", "user-1")
    with pytest.raises(LinkIncompleteError):
        read_link([KEY], parameters("SignIn", {"returnUrl": "starter\nuser-1"}, signed_for_sign_in))


@given(st.lists(st.tuples(st.sampled_from(["operation", "salt", "sig", "returnUrl", "userId", "x"]), st.text(max_size=40)), max_size=8))
def test_any_input_is_refused_by_name_and_never_crashes(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises((LinkForgedError, LinkIncompleteError)):
        read_link([KEY], pairs)


def test_a_made_link_reads_back() -> None:
    from urllib.parse import parse_qsl

    query = make_link(KEY, "Subscribe", "a+b/c==", productId="payg", userId="u_1")
    assert dict(read_link([KEY], parse_qsl(query)).values) == {"productId": "payg", "userId": "u_1"}
