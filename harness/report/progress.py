"""Progress on standard error: a bar on a terminal; in a pipe or a log a line per candidate and minute."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 60.0


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
    if not console.is_terminal:
        yield lines_of(num_cases) if shown else lambda _name, _case: None
        return
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("starting", total=num_cases)
        yield lambda name, case: bar.update(task, advance=1, description=f"{name} {case}")


def lines_of(num_cases: int, clock: Callable[[], float] = time.monotonic) -> Callable[[str, str], None]:
    """Return what writes a line when a minute has passed since the candidate's last one: cases so far, of all."""
    began = clock()
    last: dict[str, float] = {}
    done: Counter[str] = Counter()
    lock = threading.Lock()  # candidates run at the same time

    def advance(name: str, case: str) -> None:
        with lock:
            done[name] += 1
            now = clock()
            if now - last.setdefault(name, began) >= SECONDS_BETWEEN_LINES:
                last[name] = now
                all_done = f"{done.total()} of {num_cases} in all"
                sys.stderr.write(f"{name}: {done[name]} cases in {now - began:.0f} s, now {case} ({all_done})\n")

    return advance
