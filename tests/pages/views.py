"""Every page, as somebody meets it: who looks, where, what they do first, and what it answers."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from playwright.async_api import Page
from scene import NAMES, PLANS_TO_CHANGE, Scene

Act = Callable[[Page], Awaitable[None]]


@dataclass(frozen=True)
class View:
    """A page to look at. `act` is done after it has loaded and ends on what is to be seen."""

    name: str
    address: str
    person: str = ""
    status: int = 200
    act: Act | None = None


async def all_views(scene: Scene) -> list[View]:
    return [
        *await _public(scene),
        *await _own(scene),
        *await _subscriptions(scene),
        *_changes(scene),
        *_keys(scene),
        *await _stripe(scene),
        *await _portal(scene),
    ]


def press(words: str, **fields: str) -> Act:
    """Fill in fields by name, then press the button with these words."""

    async def act(page: Page) -> None:
        for name, value in fields.items():
            await page.fill(f"[name={name}]", value)
        async with page.expect_navigation():
            await page.get_by_role("button", name=words, exact=True).first.click()

    return act


async def open_everything(page: Page) -> None:
    """Open all that can be opened, so that what is inside is looked at too."""
    await page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


async def _public(scene: Scene) -> list[View]:
    base = scene.places.turnpike
    return [
        View("home", f"{base}/"),
        View("pricing", f"{base}/pricing"),
        View("pricing-compared", f"{base}/pricing?calls=2,000,000&product=enterprise"),
        View("pricing-opened", f"{base}/pricing?calls=2,000,000", act=open_everything),
        View("pricing-wrong", f"{base}/pricing?calls=many", status=422),
        View("pricing-embedded", f"{base}/pricing/embed?theme=dark"),
        View("register", f"{base}/register"),
        View("register-wrong", f"{base}/register", act=press("Create account", email="nobody", password="short")),
        View("sign-in", f"{base}/sign-in"),
        View("sign-in-wrong", f"{base}/sign-in", act=press("Sign in", email="nobody@example.com", password="not the password")),
        View("not-found", f"{base}/nothing-here", status=404),
        View("bad-link", f"{base}/apim-delegation?operation=SignIn&returnUrl=/&salt=c2FsdA%3D%3D&sig=AAAA", status=403),
    ]


async def _own(scene: Scene) -> list[View]:
    base = scene.places.turnpike
    used = await scene.delegation_link("kim", "/delegation-subscribe?productId=free")
    await _use_link(scene, used)
    return [
        View("home-signed-in", f"{base}/", "sam"),
        View("subscriptions", f"{base}/subscriptions", "sam"),
        View("subscriptions-empty", f"{base}/subscriptions", "new"),
        View("subscribe", await scene.delegation_link("new", "/delegation-subscribe?productId=standard"), "new"),
        View("begun-already", await scene.delegation_link("pat", "/delegation-subscribe?productId=standard"), "pat", 409),
        View("subscribe-free", await scene.delegation_link("pat", "/delegation-subscribe?productId=free"), "pat"),
        View(
            "subscribe-wrong",
            await scene.delegation_link("pat", "/delegation-subscribe?productId=pro"),
            "pat",
            act=press("Go on to payment", display_name=""),
        ),
        View("used-link", used, "kim", 410),
        View("other-persons-link", await scene.delegation_link("pat", "/delegation-subscribe?productId=payg"), "new", 403),
        View("change-password", await scene.delegation_link("new", "/change-password"), "new", 501),
        View("change-profile", await scene.delegation_link("new", "/delegation-changeProfile"), "new", 501),
        View("close-account", await scene.delegation_link("new", "/delegation-closeAccount"), "new", 501),
        View("sign-in-again", await scene.delegation_link("new", "/signin"), "new"),
        View("sign-out", await _sign_out_link(scene), "new"),
    ]


async def _use_link(scene: Scene, link: str) -> None:
    """Order with this link, so that it has been used; the order itself is cancelled."""
    browser = scene.people["kim"].browser
    offer = await browser.open(link)
    page = await browser.submit(offer, "", {"display_name": "First try", "consent": "yes"}, action="/apim-delegation")
    address = page.url.removesuffix("/ready")
    await browser.wait_for(f"{address}/ready", lambda shown: shown.has("Your key is ready"))
    question = await browser.open(f"{address}/cancel")
    await browser.submit(question, "", action="/cancel")


async def _sign_out_link(scene: Scene) -> str:
    return await scene.delegation_link("new", "/signout")


async def _subscriptions(scene: Scene) -> list[View]:
    sam, lee, kim, pat = (scene.people[name] for name in ("sam", "lee", "kim", "pat"))
    listed = await pat.browser.open(f"{scene.places.turnpike}/subscriptions")
    unpaid = listed.link(NAMES["standard"])
    active = sam.bought["standard"].page
    bill, bill_day, bill_events = await scene.bill_pages("sam", "payg")
    return [
        View("usage", f"{sam.bought['developer'].page}/usage", "sam"),
        View("usage-hours", await scene.usage_of_a_day("sam", "developer"), "sam"),
        View("usage-empty", f"{lee.bought['basic'].page}/usage", "lee"),
        View("usage-wrong", f"{active}/usage?from=tomorrow", "sam", 422),
        View("bill", bill, "sam"),
        View("bill-day", bill_day, "sam", act=open_everything),
        View("bill-events", bill_events, "sam"),
        View("bill-of-somebody-else", bill, "kim", 404),
        View("subscription", active, "sam"),
        View("subscription-key", active, "sam", act=press("Show")),
        View("subscription-developer", sam.bought["developer"].page, "sam"),
        View("subscription-free", sam.bought["free"].page, "sam"),
        View("subscription-ended", sam.bought["payg"].page, "sam"),
        View("subscription-ending", sam.bought["basic"].page, "sam"),
        View("subscription-suspended", lee.bought["basic"].page, "lee"),
        View("subscription-past-due", kim.bought["standard"].page, "kim"),
        View("subscription-unpaid", unpaid, "pat"),
        View("not-paid", f"{unpaid}/not-paid", "pat"),
        View("ready", f"{active}/ready", "sam"),
        View("ready-ended", f"{sam.bought['payg'].page}/ready", "sam"),
        View("waiting", f"{unpaid}/ready", "pat"),
        View("cancel", f"{active}/cancel", "sam"),
        View("cancel-free", f"{sam.bought['free'].page}/cancel", "sam"),
        View("somebody-elses", active, "kim", 404),
        View("signed-out", active),
    ]


def _changes(scene: Scene) -> list[View]:
    made, planned, failed = (scene.people[name].bought[product].page for name, product in PLANS_TO_CHANGE.items())
    own = scene.people["sam"].bought["standard"].page
    return [
        View("subscription-changed", made, "ada"),
        View("subscription-change-planned", planned, "ben"),
        View("subscription-change-failed", failed, "eve"),
        View("change", f"{own}/change", "sam"),
        View("change-up", f"{own}/change/pro", "sam"),
        View("change-down", f"{made}/change/basic", "ada"),
        View("change-planned-already", f"{planned}/change", "ben", 409),
        View("change-refused", f"{own}/change/basic", "sam", 409),
    ]


def _keys(scene: Scene) -> list[View]:
    async def show_second(page: Page) -> None:
        async with page.expect_navigation():
            await page.locator("#key-2").get_by_role("button", name="Show", exact=True).click()
        await open_everything(page)

    own = scene.people["ben"].bought["pro"].page
    return [
        View("keys", own, "ben"),
        View("keys-opened", own, "ben", act=show_second),
        View("keys-unnamed", own, "ben", act=press("Add a key", name="")),
    ]


async def _stripe(scene: Scene) -> list[View]:
    async def decline(page: Page) -> None:
        button = (await page.get_by_role("button").filter(has_text="Pay $").first.text_content() or "").strip()
        await press(button, number="4000 0000 0000 0002", expiry="12/40", cvc="123", name="Sample")(page)

    checkout = await scene.checkout_page()
    return [
        View("stripe-overview", f"{scene.stripe}/"),
        View("stripe-webhooks", f"{scene.stripe}/webhooks"),
        View("stripe-invoice", await scene.invoice_page()),
        View("checkout", checkout),
        View("checkout-declined", checkout, act=decline),
        View("billing", await scene.billing_page("sam", "standard")),
        View("billing-past-due", await scene.billing_page("kim", "standard")),
        View("stripe-not-found", f"{scene.stripe}/nothing-here", status=404),
    ]


async def _portal(scene: Scene) -> list[View]:
    base = scene.places.portal
    return [
        View("portal-home", f"{base}/"),
        View("portal-home-signed-in", f"{base}/", "sam"),
        View("portal-products", f"{base}/products"),
        View("portal-product", f"{base}/products/standard", "sam"),
        View("portal-product-signed-out", f"{base}/products/standard"),
        View("portal-profile", f"{base}/profile", "sam"),
        View("portal-profile-keys", f"{base}/profile", "sam", act=press("Show keys")),
        View("portal-profile-empty", f"{base}/profile", "pat"),
        View("portal-not-found", f"{base}/nothing-here", status=404),
    ]
