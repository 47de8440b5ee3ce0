"""Progress on standard error: a bar on a terminal; in a pipe or a log a line per candidate and minute."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from grok_conformance.harness.measure.words import number_of

SECONDS_BETWEEN_LINES = 60.0


@contextlib.contextmanager
def progress_bar(num_cases: int, *, shown: bool = True) -> Iterator[Callable[[str, str], None]]:
    """Show a bar of `num_cases` steps; yields a function that takes the candidate and the case just answered."""
    if not sys.stderr.isatty():
        yield lines_of(num_cases) if shown else lambda _name, _case: None
        return
    with bar_of(num_cases, shown=shown) as advance:
        yield advance


@contextlib.contextmanager
def bar_of(num_cases: int, *, shown: bool) -> Iterator[Callable[[str, str], None]]:
    """Draw the bar on a terminal; yields what moves it on."""
    from rich import console, progress  # noqa: PLC0415 - a command in a pipe starts sooner without it

    columns = (
        progress.TextColumn("{task.description:40.40}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True), transient=True, disable=not shown) as bar:
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
                sys.stderr.write(
                    f"{name}: {number_of(done[name], 'cases')} in {now - began:.0f} s, now {case} ({all_done})\n"
                )

    return advance
