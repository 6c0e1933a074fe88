"""The URL template behind a call, so that no raw path leaves the app. Known for Starlette and FastAPI."""

from collections.abc import Iterable
from typing import Any

from turnpike_asgi.events import Scope

UNKNOWN_MOUNT = "{mount}"


def template_of(scope: Scope, app: Any, root_path: str) -> str | None:
    """Return the template of the route that answered, or None. `root_path` is what it was before routing, `app` the outermost app."""
    own = _route_path(scope)
    if own is None:
        return None
    mounted = str(scope.get("root_path", "")).removeprefix(root_path)
    return _mount_path(getattr(app, "routes", ()), mounted) + own if mounted else own


def _route_path(scope: Scope) -> str | None:
    extra = scope.get("fastapi")
    context = extra.get("effective_route_context") if isinstance(extra, dict) else None  # a route of an included router
    for route in (context, scope.get("route")):
        for name in ("path_format", "path"):
            path = getattr(route, name, None)
            if isinstance(path, str):
                return path
    return None


def _mount_path(routes: Iterable[Any], mounted: str) -> str:
    """Return the templates of the mounts that lead to `mounted`."""
    for route in routes:
        inner, pattern = getattr(route, "routes", None), getattr(route, "path_regex", None)
        if inner is None or pattern is None or (found := pattern.match(f"{mounted}/")) is None:
            continue
        rest = f"/{found.groupdict().get('path', '')}".rstrip("/")
        template = str(getattr(route, "path", UNKNOWN_MOUNT))
        return template + (_mount_path(inner, rest) if rest else "")
    return UNKNOWN_MOUNT
