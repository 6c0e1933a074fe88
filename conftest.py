"""Fixtures of every test here, one Postgres and one Kafka for the run, and which tests must not run side by side."""

from typing import Any

import pytest

pytest_plugins = ["embedded_servers.testing"]

# Tests of one group share a stack, consumer groups or ports: one worker runs them in turn. Any other file is a group of its own.
GROUPS = {
    "tests/integration/test_demo_story.py": "demo",
    "tests/integration/": "stack",
    "tests/pages/": "pages",
    "services/usage_collector/tests/test_service.py": "usage_collector on Kafka",
    "services/usage_collector/tests/test_takeover.py": "usage_collector on Kafka",
    "cli/tests/": "the command's stacks",
}


NO_REASON = {"", "unconditional skip"}  # what pytest says for `skip` without words


def group_of(node_id: str) -> str:
    """Return the group of a test: of the first path above that its own begins with, else its file."""
    for path, group in GROUPS.items():
        if node_id.startswith(path):
            return group
    return node_id.split("::", 1)[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Let a test that is skipped without a reason fail: nobody could tell what is not tested."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and report.longrepr[2].removeprefix("Skipped").strip(": ") in NO_REASON:
        report.outcome, report.longrepr = "failed", f"{item.nodeid} is skipped without a reason: give one"
    return report


def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """Hand out whole groups. xdist's own marker for this has no effect under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling  # comes with -n only

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)
