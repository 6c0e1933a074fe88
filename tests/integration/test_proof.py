"""The small proof: 50,000 events under six kills and a failing Stripe end in exact invoices. `make proof` runs the large one."""

import pytest
from proving import Proof
from whole_system import World

pytestmark = pytest.mark.timeout(420)


async def test_invoices_are_exact_while_processes_are_killed_and_stripe_fails(world: World) -> None:
    report = await Proof(world, events=50_000, kills=6, seed=20, say=lambda _: None).run()
    assert len(report.kills) == 6
    assert report.stripe_failures > 10, "Stripe failed too seldom to prove anything"
    assert sum(one.repeats for one in report.subscriptions) > 4_000
    assert report.exact, [one for one in report.subscriptions if not one.exact]
