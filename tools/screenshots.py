"""Makes the pictures of docs/images: a stack in a temporary folder, a scene on it, one small PNG per picture.

`python tools/screenshots.py` needs a Chromium (see tests/pages/browser.py); `--all FOLDER` takes every page in both colours and widths.
"""

import argparse
import asyncio
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, async_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "pages"))

import browser as browsers  # noqa: E402 - found through the line above
from inspection import open_view  # noqa: E402
from scene import Scene, play  # noqa: E402
from views import View, all_views  # noqa: E402

from turnpike_cli.stack import Stack  # noqa: E402

DAYS = 19  # of usage in the month on the pictures
COLOURS = 192
BYTES_MAX = 120_000
TITLES = {
    "pricing": ("light", 1280),
    "pricing-calculator": ("light", 1280),
    "pricing-dark": ("dark", 1280),
    "pricing-phone": ("dark", 390),
    "subscribe": ("light", 1280),
    "checkout": ("light", 1280),
    "subscription": ("light", 1280),
    "subscription-dark": ("dark", 1280),
    "subscription-phone": ("light", 390),
    "subscription-past-due": ("light", 1280),
    "bill": ("light", 1280),
    "usage": ("light", 1280),
    "portal-product": ("light", 1280),
}
VIEWS = {
    "bill": "bill-day",
    "pricing-calculator": "pricing",
    "pricing-dark": "pricing-compared",
    "pricing-phone": "pricing",
    "subscription-dark": "subscription",
    "subscription-phone": "subscription",
}
PARTS = {
    "pricing-calculator": ".calculator",
    "pricing-dark": ".calculator",
    "pricing-phone": ".calculator",
}  # pictures of one part of a page


async def take(chromium: Browser, scene: Scene, view: View, *, theme: str, width: int, path: Path, part: str | None = None) -> None:
    """Write one page, or a part of it, as a PNG of few colours."""
    context = await chromium.new_context(color_scheme=theme, viewport={"width": width, "height": 720}, reduced_motion="reduce")
    try:
        await context.add_cookies(scene.people[view.person].cookies() if view.person else [])
        page, _ = await open_view(context, view)
        picture = await (page.screenshot(full_page=True) if part is None else page.locator(part).screenshot())
    finally:
        await context.close()
    size = write(picture, path)
    if size > BYTES_MAX:
        print(f"{path} is too large for the documentation", file=sys.stderr)


def write(picture: bytes, path: Path) -> int:
    """Write with few colours, which nobody sees, and return the size in bytes."""
    Image.open(BytesIO(picture)).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path} {size / 1000:.0f} kB", flush=True)
    return size


async def take_all(stack: Stack, chromium: Browser, everything: Path | None) -> None:
    async with play(stack, DAYS) as scene:
        views = {view.name: view for view in await all_views(scene)}
        if everything is not None:
            for view in views.values():
                for theme, width in (("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)):
                    path = everything / f"{view.name}-{theme}-{width}.png"
                    await take(chromium, scene, view, theme=theme, width=width, path=path)
            return
        folder = ROOT / "docs" / "images"
        for title, (theme, width) in TITLES.items():
            path = folder / f"{title}.png"
            view = views[VIEWS.get(title, title)]
            await take(chromium, scene, view, theme=theme, width=width, path=path, part=PARTS.get(title))


async def photograph(stack: Stack, program: Path, everything: Path | None) -> None:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], env=browsers.environment(program))
        await take_all(stack, chromium, everything)
        await chromium.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the pictures of docs/images.")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="take every page in both colours and widths instead")
    everything: Path | None = parser.parse_args().all
    program = browsers.find()
    if program is None:
        sys.exit(browsers.NO_BROWSER)
    if everything is not None:
        everything.mkdir(parents=True, exist_ok=True)
    (ROOT / "docs" / "images").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="turnpike-pictures-") as name:
        Path(name).chmod(0o711)  # Postgres runs as another user where this runs as root
        stack = Stack(Path(name), say=print, fast=True)
        try:
            stack.start()
            asyncio.run(photograph(stack, program, everything))
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
