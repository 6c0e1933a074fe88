"""What the processes need when nobody asks anything: memory and processor time, after the start and after some work."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import psutil

from bench import machine
from bench.access import payment_to_key
from bench.stage import running_stack, stage
from turnpike_cli.parts import PARTS, SERVICE_NAMES
from turnpike_cli.stack import Stack

IDLE_SECONDS = 20.0
REST_SECONDS = 5.0
PAYMENTS = 10
TARGET_MB = 600
MB = 2**20


def _processes(stack: Stack, name: str) -> list[psutil.Process]:
    top = psutil.Process(stack.state.processes[name].pid)
    return [top, *top.children(recursive=True)]


def _seconds(processes: Iterable[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def idle(stack: Stack) -> dict[str, Any]:
    """Return memory in MB (PSS: shared pages are counted once over all) and the share of one core each part uses, in percent."""
    time.sleep(REST_SECONDS)  # what the start left to do is over
    all_processes = {part.name: _processes(stack, part.name) for part in PARTS}
    started, before = time.monotonic(), {name: _seconds(found) for name, found in all_processes.items()}
    time.sleep(IDLE_SECONDS)  # the time that is measured
    took = time.monotonic() - started
    used = {name: round((_seconds(found) - before[name]) / took * 100, 2) for name, found in all_processes.items()}
    pss = {name: sum(process.memory_full_info().pss for process in found) / MB for name, found in all_processes.items()}
    rss = {name: sum(process.memory_info().rss for process in found) / MB for name, found in all_processes.items()}
    return {
        "services_pss_mb": round(sum(pss[name] for name in SERVICE_NAMES), 1),
        "pss_mb": {name: round(value, 1) for name, value in pss.items()},
        "rss_mb": {name: round(value, 1) for name, value in rss.items()},
        "services_cpu_percent_of_a_core": round(sum(used[name] for name in SERVICE_NAMES), 2),
        "cpu_percent_of_a_core": used,
    }


async def _work(stack: Stack, payments: int) -> None:
    async with stage(stack) as scene:
        for number in range(payments):
            await payment_to_key(scene, f"payer-{number}")
        await scene.clock.settle()


def measure(runs: int | None) -> dict[str, Any]:
    """Measure after the start and after `runs` payments."""
    payments = PAYMENTS if runs is None else runs
    found = machine.facts()
    with running_stack() as stack:
        after_start = idle(stack)
        asyncio.run(_work(stack, payments))
        after_work = idle(stack)
    figures = {"after_start": after_start, f"after_{payments}_payments": after_work}
    note = "PSS of the six service processes; the launcher that forked them has ended. Others' processes, Kafka's and Postgres' included."
    return {"machine": found, "target_services_pss_mb": TARGET_MB, "note": note, "figures": figures}
