"""What a new catalogue must not take from people who are subscribed: their product, and the currency they pay in."""

from collections.abc import Mapping

from billing_common.catalogue import Catalogue, Product
from billing_common.catalogue_mending import mend
from billing_common.catalogue_problems import CatalogueError, Problems, did_you_mean
from billing_common.catalogue_source import Path, Source, SourceError

Live = Mapping[tuple[str, str], int]
PRICED_BY = frozenset({"price", "currency", "currencies"})


class StillSubscribedError(CatalogueError):
    """The file is right in itself, but people are subscribed to what it leaves out."""


def read_over(text: str, live: Live) -> Catalogue:
    """Read the file over live subscriptions, counted by product and currency; raise `CatalogueError` with all problems at once."""
    try:
        catalogue = Catalogue.parse(text)
    except CatalogueError as error:
        raise CatalogueError([*error.problems, *_of_broken(text, live).found]) from error
    problems = _of_text(text)
    _note(problems, catalogue, dict(enumerate(catalogue.products)), live)
    if problems.found:
        raise StillSubscribedError(problems.found)
    return catalogue


def _of_text(text: str) -> Problems:
    source = Source(text)
    problems = Problems(source)
    if isinstance(source.value, list):
        problems.read_from_array()
    return problems


def _of_broken(text: str, live: Live) -> Problems:
    """Look at what can be read of a file that has other problems; what cannot be read is not held against it."""
    try:
        problems, document = _of_text(text), Source(text).value
    except SourceError:
        return Problems(Source("{}"))
    rest = mend(document)
    if not rest.products or any(path[:1] == ("products",) and path[2:] in {(), ("id",)} for path in rest.gone):
        return problems
    catalogue = Catalogue.model_construct(version=1, currency=rest.currency, meters=rest.meters, products=tuple(rest.products.values()))
    broken: set[Path] = {path[:2] for path in rest.gone if PRICED_BY.intersection(str(part) for part in path[2:3])}
    readable = {index: product for index, product in rest.products.items() if ("products", index) not in broken}
    _note(problems, catalogue, readable, live)
    return problems


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
            problems.add(("products", index, "currencies"), message, allowed)
