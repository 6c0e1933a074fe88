"""Reads the settings, builds the service, runs it."""

from billing_common.service import run
from billing_common.settings import load_settings
from delegation_gateway.app import NAME, create_service
from delegation_gateway.settings import Settings

if __name__ == "__main__":
    settings = load_settings(Settings)
    run(lambda: create_service(settings), name=NAME, level=settings.log_level)
