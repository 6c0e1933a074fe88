"""Parses the closed list of policy expressions into functions of a call; any other text is refused, never ignored."""

from calendar import monthrange

import orjson

from sandbox_apim.policy.call import Call
from sandbox_apim.policy.members import DATE_NUMBERS, MEMBERS, Getter, Typed, date_format, date_part, header, strict
from sandbox_apim.policy.operators import add, arithmetic, comparable, compare, json_value, logical, require, split_part, text, to_int
from sandbox_apim.policy.tokens import ExpressionSyntaxError, Token, expression_end, tokenize

__all__ = ["ExpressionSyntaxError", "Template", "compile_template", "compile_value"]

CASTS = {"int": "int", "long": "int", "string": "string"}
LENGTH_MAX = 16_384
DEPTH_MAX = 40


def compile_value(text: str) -> Typed | None:
    """Compile an attribute or a text that is one expression; None: it is a literal."""
    stripped = text.strip()
    if not stripped.startswith(("@(", "@{")):
        if "@(" in stripped or "@{" in stripped:
            raise ExpressionSyntaxError("an expression must be the whole value")
        return None
    if expression_end(stripped, 0) != len(stripped):
        raise ExpressionSyntaxError("text stands behind the end of the expression")
    if len(stripped) > LENGTH_MAX:
        raise ExpressionSyntaxError(f"the expression is longer than {LENGTH_MAX} characters")
    parser = Parser(tokenize(stripped[2:-1]))
    return parser.block() if stripped[1] == "{" else parser.whole()


class Template:
    """A value that is either a literal or a string expression."""

    def __init__(self, text: str, value: Typed | None) -> None:
        self.literal = None if value else text
        self._value = value

    def __call__(self, call: Call) -> str:
        if self._value is None:
            return self.literal or ""
        return text(self._value.get(call))


def compile_template(text: str) -> Template:
    value = compile_value(text)
    if value is not None and value.type not in {"string", "guid", "int"}:
        raise ExpressionSyntaxError(f"Cannot implicitly convert type '{value.type}' to 'string'")
    return Template(text, value)


class Parser:
    """Recursive descent over C#'s order of precedence: ?? || && == + - * unary primary."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0

    def whole(self) -> Typed:
        result = self.expression()
        self._expect("end", "")
        return result

    def block(self) -> Typed:
        """`@{ return <expression>; }`: one statement, nothing else."""
        self._expect("name", "return")
        result = self.expression()
        self._expect("mark", ";")
        self._expect("end", "")
        return result

    def expression(self) -> Typed:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ExpressionSyntaxError("the expression is nested too deeply")
        result = self._coalesce()
        self._depth -= 1
        return result

    def _coalesce(self) -> Typed:
        left = self._or()
        if not self._accept("??"):
            return left
        right = self._coalesce()
        if not comparable(left.type, right.type):
            raise ExpressionSyntaxError(f"Operator '??' cannot be applied to operands of type '{left.type}' and '{right.type}'")
        return Typed(left.type, lambda call: value if (value := left.get(call)) is not None else right.get(call))

    def _or(self) -> Typed:
        left = self._and()
        while self._accept("||"):
            left = logical("||", left, self._and())
        return left

    def _and(self) -> Typed:
        left = self._comparison()
        while self._accept("&&"):
            left = logical("&&", left, self._comparison())
        return left

    def _comparison(self) -> Typed:
        left = self._sum()
        for mark in ("==", "!=", ">=", "<=", ">", "<"):
            if self._accept(mark):
                return compare(mark, left, self._sum())
        return left

    def _sum(self) -> Typed:
        left = self._product()
        while (mark := self._peek().text) in {"+", "-"} and self._accept(mark):
            right = self._product()
            left = add(left, right) if mark == "+" else arithmetic("-", left, right)
        return left

    def _product(self) -> Typed:
        left = self._unary()
        while self._accept("*"):
            left = arithmetic("*", left, self._unary())
        return left

    def _unary(self) -> Typed:
        if self._accept("!"):
            inner = self._unary()
            require(inner, "bool", "!")
            return Typed("bool", lambda call: not inner.get(call))
        if self._peek().text == "(" and self._peek(1).text in CASTS:
            return self._cast()
        return self._postfix(self._primary())

    def _cast(self) -> Typed:
        self._take()
        target = self._take().text
        nullable = self._accept("?")
        self._expect("mark", ")")
        inner = self._unary()
        if CASTS[target] == "int" and inner.type in {"int", "double"}:
            return Typed("int", to_int(inner.get, nullable=nullable))
        if CASTS[target] != inner.type:
            raise ExpressionSyntaxError(f"Cannot convert type '{inner.type}' to '{target}'")
        return inner

    def _postfix(self, value: Typed) -> Typed:
        if self._peek().text == "." and self._peek(1).text == "Split":
            value = self._part_of(value)
        while self._peek().text in {".", "?."} and self._peek(1).text == "ToString":
            self._take(), self._take()
            self._expect("mark", "(")
            if value.type == "json":
                for part in ("Newtonsoft", ".", "Json", ".", "Formatting", ".", "None"):
                    self._expect(None, part)
            self._expect("mark", ")")
            inner = value.get
            value = Typed("string", lambda call, inner=inner: None if (found := inner(call)) is None else text(found))  # type: ignore[misc]
        return value

    def _part_of(self, value: Typed) -> Typed:
        """`.Split('c')[n]` of a text."""
        require(value, "string", "Split")
        self._take(), self._take()
        self._expect("mark", "(")
        separator = self._expect("char", None).text
        self._expect("mark", ")")
        self._expect("mark", "[")
        index = int(self._expect("number", None).text)
        self._expect("mark", "]")
        return Typed("string", split_part(value.get, separator, index))

    def _primary(self) -> Typed:  # noqa: PLR0911 - one return per form is the clearest list
        token = self._take()
        if token.kind == "string":
            return Typed("string", lambda _: token.text)
        if token.kind == "number":
            number = int(token.text)
            return Typed("int", lambda _: number)
        if token.text == "(":
            inner = self.expression()
            self._expect("mark", ")")
            return inner
        if token.text in {"true", "false"}:
            return Typed("bool", lambda _: token.text == "true")
        if token.text == "null":
            return Typed("null", lambda _: None)
        if token.text == "new":
            return self._json_object()
        if token.text in {"Convert", "long", "int"}:
            return self._parse_number(token.text)
        if token.text == "DateTime":
            return self._days_in_month()
        if token.text == "context":
            return self._context()
        raise ExpressionSyntaxError(f"'{token.text or 'end of text'}' is not in the sandbox's list of policy expressions")

    def _days_in_month(self) -> Typed:
        """`DateTime.DaysInMonth(year, month)`: what a quota of a calendar month needs to say when it begins anew."""
        for part in (".", "DaysInMonth", "("):
            self._expect(None, part)
        year = self.expression()
        self._expect("mark", ",")
        month = self.expression()
        self._expect("mark", ")")
        require(year, "int", "DateTime.DaysInMonth")
        require(month, "int", "DateTime.DaysInMonth")
        return Typed("int", lambda call: monthrange(year.get(call), month.get(call))[1])

    def _parse_number(self, owner: str) -> Typed:
        self._expect("mark", ".")
        method = self._take().text
        if method not in ({"ToInt64", "ToInt32"} if owner == "Convert" else {"Parse"}):
            raise ExpressionSyntaxError(f"'{owner}.{method}' is not in the sandbox's list of policy expressions")
        self._expect("mark", "(")
        inner = self.expression()
        self._expect("mark", ")")
        if inner.type not in {"string", "int", "double"}:
            raise ExpressionSyntaxError(f"'{owner}.{method}' cannot convert '{inner.type}'")
        return Typed("int", to_int(inner.get, nullable=False, null_is_zero=owner == "Convert"))

    def _json_object(self) -> Typed:
        self._expect("name", "JObject")
        self._expect("mark", "(")
        properties: list[tuple[str, Getter]] = []
        while not self._accept(")"):
            if properties:
                self._expect("mark", ",")
            self._expect("name", "new")
            self._expect("name", "JProperty")
            self._expect("mark", "(")
            name = self._take()
            if name.kind != "string" or name.text in [known for known, _ in properties]:
                raise ExpressionSyntaxError("JProperty needs a literal name that is used once")
            self._expect("mark", ",")
            properties.append((name.text, json_value(self.expression())))
            self._expect("mark", ")")
        return Typed("json", lambda call: orjson.dumps({name: get(call) for name, get in properties}).decode())

    def _context(self) -> Typed:
        path, safe = self._path()
        if path.startswith("Timestamp"):
            return self._timestamp(path)
        if path.endswith(".Headers.GetValueOrDefault"):
            return self._header(path, safe=safe)
        member = MEMBERS.get(path)
        if member is None or (safe and not member.nullable_owner):
            raise ExpressionSyntaxError(f"'context.{path}' is not in the sandbox's list of policy expressions")
        if member.nullable_owner and not safe:
            return Typed(member.type, strict(member.get, f"context.{member.owner}"))
        return Typed(member.type, member.get)

    def _path(self) -> tuple[str, bool]:
        """Read `.A?.B.C` up to a bracket or a ToString that is not a date's; True: the first owner may be null."""
        names: list[str] = []
        safe = False
        while self._peek().text in {".", "?."}:
            if self._peek(1).text == "Split" or (self._peek(1).text == "ToString" and names[:1] != ["Timestamp"]):
                break
            if self._take().text == "?.":
                if len(names) != 1:
                    raise ExpressionSyntaxError("'?.' stands where nothing can be null")
                safe = True
            names.append(self._expect("name", None).text)
            if names == ["Timestamp", "ToUniversalTime"]:
                self._expect("mark", "(")
                self._expect("mark", ")")
        return ".".join(names), safe

    def _timestamp(self, path: str) -> Typed:
        if path.removeprefix("Timestamp.") in DATE_NUMBERS:
            return Typed("int", date_part(path.removeprefix("Timestamp.")))
        if path not in {"Timestamp.ToString", "Timestamp.ToUniversalTime.ToString"}:
            raise ExpressionSyntaxError(f"'context.{path}' is not in the sandbox's list of policy expressions")
        self._expect("mark", "(")
        show = date_format(self._expect("string", None).text)
        self._expect("mark", ")")
        return Typed("string", lambda call: show(call.timestamp))

    def _header(self, path: str, *, safe: bool) -> Typed:
        owner = path.split(".", 1)[0]
        if path != f"{owner}.Headers.GetValueOrDefault" or owner not in {"Request", "Response"} or (safe and owner == "Request"):
            raise ExpressionSyntaxError(f"'context.{path}' is not in the sandbox's list of policy expressions")
        self._expect("mark", "(")
        name = self._expect("string", None).text
        self._expect("mark", ",")
        default = self._expect("string", None).text
        self._expect("mark", ")")
        get = header(owner, name, default)
        return Typed("string", get if safe or owner == "Request" else strict(get, "context.Response"))

    def _peek(self, ahead: int = 0) -> Token:
        return self._tokens[min(self._position + ahead, len(self._tokens) - 1)]

    def _take(self) -> Token:
        token = self._peek()
        self._position += 1
        return token

    def _accept(self, mark: str) -> bool:
        if self._peek().kind == "mark" and self._peek().text == mark:
            self._position += 1
            return True
        return False

    def _expect(self, kind: str | None, text: str | None) -> Token:
        token = self._take()
        if (kind is not None and token.kind != kind) or (text is not None and token.text != text):
            raise ExpressionSyntaxError(f"{text or kind} expected, found '{token.text or 'end of text'}'")
        return token
