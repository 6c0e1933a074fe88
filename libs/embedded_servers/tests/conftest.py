"""Servers of these tests; most use the ones shared by the whole run."""

import pytest

from embedded_servers import places


@pytest.fixture
def as_a_normal_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "is_root", lambda: False)
