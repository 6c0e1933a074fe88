"""One person's browser without scripts: cookies, redirects, links and forms. What a page does not offer, it cannot do."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
from lxml import html

TIMEOUT_SECONDS = 20


class StoryError(Exception):
    """The page is not what the story expects; the message says which page and what it shows."""


@dataclass(frozen=True)
class Page:
    """A page as received."""

    url: str
    status: int
    body: str

    @property
    def tree(self) -> Any:
        return html.fromstring(self.body or "<html></html>", base_url=self.url)

    @property
    def text(self) -> str:
        """The words a reader sees, with single blanks."""
        tree = self.tree
        for hidden in tree.xpath("//script|//style|//head"):
            hidden.drop_tree()
        return " ".join(str(tree.text_content()).split())

    @property
    def title(self) -> str:
        return " ".join("".join(str(part) for part in self.tree.xpath("//title//text()")).split())

    def link(self, words: str) -> str:
        """Return the address of the first link whose words contain `words`. Raises StoryError."""
        for anchor in self.tree.xpath("//a[@href]"):
            if words.lower() in " ".join(anchor.text_content().split()).lower():
                return urljoin(self.url, str(anchor.get("href")))
        raise StoryError(f"no link “{words}” on {self}")

    def form(self, button: str = "", *, action: str = "") -> Any:
        """Return the form that has a button with these words and an action containing `action`. Raises StoryError."""
        for form in self.tree.forms:
            words = " ".join(
                " ".join(one.text_content().split()) or one.get("value", "") for one in form.xpath(".//button|.//input[@type='submit']")
            )
            if button.lower() in words.lower() and action in urlsplit(urljoin(self.url, form.action or "")).path:
                return form
        raise StoryError(f"no form with the button “{button}”{f' to {action}' if action else ''} on {self}")

    def has(self, words: str) -> bool:
        return words.lower() in self.text.lower()

    def __str__(self) -> str:
        return f"“{self.title}” ({self.status}, {urlsplit(self.url).path}): {self.text[:300]}"


class Browser:
    """Opens pages and sends forms as a browser does; each person of the story has one."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            follow_redirects=True, timeout=TIMEOUT_SECONDS, headers={"accept": "text/html", "user-agent": "turnpike-demo"}
        )

    async def open(self, url: str) -> Page:
        return _page(await self._client.get(url, headers={"sec-fetch-site": "none"}))

    async def submit(self, page: Page, button: str, fields: Mapping[str, str] | None = None, *, action: str = "") -> Page:
        """Fill in the form behind `button` and send it. Raises StoryError for a field the form does not have."""
        form = page.form(button, action=action)
        values = {name: value for name, value in form.form_values()}  # noqa: C416 - a list of pairs
        for name, value in (fields or {}).items():
            if name not in form.fields:
                raise StoryError(f"the form “{button}” has no field {name!r}, only {sorted(form.fields)}, on {page}")
            values[name] = value
        for pressed in form.xpath(".//button[@name]"):
            if button.lower() in pressed.text_content().lower():
                values[pressed.get("name")] = pressed.get("value", "")
        target = urljoin(page.url, form.action or page.url)
        if (form.method or "GET").upper() == "GET":
            return _page(await self._client.get(target, params=values))
        here, there = urlsplit(page.url), urlsplit(target)
        headers = {
            "origin": f"{here.scheme}://{here.netloc}",
            "sec-fetch-site": "same-origin" if here.netloc == there.netloc else "cross-site",
        }
        return _page(await self._client.post(target, data=values, headers=headers))

    async def wait_for(self, url: str, ready: Callable[[Page], bool], *, seconds: float = 20, pause: float = 0.05) -> Page:
        """Reload `url` until `ready` holds, as somebody does who waits for a page to change. Raises StoryError."""
        end = time.monotonic() + seconds
        while True:
            page = await self.open(url)
            if ready(page):
                return page
            if time.monotonic() > end:
                raise StoryError(f"waited {seconds:g} s in vain on {page}")
            await asyncio.sleep(pause)

    async def close(self) -> None:
        await self._client.aclose()


def _page(answer: httpx.Response) -> Page:
    return Page(url=str(answer.url), status=answer.status_code, body=answer.text)
