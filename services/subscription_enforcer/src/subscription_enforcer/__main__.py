"""Reads Settings, builds the service, runs it."""

from billing_common.service import run
from billing_common.settings import load_settings
from subscription_enforcer.app import NAME, create_service
from subscription_enforcer.settings import Settings

if __name__ == "__main__":
    settings = load_settings(Settings)
    run(lambda: create_service(settings), name=NAME, level=settings.log_level)
