"""What one statement can be sent to: a connection inside a transaction, or the pool where a transaction is not needed."""

from typing import TypeAlias

import asyncpg

from billing_common.db import Connection

Database: TypeAlias = Connection | asyncpg.Pool
