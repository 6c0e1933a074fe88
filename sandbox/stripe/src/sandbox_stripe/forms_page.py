"""Forms of the pages: what a person typed, checked field by field with words that say what to do."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from starlette.requests import Request

from sandbox_stripe import cards
from turnpike_ui.errors import PageError

BODY_BYTES_MAX = 16_384
FIELDS_MAX = 20


@dataclass(frozen=True)
class CardForm:
    """A card as typed, and what is wrong with it: field name -> sentence."""

    card: cards.Card | None
    expiry: tuple[int, int]
    errors: dict[str, str]


async def read_form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise PageError(413, "That was too much to send", "The form holds more than this page takes.")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError:
        raise PageError(400, "The form could not be read", "Go back and send it again.") from None
    return {name: value.strip()[:200] for name, value in pairs}


def read_card(form: dict[str, str], now: int) -> CardForm:
    errors: dict[str, str] = {}
    digits = cards.digits_of(form.get("number", ""))
    if not digits:
        errors["number"] = "Enter the card number"
    elif not cards.is_card_number(digits):
        errors["number"] = "Check the card number: a digit is missing or mistyped"
    expiry = _expiry(form.get("expiry", ""))
    today = datetime.fromtimestamp(now, UTC)
    if expiry is None:
        errors["expiry"] = "Enter the expiry date as month and year, for example 12 / 34"
    elif (expiry[1], expiry[0]) < (today.year, today.month):
        errors["expiry"] = f"This card expired in {expiry[0]:02d}/{expiry[1]}: use another card"
    if not re.fullmatch(r"\d{3,4}", form.get("cvc", ""), re.ASCII):
        errors["cvc"] = "Enter the 3 or 4 digits of the security code"
    return CardForm(None if errors else cards.find_card(digits), expiry or (1, 1970), errors)


def _expiry(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d{1,2})\s*[/-]?\s*(\d{2}|\d{4})", text, re.ASCII)
    if not match or not 1 <= int(match.group(1)) <= 12:
        return None
    year = int(match.group(2))
    return int(match.group(1)), year if year > 99 else 2000 + year


def check_email(text: str) -> str | None:
    if not text:
        return "Enter your e-mail address"
    if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s.]+", text):
        return "Enter an e-mail address in the form name@example.com"
    return None
