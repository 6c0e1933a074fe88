"""For tests that make an application each: what one of them has compiled, the next finds."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from jinja2 import BytecodeCache, Environment
from jinja2.bccache import Bucket

from turnpike_ui import pages


class CompiledTemplates(BytecodeCache):
    """Compiled templates in memory, each as long as its text stays the same. To compile one page takes 0.1 s and more."""

    def __init__(self) -> None:
        self._codes: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._codes:
            bucket.bytecode_from_string(self._codes[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._codes[bucket.key] = bucket.bytecode_to_string()


@contextmanager
def compiled_once() -> Iterator[None]:
    """Let all `Pages` made inside share what they compile."""
    with patch.object(pages, "Environment", partial(Environment, bytecode_cache=CompiledTemplates())):
        yield
