"""What ends a command: one sentence with its remedy."""


class CommandError(Exception):
    """Shown as it is, without a stack trace; the command ends with 1."""


class DoorClosedError(CommandError):
    """The process does not answer now; it may be starting again."""
