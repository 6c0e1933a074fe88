"""Which requests may act: a table of what browsers and programs send."""

import httpx
import pytest
from starlette.datastructures import Headers

from turnpike_ui.security import may_act

OWN = "http://shop.test"


@pytest.mark.parametrize(
    ("method", "headers", "allowed"),
    [
        ("POST", {"sec-fetch-site": "same-origin"}, True),
        ("POST", {"sec-fetch-site": "none"}, True),
        ("POST", {"sec-fetch-site": "same-site"}, False),
        ("POST", {"sec-fetch-site": "cross-site"}, False),
        ("POST", {"sec-fetch-site": "cross-site", "origin": OWN}, False),
        ("POST", {"origin": OWN}, True),
        ("POST", {"origin": "https://evil.example"}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {}, True),
        ("DELETE", {"sec-fetch-site": "cross-site"}, False),
        ("PUT", {"origin": "https://evil.example"}, False),
        ("GET", {"sec-fetch-site": "cross-site"}, True),
        ("HEAD", {"origin": "https://evil.example"}, True),
    ],
)
def test_a_request_acts_only_from_our_own_pages_or_without_a_browser(method: str, headers: dict[str, str], allowed: bool) -> None:
    assert may_act(method, Headers(headers), OWN) is allowed


async def test_a_cross_site_form_gets_a_page_that_says_nothing_changed(client: httpx.AsyncClient) -> None:
    refused = await client.post("/act", headers={"Sec-Fetch-Site": "cross-site"})
    assert refused.status_code == 403
    assert "nothing was changed" in refused.text
    assert "default-src 'self'" in refused.headers["content-security-policy"]
    assert (await client.post("/act", headers={"Sec-Fetch-Site": "same-origin"})).status_code == 200


async def test_only_exempt_paths_take_foreign_requests(client: httpx.AsyncClient) -> None:
    assert (await client.post("/webhooks/stripe", headers={"Origin": "https://evil.example"})).status_code == 200
    assert (await client.post("/webhooks", headers={"Origin": "https://evil.example"})).status_code == 403


async def test_behind_a_proxy_the_public_origin_counts_and_not_the_host(proxied_client: httpx.AsyncClient) -> None:
    assert (await proxied_client.post("/act", headers={"Origin": "https://api.shop.example"})).status_code == 200
    assert (await proxied_client.post("/act", headers={"Origin": "http://10.0.0.1"})).status_code == 403
    assert "max-age" in (await proxied_client.get("/")).headers["strict-transport-security"]
