"""What protects every page: the content policy and the check where a request that acts comes from."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def content_policy(form_action_origins: Sequence[str], frame_ancestors: Sequence[str] = ()) -> str:
    """Return the policy of a page. Chromium applies `form-action` to redirects after a POST too, so those origins are named."""
    form_actions, ancestors = " ".join(["'self'", *form_action_origins]), " ".join(frame_ancestors) or "'none'"
    return (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
        f"form-action {form_actions}; base-uri 'none'; object-src 'none'; frame-ancestors {ancestors}"
    )


def security_headers(form_action_origins: Sequence[str], public_origin: str | None) -> dict[str, str]:
    """Return the headers of every answer."""
    headers = {
        "Content-Security-Policy": content_policy(form_action_origins),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }
    if public_origin is not None and public_origin.startswith("https://"):
        headers["Strict-Transport-Security"] = "max-age=31536000"
    return headers


def may_act(method: str, headers: Headers, own_origin: str) -> bool:
    """Decide whether a request may change something: browsers say where it comes from, and other programs carry no cookies by accident."""
    if method in SAFE_METHODS:
        return True
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is None or origin == own_origin


class SecurityHeadersMiddleware:
    """Adds the headers to every answer that does not set them itself."""

    def __init__(self, app: ASGIApp, *, headers: dict[str, str]) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class CrossSiteMiddleware:
    """Refuses requests that act and come from another site. It fails closed: a new route is covered without doing anything."""

    def __init__(
        self, app: ASGIApp, *, public_origin: str | None, exempt: Sequence[str], refuse: Callable[[Request], Awaitable[Response]]
    ) -> None:
        self._app = app
        self._public_origin = public_origin
        self._exempt = tuple(exempt)
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (self._exempt and scope["path"].startswith(self._exempt)):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        own_origin = self._public_origin or f"{scope['scheme']}://{headers.get('host', '')}"
        if may_act(scope["method"], headers, own_origin):
            await self._app(scope, receive, send)
            return
        response = await self._refuse(Request(scope, receive))
        await response(scope, receive, send)
