"""Operations that a catalogue names must be there at API Management: a plan that gates by a misspelt one would open nothing."""

from collections.abc import Mapping

from billing_common.catalogue import Catalogue, CatalogueError, Problem
from billing_common.catalogue_problems import did_you_mean, json_path
from checkout.apim_gateway import ApimGateway


async def refuse_unknown_operations(apim: ApimGateway, catalogue: Catalogue) -> None:
    """Raise `CatalogueError` that names every operation, and every API with operations, that API Management does not have."""
    wanted = {api for product in catalogue.products for api in product.operations}
    found = {api: await apim.read_operations(api) for api in sorted(wanted)}
    problems = unknown_operations(catalogue, found)
    if problems:
        raise CatalogueError(problems)


def unknown_operations(catalogue: Catalogue, found: Mapping[str, frozenset[str] | None]) -> list[Problem]:
    """Compare the catalogue with the operations of each API; None: there is no such API."""
    problems = []
    for index, product in enumerate(catalogue.products):
        for api, operations in product.operations.items():
            known = found[api]
            path = json_path(("products", index, "operations", api))
            if known is None:
                problems.append(Problem(path, 1, f'API Management has no API "{api}"', "ids of APIs that it has"))
                continue
            for operation in operations:
                if operation not in known:
                    hint = did_you_mean(operation, known)
                    message = f'the API "{api}" has no operation "{operation}" (ids are compared with upper and lower case).{hint}'
                    problems.append(Problem(path, 1, message, ", ".join(sorted(known))))
    return problems
