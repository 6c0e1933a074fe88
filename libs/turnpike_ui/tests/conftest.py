"""An application with one page, driven without a network."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from turnpike_ui import NavLink, PageError, Pages
from turnpike_ui.testing import compiled_once

TEMPLATE = """{% extends "base.html" %}{% block title %}Test{% endblock %}
{% block main %}<h1>Hello {{ name }}</h1>{{ ui.badge("Paid", "good") }}{% endblock %}"""


def build_app(folder: Path, public_origin: str | None = None) -> FastAPI:
    (folder / "hello.html").write_text(TEMPLATE)
    app = FastAPI()
    pages = Pages(
        "Turnpike",
        [folder],
        [NavLink("Pricing", "/pricing")],
        form_action_origins=["https://checkout.stripe.com"],
        public_origin=public_origin,
        csrf_exempt=["/webhooks/"],
    )
    pages.install(app)

    @app.get("/")
    async def hello(request: Request, name: str = "you") -> Response:
        return pages.render(request, "hello.html", {"name": name})

    @app.get("/number")
    async def number(value: int) -> int:
        return value

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret detail")

    @app.get("/gone")
    async def gone() -> None:
        raise PageError(410, "This link was used", "Start again in the portal.", action=("Open the portal", "https://portal.example/"))

    @app.post("/act")
    async def act() -> str:
        return "done"

    @app.post("/webhooks/stripe")
    async def webhook() -> str:
        return "stored"

    return app


@pytest.fixture(scope="session", autouse=True)
def _templates() -> Iterator[None]:
    with compiled_once():
        yield


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(tmp_path), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test", headers={"Accept": "text/html"}) as client:
        yield client


@pytest.fixture
async def proxied_client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(tmp_path, "https://api.shop.example/"))
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.1") as client:
        yield client
