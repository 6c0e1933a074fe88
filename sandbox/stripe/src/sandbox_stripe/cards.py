"""Stripe's test cards: which can be attached, which pay."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Decline:
    """Why a bank said no: the error's code, the bank's own code, and the sentence for people."""

    code: str
    decline_code: str | None
    message: str


GENERIC = Decline("card_declined", "generic_decline", "Your card was declined.")
FUNDS = Decline("card_declined", "insufficient_funds", "Your card has insufficient funds.")
EXPIRED = Decline("expired_card", None, "Your card has expired.")
CVC = Decline("incorrect_cvc", None, "Your card's security code is incorrect.")
PROCESSING = Decline("processing_error", None, "An error occurred while processing your card. Try again in a little bit.")
AUTHENTICATION = Decline(
    "authentication_required", "authentication_required", "Your card was declined. This transaction requires authentication."
)


@dataclass(frozen=True)
class Card:
    """One test card. `on_attach` refuses to be saved, `on_charge` is saved and then never pays."""

    number: str
    brand: str
    token: str
    on_attach: Decline | None = None
    on_charge: Decline | None = None

    @property
    def last4(self) -> str:
        return self.number[-4:]


CARDS = (
    Card("4242424242424242", "visa", "visa"),
    Card("4000056655665556", "visa", "visa_debit"),
    Card("5555555555554444", "mastercard", "mastercard"),
    Card("378282246310005", "amex", "amex"),
    Card("6011111111111117", "discover", "discover"),
    Card("4000000000000341", "visa", "chargeCustomerFail", on_charge=GENERIC),
    Card("4000000000000002", "visa", "visa_chargeDeclined", on_attach=GENERIC),
    Card("4000000000009995", "visa", "visa_chargeDeclinedInsufficientFunds", on_attach=FUNDS),
    Card("4000000000000069", "visa", "chargeDeclinedExpiredCard", on_attach=EXPIRED),
    Card("4000000000000127", "visa", "chargeDeclinedIncorrectCvc", on_attach=CVC),
    Card("4000000000000119", "visa", "chargeDeclinedProcessingError", on_attach=PROCESSING),
    Card("4000002500003155", "visa", "authenticationRequired", on_charge=AUTHENTICATION),
)
BY_NUMBER = {card.number: card for card in CARDS}
BY_TOKEN = {f"pm_card_{card.token}": card for card in CARDS} | {f"tok_{card.token}": card for card in CARDS}
BRANDS = {"4": "visa", "5": "mastercard", "3": "amex", "6": "discover"}


def digits_of(text: str) -> str:
    return "".join(character for character in text if character not in " -")


def is_card_number(digits: str) -> bool:
    """Check length and Luhn's sum."""
    if not (digits.isascii() and digits.isdigit() and 13 <= len(digits) <= 19):
        return False
    doubled = [int(digit) * (2 if index % 2 else 1) for index, digit in enumerate(reversed(digits))]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0


def find_card(number: str) -> Card:
    """Return a test card; any other number that is well-formed is refused when it is saved, as a live card in test mode is."""
    digits = digits_of(number)
    refusal = Decline(
        "card_declined", "test_mode_live_card", "Your card was declined. Your request was in test mode, but used a non test card."
    )
    return BY_NUMBER.get(digits) or Card(digits, BRANDS.get(digits[:1], "unknown"), "", on_attach=refusal)
