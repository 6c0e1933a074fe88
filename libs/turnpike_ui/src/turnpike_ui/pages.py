"""Pages for one application: its templates, its policy, its static files, its theme switch and its error pages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from turnpike_ui.assets import Assets
from turnpike_ui.errors import Explanation, describe, explain
from turnpike_ui.formats import FILTERS
from turnpike_ui.security import CrossSiteMiddleware, SecurityHeadersMiddleware, content_policy, security_headers

TEMPLATES = Path(__file__).parent / "templates"
THEMES = ("system", "light", "dark")
THEME_BODY_BYTES_MAX = 8_192


@dataclass(frozen=True)
class NavLink:
    label: str
    address: str
    icon: str | None = None
    at_end: bool = False  # right side of the header: the account


@dataclass(frozen=True)
class Brand:
    """Whose pages these are. A sandbox shows another mark and a note, so that nobody takes it for the real thing."""

    name: str
    home: str = "/"
    sandbox: bool = False
    note: str | None = None
    footer: str = "Times are UTC."


class Errors(dict[str, str]):
    """Errors of a form by field: a field without one has an empty text, so templates need no question first."""

    def __missing__(self, field: str) -> str:
        return ""


Navigation = Sequence[NavLink] | Callable[[Request], Sequence[NavLink]]


class Pages:
    """`install` once on the application, `render` in every route."""

    def __init__(
        self,
        name: str,
        template_dirs: Sequence[Path],
        nav: Navigation = (),
        *,
        form_action_origins: Sequence[str] = (),
        public_origin: str | None = None,
        brand: Brand | None = None,
        csrf_exempt: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.brand = brand or Brand(name)
        self.assets = Assets()
        self._nav = nav
        self._public_origin = None if public_origin is None else public_origin.rstrip("/")
        self._csrf_exempt = csrf_exempt
        self._form_action_origins = form_action_origins
        self._headers = security_headers(form_action_origins, self._public_origin)
        shared = FileSystemLoader(TEMPLATES)
        loaders = [*(FileSystemLoader(folder) for folder in template_dirs), shared, PrefixLoader({"turnpike": shared})]
        self.environment = Environment(
            loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self.environment.filters.update(FILTERS)
        self.environment.globals.update(asset=self.assets.url, brand=self.brand)

    def policy(self, *, frame_ancestors: Sequence[str] = ()) -> str:
        """Return the policy for a page that these origins may show in a frame."""
        return content_policy(self._form_action_origins, frame_ancestors)

    def install(self, app: Starlette) -> None:
        """Add static files, theme switch, error pages and the middleware that protects every route of the application."""
        app.router.routes.append(Route("/static/{path:path}", self.assets.serve, methods=["GET"]))
        app.router.routes.append(Route("/theme", self._set_theme, methods=["POST"]))
        app.add_exception_handler(HTTPException, self._on_http_error)
        app.add_exception_handler(500, self._on_failure)
        _answer_validation_errors(app, self)
        app.add_middleware(CrossSiteMiddleware, public_origin=self._public_origin, exempt=self._csrf_exempt, refuse=self._refuse)
        app.add_middleware(SecurityHeadersMiddleware, headers=self._headers)

    def render(
        self,
        request: Request,
        template: str,
        context: Mapping[str, Any] | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> HTMLResponse:
        """Answer with a page. Pages are not stored by caches: most show what belongs to one person."""
        theme = request.cookies.get("theme", "system")
        values: dict[str, Any] = {
            "request": request,
            "nav": self._nav(request) if callable(self._nav) else self._nav,
            "theme": theme if theme in THEMES else "system",
            "path": request.url.path,
            "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        }
        values |= dict(context or {})
        values["errors"] = Errors(values.get("errors") or {})
        text = self.environment.get_template(template).render(values)
        return HTMLResponse(text, status, {"Cache-Control": "no-store"} | dict(headers or {}))

    def error(
        self, request: Request, status: int, explanation: Explanation | None = None, action: tuple[str, str] | None = None
    ) -> HTMLResponse:
        """Answer with an error page in the general words for the status, or in the given ones."""
        context = {
            "status": status,
            "explanation": explanation or explain(status),
            "action": action or ("Go to the start page", self.brand.home),
        }
        return self.render(request, "error.html", context, status, self._headers)

    async def _refuse(self, request: Request) -> Response:
        return self.error(request, 403) if wants_page(request) else JSONResponse({"detail": "cross-site request refused"}, 403)

    async def _on_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if not wants_page(request):
            return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
        response = self.error(request, error.status_code, describe(error), getattr(error, "action", None))
        response.headers.update(error.headers or {})
        return response

    async def _on_failure(self, request: Request, error: Exception) -> Response:  # noqa: ARG002 # the cause is logged by the server, never shown
        return self.error(request, 500) if wants_page(request) else JSONResponse({"detail": "internal error"}, 500)

    async def _set_theme(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > THEME_BODY_BYTES_MAX:
                raise HTTPException(413)
        form = parse_qs(body.decode("utf-8", "replace"))
        theme = form.get("theme", [""])[0]
        if theme not in THEMES:
            raise HTTPException(422)
        response = RedirectResponse(local_path(form.get("next", ["/"])[0]), 303)
        secure = request.url.scheme == "https" or (self._public_origin or "").startswith("https://")
        response.set_cookie("theme", theme, max_age=31_536_000, httponly=True, samesite="lax", secure=secure)
        return response


def wants_page(request: Request) -> bool:
    """Browsers ask for HTML by name; programs do not, and get JSON."""
    return "text/html" in request.headers.get("accept", "")


def local_path(target: str) -> str:
    """Return the path if it stays on this origin; a redirect must not lead elsewhere because a form said so."""
    if target.startswith("/") and not target.startswith(("//", "/\\")) and not any(ord(letter) < 32 for letter in target):
        return target
    return "/"


def _answer_validation_errors(app: Starlette, pages: Pages) -> None:
    try:  # FastAPI has an error of its own for parameters that do not parse; a plain Starlette application does not
        from fastapi.exception_handlers import request_validation_exception_handler
        from fastapi.exceptions import RequestValidationError
    except ImportError:
        return

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return pages.error(request, 422) if wants_page(request) else await request_validation_exception_handler(request, error)

    app.add_exception_handler(RequestValidationError, on_validation_error)
