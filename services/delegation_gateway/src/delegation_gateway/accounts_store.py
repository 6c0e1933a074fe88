"""Tables of people: accounts, members, sessions and attempts. SQL and nothing else."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing_common.db import Connection
from delegation_gateway.database import Database
from delegation_gateway.domain import Registration

ATTEMPTS_WINDOW = timedelta(minutes=15)


@dataclass(frozen=True)
class Member:
    user_id: str
    account_id: str
    email: str
    first_name: str
    last_name: str
    password_hash: str
    registration_id: str
    apim_state: str

    @property
    def is_in_apim(self) -> bool:
        return self.apim_state == "created"


MEMBER_COLUMNS = "m.user_id, m.account_id, m.email, m.first_name, m.last_name, m.password_hash, m.registration_id, m.apim_state"


async def add_account(
    connection: Connection,
    registration: Registration,
    *,
    account_id: str,
    user_id: str,
    registration_id: str,
    password_hash: str,
    at: datetime,
) -> bool:
    """Add an account and its first member; False when the e-mail address is taken."""
    await connection.execute("insert into accounts(account_id, created_at) values ($1, $2) on conflict do nothing", account_id, at)
    tag = await connection.execute(
        "insert into members(user_id, account_id, email, email_key, first_name, last_name, password_hash, registration_id, created_at) "
        "values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing",
        user_id,
        account_id,
        registration.email.strip(),
        registration.email_key,
        registration.first_name.strip(),
        registration.last_name.strip(),
        password_hash,
        registration_id,
        at,
    )
    if tag.endswith(" 1"):
        return True
    await connection.execute(
        "delete from accounts a where account_id = $1 and not exists (select from members where account_id = a.account_id)", account_id
    )
    return False


async def find_member(connection: Database, email_key: str) -> Member | None:
    """Return the member who may sign in with this address."""
    row = await connection.fetchrow(
        f"select {MEMBER_COLUMNS} from members m join accounts a using (account_id) where m.email_key = $1 and a.closed_at is null",  # noqa: S608 # constant columns
        email_key,
    )
    return None if row is None else Member(**row)


async def first_member(connection: Database, account_id: str) -> Member | None:
    """Return the member whom the account's mails go to."""
    row = await connection.fetchrow(
        f"select {MEMBER_COLUMNS} from members m where m.account_id = $1 order by (m.role = 'owner') desc, m.created_at limit 1",  # noqa: S608 # constant columns
        account_id,
    )
    return None if row is None else Member(**row)


async def members_missing_in_apim(connection: Database, *, before: datetime, limit: int = 50) -> list[Member]:
    """Return members whose user was meant to be made at APIM and of whom no outcome is known."""
    rows = await connection.fetch(
        f"select {MEMBER_COLUMNS} from members m where m.apim_state = 'intended' and m.created_at < $1 order by m.created_at limit $2",  # noqa: S608 # constant columns
        before,
        limit,
    )
    return [Member(**row) for row in rows]


async def set_apim_state(connection: Database, user_id: str, state: str) -> None:
    await connection.execute("update members set apim_state = $2 where user_id = $1", user_id, state)


async def set_password_hash(connection: Database, user_id: str, password_hash: str) -> None:
    await connection.execute("update members set password_hash = $2 where user_id = $1", user_id, password_hash)


async def add_session(connection: Connection, token_hash: bytes, user_id: str, *, now: datetime, expires_at: datetime) -> None:
    """Add a session and forget those that have expired."""
    await connection.execute("delete from sessions where expires_at < $1", now)
    await connection.execute("insert into sessions values ($1, $2, $3, $4)", token_hash, user_id, now, expires_at)


async def session_member(connection: Database, token_hash: bytes, now: datetime) -> Member | None:
    """Return whose session this is, while it lasts and the account is open."""
    row = await connection.fetchrow(
        f"select {MEMBER_COLUMNS} from sessions s join members m using (user_id) join accounts a using (account_id) "  # noqa: S608 # constant columns
        "where s.token_hash = $1 and s.expires_at > $2 and a.closed_at is null",
        token_hash,
        now,
    )
    return None if row is None else Member(**row)


async def end_session(connection: Database, token_hash: bytes) -> None:
    await connection.execute("delete from sessions where token_hash = $1", token_hash)


def attempt_subject(kind: str, text: str) -> str:
    """Return the name under which attempts are counted: addresses of people and machines are not kept as text."""
    return f"{kind}:{hashlib.sha256(text.encode()).hexdigest()}"


async def count_attempts(connection: Database, subject: str, now: datetime) -> int:
    window = _window(now)
    return int(
        await connection.fetchval("select coalesce(sum(count), 0) from attempts where subject = $1 and window_start = $2", subject, window)
    )


async def add_attempt(connection: Database, subject: str, now: datetime) -> None:
    """Count one more and forget old windows."""
    window = _window(now)
    await connection.execute("delete from attempts where window_start < $1", window - ATTEMPTS_WINDOW)
    await connection.execute(
        "insert into attempts values ($1, $2, 1) on conflict (subject, window_start) do update set count = attempts.count + 1",
        subject,
        window,
    )


async def forget_attempts(connection: Database, subject: str) -> None:
    await connection.execute("delete from attempts where subject = $1", subject)


def _window(now: datetime) -> datetime:
    seconds = int(ATTEMPTS_WINDOW.total_seconds())
    return datetime.fromtimestamp(int(now.timestamp()) // seconds * seconds, tz=now.tzinfo)
