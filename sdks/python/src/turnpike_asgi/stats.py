"""Counters of one process, for the app's own metrics."""

from dataclasses import dataclass
from typing import Literal

State = Literal["idle", "sending", "retrying", "unauthorized", "clock_ahead", "standby"]


@dataclass(slots=True)
class Stats:
    """`recorded` = `spooled` + `dropped` + `in_memory`; `standby`: another process of the same spool sends."""

    recorded: int = 0
    spooled: int = 0
    dropped: int = 0
    in_memory: int = 0
    unattributed: int = 0
    errors: int = 0
    accepted: int = 0
    rejected: int = 0
    retries: int = 0
    spool_bytes: int = 0
    state: State = "idle"
