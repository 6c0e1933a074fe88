"""Reads a file over what is there: people who are subscribed must not lose their product, nor the currency they pay in."""

from collections.abc import Mapping
from dataclasses import dataclass

from billing_common.catalogue import Catalogue, Product
from billing_common.catalogue_mending import mend
from billing_common.catalogue_problems import CatalogueError, Problem, Problems, did_you_mean
from billing_common.catalogue_source import Path, Source, SourceError
from billing_common.catalogue_upgrade import OLDER_PLACES

Live = Mapping[tuple[str, str], int]  # number of live subscriptions by product and currency
PRICED_BY = frozenset({"price", "currency", "currencies"})


class StillSubscribedError(CatalogueError):
    """The file is right in itself, but people are subscribed to what it leaves out."""


@dataclass(frozen=True)
class Reading:
    """A file that was read: what can be understood of it, what is wrong in itself, and what is wrong with the world around it."""

    catalogue: Catalogue | None  # None: it cannot be sold as it is
    products: Mapping[int, Product]  # those that can be read, by their place
    own: tuple[Problem, ...]
    of_subscribers: Problems
    of_gateway: Problems  # for whoever knows which APIs there are

    def result(self) -> Catalogue:
        """Return the catalogue; raise `CatalogueError` with everything that was found."""
        found = [*self.own, *self.of_subscribers.found, *self.of_gateway.found]
        if found == self.of_subscribers.found and found:
            raise StillSubscribedError(found)
        if found or self.catalogue is None:
            raise CatalogueError(found)
        return self.catalogue


def read_over(text: str, live: Live) -> Reading:
    """Read the file over live subscriptions. What cannot be read of a broken one is not held against it."""
    catalogue: Catalogue | None = None
    own: tuple[Problem, ...] = ()
    try:
        catalogue = Catalogue.parse(text)
    except CatalogueError as error:
        own = tuple(error.problems)
    try:
        source = Source(text)
    except SourceError:
        nothing = Source("{}")
        return Reading(None, {}, own, Problems(nothing), Problems(nothing))
    of_subscribers, of_gateway = _problems(source), _problems(source)
    if catalogue is not None:
        products = dict(enumerate(catalogue.products))
        _note(of_subscribers, catalogue, products, live)
        return Reading(catalogue, products, own, of_subscribers, of_gateway)
    return Reading(None, _note_of_broken(of_subscribers, source, live), own, of_subscribers, of_gateway)


def _problems(source: Source) -> Problems:
    problems = Problems(source)
    if isinstance(source.value, list):
        problems.read_from_array(OLDER_PLACES)
    return problems


def _note_of_broken(problems: Problems, source: Source, live: Live) -> Mapping[int, Product]:
    rest = mend(source.value)
    if not rest.products or any(path[:1] == ("products",) and path[2:] in {(), ("id",)} for path in rest.gone):
        return rest.products
    catalogue = Catalogue.model_construct(version=1, currency=rest.currency, meters=rest.meters, products=tuple(rest.products.values()))
    broken: set[Path] = {path[:2] for path in rest.gone if PRICED_BY.intersection(str(part) for part in path[2:3])}
    priced = {index: product for index, product in rest.products.items() if ("products", index) not in broken}
    _note(problems, catalogue, priced, live)
    return rest.products


def _note(problems: Problems, catalogue: Catalogue, priced: Mapping[int, Product], live: Live) -> None:
    ids = {product.id for product in catalogue.products}
    places = {product.id: (index, product) for index, product in priced.items()}
    for (product_id, currency), count in sorted(live.items()):
        subscriptions = "1 live subscription" if count == 1 else f"{count:,} live subscriptions"
        if product_id not in ids:
            message = f'the product "{product_id}" is missing and has {subscriptions}.{did_you_mean(product_id, ids)}'
            problems.add(("products",), message, "products that nobody is subscribed to may be removed")
            continue
        index, product = places.get(product_id, (0, None))
        if product is not None and not product.is_free and catalogue.price_of(product, currency) is None:
            sold_in = ", ".join((catalogue.currency_of(product), *product.currencies))
            message = f'the product "{product_id}" has {subscriptions} in {currency} and no price in it; it has {sold_in}'
            allowed = f'keep {currency} in "currencies", or a new product in the other currency'
            problems.add(problems.first_there(_places_of_currency(index)), message, allowed)


def _places_of_currency(index: int) -> tuple[Path, ...]:
    """Where a file says in which currencies a product is sold: in the older form, in the product itself, for all products."""
    product: Path = ("products", index)
    older = tuple((index, "prices", kind, "currency") for kind in ("unit", "metered"))
    return (*older, (*product, "currencies"), (*product, "currency"), ("currency",), (*product, "price"))
