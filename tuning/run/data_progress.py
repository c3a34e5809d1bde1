"""A progress bar for preparing a task's data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def data_progress(console: Console, name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for preparing a task's data; call what it yields with (rows done, rows in all or 0)."""
    columns = (TextColumn(f"preparing {name}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    plain = not console.is_terminal  # where a bar would leave an empty line
    with Progress(*columns, console=console, transient=True, disable=plain) as progress:
        bar = progress.add_task(name, total=None, visible=False)
        yield lambda done, total: progress.update(bar, completed=done, total=total or None, visible=True)
