"""Starts the reporter: `python -m stripe_reporter`, or `python -m stripe_reporter migrate`."""

from billing_common.service import run
from billing_common.settings import load_settings
from stripe_reporter.app import NAME, create_service
from stripe_reporter.settings import Settings


def main() -> None:
    settings = load_settings(Settings)
    run(lambda: create_service(settings), name=NAME, level=settings.log_level)


if __name__ == "__main__":
    main()
