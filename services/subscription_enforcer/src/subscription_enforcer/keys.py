"""Keys beside the first: which a subscription's owner wants, what each should be at API Management, and every query on them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from billing_common.db import Connection
from billing_common.events import InvalidEventError, SubscriptionKeysChanged
from billing_common.key_sids import SEPARATOR
from subscription_enforcer.domain import STATE_AT_APIM, Access

State = Literal["active", "suspended", "cancelled"]
States = Mapping[str, str]  # sid -> its state at API Management


@dataclass(frozen=True)
class Key:
    """One key that somebody asked for; numbers count from 2 and are never used again."""

    sid: str
    number: int
    name: str
    revoked: bool


def read(event: SubscriptionKeysChanged) -> list[Key]:
    """Return the keys of an event. Raises InvalidEventError for a sid that is not one of this subscription."""
    pattern = re.compile(re.escape(event.subscription_id + SEPARATOR) + r"([2-9]|[1-9][0-9]{1,5})")
    found = []
    for wish in event.keys:
        match = pattern.fullmatch(wish.sid)
        if match is None:
            raise InvalidEventError("a key's sid is not the subscription's id, _ and a number from 2 on")
        found.append(Key(wish.sid, int(match.group(1)), wish.name, wish.revoked))
    return found


def desired(keys: list[Key], access: Access | None, allowed: int) -> dict[str, str]:
    """Return what each key should be: as the first one is; cancelled where revoked; suspended beyond what the plan allows, newest first."""
    states: dict[str, str] = {}
    live = 1
    for key in sorted(keys, key=lambda key: key.number):
        if key.revoked or access == "revoked":
            states[key.sid] = "cancelled"
            continue
        live += 1
        states[key.sid] = STATE_AT_APIM[access] if access is not None and live <= allowed else "suspended"
    return states


async def keep(connection: Connection, event: SubscriptionKeysChanged) -> bool:
    """Keep the newest wishes, under the lock of the subscription's row; False when newer ones are known."""
    found = read(event)
    tag = await connection.execute(
        "update access set keys_revision = $2 where subscription_id = $1 and keys_revision < $2", event.subscription_id, event.revision
    )
    if tag.endswith(" 0"):
        return False
    await connection.execute("delete from access_key where subscription_id = $1", event.subscription_id)
    await connection.executemany(
        "insert into access_key(sid, subscription_id, number, name, revoked) values ($1, $2, $3, $4, $5)",
        [(key.sid, event.subscription_id, key.number, key.name, key.revoked) for key in found],
    )
    return True


async def save_desired(connection: Connection, subscription_id: str, access: Access | None, allowed: int) -> None:
    """Write what the keys should be after a decision. Wakes nobody: the decision did."""
    rows = await connection.fetch("select sid, number, name, revoked from access_key where subscription_id = $1", subscription_id)
    states = desired([Key(**dict(row)) for row in rows], access, allowed)
    await connection.execute(
        "update access set desired_keys = $2::jsonb, "
        "desired_at = case when desired_keys <> $2::jsonb then now() else desired_at end where subscription_id = $1",
        subscription_id,
        json.dumps(states),
    )


async def names(connection: Connection, subscription_id: str) -> dict[str, str]:
    rows = await connection.fetch("select sid, name from access_key where subscription_id = $1", subscription_id)
    return {row["sid"]: row["name"] for row in rows}


async def confirm(connection: Connection, subscription_id: str, states: States) -> States:
    """Write what API Management has confirmed; returns what was confirmed before."""
    before = await connection.fetchval(
        "update access a set applied_keys = $2::jsonb from access was where a.subscription_id = $1 and was.subscription_id = $1 "
        "returning was.applied_keys::text",
        subscription_id,
        json.dumps(dict(states)),
    )
    found: dict[str, str] = json.loads(before or "{}")
    return found


def existing(states: States) -> set[str]:
    """Return the keys that are there, working or not."""
    return {sid for sid, state in states.items() if state != "cancelled"}
