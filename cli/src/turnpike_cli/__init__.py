"""The turnpike command."""
