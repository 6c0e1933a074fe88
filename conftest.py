"""Fixtures of every test here, one Postgres and one Kafka for the run, and which tests must not run side by side."""

from typing import Any

pytest_plugins = ["embedded_servers.testing"]

# Tests of one group share a stack, consumer groups or ports: one worker runs them in turn. Any other file is a group of its own.
GROUPS = {
    "tests/integration/test_demo_story.py": "demo",
    "tests/integration/": "stack",
    "services/usage_collector/tests/test_service.py": "usage_collector on Kafka",
    "services/usage_collector/tests/test_takeover.py": "usage_collector on Kafka",
    "cli/tests/": "the command's stacks",
}


def group_of(node_id: str) -> str:
    """Return the group of a test: of the first path above that its own begins with, else its file."""
    for path, group in GROUPS.items():
        if node_id.startswith(path):
            return group
    return node_id.split("::", 1)[0]


def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """Hand out whole groups. xdist's own marker for this has no effect under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling  # comes with -n only

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)
