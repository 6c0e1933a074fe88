"""What is known of sids, segments and meters, kept in memory for speed. Postgres says what changed; nothing here is trusted alone."""

import json
from collections.abc import Iterable

from billing_common.catalogue import Catalogue, Product, UnknownProductError
from billing_common.db import Connection
from usage_collector import subscription_store
from usage_collector.metering import Holder, Rules, Stretch


class Directory:
    """Use it only under the shared lock (`store.lock_shared`): while that is held, no segment moves."""

    def __init__(self) -> None:
        self._version = 0
        self._holders: dict[str, Holder] = {}
        self._sids: dict[str, set[str]] = {}
        self._catalogues: dict[int, Catalogue] = {}
        self.rules: dict[tuple[str, int], Rules] = {}
        self._awaited: set[tuple[str, int]] = set()  # plans whose catalogue has not come yet

    async def refresh(self, connection: Connection) -> None:
        """Forget what has changed since the last call."""
        changed, self._version = await subscription_store.changed_since(connection, self._version)
        for subscription_id in changed:
            for sid in self._sids.pop(subscription_id, ()):
                self._holders.pop(sid, None)
        for plan in tuple(self._awaited):
            await self.rules_of(connection, plan)

    async def find(self, connection: Connection, sids: Iterable[str]) -> dict[str, Holder]:
        """Return who holds each sid; unknown ones are absent. Loads the rules of their segments as well.

        The answer is the caller's own: another task's `refresh` takes nothing out of it.
        """
        wanted = set(sids)
        found = {sid: holder for sid in wanted if (holder := self._holders.get(sid)) is not None}
        if len(found) < len(wanted):
            found |= await self._load(connection, [sid for sid in wanted if sid not in found])
        return found

    async def _load(self, connection: Connection, sids: list[str]) -> dict[str, Holder]:
        stretches: dict[str, list[Stretch]] = {}
        found: dict[str, tuple[str, bool]] = {}
        for row in await subscription_store.holders(connection, sids):
            found[row["sid"]] = (row["subscription_id"], row["ended"])
            if row["id"] is not None:
                plan = (row["product_id"], row["catalogue_version"])
                stretches.setdefault(row["sid"], []).append(Stretch(row["id"], row["started_at"], row["ended_at"], row["closed"], plan))
        for plan in {stretch.plan for known in stretches.values() for stretch in known}:
            await self.rules_of(connection, plan)
        loaded = {sid: Holder(subscription_id, ended, tuple(stretches.get(sid, ()))) for sid, (subscription_id, ended) in found.items()}
        for sid, holder in loaded.items():
            self._holders[sid] = holder
            self._sids.setdefault(holder.subscription_id, set()).add(sid)
        return loaded

    async def catalogue_of(self, connection: Connection, plan: tuple[str, int]) -> tuple[Catalogue, Product] | None:
        """Return a product with its catalogue; None while that version is unknown or has no such product."""
        if await self.rules_of(connection, plan) is None:
            return None
        catalogue = self._catalogues[plan[1]]
        return catalogue, catalogue.product(plan[0])

    async def rules_of(self, connection: Connection, plan: tuple[str, int]) -> Rules | None:
        """Return how a product of a catalogue version counts; None while that version is unknown or has no such product."""
        if plan in self.rules:
            return self.rules[plan]
        product_id, version = plan
        self._awaited.add(plan)
        if version not in self._catalogues:
            document = await subscription_store.catalogue_document(connection, version)
            if document is None:
                return None
            self._catalogues[version] = Catalogue.from_document(json.loads(document))
        catalogue = self._catalogues[version]
        try:
            product = catalogue.product(product_id)
        except UnknownProductError:
            return None
        self._awaited.discard(plan)
        self.rules[plan] = Rules(product, catalogue.meters)
        return self.rules[plan]
