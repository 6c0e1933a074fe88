"""`make proof`: the proof of tests/integration/proving.py at full size, on a stack of its own, with a report."""

import argparse
import asyncio
import json
import logging
import shutil
import tempfile
from pathlib import Path

from proving import Proof, Report
from whole_system import living, reserve_ports

from bench import machine
from turnpike_cli.stack import Stack

SETTLE_SECONDS = 900.0  # a portion is 60,000 events: counting and reporting them takes minutes on a busy machine
REPORT = Path(__file__).parent / "results" / "proof.json"


def main() -> int:
    """Run the proof, print what happens and write the report; 0 when every invoice is exact."""
    parser = argparse.ArgumentParser(prog="make proof", description="Prove that invoices come out exact while processes are killed.")
    parser.add_argument("--events", type=int, default=1_000_000, help="distinct usage events; default 1,000,000")
    parser.add_argument("--kills", type=int, default=20, help="processes ended with SIGKILL; default 20")
    parser.add_argument("--seed", type=int, default=1, help="decides all that is random; default 1")
    asked = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a killed broker is the point of it
    facts = machine.facts()
    folder = Path(tempfile.mkdtemp(prefix="turnpike-proof-"))
    folder.chmod(0o755)  # Postgres runs as another user under root
    try:
        report = asyncio.run(_prove(folder, events=asked.events, kills=asked.kills, seed=asked.seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    REPORT.write_text(json.dumps({"machine": facts, "events": asked.events, "proof": report.public()}, indent=2) + "\n")
    for one in report.subscriptions:
        owed, invoiced = one.owed_minor / 100, one.invoiced_minor / 100
        print(f"  {one.product:<11} {one.events:>9,} events  {one.billed:>11,} billed  owed ${owed:>11,.2f}  invoiced ${invoiced:>11,.2f}")
    verdict = "every invoice is exact" if report.exact else "NOT exact"
    print(f"proof: {verdict}, {len(report.kills)} kills, {report.seconds:.0f} s; see {REPORT}")
    return 0 if report.exact else 1


async def _prove(folder: Path, *, events: int, kills: int, seed: int) -> Report:
    reserve_ports(folder)
    stack = Stack(folder)
    try:
        stack.start()
        async with living(stack, settle_seconds=SETTLE_SECONDS) as world:
            return await Proof(world, events=events, kills=kills, seed=seed).run()
    finally:
        stack.stop()


if __name__ == "__main__":
    raise SystemExit(main())
