"""What ends a command: one sentence with its remedy."""


class CommandError(Exception):
    """Shown as it is, without a stack trace; the command ends with 1."""


class DoorRefusedError(CommandError):
    """The process has understood and says no: `words` are its own, `code` is stable, `content` is all that it answered."""

    def __init__(self, place: str, words: str, *, content: object) -> None:
        super().__init__(f"{place}: {words}")
        self.words = words
        error = content.get("error") if isinstance(content, dict) else None
        self.content: dict[str, object] = error if isinstance(error, dict) else {}
        self.code = str(self.content.get("code", ""))


class DoorClosedError(CommandError):
    """The process does not answer now; it may be starting again."""
