"""Errors as Stripe answers them: one exception that knows its HTTP status and its body."""

from typing import Any

Json = dict[str, Any]


class StripeError(Exception):
    """An answer other than 2xx. With `commit`, what was done before it stays done (a declined payment is still an attempt)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        commit: bool = False,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.commit = commit
        self.error: Json = {"type": type_, "message": message, **extra}
        if code:
            self.error["code"] = code
            self.error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        if param:
            self.error["param"] = param

    def body(self) -> Json:
        return {"error": self.error}


def missing_resource(kind: str, id_: str, param: str = "id", *, status: int = 404) -> StripeError:
    name = kind.rsplit(".", maxsplit=1)[-1].replace("_", " ")
    return StripeError(status, f"No such {name}: '{id_}'", code="resource_missing", param=param)


def invalid(message: str, param: str | None = None, code: str | None = None) -> StripeError:
    return StripeError(400, message, param=param, code=code)


def missing_parameter(param: str) -> StripeError:
    return StripeError(400, f"Missing required param: {param}.", code="parameter_missing", param=param)


def declined(code: str, decline_code: str | None, message: str, **extra: Any) -> StripeError:
    if decline_code:
        extra["decline_code"] = decline_code
    return StripeError(402, message, type_="card_error", code=code, commit=True, **extra)
