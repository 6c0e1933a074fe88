"""Looks at API Management with each service's credential: reachable, the right service and tier, and what may be read."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from turnpike_cli.findings import Finding, failed, fine, warning

AREA = "API Management"
READ_ROLE = "API Management Service Reader Role"
WRITE_ROLE = "API Management Service Contributor"
NO_DELEGATION = {"Consumption"}


async def examine(settings: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    with_service = {name: given for name, given in settings.items() if given.get("APIM_SERVICE_NAME")}
    findings = []
    for name, given in with_service.items():  # one after another: Azure limits reads, and all share the same client library
        findings += await _examine_service(name, given)
    return findings


async def _examine_service(service: str, given: Mapping[str, str]) -> list[Finding]:
    from pydantic import ValidationError

    from billing_common.apim_client import create_client  # the vendor's SDK takes a second to import
    from billing_common.settings import ApimSettings

    try:
        settings = ApimSettings.model_validate({k.lower(): v for k, v in given.items() if k.startswith("APIM_")})
    except ValidationError as error:
        fields = ", ".join(str(entry["loc"][0]).upper() for entry in error.errors(include_input=False))
        return [failed(AREA, f"{service}: {fields} are missing or wrong", "see the settings table in README.md")]
    try:
        client = create_client(settings)
    except OSError:  # ssl's own errors among them
        return [failed(AREA, f"{service}: {settings.apim_ca_file} holds no certificate", "set APIM_CA_FILE to the CA of the sandbox")]
    try:
        return await _ask_all(service, client, settings.apim_resource_group, settings.apim_service_name)
    finally:
        await client.close()


async def _ask_all(service: str, client: Any, group: str, name: str) -> list[Finding]:
    questions: dict[str, Callable[[], Awaitable[Any]]] = {
        "the service": lambda: client.api_management_service.get(group, name),
        "products": lambda: _first(client.product.list_by_service(group, name, top=1)),
        "users": lambda: _first(client.user.list_by_service(group, name, top=1)),
        "subscriptions": lambda: _first(client.subscription.list(group, name, top=1)),
        "delegation settings": lambda: client.delegation_settings.get(group, name),
    }
    findings, tier = [], ""
    for what, question in questions.items():
        answer, finding = await _ask(service, what, question)
        if finding is not None:
            findings.append(finding)
            if what == "the service":
                return findings
        elif what == "the service":
            tier = str(getattr(getattr(answer, "sku", None), "name", ""))
    if tier in NO_DELEGATION:
        findings.append(
            failed(AREA, f"{name} is of the tier {tier}, which has no developer portal", "use Developer, Basic, Standard or Premium")
        )
    return findings or [fine(AREA, f"{service}: {name}{f' ({tier})' if tier else ''}, all {len(questions)} kinds can be read")]


async def _first(pages: Any) -> Any:
    async for entry in pages:
        return entry
    return None


async def _ask(service: str, what: str, question: Callable[[], Awaitable[Any]]) -> tuple[Any, Finding | None]:
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

    try:
        async with asyncio.timeout(20):
            return await question(), None
    except ClientAuthenticationError:
        identity = "the workload's identity" if "KUBERNETES_SERVICE_HOST" in os.environ else "`az login` or AZURE_CLIENT_ID and its secret"
        return None, failed(AREA, f"{service}: the credential is refused", f"check {identity}; on the sandbox APIM_STATIC_TOKEN")
    except HttpResponseError as error:
        return None, _refused(service, what, error.status_code)
    except (AzureError, TimeoutError, OSError) as error:
        remedy = "check the network, APIM_BASE_URL and APIM_CA_FILE"
        return None, failed(AREA, f"{service}: does not answer ({type(error).__name__})", remedy)


def _refused(service: str, what: str, status: int | None) -> Finding:
    if status == 404:
        remedy = "correct APIM_SUBSCRIPTION_ID, APIM_RESOURCE_GROUP and APIM_SERVICE_NAME"
        return failed(AREA, f"{service}: {what} cannot be found", remedy)
    if status == 403:
        remedy = f"assign the role {WRITE_ROLE} (to look only: {READ_ROLE}) on the service"
        return failed(AREA, f"{service}: may not read {what}", remedy)
    if status == 429:
        return warning(AREA, f"{service}: Azure limits the rate of calls", "run the doctor again in a minute")
    return failed(AREA, f"{service}: {what} answers {status}", "look at the service's activity log")
