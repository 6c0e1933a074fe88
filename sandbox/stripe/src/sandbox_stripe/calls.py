"""What a handler gets, and the table in which handlers are found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sandbox_stripe.errors import Json, invalid, missing_parameter
from sandbox_stripe.render import page, render
from sandbox_stripe.world import World


@dataclass(frozen=True)
class Call:
    """One request whose parameters fit the contract."""

    world: World
    path: str
    ids: dict[str, str]
    params: Json
    token: str = ""

    @property
    def id(self) -> str:
        return next(iter(self.ids.values()))

    def show(self, body: Json) -> Json:
        return render(self.world.store, body)

    def require(self, *names: str) -> None:
        for name in names:
            if self.params.get(name) in (None, "", []):
                raise missing_parameter(name)

    def page(self, type_: str, *, keep: Callable[[Json], bool] | None = None, params: Json | None = None, **columns: str) -> Json:
        """Answer a list: newest first, `limit` 1 to 100, `starting_after`, `ending_before`, `created`."""
        given = self.params if params is None else params
        limit, after, before = given.get("limit", 10), given.get("starting_after"), given.get("ending_before")
        if not 1 <= limit <= 100:
            raise invalid("Limit must be between 1 and 100." if limit > 100 else "This value must be greater than or equal to 1.", "limit")
        for name, id_ in (("starting_after", after), ("ending_before", before)):
            if id_ and self.world.store.find(id_, type_, deleted=True) is None:
                raise invalid(f"No such {type_}: '{id_}'", name, "resource_missing")
        matches = created_filter(given.get("created"))
        rows: list[Json] = []
        chosen = self.world.store.select(
            type_, newest_first=True, after=after, before=before, keep=lambda one: matches(one) and (keep is None or keep(one)), **columns
        )
        for row in chosen:
            rows.append(row)
            if len(rows) > limit:
                break
        data = [self.show(row) for row in rows[:limit]]
        return page(data[::-1] if before else data, self.path, has_more=len(rows) > limit)


def created_filter(given: Any) -> Callable[[Json], bool]:
    """Read `created`: a moment or a range with gt, gte, lt, lte."""
    if given is None:
        return lambda _one: True
    if isinstance(given, int):
        return lambda one: one["created"] == given
    low = max(given.get("gte", 0), given.get("gt", -1) + 1)
    high = min(given.get("lte", 2**62), given.get("lt", 2**62 + 1) - 1)
    return lambda one: low <= one["created"] <= high


def equal(params: Json, *names: str) -> Callable[[Json], bool]:
    """Keep the objects whose fields equal the parameters that were given."""
    wanted = {name: params[name] for name in names if params.get(name) not in (None, "")}
    return lambda one: all(one.get(name) == value for name, value in wanted.items())


Handler = Callable[[Call], Json]
HANDLERS: dict[tuple[str, str], Handler] = {}


def route(method: str, template: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS[method, template] = handler
        return handler

    return register
