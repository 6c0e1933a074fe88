"""Starts the checkout service: `python -m checkout`, or `python -m checkout migrate`."""

from billing_common.service import run
from billing_common.settings import load_settings
from checkout.app import create_service
from checkout.settings import Settings

if __name__ == "__main__":
    settings = load_settings(Settings)
    run(lambda: create_service(settings), name="checkout", level=settings.log_level)
