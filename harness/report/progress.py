"""Progress on a terminal: cases answered, and the time left. Silent where the output is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(num_cases: int, *, shown: bool = True) -> Iterator[Callable[[str, str], None]]:
    """Show a bar of `num_cases` steps; yields a function that takes the candidate and the case just answered."""
    columns = (
        TextColumn("{task.description:40.40}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("starting", total=num_cases)
        yield lambda name, case: bar.update(task, advance=1, description=f"{name} {case}")
