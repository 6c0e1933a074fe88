"""What every page and every answer carries."""

import re

import httpx


async def test_a_page_has_the_strict_policy_and_no_inline_style_or_script(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'self'" in policy
    assert "form-action 'self' https://checkout.stripe.com;" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=", page.text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page.text))


async def test_what_comes_from_outside_is_escaped(client: httpx.AsyncClient) -> None:
    page = await client.get("/", params={"name": "<script>alert(1)</script>"})
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert" in page.text


async def test_every_file_named_by_a_page_is_served_under_its_hash_for_ever(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    addresses = set(re.findall(r'(?:href|src)="(/static/[^"#]+)', page.text))
    assert len(addresses) >= 5
    for address in addresses:
        answer = await client.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert re.search(r"\.[0-9a-f]{12}\.\w+$", address)


async def test_a_stylesheet_names_its_font_by_hash_and_travels_compressed(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    [address] = re.findall(r'href="(/static/turnpike[^"]+css)"', page.text)
    answer = await client.get(address, headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert re.search(r'url\("/static/vendor/inter-5.3.0/inter-latin-wght-normal\.[0-9a-f]{12}\.woff2"\)', answer.text)
    plain = await client.get(address, headers={"Accept-Encoding": "identity"})
    assert plain.text == answer.text


async def test_a_file_outside_the_folder_is_not_served(client: httpx.AsyncClient) -> None:
    assert (await client.get("/static/../pages.py")).status_code == 404
    assert (await client.get("/static/%2e%2e/pages.py")).status_code == 404


async def test_the_theme_is_kept_in_a_cookie_and_leads_back(client: httpx.AsyncClient) -> None:
    answer = await client.post("/theme", data={"theme": "dark", "next": "/?name=me"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?name=me")
    assert 'data-theme="dark"' in (await client.get("/")).text


async def test_the_theme_form_leads_to_no_other_site(client: httpx.AsyncClient) -> None:
    for target in ("https://evil.example/", "//evil.example/", "/\\evil.example", "/\tx", ""):
        answer = await client.post("/theme", data={"theme": "light", "next": target})
        assert answer.headers["location"] == "/"
    assert (await client.post("/theme", data={"theme": "neon"})).status_code == 422
    assert (await client.post("/theme", content=b"x" * 9000)).status_code == 413


async def test_errors_are_pages_for_people_and_json_for_programs(client: httpx.AsyncClient) -> None:
    for address, status, words in (
        ("/nowhere", 404, "There is no such page"),
        ("/number?value=x", 422, "not right"),
        ("/broken", 500, "on our side"),
        ("/act", 405, "cannot be used like that"),
    ):
        page = await client.get(address)
        assert page.status_code == status
        assert words in page.text
        assert "secret detail" not in page.text
        assert "default-src 'self'" in page.headers["content-security-policy"]
        program = await client.get(address, headers={"Accept": "application/json"})
        assert program.status_code == status
        assert program.headers["content-type"] == "application/json"


async def test_an_error_in_own_words_shows_them_and_the_way_on(client: httpx.AsyncClient) -> None:
    page = await client.get("/gone")
    assert page.status_code == 410
    assert "This link was used" in page.text
    assert 'href="https://portal.example/"' in page.text
