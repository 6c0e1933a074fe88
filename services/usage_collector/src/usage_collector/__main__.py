"""Runs the usage collector: `python -m usage_collector [migrate]`."""

from billing_common.service import run
from billing_common.settings import load_settings
from usage_collector.app import SERVICE, create_service
from usage_collector.settings import Settings


def main() -> None:
    settings = load_settings(Settings)
    run(lambda: create_service(settings), name=SERVICE, level=settings.log_level)


if __name__ == "__main__":
    main()
