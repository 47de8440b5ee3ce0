"""How often honest ports are failed: fresh weights and tokens, every honest variant, judged by the frozen noise model.

`python -m tests.fault_detection.honest_runs --runs N --json FILE` prints the rates; status 1 if any run was failed.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.formats.files import write_json
from grok_conformance.harness.judging.groups import run_size
from grok_conformance.harness.judging.judge import Judged, judge_candidate
from grok_conformance.harness.judging.summary import summarise
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict
from grok_conformance.harness.judging.whole_run import HonestRuns
from tests.fault_detection.honest_suites import NUM_CASES, PRESETS, answers_of, honest_group
from tests.fault_detection.honest_variants import VARIANTS
from tests.fault_detection.kept_steps import kept
from tests.fault_detection.rates import Interval, clopper_pearson

DTYPES = ("float32", "bfloat16")
ENGINES = ("torch", "inductor", "numpy", "jax")
"""In an order whose halves, of about as many variants, have inductor and JAX apart."""


@dataclass(frozen=True)
class Suite:
    """One variant over fresh weights and tokens of one seed, judged as a whole."""

    variant: str
    seed: int

    @property
    def presets(self) -> tuple[str, ...]:
        """The presets that the variant's engine runs."""
        everything = VARIANTS[self.variant].engine in {"numpy", "torch"}
        return tuple(name for name, row in PRESETS.items() if row.compiled or everything)


@dataclass(frozen=True)
class Extreme:
    """The worst measured / allowed of one operation, compute dtype and statistic, and the variant that had it.

    The ratio is rounded up to 4 decimals, so that a record of it does not hang on the last bits of float64 sums.
    `end_to_end` is the error of a whole run, for the choice of experts the gap between the scores of a flip.
    """

    operation: str
    fprop_dtype: str
    statistic: str
    ratio: float
    variant: str


@dataclass(frozen=True)
class Run:
    """One case of one suite: the preset and the compute dtype that it has, and whether it was failed."""

    preset: str
    fprop_dtype: str
    failed: bool


@dataclass(frozen=True)
class SuiteResult:
    """What one suite gave: its runs, the reason of every failure, whether the whole suite failed, its extremes."""

    suite: Suite
    runs: tuple[Run, ...]
    alarms: tuple[str, ...]
    suite_failed: bool
    num_flips: int
    extremes: tuple[Extreme, ...]
    seconds: float


@dataclass(frozen=True)
class CaseRate:
    """How often the honest runs of one preset and compute dtype were failed, with 95 % Clopper–Pearson bounds."""

    preset: str
    fprop_dtype: str
    num_runs: int
    num_alarms: int
    alarms: Interval


@dataclass(frozen=True)
class HonestRates:
    """How often honest runs and honest suites were failed, with 95 % Clopper–Pearson bounds.

    `alarms` has a line for every run that was failed, and for every operation that was over all runs of a suite.
    """

    num_runs: int
    num_run_alarms: int
    run_alarms: Interval
    num_suites: int
    num_suite_alarms: int
    suite_alarms: Interval
    by_case: tuple[CaseRate, ...]
    variants: tuple[str, ...]
    num_excused_flips: int
    alarms: tuple[str, ...]
    extremes: tuple[Extreme, ...]


HONEST_RUNS: HonestRuns = {}
"""Shared by all variants that a process judges: they have weights, tokens and mostly routes in common."""


def judge_suite(suite: Suite, num_cases: int) -> SuiteResult:
    """Run one suite and judge it."""
    began = time.monotonic()
    groups = [honest_group(name, dtype, suite.seed, num_cases) for dtype in DTYPES for name in suite.presets]
    answers = [answers_of(VARIANTS[suite.variant], group) for group in groups]
    judged: list[Judged] = judge_candidate(groups, answers, run_size(groups), HONEST_RUNS)
    verdict = summarise(suite.variant, groups, answers, judged, 0.0)
    alarms = [f"{suite.variant}: {case.case}: {case.reason}" for case in verdict.cases if case.status != "pass"]
    alarms += [f"{suite.variant}: {row.operation} in {row.fprop_dtype}: pooled" for row in verdict.operations
               if row.status != "pass" and not row.cases_at_fault]  # fmt: skip
    return SuiteResult(
        suite=suite,
        runs=tuple(run_of(case) for case in verdict.cases),
        alarms=tuple(alarms),
        suite_failed=not verdict.passed,
        num_flips=sum(len(case.flips) for case in verdict.cases),
        extremes=tuple(extremes_of(verdict)),
        seconds=time.monotonic() - began,
    )


def run_of(case: CaseVerdict) -> Run:
    """Return what kind of run a case was, and whether it was failed; its id is `PRESET/honest/SEED_INDEX.DTYPE`."""
    return Run(case.case.partition("/")[0], case.case.rpartition(".")[2], case.status != "pass")


def extremes_of(verdict: CandidateVerdict) -> Iterator[Extreme]:
    """Yield the worst measured / allowed of every operation, compute dtype and statistic."""
    worst: dict[tuple[str, str, str], float] = {}
    for operation, dtype, statistic, ratio in measured(verdict):
        worst[operation, dtype, statistic] = max(worst.get((operation, dtype, statistic), 0.0), ratio)
    for (operation, dtype, statistic), ratio in worst.items():
        yield Extreme(operation, dtype, statistic, rounded_up(ratio), verdict.name)


def rounded_up(ratio: float) -> float:
    """Return a ratio rounded up to 4 decimals; an infinite one stays as it is."""
    return float(np.ceil(1e4 * ratio)) / 1e4


def measured(verdict: CandidateVerdict) -> Iterator[tuple[str, str, str, float]]:
    """Yield (operation, compute dtype, statistic, measured / allowed) of everything that was compared."""
    for case in verdict.cases:
        dtype = run_of(case).fprop_dtype
        for comparison in case.comparisons:
            yield comparison.operation, dtype, "tail", comparison.tail
            yield comparison.operation, dtype, "bulk", comparison.bulk
            yield comparison.operation, dtype, "systematic", max((x.ratio for x in comparison.systematic), default=0.0)
            yield comparison.operation, dtype, "end_to_end", 0.0  # of the choice of experts, where none flips
        for drift in case.drifts:
            yield split_tap(drift.tap)[1], dtype, "end_to_end", drift.ratio
        for flip in case.flips:
            yield "moe.expert_index", dtype, "end_to_end", flip.gap / flip.allowed
    for row in verdict.operations:
        yield row.operation, row.fprop_dtype, "pooled", max((one.ratio for one in row.systematic), default=0.0)


def suites_for(num_runs: int, num_cases: int) -> tuple[Suite, ...]:
    """Return suites, seed by seed over all variants, until there are so many runs."""
    chosen: list[Suite] = []
    total = 0
    for seed in itertools.count():
        for name in VARIANTS:
            if total >= num_runs:
                return tuple(chosen)
            chosen.append(Suite(name, seed))
            total += num_cases * len(DTYPES) * len(chosen[-1].presets)
    raise AssertionError


def measure(num_runs: int, num_cases: int = NUM_CASES, *, parallel: bool = False) -> HonestRates:
    """Judge at least so many honest runs, every variant with fresh weights and tokens, and return the rates."""
    suites = suites_for(num_runs, num_cases)
    if not parallel:
        return rates_of([judge_suite(suite, num_cases) for suite in suites])
    # Each process takes whole variants, so that no engine compiles a program twice; inductor fails beside haiku.
    drawn = dict.fromkeys(suite.variant for suite in suites)
    names = sorted(drawn, key=lambda name: ENGINES.index(VARIANTS[name].engine))
    half = (len(names) + 1) // 2
    shares = [names[:half], names[half:]]
    context = multiprocessing.get_context("spawn")
    results: list[SuiteResult] = []
    with ProcessPoolExecutor(len(shares), mp_context=context) as pool:
        parts = [
            pool.submit(judge_suites, [suite for suite in suites if suite.variant in share], num_cases)
            for share in shares
        ]
        for part in parts:
            results += part.result()
    return rates_of(results)


def judge_suites(suites: Sequence[Suite], num_cases: int) -> list[SuiteResult]:
    """Run and judge some suites in one process, and show how far it is."""
    results = []
    began = time.monotonic()
    for done, suite in enumerate(suites, 1):
        results.append(kept(judge_suite, suite, num_cases))
        left = (time.monotonic() - began) / done * (len(suites) - done)
        sys.stderr.write(f"{done}/{len(suites)} suites, about {left:.0f} s left: {suite.variant}, seed {suite.seed}\n")
    return results


def rates_of(results: Sequence[SuiteResult]) -> HonestRates:
    """Add suites up."""
    alarms = tuple(alarm for result in results for alarm in result.alarms)
    runs = [run for result in results for run in result.runs]
    num_run_alarms, num_suite_alarms = sum(run.failed for run in runs), sum(r.suite_failed for r in results)
    worst: dict[tuple[str, str, str], Extreme] = {}
    for one in itertools.chain.from_iterable(result.extremes for result in results):
        key = (one.operation, one.fprop_dtype, one.statistic)
        worst[key] = max(worst.get(key, one), one, key=lambda each: each.ratio)
    return HonestRates(
        num_runs=len(runs),
        num_run_alarms=num_run_alarms,
        run_alarms=clopper_pearson(num_run_alarms, len(runs)),
        num_suites=len(results),
        num_suite_alarms=num_suite_alarms,
        suite_alarms=clopper_pearson(num_suite_alarms, len(results)),
        by_case=tuple(rates_by_case(runs)),
        variants=tuple(sorted({result.suite.variant for result in results})),
        num_excused_flips=sum(result.num_flips for result in results),
        alarms=alarms,
        extremes=tuple(worst[key] for key in sorted(worst)),
    )


def rates_by_case(runs: Sequence[Run]) -> Iterator[CaseRate]:
    """Yield how often the runs of every preset and compute dtype were failed."""
    for preset, dtype in dict.fromkeys((run.preset, run.fprop_dtype) for run in runs):
        failed = [run.failed for run in runs if (run.preset, run.fprop_dtype) == (preset, dtype)]
        bounds = clopper_pearson(sum(failed), len(failed))
        yield CaseRate(preset, dtype, len(failed), sum(failed), bounds)


def lines_of(rates: HonestRates) -> Iterator[str]:
    """Yield every alarm, the rate of every kind of case, of all runs and of whole suites."""
    yield from rates.alarms
    rows = [(f"{x.preset} in {x.fprop_dtype}", x.num_alarms, x.num_runs, x.alarms) for x in rates.by_case]
    rows.append(("runs", rates.num_run_alarms, rates.num_runs, rates.run_alarms))
    rows.append(("suites", rates.num_suite_alarms, rates.num_suites, rates.suite_alarms))
    for what, failed, total, bounds in rows:
        yield f"honest {what} failed: {failed} of {total}, 95 % bounds {bounds.low:.2g} to {bounds.high:.2g}"
    yield f"{len(rates.variants)} variants, {rates.num_excused_flips} excused flips"


def main() -> int:
    """Measure, print, and return 0 if no honest run was failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_detection.honest_runs", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, metavar="N", help="at least so many runs (default: 2000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args()
    rates = measure(options.runs, parallel=True)
    sys.stdout.writelines(f"{line}\n" for line in lines_of(rates))
    if options.json is not None:
        write_json(options.json, asdict(rates))
    return 1 if rates.num_suite_alarms else 0


if __name__ == "__main__":
    sys.exit(main())
