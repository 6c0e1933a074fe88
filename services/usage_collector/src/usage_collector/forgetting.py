"""Deleting what is too old in pages: each is a short statement, however much there is, and nothing else waits for it."""

from billing_common.db import Connection

PAGE = 20_000


async def delete_in_pages(connection: Connection, table: str, select_ctids: str, *arguments: object) -> None:
    """Delete the rows of a table, which must not be partitioned, whose places a query names."""
    deleted = PAGE
    while deleted == PAGE:
        tag = await connection.execute(f"delete from {table} where ctid = any(array({select_ctids} limit {PAGE}))", *arguments)  # noqa: S608 - constants
        deleted = int(tag.split()[-1])
