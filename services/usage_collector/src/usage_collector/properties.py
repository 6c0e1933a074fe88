"""What goes on of a property that no field is for: whole numbers, and digests of texts. One rule for all sources. Pure functions."""

from hashlib import sha256

NUMBER_MAX = 10**12
TEXT_MAX = 256
DIGEST_LENGTH = 32  # of a text's digest, in hexadecimal digits


class PropertyError(ValueError):
    """A property that is refused; says what it must be."""


def kept(name: str, value: object, *, as_text: bool) -> int | str | None:
    """Return what stands for a value from here on; None: it goes no further. `as_text`: a text of this name is counted.

    Raises PropertyError.
    """
    if type(value) is int:
        if not 0 <= value <= NUMBER_MAX:
            raise PropertyError(f"a whole number from 0 to {NUMBER_MAX}")
        return value
    if as_text and type(value) is str:
        if not 0 < len(value) <= TEXT_MAX:
            raise PropertyError(f"a text of 1 to {TEXT_MAX} characters")
        return digest(name, value)
    return None


def digest(name: str, value: str) -> str:
    """Return what stands for a text from here on: nobody needs the text itself, only whether it is the same."""
    return sha256(f"{name}\x1f{value}".encode()).hexdigest()[:DIGEST_LENGTH]


def is_kept(value: object) -> bool:
    """Tell what `kept` has made from anything else."""
    if type(value) is int:
        return 0 <= value <= NUMBER_MAX
    return type(value) is str and len(value) == DIGEST_LENGTH and value.isalnum()
