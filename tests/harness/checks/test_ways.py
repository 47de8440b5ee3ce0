"""The choice of ways, with an engine in place of the check: it says what every tap gives in which way."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.checks import ways
from grok_conformance.harness.checks.evidence import Evidence, Observed
from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.readings import Readings, phase_of
from grok_conformance.harness.checks.ways import Local, choose_ways, failing_together, permitted
from grok_conformance.harness.contract import tap_names
from grok_conformance.harness.graph.grok_1 import CARRIED, LIKE_THE_CACHE, OPERATIONS
from grok_conformance.harness.graph.oracle import ExactWeights
from grok_conformance.harness.graph.row import CANONICAL, Alternative
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.systematic import Systematic
from tests.harness.honest_port import NUM_ELEMENTS, golden_case

CASE = "unequal/decode/unequal_lengths.bfloat16"
OTHER = "unequal/prefill/padded_batch.bfloat16"
WIDE = "unequal/decode/unequal_lengths.float32"
DENSE = "dense/decode/dense_block.bfloat16"

LOGITS, HIDDEN, WEIGHTS = "layers.00.attention.logits", "layers.01.moe.expert_hidden", "layers.00.attention.weights"
OTHER_LOGITS = "layers.01.attention.logits"
PRODUCT_ROUNDED = next(row for row in OPERATIONS if row.name == "moe.expert_hidden").alternatives[1]
ACTIVATION, UP = "moe.expert_activation", "moe.expert_up"

NOTHING = Ways()

Port = Callable[[str, int, str, Ways], Comparison]
"""What the tap of a case and call gives when it is computed in some ways."""


def of_ratio(call: int, tap: str, ratio: float, *systematic: Systematic) -> Comparison:
    return Comparison(call, tap, 10, tail=ratio, systematic=systematic)


def in_common(score: float, name: str = "gain") -> Systematic:
    return Systematic(name, coefficient=score, standard_error=1.0, floor=0.0, information=1.0, allowed=1.0)


def way_of(ways: Ways, row: str) -> Alternative:
    return ways.alternatives.get(row, CANONICAL)


@dataclass
class Run:
    """One candidate's cases and their comparisons, and in which order the check is asked for which row."""

    shown: list[Exhibit]
    local: Local
    asked: list[tuple[str, str]] = field(default_factory=list)

    def choose(self) -> Ways:
        ways, self.local = choose_ways(self.shown, self.local, NUM_ELEMENTS)
        return ways

    def ratios(self) -> list[float]:
        return [one.ratio for comparisons in self.local.values() for one in comparisons]


def answered(case_id: str, *, fused: bool = False, hides: Collection[str] = (), cache: str = "bfloat16") -> Exhibit:
    preset, case = golden_case(case_id)
    config = replace(preset.config, fprop_dtype=case.fprop_dtype)
    empty = Observed(np.empty(0), np.empty(0), "float32")
    keys = [(call, tap) for call in range(len(case.calls)) for tap in tap_names(config) if tap not in hides]
    evidence = Evidence(config, {"kv.keys": cache}, dict.fromkeys(keys, empty), {}, {}, fused=fused)
    return Exhibit(preset, case, evidence, ExactWeights(config, {}))


def run_of(
    monkeypatch: pytest.MonkeyPatch, shown: list[Exhibit], port: Port, taps: Mapping[str, Collection[tuple[int, str]]]
) -> Run:
    """Return a run whose check gives what a port says; `taps` are those that it shows of every case."""

    def given(case: Case, ways: Ways) -> list[Comparison]:
        return [port(case.id, call, tap, ways) for call, tap in taps[case.id]]

    run = Run(shown, {one.case.id: given(one.case, NOTHING) for one in shown})

    def check(exhibit: Exhibit, *, num_elements: int, only: Collection[str]) -> list[Comparison]:
        assert replace(exhibit, ways=NOTHING) in shown
        assert num_elements == NUM_ELEMENTS
        (row,) = only
        run.asked.append((exhibit.case.id, row))
        return given(exhibit.case, exhibit.ways)

    monkeypatch.setattr(ways, "check_case", check)
    return run


def of_ways(**right: Callable[[Ways], bool]) -> Port:
    """Return a port that fails a tap, by the last word of its name, unless it is computed in the right ways."""

    def port(_case: str, call: int, tap: str, ways: Ways) -> Comparison:
        name = tap.rpartition(".")[2]
        return of_ratio(call, tap, 0.5 if name not in right or right[name](ways) else 7.0)

    return port


BOTH_CALLS = {CASE: [(0, LOGITS), (1, LOGITS), (0, HIDDEN), (1, HIDDEN)]}


def test_nothing_is_tried_where_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(monkeypatch, [answered(CASE, fused=True)], of_ways(), BOTH_CALLS)
    assert run.choose() == NOTHING
    assert run.asked == []


def test_the_way_that_passes_is_chosen_and_its_row_is_compared_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    port = of_ways(logits=lambda ways: way_of(ways, "attention.logits") == CARRIED)
    run = run_of(monkeypatch, [answered(CASE)], port, BOTH_CALLS)
    before = list(run.local[CASE])
    assert run.choose() == Ways({"attention.logits": CARRIED})
    assert run.ratios() == [0.5] * 4
    assert all(one is other for one, other in zip(run.local[CASE][2:], before[2:], strict=True))
    assert run.asked == [(CASE, "attention.logits")]


def test_the_first_way_of_the_table_that_passes_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    port = of_ways(logits=lambda ways: way_of(ways, "attention.logits") != CANONICAL)
    run = run_of(monkeypatch, [answered(CASE, cache="float16")], port, BOTH_CALLS)
    assert run.choose() == Ways({"attention.logits": CARRIED})


def test_ways_of_several_rows_are_chosen_in_the_order_of_the_graph_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(ways: Ways) -> bool:
        return dict(ways.alternatives) == {"attention.logits": CARRIED, "moe.expert_hidden": PRODUCT_ROUNDED}

    port = of_ways(logits=lambda ways: way_of(ways, "attention.logits") == CARRIED, expert_hidden=both)
    run = run_of(monkeypatch, [answered(CASE)], port, BOTH_CALLS)
    assert both(run.choose())
    assert run.ratios() == [0.5] * 4


def test_a_row_that_no_way_mends_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(monkeypatch, [answered(CASE, fused=True)], of_ways(expert_hidden=lambda _ways: False), BOTH_CALLS)
    assert run.choose() == NOTHING
    assert run.ratios() == [0.5, 0.5, 7.0, 7.0]


def test_a_row_fails_if_one_of_its_taps_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(_case: str, call: int, tap: str, ways: Ways) -> Comparison:
        return of_ratio(call, tap, 7.0 if call and way_of(ways, "attention.logits") == CANONICAL else 0.5)

    run = run_of(monkeypatch, [answered(CASE)], port, {CASE: [(0, LOGITS), (1, LOGITS)]})
    assert run.choose() == Ways({"attention.logits": CARRIED})


def test_a_way_holds_for_all_cases_or_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(case: str, call: int, tap: str, ways: Ways) -> Comparison:
        carried = way_of(ways, "attention.logits") == CARRIED
        return of_ratio(call, tap, 0.5 if carried == (case == CASE) else 7.0)

    run = run_of(monkeypatch, [answered(CASE), answered(OTHER)], port, {CASE: [(0, LOGITS)], OTHER: [(0, LOGITS)]})
    assert run.choose() == NOTHING
    assert run.ratios() == [7.0, 0.5]


def test_only_cases_that_have_the_row_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    port = of_ways(logits=lambda ways: way_of(ways, "attention.logits") == CARRIED)
    taps = {CASE: [(0, LOGITS), (0, WEIGHTS)], OTHER: [(0, WEIGHTS)]}
    run = run_of(monkeypatch, [answered(OTHER), answered(CASE)], port, taps)
    assert run.choose() == Ways({"attention.logits": CARRIED})
    assert run.asked == [(CASE, "attention.logits")]
    assert set(run.local) == {CASE, OTHER}


def test_the_case_in_which_the_row_is_worst_is_asked_first_and_alone_if_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = {(CASE, LOGITS): 3.0, (CASE, OTHER_LOGITS): 2.0, (OTHER, LOGITS): 0.1, (OTHER, OTHER_LOGITS): 7.0}

    def port(case: str, call: int, tap: str, _ways: Ways) -> Comparison:
        return of_ratio(call, tap, first[case, tap])

    taps = {case: [(0, LOGITS), (0, OTHER_LOGITS)] for case in (CASE, OTHER)}
    run = run_of(monkeypatch, [answered(CASE), answered(OTHER)], port, taps)
    assert run.choose() == NOTHING
    assert run.asked == [(OTHER, "attention.logits")]


def test_what_other_rows_give_does_not_say_in_which_case_a_row_is_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    first = {(CASE, LOGITS): 3.0, (CASE, WEIGHTS): 9.0, (OTHER, LOGITS): 7.0, (OTHER, WEIGHTS): 0.1}

    def port(case: str, call: int, tap: str, _ways: Ways) -> Comparison:
        return of_ratio(call, tap, first[case, tap])

    taps = {case: [(0, LOGITS), (0, WEIGHTS)] for case in (CASE, OTHER)}
    run = run_of(monkeypatch, [answered(CASE), answered(OTHER)], port, taps)
    run.choose()
    assert run.asked == [(OTHER, "attention.logits")]


def test_no_way_gives_back_a_tap_that_is_missing_and_none_is_refused_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(_case: str, call: int, tap: str, ways: Ways) -> Comparison:
        if call == 0:
            return Comparison(call, tap, 0, problem="missing")
        return of_ratio(call, tap, 0.5 if way_of(ways, "attention.logits") == CARRIED else 7.0)

    run = run_of(monkeypatch, [answered(CASE)], port, {CASE: [(0, LOGITS), (1, LOGITS)]})
    assert run.choose() == Ways({"attention.logits": CARRIED})
    assert run.ratios() == [math.inf, 0.5]
    run = run_of(monkeypatch, [answered(CASE)], port, {CASE: [(0, LOGITS)]})
    assert run.choose() == NOTHING
    assert run.asked == []


# What all taps of a row have in common


def test_a_row_may_fail_over_all_its_taps_though_each_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(_case: str, call: int, tap: str, ways: Ways) -> Comparison:
        mended = tap != LOGITS or way_of(ways, "attention.logits") == CARRIED
        return of_ratio(call, tap, 0.5, in_common(0.1 if mended else 0.9), in_common(0.0, "bias"))

    run = run_of(monkeypatch, [answered(CASE)], port, BOTH_CALLS)
    assert failing_together(run.shown, run.local) == {"attention.logits"}
    assert run.choose() == Ways({"attention.logits": CARRIED})
    assert failing_together(run.shown, run.local) == set()


def test_a_way_that_fails_over_all_its_taps_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(_case: str, call: int, tap: str, ways: Ways) -> Comparison:
        canonical = way_of(ways, "attention.logits") == CANONICAL
        carried = way_of(ways, "attention.logits") == CARRIED
        return of_ratio(call, tap, 7.0 if canonical else 0.5, in_common(0.9 if carried else 0.1))

    run = run_of(monkeypatch, [answered(CASE, cache="float16")], port, {CASE: [(0, LOGITS), (1, LOGITS)]})
    assert run.choose() == Ways({"attention.logits": LIKE_THE_CACHE})
    run = run_of(monkeypatch, [answered(CASE)], port, {CASE: [(0, LOGITS), (1, LOGITS)]})
    assert run.choose() == NOTHING
    assert run.ratios() == [7.0, 7.0]


@pytest.mark.parametrize(("score", "fails"), [(0.99, False), (1.0, False), (1.01, True), (1.99, True), (2.5, True)])
def test_what_is_in_common_fails_beyond_what_is_allowed(
    score: float, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    def port(_case: str, call: int, tap: str, _ways: Ways) -> Comparison:
        return of_ratio(call, tap, 0.5, in_common(score))

    run = run_of(monkeypatch, [answered(CASE)], port, {CASE: [(0, WEIGHTS)]})
    assert failing_together(run.shown, run.local) == ({"attention.weights"} if fails else set())


def test_a_row_of_a_dense_block_fails_by_the_name_of_its_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(_case: str, call: int, tap: str, _ways: Ways) -> Comparison:
        return of_ratio(call, tap, 0.5, in_common(3.0))

    run = run_of(monkeypatch, [answered(DENSE)], port, {DENSE: [(0, "layers.00.moe.output")]})
    assert failing_together(run.shown, run.local) == {"moe.output"}
    assert run.shown[0].row_of(run.local[DENSE][0]) == "dense.output"


# Readings


def reads(ways: Ways, phase: str, name: str) -> str:
    return ways.readings.get((phase, "moe.expert_hidden", name), "rounded")


def test_a_fused_port_is_read_phase_by_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(_case: str, call: int, tap: str, ways: Ways) -> Comparison:
        if call == 0:
            return of_ratio(call, tap, 0.5 if reads(ways, "prefill", UP) == "carried" else 7.0)
        return of_ratio(call, tap, 0.5 if reads(ways, "decode", ACTIVATION) == "recorded" else 7.0)

    run = run_of(monkeypatch, [answered(CASE, fused=True)], port, {CASE: [(0, HIDDEN), (1, HIDDEN)]})
    ways = run.choose()
    assert ways.alternatives == {}
    assert ways.readings == {
        ("prefill", "moe.expert_hidden", UP): "carried",
        ("decode", "moe.expert_hidden", ACTIVATION): "recorded",
    }
    assert run.ratios() == [0.5, 0.5]


def test_a_reading_of_one_phase_is_tried_on_the_calls_of_that_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(_case: str, call: int, tap: str, ways: Ways) -> Comparison:
        decoded = reads(ways, "decode", UP) == "carried"
        return of_ratio(call, tap, 0.1 if decoded else 7.0 if call else 0.5)

    run = run_of(monkeypatch, [answered(CASE, fused=True)], port, {CASE: [(0, HIDDEN), (1, HIDDEN)]})
    assert run.choose().readings == {("decode", "moe.expert_hidden", UP): "carried"}
    assert run.ratios() == [0.5, 0.1]  # the prefill was right as it was


def test_a_phase_that_no_reading_mends_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(_case: str, call: int, tap: str, ways: Ways) -> Comparison:
        mended = call and reads(ways, "decode", UP) == "carried"
        return of_ratio(call, tap, 0.5 if mended else 7.0)

    run = run_of(monkeypatch, [answered(CASE, fused=True)], port, {CASE: [(0, HIDDEN), (1, HIDDEN)]})
    assert run.choose() == NOTHING
    # Nine readings of two edges in prefill, for either of two alternatives, and once the second one alone.
    assert len(run.asked) == 2 * 9 + 1


def test_an_alternative_and_a_reading_may_be_needed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(ways: Ways) -> bool:
        product = way_of(ways, "moe.expert_hidden") == PRODUCT_ROUNDED
        return product and "carried" in (reads(ways, "prefill", UP), reads(ways, "decode", UP))

    run = run_of(monkeypatch, [answered(CASE, fused=True)], of_ways(expert_hidden=both), BOTH_CALLS)
    ways = run.choose()
    assert ways.alternatives == {"moe.expert_hidden": PRODUCT_ROUNDED}
    assert ways.readings


def test_no_reading_is_tried_where_an_alternative_does(monkeypatch: pytest.MonkeyPatch) -> None:
    port = of_ways(expert_hidden=lambda ways: way_of(ways, "moe.expert_hidden") == PRODUCT_ROUNDED)
    run = run_of(monkeypatch, [answered(CASE, fused=True)], port, BOTH_CALLS)
    assert run.choose() == Ways({"moe.expert_hidden": PRODUCT_ROUNDED})
    assert len(run.asked) == 9 + 1  # nine readings of the canonical way in prefill, and then the alternative


@pytest.mark.parametrize(
    "shown",
    [
        [answered(CASE)],
        [answered(WIDE, fused=True)],
        [answered(CASE, fused=True, hides=["layers.00.moe.norm"])],
        [answered(CASE, fused=True), answered(OTHER)],
    ],
    ids=["says that it is not fused", "shows float32", "hides a tap", "is not fused in another case"],
)
def test_a_port_that_keeps_nothing_back_or_hides_it_is_read_as_it_shows(
    shown: list[Exhibit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def port(_case: str, call: int, tap: str, ways: Ways) -> Comparison:
        return of_ratio(call, tap, 0.5 if ways.readings else 7.0)

    run = run_of(monkeypatch, shown, port, {one.case.id: [(0, HIDDEN)] for one in shown})
    assert run.choose() == NOTHING
    assert len(run.asked) == 1  # the alternative


# What is permitted, and words for it


def test_operands_like_the_cache_need_such_a_cache_in_every_case() -> None:
    alternatives = (CANONICAL, CARRIED, Alternative("rounded", operands="fprop"), LIKE_THE_CACHE)
    narrow, wide = answered(CASE, cache="float16"), answered(OTHER, cache="bfloat16")
    assert permitted(alternatives, [narrow]) == list(alternatives)
    assert permitted(alternatives, [wide]) == list(alternatives[:3])
    assert permitted(alternatives, [narrow, wide]) == list(alternatives[:3])


def test_a_call_of_one_token_is_a_decode() -> None:
    one = answered(CASE)
    assert [one.phase(Comparison(call, HIDDEN, 1)) for call in (0, 1)] == ["prefill", "decode"]
    assert [phase_of(each.tokens.shape[1]) for each in one.case.calls[:2]] == ["prefill", "decode"]


def test_ways_are_told_in_words_by_operation() -> None:
    readings: Readings = {("decode", "moe.output", "moe.expert_gate"): "carried"}
    ways = Ways({"attention.logits": CARRIED, "dense.output": CARRIED, "moe.output": PRODUCT_ROUNDED}, readings)
    assert ways.describe("attention.logits") == CARRIED.name
    assert ways.describe("attention.weights") == ""
    assert ways.describe("moe.output") == (f"{PRODUCT_ROUNDED.name}, {CARRIED.name}, moe.expert_gate carried in decode")
    assert ways.describe("dense.hidden") == ""
    alike = Ways({"moe.output": CARRIED, "dense.output": CARRIED})
    assert alike.describe("moe.output") == CARRIED.name
