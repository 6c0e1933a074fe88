"""What a new catalogue must not take from people who are subscribed: their product, and the currency they pay in."""

from collections.abc import Mapping

from billing_common.catalogue import Catalogue
from billing_common.catalogue_problems import Problem, did_you_mean, json_path


def refused_changes(catalogue: Catalogue, live: Mapping[tuple[str, str], int]) -> list[Problem]:
    """Compare with the live subscriptions, counted by product and currency; all problems at once."""
    places = {product.id: (index, product) for index, product in enumerate(catalogue.products)}
    problems = []
    for (product_id, currency), count in sorted(live.items()):
        if product_id not in places:
            message = f'the product "{product_id}" is missing and has {count} live subscriptions.{did_you_mean(product_id, places)}'
            problems.append(Problem("$.products", 1, message, "products that nobody is subscribed to may be removed"))
            continue
        index, product = places[product_id]
        if not product.is_free and catalogue.price_of(product, currency) is None:
            sold_in = ", ".join((catalogue.currency_of(product), *product.currencies))
            message = f'the product "{product_id}" has {count} live subscriptions in {currency} and no price in it; it has {sold_in}'
            path = json_path(("products", index, "currencies"))
            problems.append(Problem(path, 1, message, f'keep {currency} in "currencies", or a new product in the other currency'))
    return problems
