"""The pricing page in a real browser: live while somebody types or slides, complete without scripts, closed to frames of others."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.async_api import Browser, Page, expect
from scene import Scene

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
async def page(scene: Scene, chromium: Browser) -> AsyncIterator[Page]:
    context = await chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = await context.new_page()
    await page.goto(f"{scene.places.turnpike}/pricing")
    await page.evaluate("window.loadedOnce = true")
    yield page
    assert await page.evaluate("window.loadedOnce"), "the page was loaded again"
    await context.close()


async def test_prices_follow_the_number_while_it_is_typed(page: Page) -> None:
    await page.locator("#lines-pro > summary").click()
    await page.fill("#calls", "2,000,000")
    await expect(page.locator("#result")).to_contain_text("At 2,000,000 calls a month, Pro costs least")
    await expect(page.locator("#lines-pro")).to_contain_text("$1,349.95")
    assert await page.locator("#lines-pro").get_attribute("open") is not None
    assert page.url.endswith("/pricing?calls=2000000")
    await expect(page.locator("[data-live-status]")).to_have_text("Pro costs least: $1,349.95 a month")


async def test_the_slider_works_by_keyboard_and_every_press_changes_the_number(page: Page) -> None:
    slider = page.get_by_role("slider")
    await slider.press("Home")
    numbers = [await page.input_value("#calls")]
    for _ in range(30):
        await slider.press("ArrowRight")
        numbers.append(await page.input_value("#calls"))
    assert numbers[:4] == ["0", "100", "110", "120"]
    assert numbers[25] == "1,000"
    assert len(set(numbers)) == len(numbers)
    await slider.press("End")
    assert await page.input_value("#calls") == "10,000,000"
    await expect(page.locator("#result")).to_contain_text("$5,249.65")
    assert await slider.get_attribute("aria-valuetext") == "10,000,000"


async def test_a_wrong_number_is_explained_beside_the_field_and_the_figures_stay(page: Page) -> None:
    await page.fill("#calls", "-1")
    await expect(page.locator("#calls-error")).to_contain_text("Enter API calls a month as a whole number")
    await expect(page.locator("#calls")).to_have_attribute("aria-invalid", "true")
    await expect(page.locator("#result")).to_contain_text("At 120,000 calls a month")
    await page.get_by_role("button", name="Show prices").click()
    await expect(page.locator("#calls")).to_be_focused()
    await page.fill("#calls", "5")
    await expect(page.locator("#calls-error")).to_be_empty()
    assert await page.locator("#calls").get_attribute("aria-invalid") is None


async def test_a_press_in_the_chart_asks_for_that_usage(page: Page) -> None:
    plot = page.locator("svg.plot")
    box = await plot.bounding_box()
    assert box is not None
    await plot.click(position={"x": box["width"] * 0.8, "y": 20})
    await expect(page.locator("#result")).to_contain_text("At 200,000 calls a month")
    assert await page.input_value("#calls") == "200,000"
    await page.get_by_role("link", name="1,000,000", exact=True).click()
    await expect(page.locator("#result")).to_contain_text("At 1,000,000 calls a month")


async def test_without_scripts_the_form_and_the_links_lead_to_the_same_figures(scene: Scene, chromium: Browser) -> None:
    context = await chromium.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{scene.places.turnpike}/pricing")
    assert await page.get_by_role("slider").count() == 0
    await page.fill("#calls", "120 001")
    await page.get_by_role("button", name="Show prices").click()
    assert page.url.endswith("/pricing?calls=120+001")
    await expect(page.locator("#result")).to_contain_text("At 120,001 calls a month, Standard costs least")
    await page.locator("#lines-standard > summary").click()
    await expect(page.locator("#lines-standard")).to_contain_text("exactly $20.001")
    await page.get_by_role("link", name="100,000", exact=True).click()
    await expect(page.locator("#result")).to_contain_text("At 100,000 calls a month")
    await context.close()


@contextmanager
def site(html: str) -> Iterator[str]:
    """Another site: a page on an origin of its own. It is a real server, because browsers trust no made-up page with a local address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


async def test_a_site_that_is_not_named_cannot_show_the_prices_in_a_frame(scene: Scene, chromium: Browser) -> None:
    page = await chromium.new_page()
    with site(f'<link rel="icon" href="data:,"><iframe src="{scene.places.turnpike}/pricing/embed"></iframe>') as address:
        async with page.expect_event("requestfailed") as failed:
            await page.goto(address)
        assert (await failed.value).failure == "net::ERR_BLOCKED_BY_RESPONSE"
    await page.close()
