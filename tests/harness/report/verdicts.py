"""Verdicts for the tests of reports: one that passes, one that fails, one that crashed."""

from __future__ import annotations

from grok_conformance.harness.checks.end_to_end import Drift, Flip
from grok_conformance.harness.judging.reused import EarlierRun, reused_from
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict, RunVerdict, by_operation
from grok_conformance.harness.measure.comparison import Comparison

CASE, OTHER = "unequal/prefill/padded_batch.bfloat16", "unequal/prefill/single_token.bfloat16"


MANY = (
    "attention.norm",
    "attention.output",
    "attention.output_norm",
    "attention.residual",
    "moe.norm",
    "moe.output",
    "output",
)
"""Operations, more than a report explains at once."""

GOOD = Comparison(0, "layers.01.attention.query", 576, tail=0.91, bulk=0.5)


BAD = Comparison(
    0,
    "layers.01.attention.key",
    144,
    tail=12.5,
    bulk=3.0,
    index=(1, 3, 2, 7),
    observed=1.5,
    exact=1.25,
    allowed=0.02,
    expected=1.2500001,
)


MISSING = Comparison(0, "layers.00.output", 0, problem="missing: declared but not returned")


MISSHAPEN = Comparison(0, "logits", 0, problem="shape [1], expected [b, t, v] = [2, 6, 101]")


DRIFT = Drift(0, "logits", 0.25, (0, 0), 0.1, 0.1, 0.1)


FLIP = Flip(0, 1, (0, 3), gap=0.01, allowed=0.02)


def verdict(*cases: CaseVerdict, name: str = "port") -> CandidateVerdict:
    rows = by_operation(cases, {CASE: "bfloat16", OTHER: "bfloat16"}, {})
    return CandidateVerdict(name=name, version="2.1", level="layers", cases=cases, operations=rows, seconds=3.25)


RUNS = tuple(RunVerdict(name=name, status="pass", reason="", bitwise=True) for name in ("first", "again", "later"))


PASSING = CaseVerdict(
    case=CASE,
    status="pass",
    comparisons=(GOOD,),
    drifts=(DRIFT,),
    flips=(FLIP,),
    runs=RUNS,
    repeatable=True,
    seconds=0.5,
)


REUSED = reused_from(EarlierRun("2026-11-28T14:03:59+00:00", 123, "d" * 64), verdict(PASSING))


FAILING = CaseVerdict(case=CASE, status="fail", reason="too far", comparisons=(GOOD, BAD, MISSING, MISSHAPEN))


CRASHED = CaseVerdict(case=OTHER, status="error", reason="killed by signal 11")
