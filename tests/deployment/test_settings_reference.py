"""The settings page is what the code says, and a file in the secrets folder is as good as a variable."""

import subprocess
import sys
from pathlib import Path

import pytest

SERVICES = ("delegation_gateway", "checkout", "webhook_ingress", "usage_collector", "stripe_reporter", "subscription_enforcer")
PROGRAM = """
from importlib import import_module
for service in {services!r}:
    kind = import_module(service + ".settings").Settings
    values = {{"apim_subscription_id": "a", "apim_resource_group": "b", "apim_service_name": "c", "usage_event_hub_connection": "d",
               "public_url": "https://a", "portal_url": "https://b", "checkout_url": "http://c", "collector_url": "http://d",
               "kafka_bootstrap_servers": "k:1"}}
    print(kind(**{{name: value for name, value in values.items() if name in kind.model_fields}}).database_url.get_secret_value())
"""


def test_the_page_is_what_the_code_says(root: Path) -> None:
    command = [sys.executable, str(root / "tools" / "settings_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_names_every_setting_of_every_program(root: Path, variables: dict[str, dict[str, bool]]) -> None:
    text = (root / "docs" / "reference" / "settings.md").read_text()
    for program, names in variables.items():
        for name in names:
            short = name.removeprefix(f"{program.upper()}_")
            assert f"`{name}`" in text or f"`{short}`" in text, name


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    for service in SERVICES:
        values = {
            "DATABASE_URL": f"postgresql://{service}@host/db",
            "INTERNAL_TOKEN_KEYS": "k" * 32,
            "STRIPE_API_KEY": "rk_x",
            "STRIPE_WEBHOOK_SECRETS": "whsec_x",
            "DELEGATION_KEYS": "a" * 64,
        }
        for name, value in values.items():
            (tmp_path / f"{service}_{name}".upper()).write_text(value)
    return tmp_path


def test_every_service_takes_its_secrets_from_files(secrets: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(services=SERVICES)],
        capture_output=True,
        text=True,
        check=False,
        env={"TURNPIKE_SECRETS_FOLDER": str(secrets)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"postgresql://{service}@host/db" for service in SERVICES]
