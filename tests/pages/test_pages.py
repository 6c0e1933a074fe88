"""Every page in a real browser: both colour schemes, phone and desk, keyboard alone, and without JavaScript."""

import pytest
from inspection import Findings
from playwright.async_api import Browser, Page, expect
from scene import Scene

pytestmark = pytest.mark.timeout(600)
PAGES_MIN = 50
STOPS = """
() => [...document.querySelectorAll("a[href], button, summary, select, textarea, input:not([type=hidden])")]
  .filter((one) => one.checkVisibility() && !one.disabled).map((one, place) => { one.dataset.place = place; return place; })
"""
FOCUSED = """
() => { const one = document.activeElement, style = getComputedStyle(one);
        return [one.dataset.place ?? "", parseFloat(style.outlineWidth), style.outlineStyle, one.outerHTML.slice(0, 90)]; }
"""


@pytest.mark.parametrize("kind", ["status", "console", "axe", "sideways", "style", "targets", "bytes"])
def test_no_page_has_a_fault_of_this_kind(findings: Findings, kind: str) -> None:
    assert findings.pages >= PAGES_MIN
    assert findings.by_kind.get(kind, []) == []


@pytest.mark.parametrize("name", ["pricing", "subscription", "sign-in"])
async def test_tab_visits_everything_in_reading_order_with_a_visible_outline(scene: Scene, chromium: Browser, name: str) -> None:
    sam = scene.people["sam"]
    address = sam.bought["standard"].page if name == "subscription" else f"{scene.places.turnpike}/{name}"
    page = await _page(chromium, scene, "sam" if name == "subscription" else "")
    await page.goto(address)
    expected = [str(place) for place in await page.evaluate(STOPS)]
    visited = []
    for _ in expected:
        await page.keyboard.press("Tab")
        place, width, style, markup = await page.evaluate(FOCUSED)
        assert style != "none", markup
        assert width >= 2, markup
        visited.append(place)
    assert visited == expected
    await page.context.close()


async def test_a_refused_form_has_the_focus_on_its_summary_and_says_so_in_the_title(scene: Scene, chromium: Browser) -> None:
    page = await _page(chromium, scene, "")
    await page.goto(f"{scene.places.turnpike}/register")
    await page.fill("[name=email]", "nobody")
    await page.get_by_role("button", name="Create account").click()
    await expect(page.locator("[data-error-summary]")).to_be_focused()
    assert (await page.title()).startswith("Error: ")
    assert await page.input_value("[name=email]") == "nobody"
    await page.context.close()


async def test_the_key_is_copied_and_the_page_says_so(scene: Scene, chromium: Browser) -> None:
    page = await _page(chromium, scene, "sam")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.goto(scene.people["sam"].bought["standard"].page)
    await page.get_by_role("button", name="Show").first.click()
    await page.get_by_role("button", name="Copy").first.click()
    await expect(page.get_by_role("status").first).to_have_text("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == scene.people["sam"].bought["standard"].key
    await page.context.close()


async def test_everything_from_sign_up_to_the_key_works_without_javascript(scene: Scene, chromium: Browser) -> None:
    page = await _page(chromium, scene, "", java_script_enabled=False)
    await page.goto(scene.places.portal)
    await page.get_by_role("link", name="Sign up").first.click()
    for name, value in {
        "first_name": "Plain",
        "last_name": "Example",
        "email": "plain@example.com",
        "password": "plain long password",
    }.items():
        await page.fill(f"[name={name}]", value)
    await page.get_by_role("button", name="Create account").click()
    await page.goto(f"{scene.places.portal}/products/standard")
    await page.get_by_role("link", name="Subscribe").first.click()
    await page.fill("[name=display_name]", "Without scripts")
    await page.check("[name=consent]")
    await page.get_by_role("button", name="Go on to payment").click()
    for name, value in {"number": "4242 4242 4242 4242", "expiry": "12/40", "cvc": "123", "name": "Plain Example"}.items():
        await page.fill(f"[name={name}]", value)
    await page.get_by_role("button", name="Pay $").click()
    await page.get_by_role("button", name="Show").first.click(timeout=20_000)  # the page looks again by itself
    await expect(page.locator(".secret code").first).not_to_contain_text("•")
    await _change_theme(page)
    await page.context.close()


async def _change_theme(page: Page) -> None:
    await page.goto(page.url)
    await page.get_by_role("button", name="Dark").click()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await page.get_by_role("button", name="System").click()
    await expect(page.locator("html[data-theme]")).to_have_count(0)


async def _page(chromium: Browser, scene: Scene, person: str, *, java_script_enabled: bool = True) -> Page:
    context = await chromium.new_context(java_script_enabled=java_script_enabled, reduced_motion="reduce")
    if person:
        await context.add_cookies(scene.people[person].cookies())  # type: ignore[arg-type]
    return await context.new_page()
