"""Errors of the management API, in ARM's form."""

from typing import Any


class ArmError(Exception):
    """Ends a management call with a status and `{"error": {"code", "message", "details"}}`."""

    def __init__(
        self, status: int, code: str, message: str, *, details: list[dict[str, Any]] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.body = {"error": {"code": code, "message": message, "details": details}}


def validation(target: str, message: str) -> ArmError:
    """One wrong field, as API Management words it."""
    return ArmError(
        400,
        "ValidationError",
        "One or more fields contain incorrect values:",
        details=[{"code": "ValidationError", "target": target, "message": message}],
    )


def not_found(what: str) -> ArmError:
    return ArmError(404, "ResourceNotFound", f"{what} not found.")


def precondition_failed() -> ArmError:
    return ArmError(412, "PreconditionFailed", "Resource was modified since last retrieval.")
