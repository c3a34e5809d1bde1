"""A progress bar for preparing a task's data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def data_progress(console: Console, name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; the yielded function takes (rows done, total rows or 0 if unknown)."""
    columns = (TextColumn(f"preparing {name}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    plain = not console.is_terminal  # a bar would leave an empty line
    with Progress(*columns, console=console, transient=True, disable=plain) as progress:
        bar = progress.add_task(name, total=None, visible=False)
        yield lambda done, total: progress.update(bar, completed=done, total=total or None, visible=True)
