"""Failures a person can do something about: one sentence with its remedy, never a stack trace."""


class ServerError(Exception):
    """A server could not be installed, started or stopped. The text names the cause and the remedy."""
