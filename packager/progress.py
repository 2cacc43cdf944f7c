"""Progress of long work: a bar on a terminal, plain lines elsewhere; always on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

console = Console(stderr=True, highlight=False)


class Advance(Protocol):
    """Tells that `amount` is done, and what comes next, should that be worth a word."""

    def __call__(self, amount: float, following: str = "", /) -> None: ...


@contextmanager
def task(title: str, total: float | None = None) -> Iterator[Advance]:
    """Shows `title` while the body runs; the body calls the yielded function with each amount done.

    `total` is in whatever unit the caller advances by; None shows a bar without an end.
    """
    started = monotonic()
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[following]}"),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task(title, total=total, following="")

            def advance(amount: float, following: str = "", /) -> None:
                progress.update(bar, advance=amount, following=following, refresh=bool(following))

            yield advance
    else:
        yield _Lines(title, total)
    console.print(f"[green]✓[/] {title} [dim]{monotonic() - started:.1f} s[/]")


class _Lines:
    """How far it is, in a line now and then: what a log wants instead of a bar."""

    INTERVAL = 15.0  # seconds

    def __init__(self, title: str, total: float | None) -> None:
        self._title, self._total, self._done, self._told = title, total, 0.0, monotonic()

    def __call__(self, amount: float, following: str = "", /) -> None:
        self._done += amount
        if self._total and monotonic() - self._told >= self.INTERVAL:
            self._told = monotonic()
            detail = f" [dim]{following}[/]" if following else ""
            console.print(f"  {self._title} {self._done / self._total:.0%}{detail}")


def note(text: str) -> None:
    """One plain line of information."""
    console.print(text, markup=False, soft_wrap=True)
