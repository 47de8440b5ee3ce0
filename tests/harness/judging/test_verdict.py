from __future__ import annotations

import math
from dataclasses import replace

import pytest

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.checks.end_to_end import Drift, Flip
from grok_conformance.harness.checks.flips import FlipCount
from grok_conformance.harness.checks.loaded_weights import WeightProblem
from grok_conformance.harness.judging.verdict import (
    SEVERITY,
    CandidateVerdict,
    CaseVerdict,
    RunVerdict,
    Status,
    by_operation,
    case_status,
    worst_status,
)
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.systematic import Systematic

GOOD = Comparison(0, "layers.00.attention.query", 100, tail=0.9, bulk=0.8)
FAR = Comparison(0, "layers.01.attention.query", 100, tail=3.0, bulk=0.8)
BULKY = Comparison(0, "layers.01.attention.query", 100, tail=0.9, bulk=1.5)
MISSING = Comparison(0, "layers.01.output", 0, problem="missing: declared but not returned")
MISSHAPEN = Comparison(0, "layers.01.output", 0, problem="shape [1], expected [b, t, d] = [2, 6, 40]")
UNDECIDED = Comparison(0, "logits", 0, undecided=True)
DRIFT = Drift(0, "logits", 0.5, (0, 0), 0.1, 0.2, 0.1)
FEW = FlipCount(1, 0.5, 0.3)
FLIP = Flip(0, 1, (0, 3), gap=0.01, allowed=0.02)
KNOWN = replace(FAR, waived="attention.query: deviates (*)")
WAIVER = Waiver(
    source="waivers.toml", candidate="port", case="*", reason="", reference="", expires="2099-01-01", tap="logits"
)


def verdict(*cases: CaseVerdict, level: str = "caches") -> CandidateVerdict:
    return CandidateVerdict(name="port", version="1", level=level, cases=cases, operations=(), seconds=1.0)


def test_a_verdict_that_was_not_timed_took_no_time_to_be_judged() -> None:
    assert verdict().judging_seconds == 0.0


def test_a_case_within_every_fence_passes_without_a_reason() -> None:
    assert case_status([GOOD], [DRIFT], [FLIP], FEW) == ("pass", "")


def test_more_flips_than_the_margins_explain_fail_though_each_is_excused() -> None:
    status, reason = case_status([GOOD], [DRIFT], [FLIP], FlipCount(9, 0.5, 1e-9))
    assert status == "fail"
    assert reason == "9 tokens chose other experts within their margins, 0.5 expected: a chance of 1.0e-09"


@pytest.mark.parametrize(
    ("comparisons", "drifts", "flips", "status", "reason"),
    [
        ([GOOD, FAR], [], [], "fail", "layers.01.attention.query: 3 times the fence"),
        ([GOOD, BULKY], [], [], "fail", "layers.01.attention.query: 1.5 times the fence"),
        ([GOOD, MISSHAPEN], [], [], "fail", "layers.01.output: shape [1], expected [b, t, d] = [2, 6, 40]"),
        ([GOOD, MISSING], [], [], "missing", "layers.01.output: missing: declared but not returned"),
        ([MISSING, FAR], [], [], "fail", "layers.01.attention.query: 3 times the fence"),
        ([GOOD], [], [replace(FLIP, gap=0.5)], "fail", "layer 1 chose other experts for token [0, 3]"),
        ([GOOD], [replace(DRIFT, ratio=1.0)], [], "pass", ""),
        ([GOOD], [replace(DRIFT, ratio=1.2)], [], "fail", "logits: end to end 1.2 times"),
        ([GOOD], [replace(DRIFT, ratio=math.nan)], [], "fail", "logits: end to end ∞ times"),
        ([], [], [], "inconclusive", "nothing could be compared"),
        ([replace(GOOD, num_elements=0)], [], [], "inconclusive", "nothing could be compared"),
        ([GOOD, UNDECIDED], [], [], "inconclusive", "logits: every compared token hangs on a hidden choice"),
        ([GOOD, KNOWN], [], [], "waived", ""),
        ([BULKY, KNOWN], [], [], "fail", "layers.01.attention.query: 1.5 times the fence"),
    ],
)
def test_the_status_of_a_case_and_its_reason(
    comparisons: list[Comparison],
    drifts: list[Drift],
    flips: list[Flip],
    status: Status,
    reason: str,
) -> None:
    found, why = case_status(comparisons, drifts, flips, FEW)
    assert found == status
    assert why.startswith(reason)
    assert "\n" not in why


@pytest.mark.parametrize(
    ("tail", "bulk", "passes"), [(1.0, 1.0, True), (1.0001, 0, False), (0, 1.0001, False), (math.nan, 0, False)]
)
def test_a_comparison_passes_up_to_its_fence_and_never_with_nan(tail: float, bulk: float, *, passes: bool) -> None:
    assert replace(GOOD, tail=tail, bulk=bulk).passed == passes


def test_the_gravest_status_counts_and_nothing_at_all_is_missing() -> None:
    assert list(SEVERITY) == ["pass", "waived", "quirk", "inconclusive", "unsupported", "missing", "error", "fail"]
    assert worst_status(["pass", "error", "unsupported"]) == "error"
    assert worst_status(["pass", "inconclusive"]) == "inconclusive"
    assert worst_status([]) == "missing"


@pytest.mark.parametrize("status", SEVERITY)
def test_a_candidate_passes_only_if_every_case_passes_known_deviations_apart(status: Status) -> None:
    candidate = verdict(CaseVerdict(case="a", status="pass"), CaseVerdict(case="b", status=status))
    counted = "pass" if status == "quirk" else status  # fails only where it is asked for
    assert candidate.status == counted
    assert candidate.passed == (counted in ("pass", "waived"))


def test_a_candidate_without_cases_or_without_even_the_logits_does_not_pass() -> None:
    assert verdict().status == "missing"
    assert not verdict().passed
    blind = verdict(CaseVerdict(case="a", status="pass"), level="none")
    assert blind.status == "missing"
    assert not blind.passed
    refused = verdict(CaseVerdict(case="a", status="unsupported"), level="none")
    assert refused.status == "unsupported"


def test_a_failing_operation_weight_or_waiver_fails_a_candidate_whose_cases_pass() -> None:
    candidate = verdict(CaseVerdict(case="a", status="pass"))
    (wrong,), (absent,) = (by_operation([case("a", comparison)], DTYPES, {}) for comparison in (FAR, MISSING))
    assert replace(candidate, operations=(wrong,)).status == "fail"
    assert replace(candidate, operations=(absent,)).status == "pass"  # its case says so already
    problem = WeightProblem(preset="unequal", tensor="w", problem="not as stored")
    assert replace(candidate, weights=(problem,)).status == "fail"
    assert replace(candidate, outdated=("the deviation has gone",)).status == "fail"


def test_only_a_case_that_is_known_to_be_declined_does_not_count() -> None:
    shown = CaseVerdict(case="a", status="pass")
    declined = CaseVerdict(case="b", status="unsupported")
    assert verdict(shown, declined).status == "unsupported"
    assert verdict(shown, replace(declined, waived=("unsupported: no square matrices",))).status == "pass"
    assert verdict(replace(declined, waived=("unsupported: no square matrices",))).status == "missing"


@pytest.mark.parametrize(
    ("waivers", "summary"),
    [
        ((), "pass (caches)"),
        ((replace(WAIVER, tap="", says="no square matrices"),), "pass (caches)"),
        ((WAIVER,), "pass (caches) with 1 known deviation"),
        ((WAIVER, WAIVER), "pass (caches) with 2 known deviations"),
    ],
)
def test_a_pass_is_shown_with_its_level_and_its_known_deviations(waivers: tuple[Waiver, ...], summary: str) -> None:
    assert replace(verdict(CaseVerdict(case="a", status="pass")), waivers=waivers).summary == summary


def test_what_is_no_pass_is_shown_as_its_status() -> None:
    assert replace(verdict(CaseVerdict(case="a", status="fail")), waivers=(WAIVER,)).summary == "fail"


def case(name: str, *comparisons: Comparison) -> CaseVerdict:
    return CaseVerdict(case=name, status="pass", comparisons=comparisons)


DTYPES = {"a": "float32", "b": "float32", "c": "bfloat16"}


def test_comparisons_are_pooled_by_operation_and_dtype_with_the_worst_and_the_layers_at_fault() -> None:
    rows = by_operation(
        [case("a", GOOD, FAR), case("b", BULKY, MISSING), case("c", GOOD)],
        DTYPES,
        {("bfloat16", "attention.query"): "int8 times scale not rounded"},
    )
    assert [(row.operation, row.fprop_dtype, row.status) for row in rows] == [
        ("attention.query", "bfloat16", "pass"),
        ("attention.query", "float32", "fail"),
        ("output", "float32", "missing"),
    ]
    narrow, query, _ = rows
    assert (query.worst_case, query.worst, query.num_comparisons) == ("a", FAR, 3)
    assert query.layers_at_fault == (1,)
    assert query.cases_at_fault == ("a", "b")
    assert query.alternative == ""
    assert narrow.alternative == "int8 times scale not rounded"
    assert not narrow.layers_at_fault
    assert not narrow.cases_at_fault


def test_a_comparison_that_is_nan_is_the_worst() -> None:
    odd = replace(GOOD, tail=math.nan)
    (row,) = by_operation([case("a", FAR, odd)], DTYPES, {})
    assert math.isnan(row.worst.tail)
    assert row.status == "fail"


def test_a_quirk_that_is_not_reproduced_is_not_held_against_an_operation_where_another_fails_too() -> None:
    both = replace(case("b", FAR), status="fail", quirks=(tap_key(FAR.call, FAR.tap),))
    (row,) = by_operation([case("a", GOOD), both], DTYPES, {})
    assert row.status == "pass"
    (row,) = by_operation([case("a", GOOD), replace(both, quirks=())], DTYPES, {})
    assert row.status == "fail"


def test_a_case_of_a_quirk_says_nothing_of_operations() -> None:
    quirk = replace(case("b", FAR), status="quirk")
    (row,) = by_operation([case("a", GOOD), quirk], DTYPES, {})
    assert (row.status, row.worst) == ("pass", GOOD)
    assert by_operation([quirk], DTYPES, {}) == ()
    assert verdict(case("a", GOOD), quirk).missed_quirks == ("b",)
    assert verdict(quirk).summary == "quirk, of nothing but published quirks, which it does not reproduce"


def test_an_operation_that_was_nowhere_compared_is_inconclusive() -> None:
    (row,) = by_operation([case("a", UNDECIDED)], DTYPES, {})
    assert row.status == "inconclusive"
    (row,) = by_operation([case("a", UNDECIDED), case("b", replace(GOOD, tap="logits"))], DTYPES, {})
    assert row.status == "pass"


@pytest.mark.parametrize(
    ("comparisons", "status"),
    [
        ((FAR, MISSING), "fail"),
        ((MISSING, MISSING), "missing"),
        ((GOOD, KNOWN), "waived"),
        ((BULKY, KNOWN), "fail"),
    ],
)
def test_an_operation_is_as_bad_as_its_comparisons_and_a_known_deviation_is_told(
    comparisons: tuple[Comparison, ...], status: Status
) -> None:
    renamed = [replace(comparison, tap="layers.01.attention.query") for comparison in comparisons]
    (row,) = by_operation([case("a", *renamed)], DTYPES, {})
    assert row.status == status


def leaning(score: float, tap: str = "layers.01.attention.output", num_elements: int = 100) -> Comparison:
    """Return a comparison whose only statistic is a gain, so many times what is allowed."""
    gain = Systematic("gain", 1e-3, standard_error=1e-3 / (7.0 * score), floor=0.0, information=1.0, allowed=7.0)
    return Comparison(0, tap, num_elements, systematic=(gain,))


@pytest.mark.parametrize(("score", "status"), [(0.5, "pass"), (0.8, "fail")])
def test_what_many_taps_err_in_common_fails_their_operation_though_each_passes(score: float, status: Status) -> None:
    assert leaning(score).passed
    (row,) = by_operation([case("a", leaning(score)), case("b", leaning(score))], DTYPES, {})
    assert row.systematic[0].ratio == pytest.approx(score * math.sqrt(2))
    assert row.status == status


def test_an_error_in_common_of_exactly_what_is_allowed_passes() -> None:
    even = replace(leaning(0.5).systematic[0], coefficient=7.0, standard_error=1.0)
    (row,) = by_operation([case("a", replace(GOOD, systematic=(even,)))], DTYPES, {})
    assert row.systematic[0].ratio == 1.0
    assert row.status == "pass"


def of_operation(alternative: str, comparison: Comparison = GOOD) -> CandidateVerdict:
    case = CaseVerdict(case="a", status="pass" if comparison.passed else "fail", comparisons=(comparison,))
    rows = by_operation([case], {"a": "bfloat16"}, {("bfloat16", "attention.query"): alternative})
    return replace(verdict(case), operations=rows)


def test_a_pass_that_rounds_elsewhere_says_where_and_is_not_as_published() -> None:
    elsewhere = of_operation("2 partial sums")
    assert elsewhere.passed
    assert elsewhere.summary == "pass (caches), rounds elsewhere: attention.query"
    assert not elsewhere.as_published
    assert of_operation("").summary == "pass (caches)"
    assert of_operation("").as_published


def test_the_nearest_way_of_an_operation_that_fails_is_no_pass_that_rounds_elsewhere() -> None:
    failing = of_operation("2 partial sums", FAR)
    assert failing.rounding_elsewhere == ()
    assert failing.summary == "fail"
    assert not failing.as_published


def of_runs(*runs: tuple[str, bool]) -> CandidateVerdict:
    """Return a verdict on one case with further runs, each by its name and whether it gave the same bits."""
    told = tuple(RunVerdict(name=name, status="pass", reason="", bitwise=bitwise) for name, bitwise in runs)
    one = CaseVerdict(case="a", status="pass", runs=told)
    return CandidateVerdict(name="port", version="1", level="layers", cases=(one,), operations=(), seconds=1.0)


@pytest.mark.parametrize(
    ("runs", "share"),
    [
        ([], None),
        ([("untapped", True)], None),
        ([("again", True)], 0.95),
        ([("again", True), ("later", True), ("untapped", False)], 1 - 0.05**0.5),
        ([("again", True), ("later", False)], None),
    ],
)
def test_the_rarest_race_that_equal_runs_with_the_same_taps_leave_open(
    runs: list[tuple[str, bool]], share: float | None
) -> None:
    assert of_runs(*runs).rarest_race == (None if share is None else pytest.approx(share))


def test_a_verdict_on_a_part_says_so() -> None:
    assert replace(of_runs(), narrowed="moe.norm").summary == "pass, of moe.norm alone"
