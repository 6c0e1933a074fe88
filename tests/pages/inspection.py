"""Looks at one page in both colour schemes and both widths, and says what is wrong with it."""

from dataclasses import dataclass, field

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route
from views import View

WIDTHS = (1280, 390)
BYTES_MAX = 100_000
TARGET_MIN = 24
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
TARGETS = """
(least) => [...document.querySelectorAll("a[href], button, summary, select, textarea, input:not([type=hidden])")]
  .filter((one) => one.checkVisibility() && !one.matches(".skip"))
  .filter((one) => !(getComputedStyle(one).display === "inline" && one.parentElement.textContent.trim() !== one.textContent.trim()))
  .map((one) => [one, one.getBoundingClientRect()])
  .filter(([, box]) => box.width < least || box.height < least)
  .map(([one, box]) => `${one.outerHTML.slice(0, 80)} ${Math.round(box.width)}x${Math.round(box.height)}`)
"""
SIZES = """
[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")].map((one) => one.transferSize)
"""
AXE = """
(options) => axe.run(document, options).then((found) => found.violations.map(
  (one) => `${one.id}: ${one.nodes.slice(0, 3).map((node) => node.html.slice(0, 120)).join(" | ")}`))
"""


@dataclass
class Findings:
    """What is wrong, by kind of fault; each line starts with the page's name."""

    by_kind: dict[str, list[str]] = field(default_factory=dict)
    pages: int = 0

    def add(self, kind: str, view: View, where: str, text: object) -> None:
        self.by_kind.setdefault(kind, []).append(f"{view.name} ({where}): {text}")


async def open_view(context: BrowserContext, view: View) -> tuple[Page, int]:
    """Open a page and do what belongs to it; returns the status of the first answer."""
    page = await context.new_page()
    answer = await page.goto(view.address)
    assert answer is not None
    if view.act is not None:
        await view.act(page)
    await page.evaluate("document.fonts.ready")
    return page, answer.status


async def inspect(browser: Browser, view: View, cookies: list[dict[str, object]], axe: str, findings: Findings) -> None:
    context = await browser.new_context(color_scheme="light", viewport={"width": WIDTHS[0], "height": 800}, reduced_motion="reduce")
    try:
        await context.add_cookies(cookies)  # type: ignore[arg-type]
        sizes: list[int] = []
        context.on("console", lambda message: _note_console(message, view, findings))
        context.on("weberror", lambda error: findings.add("console", view, "script", error.error))
        context.on("requestfailed", lambda request: _note_failure(request, view, findings))
        page, status = await open_view(context, view)
        await context.route("**/*", _stay)
        if status != view.status:
            findings.add("status", view, page.url, f"{status} instead of {view.status}")
        if view.act is None:
            sizes = await page.evaluate(SIZES)
            if sum(sizes) > BYTES_MAX:
                findings.add("bytes", view, "first visit", f"{sum(sizes):,} bytes")
        if styled := await page.locator("[style], style").count():
            findings.add("style", view, "markup", f"{styled} elements with a style")
        await page.evaluate(axe)
        await _in_each_variant(page, view, findings)
        findings.pages += 1
    finally:
        await context.close()


async def _in_each_variant(page: Page, view: View, findings: Findings) -> None:
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            for text in await page.evaluate(AXE, {"runOnly": {"type": "tag", "values": RULES}, "resultTypes": ["violations"]}):
                findings.add("axe", view, f"{scheme} {width}", text)
        if (wide := await page.evaluate("document.documentElement.scrollWidth")) > width:
            findings.add("sideways", view, str(width), f"{wide} px wide")
        for text in await page.evaluate(TARGETS, TARGET_MIN):
            findings.add("targets", view, str(width), text)


async def _stay(route: Route) -> None:
    """Answer "nothing new", so that a page that looks again by itself stays while it is looked at."""
    await route.fulfill(status=204)


def _note_failure(request: Request, view: View, findings: Findings) -> None:
    if not (request.is_navigation_request() and request.failure == "net::ERR_ABORTED"):  # a page that was told to stay
        findings.add("console", view, "request", f"{request.url} {request.failure}")


def _note_console(message: ConsoleMessage, view: View, findings: Findings) -> None:
    """Keep errors and warnings, but for the browser's own remark that the page itself was answered with an error status."""
    if message.type not in {"error", "warning"}:
        return
    page = message.page
    own = page is not None and message.location.get("url") == page.url
    if not (own and message.text.startswith("Failed to load resource: the server responded with a status of ")):
        findings.add("console", view, message.type, message.text)
