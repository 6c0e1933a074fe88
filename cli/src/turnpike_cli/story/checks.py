"""What the story proves: each check is printed as it is made, and counted."""

import time
from dataclasses import dataclass, field

from rich.console import Console


@dataclass
class Checks:
    """Counts what held and what did not. `passed` and `failed` make the demo's last line and its exit code."""

    console: Console
    passed: int = 0
    failures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> int:
        return len(self.failures)

    def chapter(self, number: int, title: str) -> None:
        self.console.print(f"\n[bold]{number}. {title}[/bold]  [dim]{self._clock()}[/dim]")

    def step(self, text: str, *, seconds: float | None = None) -> None:
        """Tell what was just done, and how long it took."""
        took = "" if seconds is None else f"  [dim]{seconds * 1000:.0f} ms[/dim]" if seconds < 1 else f"  [dim]{seconds:.1f} s[/dim]"
        self.console.print(f"   {text}{took}")

    def check(self, what: str, *, held: bool, detail: str = "") -> bool:
        """Count one check and show it."""
        if held:
            self.passed += 1
        else:
            self.failures.append(f"{what}{f': {detail}' if detail else ''}")
        mark = "[green]✓[/green]" if held else "[red]✗[/red]"
        self.console.print(f"   {mark} {what}{f'  [dim]{detail}[/dim]' if detail else ''}")
        return held

    def equal(self, what: str, **figures: object) -> bool:
        """Check that all named figures are the same."""
        values = list(figures.values())
        detail = " = ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        return self.check(what, held=all(value == values[0] for value in values), detail=detail)

    def last_line(self) -> str:
        return f"demo: {self.passed} checks passed, {self.failed} failed"

    def _clock(self) -> str:
        return f"{time.monotonic() - self.started:.1f} s"
