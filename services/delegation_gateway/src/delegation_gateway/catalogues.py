"""The applied catalogues, parsed once each: a version never changes."""

from billing_common.catalogue import Catalogue
from delegation_gateway import read_models
from delegation_gateway.database import Database
from delegation_gateway.price_book import PriceBook

VERSIONS_MAX = 50


class Catalogues:
    """Gives parsed catalogues by version and keeps the last used ones."""

    def __init__(self) -> None:
        self._parsed: dict[int, Catalogue] = {}
        self._book: PriceBook | None = None

    async def latest(self, connection: Database) -> tuple[int, Catalogue] | None:
        """Return the version that is sold now, or None before the first was applied."""
        version = await read_models.latest_catalogue_version(connection)
        if version is None:
            return None
        catalogue = await self.version(connection, version)
        return None if catalogue is None else (version, catalogue)

    async def prices(self, connection: Database) -> PriceBook | None:
        """Return the prices of what is sold now, with all that was worked out for earlier visitors."""
        applied = await self.latest(connection)
        if applied is not None and (self._book is None or self._book.version != applied[0]):
            self._book = PriceBook(*applied)
        return None if applied is None else self._book

    async def version(self, connection: Database, version: int) -> Catalogue | None:
        """Return one version, the one a subscription bought for example; None when it has not arrived here yet."""
        if version not in self._parsed:
            document = await read_models.catalogue_document(connection, version)
            if document is None:
                return None
            if len(self._parsed) >= VERSIONS_MAX:
                self._parsed.pop(min(self._parsed))
            self._parsed[version] = Catalogue.from_document(document)
        return self._parsed[version]
