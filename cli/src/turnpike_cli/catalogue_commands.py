"""`turnpike quote`, `simulate`, `catalogue validate` and `upgrade`: what can be said from the file alone."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedded_servers import places
from turnpike_cli.clock_commands import parse_moment
from turnpike_cli.errors import CommandError
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack_commands import AsJson

if TYPE_CHECKING:
    from billing_common.catalogue import Catalogue
    from billing_common.quoting import Quote
    from turnpike_cli.simulation import Outcome

MODELS_FILE = "monetizationModels.json"
SCHEMA = Path("contracts") / "monetizationModels.schema.json"
REFUSED = 1  # exit code of a file that cannot be sold
DIGITS_MAX = 16
Models = Annotated[Path | None, typer.Option("--file", help=f"The catalogue; {MODELS_FILE} in the checkout when absent.")]
Named = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The catalogue: the same as --file.")]

catalogue_app = typer.Typer(help="What is sold: check the file, see what would change, apply it.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.command()(quote)
    app.command()(simulate)
    app.add_typer(catalogue_app, name="catalogue")


def chosen(named: Path | None, file: Path | None) -> Path | None:
    """Return the file that was named, with or without `--file`."""
    if named is not None and file is not None:
        raise CommandError(f"Name one catalogue: {named} or --file {file}.")
    return named or file


def path_of(file: Path | None) -> Path:
    return file or places.checkout() / MODELS_FILE


def read_text(file: Path | None) -> str:
    """Read the file as it is."""
    path = path_of(file)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CommandError(f"There is no {path}; name the catalogue with --file.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8 text.") from error


def read_catalogue(file: Path | None) -> "Catalogue":
    """Read and check the file; all its problems at once, each with its line and what is allowed."""
    from billing_common.catalogue import Catalogue  # imports pydantic: only where a catalogue is read
    from billing_common.catalogue_problems import CatalogueError

    try:
        return Catalogue.parse(read_text(file))
    except CatalogueError as error:
        raise CommandError(f"{path_of(file)} cannot be sold:\n{error}") from error


def quote(
    *,
    product: Annotated[str, typer.Option(help="The product's id.")],
    calls: Annotated[int | None, typer.Option(min=0, help="How many calls.")] = None,
    meter: Annotated[list[str] | None, typer.Option(help="METER=N, for products with other meters.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="The subscription begins then (UTC): its first period. A full period when absent.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="The subscription is cancelled then, within that period (UTC).")] = None,
    currency: Annotated[str | None, typer.Option(help="ISO 4217, lower case.")] = None,
    file: Models = None,
    as_json: AsJson = False,
) -> None:
    """Price a period's usage from the file, without a running stack: the lines that the invoice will have."""
    from billing_common import quoting

    start, end = parse_moment(since) if since else None, parse_moment(until) if until else None
    asked = quoting.Question(product, _usage(meter or []), calls, start, end, currency and currency.lower())
    try:
        answer = quoting.quote(read_catalogue(file), asked, now=datetime.now(UTC))
    except quoting.QuoteError as error:
        text = f"{str(error)[0].upper()}{str(error)[1:]}"
        raise CommandError(text if text.endswith("?") else f"{text}.") from error
    if as_json:
        print_json(answer.public())
    else:
        _print_quote(answer)


def _print_quote(answer: "Quote") -> None:
    from billing_common.money import display, plain

    money = answer.rated.currency
    rows = [
        [line.description, f"{line.quantity:,}", plain(line.unit_amount_decimal), display(line.amount_minor, money)]
        for line in answer.rated.lines
    ]
    total = ["total", "", "", display(answer.rated.total_minor, money)]
    print_table("", ["line", "quantity", "minor units each", "amount"], [*rows, total])
    if answer.trial_end is not None:
        typer.echo(f"Free until {answer.trial_end:%Y-%m-%d}. Ask without --from for a period that is paid for.")


def _usage(entries: list[str]) -> dict[str, int]:
    usage = {}
    for entry in entries:
        name, _, number = entry.partition("=")
        if not (number.isascii() and number.isdecimal()) or len(number) > DIGITS_MAX:
            raise CommandError(f"--meter {entry} is not METER=N, with N a whole number.")
        usage[name] = int(number)
    return usage


def simulate(
    usage: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="Columns customer, product, one for each meter; currency where wanted.")
    ],
    *,
    catalogue: Annotated[Path | None, typer.Option(help=f"The catalogue as it is; {MODELS_FILE} in the checkout when absent.")] = None,
    against: Annotated[Path, typer.Option(help="The catalogue to compare with.")],
    month: Annotated[str | None, typer.Option(help="YYYY-MM; this month when absent.")] = None,
    as_json: AsJson = False,
) -> None:
    """Price a month of usage per customer under two catalogues side by side; nothing is touched."""
    from turnpike_cli import simulation

    begin = parse_moment(f"{month}-01") if month else datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    rows = simulation.read_rows(usage)
    outcomes = simulation.simulate(rows, catalogue=read_catalogue(catalogue), against=read_catalogue(against), month=begin)
    if as_json:
        print_json({"customers": [outcome.public() for outcome in outcomes], "totals": simulation.totals(outcomes)})
    else:
        _print_simulation(outcomes, simulation.totals(outcomes))


def _print_simulation(outcomes: list["Outcome"], totals: dict[str, dict[str, int]]) -> None:
    from billing_common.money import display
    from turnpike_cli.catalogue_view import signed

    rows = []
    for outcome in outcomes:
        used = " ".join(f"{meter} {quantity:,}" for meter, quantity in outcome.row.usage.items())
        after, difference = outcome.reason, ""
        if outcome.after_minor is not None:
            after = display(outcome.after_minor, outcome.currency)
            difference = signed(outcome.after_minor - outcome.before_minor, outcome.currency)
        rows.append([outcome.row.customer, outcome.row.product, used, display(outcome.before_minor, outcome.currency), after, difference])
    print_table("", ["customer", "product", "usage", "now", "then", "difference"], rows)
    for currency, sums in totals.items():
        typer.echo(
            f"{sums['customers']} customers in {currency.upper()}: {display(sums['before_minor'], currency)} now, "
            f"{display(sums['after_minor'], currency)} then; {sums['pay_more']} pay more, {sums['pay_less']} less, "
            f"{sums['unpriced']} cannot be compared"
        )


@catalogue_app.command()
def upgrade(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A catalogue in the older form (a bare array) or in the present one.")],
    to: Annotated[Path | None, typer.Option(help="Where to write it; printed when absent. An existing file is never overwritten.")] = None,
) -> None:
    """Write a catalogue in the present form; the prices stay what they are."""
    catalogue = read_catalogue(source)
    if to is not None and catalogue.schema_reference is None:
        schema = os.path.relpath(places.checkout() / SCHEMA, to.resolve().parent)
        catalogue = catalogue.model_copy(update={"schema_reference": Path(schema).as_posix()})
    text = catalogue.text()
    if to is None:
        typer.echo(text, nl=False)
        return
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise CommandError(f"{to} exists already; name another file with --to.") from error
    except OSError as error:
        raise CommandError(f"{to} cannot be written: {error.strerror}.") from error
    typer.echo(f"{to} has the present form.")


@catalogue_app.command()
def validate(named: Named = None, file: Models = None, as_json: AsJson = False) -> None:
    """Check the file; nothing is touched. Exit code 0 when it can be sold, 1 when not: every mistake at once."""
    file = chosen(named, file)
    if as_json:
        _print_problems(file)
        return
    catalogue = read_catalogue(file)
    products, meters = len(catalogue.products), len(catalogue.meters)
    typer.echo(f"{products} product{'s' * (products != 1)} and {meters} meter{'s' * (meters != 1)} can be sold.")


def _print_problems(file: Path | None) -> None:
    from dataclasses import asdict

    from billing_common.catalogue import Catalogue
    from billing_common.catalogue_problems import CatalogueError

    try:
        Catalogue.parse(read_text(file))
    except CatalogueError as error:
        print_json({"valid": False, "problems": [asdict(problem) for problem in error.problems]})
        raise typer.Exit(REFUSED) from error
    print_json({"valid": True, "problems": []})
