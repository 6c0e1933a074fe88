"""One usage event as a source sent it."""

from datetime import date, datetime
from typing import Literal
from uuid import UUID

import msgspec

Origin = Literal["stream", "ingest", "reports", "correction"]  # a correction was made by a person


class Observation(msgspec.Struct, frozen=True, gc=False):  # a struct: made for every event, in a quarter of a dataclass's time
    """One event as a source sent it. `id` is derived from source, external id and UTC day."""

    id: UUID
    day: date
    at: datetime
    origin: Origin
    source: str
    external_id: str
    sid: str
    quantity: int = 1
    status: int | None = None
    method: str | None = None
    template: str | None = None
    stated_meter: str | None = None
    properties: dict[str, int | str] | None = None  # texts are digests: only whether they are the same matters
