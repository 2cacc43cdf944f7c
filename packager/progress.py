"""Progress of long work: a bar on a terminal, plain lines elsewhere; always on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

console = Console(stderr=True, highlight=False)
Advance = Callable[[float], None]


@contextmanager
def task(title: str, total: float | None = None) -> Iterator[Advance]:
    """Shows `title` while the body runs; the body calls the yielded function with each amount done.

    `total` is in whatever unit the caller advances by; None shows a bar without an end.
    """
    started = monotonic()
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task(title, total=total)
            yield lambda amount: progress.advance(bar, amount)
    else:
        yield lambda amount: None
    console.print(f"[green]✓[/] {title} [dim]{monotonic() - started:.1f} s[/]")


def note(text: str) -> None:
    """One plain line of information."""
    console.print(text, markup=False)
