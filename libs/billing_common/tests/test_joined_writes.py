"""What is written in one turn of the loop leaves together, and nothing of it is lost or kept."""

import asyncio
from typing import Any

import pytest

from billing_common.joined_writes import HELD_MAX_BYTES, JoinedWrites


class Wire(asyncio.Transport):
    """A transport that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed, "uvloop raises here"
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def wire() -> Wire:
    return Wire()


async def test_the_parts_of_an_answer_leave_together_when_the_loop_turns(wire: Wire) -> None:
    joined = JoinedWrites(wire, asyncio.get_running_loop())
    joined.write(b"head ")
    joined.write(bytearray(b"body"))
    assert wire.sent == []
    await asyncio.sleep(0)
    assert wire.sent == [b"head body"]
    joined.write(b"next")
    await asyncio.sleep(0)
    assert wire.sent == [b"head body", b"next"]


async def test_a_long_answer_is_not_collected_here(wire: Wire) -> None:
    joined = JoinedWrites(wire, asyncio.get_running_loop())
    part = b"x" * (HELD_MAX_BYTES // 2)
    for _ in range(3):
        joined.write(part)
    assert wire.sent == [part * 3]
    joined.write(b"rest")
    await asyncio.sleep(0)
    assert wire.sent == [part * 3, b"rest"]


async def test_what_was_written_before_a_close_leaves_before_it(wire: Wire) -> None:
    joined = JoinedWrites(wire, asyncio.get_running_loop())
    joined.write(b"goodbye")
    joined.close()
    assert (wire.sent, joined.is_closing()) == ([b"goodbye"], True)
    await asyncio.sleep(0)
    assert wire.sent == [b"goodbye"]


async def test_nothing_is_written_to_who_has_gone_meanwhile(wire: Wire) -> None:
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    joined = JoinedWrites(wire, asyncio.get_running_loop())
    joined.write(b"answer")
    wire.closed = True
    await asyncio.sleep(0)
    assert (wire.sent, failures) == ([], [])
