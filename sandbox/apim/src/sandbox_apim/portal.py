"""The developer portal: products, sign-in by token, profile, and the redirects to the delegate's site."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox_apim.arm.kinds import Service
from sandbox_apim.arm.subscriptions import COUNTED_STATES
from sandbox_apim.sessions import AGE_SECONDS, COOKIE, Sessions
from sandbox_apim.signin import delegation_url, token_user
from sandbox_apim.store import Entity
from turnpike_ui.errors import PageError
from turnpike_ui.pages import Brand, NavLink, Pages, local_path

OPEN_STATES = ("active", "submitted", "suspended")
STATE_KINDS = {"active": "good", "suspended": "bad", "submitted": "warn", "cancelled": "", "rejected": "bad", "expired": ""}


def build_portal(service: Service, database: sqlite3.Connection, doors: Sequence[BaseRoute]) -> Starlette:
    """Build the portal's application; the doors stand beside the pages."""
    portal = Portal(service, Sessions(database, service.store))
    app = Starlette(routes=[*doors, *portal.routes()])
    portal.pages.install(app)
    return app


class Portal:
    """Managed portal's addresses and behaviour; the pages are the sandbox's own."""

    def __init__(self, service: Service, sessions: Sessions) -> None:
        self._service = service
        self._store = service.store
        self._sessions = sessions
        self.pages = Pages(
            "API developer portal",
            [Path(__file__).parent / "templates"],
            self._navigation,
            public_origin=service.portal_url(),
            brand=Brand(
                "API developer portal", sandbox=True, note="Sandbox", footer="Azure API Management's developer portal, on this machine."
            ),
            csrf_exempt=("/_sandbox/",),
        )

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.home),
            Route("/products", self.products),
            Route("/products/{product_id}", self.product),
            Route("/profile", self.profile),
            Route("/profile/subscriptions/{sid}/keys", self.show_keys, methods=["POST"]),
            Route("/signin-sso", self.sign_in_with_token),
            Route("/signin", self.sign_in),
            Route("/signup", self.sign_up),
            Route("/signout", self.sign_out),
            Route("/change-password", self.change_password),
            Route("/delegation-changeProfile", self.change_profile),
            Route("/delegation-closeAccount", self.close_account),
            Route("/delegation-subscribe", self.subscribe),
            Route("/delegation-unsubscribe", self.unsubscribe),
            Route("/delegation-renew", self.renew),
        ]

    # --- pages ---

    async def home(self, request: Request) -> Response:
        user = self._user(request)
        return self.pages.render(request, "portal_home.html", {"user": user, "products": self._visible_products(user)[:3]})

    async def products(self, request: Request) -> Response:
        return self.pages.render(request, "portal_products.html", {"products": self._visible_products(self._user(request))})

    async def product(self, request: Request) -> Response:
        user = self._user(request)
        product = self._visible_product(user, request.path_params["product_id"])
        apis = [api for api in self._store.children("apis") if self._service.directory.product_holds(product.name, api)]
        context = {
            "user": user,
            "product": product,
            "apis": [(api, self._store.children(f"{api.path}/operations")) for api in apis],
            "held": self._subscriptions_of(user, product) if user else [],
            "full": user is not None and self._is_full(user, product),
            "gateway_url": self._service.gateway_url(),
        }
        return self.pages.render(request, "portal_product.html", context)

    async def profile(self, request: Request) -> Response:
        return self._profile_page(request, self._require_user(request))

    async def show_keys(self, request: Request) -> Response:
        user = self._require_user(request)
        entity = self._own_subscription(user, request.path_params["sid"])
        return self._profile_page(request, user, shown=entity)

    def _profile_page(self, request: Request, user: Entity, shown: Entity | None = None) -> Response:
        rows = []
        for entity in self._subscriptions_of(user):
            product = self._store.get(str(entity.properties["scope"]))
            rows.append(
                {
                    "id": entity.name,
                    "name": entity.properties["displayName"],
                    "product": product.properties["displayName"] if product else entity.properties["scope"],
                    "state": entity.properties["state"],
                    "kind": STATE_KINDS[entity.properties["state"]],
                    "since": datetime.fromisoformat(entity.properties["createdDate"]),
                    "keys": entity.secrets if shown is not None and shown.path == entity.path else None,
                    "open": entity.properties["state"] in OPEN_STATES,
                }
            )
        rows.sort(key=lambda row: (not row["open"], row["name"]))
        return self.pages.render(
            request, "portal_profile.html", {"user": user, "subscriptions": rows, "gateway_url": self._service.gateway_url()}
        )

    # --- signing in and out ---

    async def sign_in_with_token(self, request: Request) -> Response:
        """`/signin-sso?token=&returnUrl=`: what the delegate's site sends a browser to."""
        keys = list(self._service.sign_in_keys.values())
        user_id = token_user(keys, request.query_params.get("token", ""), datetime.now(UTC))
        user = self._store.get(f"users/{user_id}") if user_id else None
        if user is None or user.properties["state"] != "active":
            message = "The token is not one of this portal's, it has expired, or the user cannot sign in. Start again from Sign in."
            raise PageError(401, "This sign-in link does not work", message, action=("Sign in", "/signin"))
        response = RedirectResponse(local_path(request.query_params.get("returnUrl", "/")), 302)
        secure = self._service.portal_url().startswith("https://")
        token = self._sessions.open(user.name)
        response.set_cookie(COOKIE, token, max_age=AGE_SECONDS, httponly=True, samesite="lax", secure=secure, path="/")
        return response

    async def sign_in(self, _request: Request) -> Response:
        return self._delegate("userRegistration", "SignIn", {"returnUrl": "/"})

    async def sign_up(self, _request: Request) -> Response:
        return self._delegate("userRegistration", "SignUp", {"returnUrl": "/"})

    async def sign_out(self, request: Request) -> Response:
        user = self._user(request)
        self._sessions.close(request.cookies.get(COOKIE))
        if user is None or not self._is_delegated("userRegistration"):
            response: Response = RedirectResponse("/", 302)
        else:
            response = self._delegate("userRegistration", "SignOut", {"userId": user.name})
        response.delete_cookie(COOKIE, path="/")
        return response

    async def change_password(self, request: Request) -> Response:
        return self._delegate("userRegistration", "ChangePassword", {"userId": self._require_user(request).name})

    async def change_profile(self, request: Request) -> Response:
        return self._delegate("userRegistration", "ChangeProfile", {"userId": self._require_user(request).name})

    async def close_account(self, request: Request) -> Response:
        return self._delegate("userRegistration", "CloseAccount", {"userId": self._require_user(request).name})

    # --- subscriptions ---

    async def subscribe(self, request: Request) -> Response:
        user = self._user(request)
        if user is None:
            return RedirectResponse("/signin", 302)
        product = self._visible_product(user, request.query_params.get("productId", ""))
        if self._is_full(user, product):
            message = "You already have as many subscriptions to this product as it allows."
            raise PageError(409, "You have this product already", message, action=("See your subscriptions", "/profile"))
        return self._delegate("subscriptions", "Subscribe", {"productId": product.name, "userId": user.name})

    async def unsubscribe(self, request: Request) -> Response:
        entity = self._own_subscription(self._require_user(request), request.query_params.get("subscriptionId", ""))
        return self._delegate("subscriptions", "Unsubscribe", {"subscriptionId": entity.name})

    async def renew(self, request: Request) -> Response:
        entity = self._own_subscription(self._require_user(request), request.query_params.get("subscriptionId", ""))
        return self._delegate("subscriptions", "Renew", {"subscriptionId": entity.name})

    # --- shared ---

    def _navigation(self, request: Request) -> list[NavLink]:
        links = [NavLink("Products", "/products")]
        if self._user(request) is not None:
            return [*links, NavLink("Profile", "/profile", icon="user", at_end=True), NavLink("Sign out", "/signout")]
        return [*links, NavLink("Sign in", "/signin", at_end=True), NavLink("Sign up", "/signup")]

    def _settings(self) -> Entity | None:
        return self._store.get("portalsettings/delegation")

    def _is_delegated(self, switch: str) -> bool:
        settings = self._settings()
        return settings is not None and bool(settings.properties[switch].get("enabled"))

    def _delegate(self, switch: str, operation: str, parameters: dict[str, str]) -> Response:
        settings = self._settings()
        if settings is None or not self._is_delegated(switch):
            message = (
                "Another site does this for the portal, and none is set: PUT portalsettings/delegation with url, key and both switches."
            )
            raise PageError(503, "Delegation is not configured", message, action=("Back to the products", "/products"))
        address = delegation_url(settings.properties["url"], settings.secrets["validationKey"], operation, parameters)
        return RedirectResponse(address, 302, {"Cache-Control": "no-store"})

    def _user(self, request: Request) -> Entity | None:
        return self._sessions.user(request.cookies.get(COOKIE))

    def _require_user(self, request: Request) -> Entity:
        user = self._user(request)
        if user is None:
            raise PageError(
                401, "Sign in to see this page", "Your session has ended, or you have not signed in yet.", action=("Sign in", "/signin")
            )
        return user

    def _visible_products(self, user: Entity | None) -> list[Entity]:
        """Published products that one of the visitor's groups is linked to, as in the real portal."""
        if user is None:
            groups = {"guests"}
        else:
            own = {group.name.lower() for group in self._store.children("groups") if self._store.get(f"{group.path}/{user.path}")}
            groups = own | ({"administrators", "developers"} if user.name == "1" else {"developers"})
        return [product for product in self._store.children("products") if self._is_visible(product, groups)]

    def _is_visible(self, product: Entity, groups: set[str]) -> bool:
        linked = {link.name.lower() for link in self._store.children(f"{product.path}/groups")}
        linked |= {link.properties["groupId"].rsplit("/", 1)[-1].lower() for link in self._store.children(f"{product.path}/groupLinks")}
        return product.properties["state"] == "published" and bool(linked & groups)

    def _visible_product(self, user: Entity | None, product_id: str) -> Entity:
        for product in self._visible_products(user):
            if product.name.lower() == product_id.lower():
                return product
        action = ("See all products", "/products") if user else ("Sign in", "/signin")
        raise PageError(404, "There is no such product", "It may be unpublished, or only for people who are signed in.", action=action)

    def _subscriptions_of(self, user: Entity, product: Entity | None = None) -> list[Entity]:
        own = [one for one in self._store.children("subscriptions") if one.properties.get("ownerId") == user.path]
        return [one for one in own if product is None or one.properties["scope"] == product.path]

    def _is_full(self, user: Entity, product: Entity) -> bool:
        limit: Any = product.properties.get("subscriptionsLimit")
        held = [one for one in self._subscriptions_of(user, product) if one.properties["state"] in COUNTED_STATES]
        return limit is not None and len(held) >= limit

    def _own_subscription(self, user: Entity, sid: str) -> Entity:
        entity = self._store.get(f"subscriptions/{sid}") if "/" not in sid else None
        if entity is None or entity.properties.get("ownerId") != user.path:
            raise PageError(404, "There is no such subscription", "It is not one of yours.", action=("See your subscriptions", "/profile"))
        return entity
