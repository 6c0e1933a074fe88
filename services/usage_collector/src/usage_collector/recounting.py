"""What reports counted and no longer belongs where it was counted is taken back, and read again under the segments of now."""

from datetime import datetime, timedelta

import structlog

from billing_common.db import Connection
from usage_collector import correction_store, held_store, report_store, rollup_store

log = structlog.get_logger(__name__)
HOUR = timedelta(hours=1)


async def take_back(connection: Connection, subscription_id: str, since: datetime) -> int:
    """Take back the pieces of hours that reach beyond an instant, in the transaction that moves the segments. Returns how many.

    A report tells the calls of a piece as one number: where a piece is cut, only another reading tells what is on either side.
    """
    await report_store.read_again_from(connection, since)
    pieces = await report_store.take_back_pieces(connection, subscription_id, since)
    for piece in pieces:
        sid, start = piece["sid"], piece["bucket"]
        prefix = report_store.piece_name(sid, start, piece["reading"])
        rows = await report_store.take_back_events(connection, sid, prefix, start, piece["until"])
        for segment_id in {row["segment_id"] for row in rows} - {None}:
            await held_store.take_from_windows(connection, segment_id, [row for row in rows if row["segment_id"] == segment_id])
        await report_store.keep_deleted(connection, sid, start, piece["until"], report_store.piece_name(sid, start, 0))
    if pieces:
        await rollup_store.mark_all(connection, [piece["bucket"] for piece in pieces])
        await correction_store.hold_below_zero(connection, [subscription_id])
        log.info("reports are read again", subscription_id=subscription_id, pieces=len(pieces))
    return len(pieces)
