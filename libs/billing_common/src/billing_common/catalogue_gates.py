"""Rules of what a plan's key may call: APIs, and operations of them."""

from billing_common.catalogue_model import Product
from billing_common.catalogue_problems import Problems, did_you_mean
from billing_common.catalogue_source import Path


def check_gates(product: Product, path: Path, problems: Problems) -> None:
    """Note operations of an API that the product does not have, and operations that are named twice."""
    lower = [api.lower() for api in product.apis]
    for index, api in enumerate(lower):
        if api in lower[:index]:
            problems.add((*path, "apis", index), f'the API "{product.apis[index]}" is named twice', "each API once")
    for api, operations in product.operations.items():
        at = (*path, "operations", api)
        if api not in product.apis:
            allowed = ", ".join(product.apis) or 'none: the product has no "apis"'
            problems.add(at, f'"{api[:80]}" is not in "apis": its keys open no operation of it.{did_you_mean(api, product.apis)}', allowed)
        for index, operation in enumerate(operations):
            if operation in operations[:index]:
                problems.add((*at, index), f'the operation "{operation}" is named twice', "each operation once")
