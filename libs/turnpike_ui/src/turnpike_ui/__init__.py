"""The look and the safety of every page: one stylesheet, one set of macros, one policy."""

from turnpike_ui.errors import PageError
from turnpike_ui.pages import Brand, NavLink, Pages

__all__ = ["Brand", "NavLink", "PageError", "Pages"]
