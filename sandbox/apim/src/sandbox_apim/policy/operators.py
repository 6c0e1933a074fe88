"""What C#'s operators and conversions do to compiled expressions, types checked first."""

import operator
from typing import Any

from sandbox_apim.policy.call import Call, ExpressionError
from sandbox_apim.policy.members import Getter, Typed
from sandbox_apim.policy.tokens import ExpressionSyntaxError

ARITHMETIC = {"-": operator.sub, "*": operator.mul}
ORDERINGS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}


def text(value: Any) -> str:
    if value is None:
        return ""
    return str(value)


def comparable(left: str, right: str) -> bool:
    numbers = {"int", "double"}
    return left == right or "null" in {left, right} or {left, right} <= numbers


def require(value: Typed, kind: str, symbol: str) -> None:
    if value.type != kind:
        raise ExpressionSyntaxError(f"Operator '{symbol}' cannot be applied to operand of type '{value.type}'")


def logical(symbol: str, left: Typed, right: Typed) -> Typed:
    require(left, "bool", symbol)
    require(right, "bool", symbol)
    if symbol == "||":
        return Typed("bool", lambda call: left.get(call) or right.get(call))
    return Typed("bool", lambda call: left.get(call) and right.get(call))


def compare(mark: str, left: Typed, right: Typed) -> Typed:
    if not comparable(left.type, right.type) or (mark in ORDERINGS and left.type not in {"int", "double"}):
        raise ExpressionSyntaxError(f"Operator '{mark}' cannot be applied to operands of type '{left.type}' and '{right.type}'")

    def compare(call: Call) -> bool:
        first, second = left.get(call), right.get(call)
        if mark == "==":
            return bool(first == second)
        if mark == "!=":
            return bool(first != second)
        if first is None or second is None:
            return False  # as C# compares nullable numbers
        return bool(ORDERINGS[mark](first, second))

    return Typed("bool", compare)


def add(left: Typed, right: Typed) -> Typed:
    if left.type == right.type == "int":
        return Typed("int", lambda call: left.get(call) + right.get(call))
    if "string" not in {left.type, right.type} or "json" in {left.type, right.type}:
        raise ExpressionSyntaxError(f"Operator '+' cannot be applied to operands of type '{left.type}' and '{right.type}'")
    return Typed("string", lambda call: text(left.get(call)) + text(right.get(call)))


def arithmetic(mark: str, left: Typed, right: Typed) -> Typed:
    """`-` and `*` of whole numbers."""
    require(left, "int", mark)
    require(right, "int", mark)
    combine = ARITHMETIC[mark]
    return Typed("int", lambda call: combine(left.get(call), right.get(call)))


def to_int(get: Getter, *, nullable: bool, null_is_zero: bool = False) -> Getter:
    def convert(call: Call) -> int | None:
        value = get(call)
        if value is None and (nullable or null_is_zero):
            return 0 if null_is_zero else None
        try:
            return int(value)
        except (TypeError, ValueError) as error:
            raise ExpressionError("Input string was not in a correct format.") from error

    return convert


def split_part(get: Getter, separator: str, index: int) -> Getter:
    """Return `text.Split(separator)[index]`; null stays null."""

    def cut(call: Call) -> str | None:
        value = get(call)
        if value is None:
            return None
        parts = str(value).split(separator)
        if index >= len(parts):
            raise ExpressionError("Index was outside the bounds of the array.")
        return parts[index]

    return cut


def json_value(value: Typed) -> Getter:
    if value.type in {"string", "guid", "int", "double", "bool", "null"}:
        return value.get
    raise ExpressionSyntaxError(f"a JProperty cannot hold '{value.type}'")
