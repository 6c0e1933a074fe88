"""What a new service holds: the administrator, the built-in groups, the master subscription and the sample API."""

import re

from billing_common.clock import BusinessClock
from sandbox_apim.arm.kinds import timestamp
from sandbox_apim.arm.subscriptions import new_key
from sandbox_apim.sample_api import OPERATIONS, SERVICE_URL
from sandbox_apim.store import Store

GROUPS = {
    "administrators": ("Administrators", "Manages the service"),
    "developers": ("Developers", "Signed-in users of the developer portal"),
    "guests": ("Guests", "Visitors of the developer portal"),
}


def seed(store: Store, clock: BusinessClock, sample_api: str) -> None:
    """Fill an empty store; one that has been used is left as it is, except for the sample API's address."""
    now = timestamp(clock.now())
    if store.get("users/1") is None:
        administrator = {"firstName": "Administrator", "lastName": "Sandbox", "email": "admin@example.com", "state": "active"}
        store.put("users/1", {**administrator, "identities": [{"provider": "Azure", "id": "admin@example.com"}], "registrationDate": now})
        for name, (title, description) in GROUPS.items():
            store.put(f"groups/{name}", {"displayName": title, "description": description, "type": "system", "builtIn": True})
        master = {"displayName": "Built-in all-access subscription", "scope": "", "state": "active", "createdDate": now, "startDate": now}
        store.put("subscriptions/master", master, {"primaryKey": new_key(), "secondaryKey": new_key()})
        _seed_sample_api(store)
    _set_sample_address(store, SERVICE_URL if sample_api == "built-in" else sample_api)


def _seed_sample_api(store: Store) -> None:
    store.put(
        "apis/orders",
        {
            "displayName": "Orders API",
            "path": "",
            "protocols": ["http", "https"],
            "subscriptionRequired": True,
            "serviceUrl": SERVICE_URL,
            "subscriptionKeyParameterNames": {"header": "Ocp-Apim-Subscription-Key", "query": "subscription-key"},
            "apiRevision": "1",
            "isCurrent": True,
            "provisioningState": "Succeeded",
        },
    )
    for name, title, method, template in OPERATIONS:
        parameters = [{"name": found, "type": "integer", "required": True} for found in re.findall(r"\{([^}]+)\}", template)]
        store.put(
            f"apis/orders/operations/{name}",
            {"displayName": title, "method": method, "urlTemplate": template, "templateParameters": parameters},
        )


def _set_sample_address(store: Store, address: str) -> None:
    api = store.get("apis/orders")
    if api is not None and api.properties.get("serviceUrl") != address:
        store.put(api.path, {**api.properties, "serviceUrl": address})
