"""What changed between two runs of one candidate: bits within or beyond fences, statuses, times and memory."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.judging.baseline import History, Record
from grok_conformance.harness.judging.verdict import PASSING, SEVERITY
from grok_conformance.harness.measure.words import number_of

MIN_RUNS = 4
"""Runs in the history from which the noise of timings is measured."""


NOISES = 4.0
"""How many standard deviations of the logarithm of the time a run may be slower than the baseline."""


LEAST_NOISE = 0.05
"""The least such deviation that is believed: a few runs may agree by chance."""


IMPLAUSIBLE = 5.0
"""A candidate that became so many times faster is suspected of no longer computing."""


MEMORY_RATIO = 1.25
"""How much more memory a run may take than the baseline; samples are coarse."""


@dataclass(frozen=True, kw_only=True)
class Regression:
    """How a run differs from the baseline.

    `within` and `beyond` are the operations, each with its compute dtype, with changed bits that pass, and that do not;
    `rerouted` the cases in which other experts were chosen. `flags` are reasons to look closer, `notes` what could not
    be compared; `history` the lines of all runs, this one last.
    """

    num_taps: int
    num_identical: int
    within: tuple[str, ...]
    beyond: tuple[str, ...]
    rerouted: tuple[str, ...]
    flags: tuple[str, ...]
    notes: tuple[str, ...]
    history: History

    @property
    def clean(self) -> bool:
        """Whether nothing calls for a closer look."""
        return not self.beyond and not self.flags


def line_of(record: Record, date: str, slowdown: float | None, *, flagged: bool) -> Mapping[str, Any]:
    """Return what the history keeps of a run, as JSON can hold it."""
    return {
        "date": date,
        "version": record.version,
        "status": record.status,
        "digest": record.digest,
        "cpu": record.platform["cpu"],
        "cases": cases_digest(record),
        "seconds": sum(record.seconds.values()),
        "slowdown": slowdown,
        "peak_bytes": record.peak_bytes,
        "flagged": flagged,
    }


def cases_digest(record: Record) -> str:
    """Return the sha256 of the ids of the cases that a run timed."""
    return hashlib.sha256(json.dumps(sorted(record.seconds)).encode()).hexdigest()


def compare_runs(old: Record, new: Record, earlier: History, date: str) -> Regression:
    """Return how a run differs from the baseline; `earlier` is the history before it, `date` its own."""
    shared = sorted(set(old.taps) & set(new.taps))
    changed = [key for key in shared if old.taps[key] != new.taps[key]]
    moved = list(dict.fromkeys(operation_of(key) for key in changed))
    failing = {name for name, status in new.operations.items() if status not in PASSING}
    factor, usual = slowdown(old, new), usual_slowdowns(new, earlier)
    flags = [*worse(old, new), *timing_flags(factor, usual), *memory_flags(old, new)]
    return Regression(
        num_taps=len(shared),
        num_identical=len(shared) - len(changed),
        within=tuple(name for name in moved if name not in failing),
        beyond=tuple(name for name in moved if name in failing),
        rerouted=tuple(dict.fromkeys(key.split(" call")[0] for key in changed if key.endswith(GROK_1.choice))),
        flags=tuple(flags),
        notes=tuple(uncompared(old, new, len(usual) + 1)),
        history=(*earlier, line_of(new, date, factor, flagged=bool(flags))),
    )


def operation_of(key: str) -> str:
    """Return the operation and compute dtype of a key of `Record.taps`, as `Record.operations` names them."""
    case, _, tap = key.partition(" call")
    return f"{split_tap(tap.partition('/')[2])[1]} {case.partition('/')[0].rpartition('.')[2]}"


def uncompared(old: Record, new: Record, num_runs: int) -> Iterator[str]:
    """Yield what of a run could not be compared with the baseline; `num_runs` tell how noisy its times are."""
    if old.suite != new.suite:
        yield f"the baseline is of golden set {old.suite}, this run of {new.suite}"
    if lost := len(set(old.taps) - set(new.taps)):
        yield f"not in this run: {number_of(lost, 'taps')} of the baseline"
    if old.platform != new.platform:
        yield "the baseline was made on another platform: times and memory are not compared"
        return
    if set(old.seconds) != set(new.seconds):
        yield "the baseline ran other cases: memory is not compared"
    if num_runs < MIN_RUNS:
        yield f"the noise of times is known from {MIN_RUNS} runs on: {num_runs} so far"


def worse(old: Record, new: Record) -> Iterator[str]:
    """Yield what has a worse status than in the baseline."""
    if SEVERITY[new.status] > SEVERITY[old.status]:
        yield f"the verdict was {old.status} and is {new.status}"
    for name, status in new.operations.items():
        if name in old.operations and SEVERITY[status] > SEVERITY[old.operations[name]]:
            yield f"{name} was {old.operations[name]} and is {status}"
    for name in sorted(set(old.operations) - set(new.operations)):
        yield f"{name} is no longer shown"


def slowdown(old: Record, new: Record) -> float | None:
    """Return the time of a run over that of the baseline in the cases of both, None where they do not compare."""
    shared = set(old.seconds) & set(new.seconds)
    before, after = (sum(each.seconds[case] for case in shared) for each in (old, new))
    return after / before if old.platform == new.platform and before and after else None


def usual_slowdowns(new: Record, earlier: History) -> list[float]:
    """Return the slowdowns of the earlier runs that ran the same cases on the same CPU, each against its baseline.

    A flagged run is left out: what it is flagged for would pass for noise in the next one. Each is a ratio, so that a
    slower baseline that was accepted makes times no noisier.
    """
    here = new.platform["cpu"], cases_digest(new)
    alike = (line for line in earlier if (line["cpu"], line.get("cases")) == here and not line["flagged"])
    return [line["slowdown"] for line in alike if line["slowdown"] is not None]


def timing_flags(factor: float | None, usual: Sequence[float]) -> Iterator[str]:
    """Yield whether a run is slower than the baseline by more than the noise of usual runs, or implausibly fast."""
    if factor is None:
        return
    if 1 / factor > IMPLAUSIBLE:
        yield f"{1 / factor:.3g} times as fast as the baseline: does it still compute?"
    if len(usual) >= MIN_RUNS - 1:
        noise = max(statistics.stdev(map(math.log, usual)), LEAST_NOISE)
        if math.log(factor) > NOISES * noise:
            yield f"{factor:.3g} times as slow as the baseline, noise allows {math.exp(NOISES * noise):.3g}"


def memory_flags(old: Record, new: Record) -> Iterator[str]:
    """Yield whether a run takes more memory than the baseline took for the same cases on the same platform."""
    if old.platform != new.platform or set(old.seconds) != set(new.seconds):
        return
    if old.peak_bytes and new.peak_bytes > MEMORY_RATIO * old.peak_bytes:
        yield f"{new.peak_bytes / 2**20:.0f} MiB of memory, the baseline took {old.peak_bytes / 2**20:.0f}"


def describe(regression: Regression) -> Iterator[str]:
    """Yield a comparison with the baseline in a few lines."""
    if regression.num_taps:
        same = f"{regression.num_identical} of {number_of(regression.num_taps, 'taps')}"
        yield f"against the baseline: {same} bit for bit the same"
    if regression.within:
        yield f"changed within fences: {', '.join(regression.within)}"
    if regression.beyond:
        yield f"moved beyond fences: {', '.join(regression.beyond)}"
    if regression.rerouted:
        yield f"other experts chosen in {', '.join(regression.rerouted)}"
    yield from (f"look closer: {flag}" for flag in regression.flags)
    yield from regression.notes
