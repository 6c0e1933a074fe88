"""What the deployment files are held against: each program's Settings class, as it is in the code."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("delegation_gateway", "checkout", "webhook_ingress", "usage_collector", "stripe_reporter", "subscription_enforcer")
PROGRAMS = (*SERVICES, "sandbox_stripe", "sandbox_apim")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def settings() -> dict[str, type[BaseSettings]]:
    """Return program -> its Settings class."""
    found = {name: importlib.import_module(f"{name}.settings").Settings for name in PROGRAMS}
    return found | {"turnpike_cli": importlib.import_module("turnpike_cli.provision_settings").ProvisionSettings}


@pytest.fixture(scope="session")
def variables(settings: dict[str, type[BaseSettings]]) -> dict[str, dict[str, bool]]:
    """Return program -> name of the variable -> whether it must be set."""
    return {
        program: {f"{kind.model_config['env_prefix']}{name}".upper(): field.is_required() for name, field in kind.model_fields.items()}
        for program, kind in settings.items()
    }


@pytest.fixture(scope="session")
def accepted(settings: dict[str, type[BaseSettings]]) -> Callable[[str, dict[str, str]], None]:
    """Read the values as the program would at its start; whatever is wrong with one is an error. Secrets not named get stand-ins."""
    stand_ins = {
        "database_url": "postgresql://role:password@postgres:5432/turnpike",
        "internal_token_keys": "k" * 32,
        "delegation_keys": "a" * 64,
        "stripe_webhook_secrets": "whsec_x",
        "stripe_api_key": "rk_test_x",
        "usage_event_hub_connection": "Endpoint=sb://x/",
    }

    def accept(program: str, environment: dict[str, str]) -> None:
        kind = settings[program]
        prefix = kind.model_config["env_prefix"]
        known = {name: value for name, value in stand_ins.items() if name in kind.model_fields}
        given = {name.removeprefix(prefix).lower(): value for name, value in environment.items()}
        given.pop("apim_ca_file", None)  # a file of the container
        kind(**{**known, **given})  # type: ignore[arg-type]

    return accept


@pytest.fixture(scope="session")
def documents() -> Callable[[Path], list[dict[str, Any]]]:
    """Return the YAML documents of a file or of all files of a folder."""

    def read(path: Path) -> list[dict[str, Any]]:
        files = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
        return [document for file in files for document in yaml.safe_load_all(file.read_text()) if document]

    return read
