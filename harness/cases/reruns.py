"""The further runs of a case: the same calls once more, in ways that must not matter.

A rerun is a row of `RERUNS`. What is asked for, made, read and judged follows from the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from grok_conformance.harness.contract import LOGITS

EVERYTHING = ("*",)


@dataclass(frozen=True)
class Rerun:
    """One way to run a case again: which taps are recorded in the last call and in those before it, and when.

    `sentence` completes "the case" in a message. A rerun `after_all` is made on the same loaded model once every case
    of the job has run, in reverse order. One that `needs_two_calls` shows in the last call what the calls before left.
    One `by_server` is made by a running server alone (`running.endpoint`).
    """

    name: str
    sentence: str
    taps: tuple[str, ...] = EVERYTHING
    last_taps: tuple[str, ...] = EVERYTHING
    after_all: bool = False
    needs_two_calls: bool = False
    by_server: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it records all that the first run does, so that only history and chance can set it apart."""
        return self.taps == self.last_taps == EVERYTHING

    def taps_by_call(self, num_calls: int) -> tuple[tuple[str, ...], ...]:
        """Return the glob patterns of the taps recorded in each call."""
        return (*[self.taps] * (num_calls - 1), self.last_taps)


RERUNS = (
    Rerun("again", "run a second time"),
    Rerun("untapped", "run with only its logits tapped", (LOGITS,), (LOGITS,)),
    Rerun("silent", "run without a tap until its last call", (), needs_two_calls=True),
    Rerun("parallel", "run with several requests at a time", by_server=True),
    Rerun("later", "run again after all others, in another order", after_all=True),
)
"""Every rerun, in the order in which they are made."""


def reruns_of(num_calls: int) -> tuple[Rerun, ...]:
    """Return the reruns that a case of so many calls can have."""
    return tuple(rerun for rerun in RERUNS if num_calls > 1 or not rerun.needs_two_calls)


def reruns_named(names: tuple[str, ...], *, after_all: bool) -> Iterator[Rerun]:
    """Yield the reruns of some names that an engine in a process makes at once, or after all cases.

    Unknown names, and those of a server, are passed over.
    """
    own = (rerun for rerun in RERUNS if rerun.name in names and not rerun.by_server)
    yield from (rerun for rerun in own if rerun.after_all == after_all)
