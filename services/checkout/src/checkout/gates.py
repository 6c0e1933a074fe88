"""APIs and operations that a catalogue names must be there at API Management: before anything is touched, not half-way through."""

from collections.abc import Mapping

from billing_common.catalogue import Product
from billing_common.catalogue_changes import Reading
from billing_common.catalogue_problems import Problems, did_you_mean
from checkout.apim_gateway import ApimGateway

SHOWN_MAX = 20


async def note_unknown(apim: ApimGateway, reading: Reading) -> None:
    """Note every API and every operation that API Management does not have, with its line."""
    if not any(product.apis or product.operations for product in reading.products.values()):
        return
    apis = await apim.read_apis()
    gated = {api for product in reading.products.values() for api in product.operations if api in apis}
    operations = {api: await apim.read_operations(api) for api in sorted(gated)}
    unknown(reading.products, apis, operations, reading.of_gateway)


def unknown(products: Mapping[int, Product], apis: frozenset[str], operations: Mapping[str, frozenset[str]], problems: Problems) -> None:
    """Compare products, by their place in the file, with the APIs that are there and the operations of those that are gated."""
    for index, product in products.items():
        for place, api in enumerate(product.apis):
            if api not in apis:
                message = f'API Management has no API "{api}" (ids are compared with upper and lower case).{did_you_mean(api, apis)}'
                problems.add(("products", index, "apis", place), message, _some(apis) or "an API that was added there before")
        for api, named in product.operations.items():
            for place, operation in enumerate(named if api in operations else ()):
                known = operations[api]
                if operation not in known:
                    hint = did_you_mean(operation, known)
                    message = f'the API "{api}" has no operation "{operation}" (ids are compared with upper and lower case).{hint}'
                    problems.add(("products", index, "operations", api, place), message, _some(known) or "an operation that it has")


def _some(known: frozenset[str]) -> str:
    shown = sorted(known)[:SHOWN_MAX]
    return ", ".join(shown) + (f" and {len(known) - SHOWN_MAX} more" if len(known) > SHOWN_MAX else "")
