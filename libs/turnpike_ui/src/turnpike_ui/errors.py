"""What a person reads when something did not work: one page for every status, never a bare line of text."""

from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException


@dataclass(frozen=True)
class Explanation:
    title: str
    message: str
    icon: str = "circle-alert"


EXPLANATIONS = {
    400: Explanation("This link or form is not complete", "Part of the address or of the form is missing or was changed on the way."),
    401: Explanation("Sign in to see this page", "Your session has ended, or you have not signed in yet.", "lock"),
    403: Explanation("This was not allowed", "The request did not come from one of our own pages, so nothing was changed.", "ban"),
    404: Explanation("There is no such page", "The address may be mistyped, or what it showed no longer exists.", "search"),
    405: Explanation("This address cannot be used like that", "Go back to the page you came from and use its buttons.", "ban"),
    409: Explanation("This cannot be done now", "Something has changed since the page was shown.", "circle-alert"),
    410: Explanation("This link has been used or has ended", "Links work once and only for a while.", "hourglass"),
    413: Explanation("That was too much to send", "The form holds more than we take."),
    422: Explanation("Something in the form is missing or not right", "Go back, check the fields and send it again."),
    429: Explanation("Too many attempts", "Wait a few minutes and try again.", "hourglass"),
    500: Explanation(
        "Something went wrong on our side",
        "Nothing was charged. Try again in a minute; if it stays like this, tell your provider.",
        "circle-x",
    ),
    503: Explanation(
        "This takes longer than it should", "A system we depend on does not answer. Nothing was lost. Try again in a minute.", "clock"
    ),
}


class PageError(HTTPException):
    """Raised by a route to answer with an error page in its own words, and one way on."""

    def __init__(
        self, status: int, title: str, message: str, *, action: tuple[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.explanation = Explanation(title, message, explain(status).icon)
        self.action = action  # (label, address)


def explain(status: int) -> Explanation:
    """Return the general words for a status; a status without its own is explained by its class."""
    return EXPLANATIONS.get(status) or EXPLANATIONS[500 if status >= 500 else 400]


def describe(error: HTTPException) -> Explanation:
    """Return the words of this error: its own where the route gave some, the general ones otherwise."""
    if isinstance(error, PageError):
        return error.explanation
    general = explain(error.status_code)
    if not isinstance(error.detail, str) or error.detail == HTTPStatus(error.status_code).phrase:
        return general
    return Explanation(general.title, error.detail, general.icon)
