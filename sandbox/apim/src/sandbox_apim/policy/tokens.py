"""Finds C# expressions in policy text and cuts them into tokens."""

import re
from dataclasses import dataclass

TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<char>'(?:[^'\\\n]|\\.)')
      | (?P<number>\d+)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>\?\.|\?\?|==|!=|>=|<=|&&|\|\||[-+*.,;(){}?!<>\[\]])""",
    re.VERBOSE | re.DOTALL,
)
ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'", "0": "\0"}
ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d+|#x[0-9a-fA-F]+);)")


class ExpressionSyntaxError(Exception):
    """The text is not an expression the sandbox knows."""


@dataclass(frozen=True, slots=True)
class Token:
    kind: str  # string, char, number, name, mark, end
    text: str


def tokenize(text: str) -> list[Token]:
    """Cut an expression into tokens; white space and comments vanish, so layout never matters."""
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise ExpressionSyntaxError(f"unexpected character '{text[position]}'")
        kind = match.lastgroup or ""
        if kind in {"string", "char"}:
            tokens.append(Token(kind, _unescape(match.group()[1:-1])))
        elif kind != "space":
            tokens.append(Token(kind, match.group()))
        position = match.end()
    return [*tokens, Token("end", "")]


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        if match.group(2):
            return chr(int(match.group(2), 16))
        if match.group(1) not in ESCAPES:
            raise ExpressionSyntaxError(f"unrecognized escape sequence '\\{match.group(1)}'")
        return ESCAPES[match.group(1)]

    return re.sub(r"\\(u([0-9a-fA-F]{4})|.)", replace, text, flags=re.DOTALL)


def expression_end(text: str, start: int) -> int:
    """Return the index after the bracket that closes the `@(` or `@{` at `start`; strings and comments are skipped."""
    opening = text[start + 1]
    closing = {"(": ")", "{": "}"}[opening]
    depth, position = 0, start + 1
    while position < len(text):
        match = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)\'|//[^\n]*|/\*.*?\*/', re.DOTALL).match(text, position)
        if match is not None:
            position = match.end()
            continue
        if text[position] == opening:
            depth += 1
        elif text[position] == closing:
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    raise ExpressionSyntaxError(f"the expression that starts with '{text[start : start + 20]}' has no end")


def escape_raw(text: str) -> str:
    """Turn `rawxml` (expressions as written in C#) into XML by escaping what stands inside expressions; lines stay where they are."""
    parts: list[str] = []
    position = 0
    for skipped in re.compile(r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|@[({]", re.DOTALL).finditer(text):
        if skipped.start() < position:
            continue  # inside the expression that was just copied
        parts.append(text[position : skipped.start()])
        if skipped.group()[0] != "@":
            parts.append(skipped.group())
            position = skipped.end()
            continue
        position = expression_end(text.replace("&quot;", '"     ') if "&quot;" in text else text, skipped.start())
        span = ENTITY.sub("&amp;", text[skipped.start() : position])
        parts.append(span.replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;").replace("'", "&apos;"))
    return "".join([*parts, text[position:]])
