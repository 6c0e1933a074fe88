"""`turnpike`: the command. Each failure is one sentence; nothing prints a stack trace at a person."""

import sys

import typer

from embedded_servers import ServerError
from turnpike_cli import (
    applying_commands,
    catalogue_commands,
    clock_commands,
    dead_letter_commands,
    demo_command,
    doctor_command,
    explain_command,
    provision_command,
    reconcile_command,
    sender_commands,
    stack_commands,
    usage_commands,
)
from turnpike_cli.errors import CommandError

app = typer.Typer(
    name="turnpike",
    help="Turnpike charges for APIs: API Management in front, Stripe behind.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
stack_commands.register(app)
clock_commands.register(app)
dead_letter_commands.register(app)
catalogue_commands.register(app)
applying_commands.register(catalogue_commands.catalogue_app)
doctor_command.register(app)
provision_command.register(app)
demo_command.register(app)
usage_commands.register(app)
explain_command.register(app)
reconcile_command.register(app)
sender_commands.register(app)


USAGE_ERROR = 64  # a command that was typed wrongly: 2 says of `catalogue plan` and others that there is something to do


def main() -> None:
    try:
        app()
    except SystemExit as ended:
        mistyped = ended.code == 2 and not isinstance(ended.__context__, typer.Exit)
        raise SystemExit(USAGE_ERROR if mistyped else ended.code) from None
    except (CommandError, ServerError) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'The system'}: {error.strerror or error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
