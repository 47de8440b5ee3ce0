from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.tensors import open_tensors
from grok_conformance.harness.golden.reading import open_golden, read_case, read_preset, read_taps
from grok_conformance.harness.golden.writing import write_golden
from grok_conformance.harness.judging.verdict import CandidateVerdict, Status
from grok_conformance.harness.measure.systematic import Systematic
from grok_conformance.harness.report.files import report_of
from grok_conformance.harness.sessions.differences import golden_moves, measured, report_moves
from tests.harness.honest_port import golden, golden_case, golden_taps, honest_taps
from tests.harness.report.verdicts import BAD, FAILING, GOOD, PASSING, verdict
from tests.harness.tiny_golden import write_tiny


def moves_of(old: CandidateVerdict, new: CandidateVerdict) -> dict[str, str]:
    before, after = (report_of([each], golden())["candidates"][0] for each in (old, new))
    return {move.operation: move.reading for move in report_moves(before, after)}


def test_two_runs_are_told_apart_by_what_each_operation_became() -> None:
    better = verdict(replace(PASSING, comparisons=(replace(GOOD, tail=0.5),)))
    right = verdict(replace(PASSING, comparisons=(replace(BAD, tail=0.5, bulk=0.5),)))
    assert moves_of(verdict(PASSING), verdict(PASSING)) == {"attention.query": "identical"}
    assert moves_of(verdict(PASSING), better) == {"attention.query": "within fences"}
    assert moves_of(right, verdict(replace(FAILING, comparisons=(BAD,)))) == {"attention.key": "beyond fences"}
    assert moves_of(verdict(replace(FAILING, comparisons=(BAD,))), right) == {"attention.key": "fixed"}
    assert moves_of(verdict(PASSING), right) == {"attention.query": "gone", "attention.key": "new"}


COMMON = Systematic("gain", 0.5, 0.01, floor=0.0, information=1.0, allowed=5.0)


def pooled_to(status: Status, *systematic: Systematic) -> CandidateVerdict:
    """Return a verdict whose worst tap passes, with what all taps of its operation err in common."""
    right = verdict(PASSING)
    return replace(right, operations=(replace(right.operations[0], status=status, systematic=systematic),))


def test_an_operation_that_fails_by_its_pooled_statistic_alone_is_beyond_fences_by_that_much() -> None:
    before, after = (
        report_of([each], golden())["candidates"][0] for each in (pooled_to("pass"), pooled_to("fail", COMMON))
    )
    (move,) = report_moves(before, after)
    assert (move.reading, move.old) == ("beyond fences", GOOD.tail)
    assert move.new == pytest.approx(COMMON.ratio)


def test_what_all_taps_err_in_common_is_part_of_what_is_measured() -> None:
    worst = verdict(replace(PASSING, comparisons=(replace(GOOD, systematic=(COMMON,)),)))
    assert moves_of(worst, worst) == {"attention.query": "identical"}
    assert moves_of(pooled_to("pass"), pooled_to("pass", replace(COMMON, coefficient=0.02))) == {
        "attention.query": "within fences"
    }
    row = report_of([worst], golden())["candidates"][0]["operations"][0]
    assert measured(row) == pytest.approx(COMMON.ratio)


def test_equal_golden_sets_are_identical_and_nothing_is_read(tmp_path: Path) -> None:
    for name in ("old", "new"):
        write_tiny(tmp_path / name)
    for name in ("old", "new"):
        shutil.rmtree(tmp_path / name / "presets" / "quantised")
    moves, notes = golden_moves(open_golden(tmp_path / "old"), open_golden(tmp_path / "new"))
    assert {move.reading for move in moves} == {"identical"}
    assert notes == []


@pytest.fixture
def other_golden(tmp_path: Path) -> Path:
    """A golden set of one case, whose logits are twice what they should be."""
    case = read_case(golden(), "ties/prefill/exact_ties.float32")
    for name, factor in (("old", 1), ("new", 2)):
        taps = dict(read_taps(golden(), case.id))
        taps["call0/logits"] = taps["call0/logits"] * np.float32(factor)
        write_golden(
            tmp_path / name,
            suite="1.0.0",
            provenance=golden().manifest.provenance,
            presets=[read_preset(golden(), case.preset)],
            cases=[(case, taps)],
        )
    return tmp_path


def test_a_golden_set_that_moved_beyond_honest_rounding_says_where(
    other_golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(other_golden / "old"), str(other_golden / "new")]) == 1
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if "beyond" in line and "logits" in line.split()[0]
    )
    assert line.split()[:4] == ["logits", "float32", "beyond", "fences"]
    assert len(open_tensors(other_golden / "old/cases/ties/prefill/exact_ties.float32/taps.safetensors")) > 20


INDEX = "moe.expert_index"


def next_token(probabilities: Array) -> Array:
    """Choose for every token the experts of the one before it."""
    return np.roll(lowest_first(probabilities), 1, axis=1)


def lowest_first(probabilities: Array) -> Array:
    return np.argsort(-probabilities, axis=-1, kind="stable")


def highest_first(probabilities: Array) -> Array:
    """Choose the highest of equally probable experts first."""
    return probabilities.shape[-1] - 1 - np.argsort(-probabilities[..., ::-1], axis=-1, kind="stable")


def two_sets(case_id: str, new: Mapping[str, Array], tmp_path: Path) -> list[str]:
    """Write a golden case twice, as it is and with other taps, and return the folders."""
    preset, case = golden_case(case_id)
    for name, taps in (("old", golden_taps(case_id)), ("new", new)):
        provenance = golden().manifest.provenance
        write_golden(tmp_path / name, suite="1.0.0", provenance=provenance, presets=[preset], cases=[(case, taps)])
    return [str(tmp_path / "old"), str(tmp_path / "new")]


def routed_anew(case_id: str, choose: Callable[[Array], Array], tmp_path: Path) -> list[str]:
    """Write a golden case and an honest run of it along another route, and return the folders."""
    old = golden_taps(case_id)

    def chosen(call: int, tap: str) -> Array | None:
        if tap == "layers.00.router.probabilities":  # the old set's own, ties among them
            return old[tap_key(call, tap)].astype(np.float64)
        if not tap.endswith(INDEX):
            return None
        index = old[tap_key(call, tap)]
        probabilities = old[tap_key(call, tap.replace(INDEX, "router.probabilities"))]
        return choose(probabilities)[..., : index.shape[-1]].astype(np.float64)

    return two_sets(case_id, honest_taps(case_id, 0, shown=chosen), tmp_path)


@pytest.mark.parametrize(
    ("case_id", "choose"),
    [
        ("unequal/prefill/padded_batch.float32", next_token),
        ("unequal/prefill/padded_batch.float32", lambda scores: lowest_first(scores)[..., 1::-1]),
        ("unequal/prefill/padded_batch.float32", lambda scores: lowest_first(scores)[..., [0, 0]]),
        ("ties/prefill/tie_rule.float32", highest_first),
    ],
    ids=["of_another_token", "least_probable_first", "twice_the_same", "against_the_tie_rule"],
)
def test_a_golden_set_with_wrong_experts_is_beyond_fences_though_all_else_follows_them(
    case_id: str, choose: Callable[[Array], Array], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *routed_anew(case_id, choose, tmp_path)]) == 1
    beyond = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "beyond fences" in line]
    assert beyond[0] == INDEX


def test_other_experts_within_honest_noise_are_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *routed_anew("ties/prefill/exact_ties.float32", highest_first, tmp_path)]) == 0
    assert f"{INDEX} float32: other experts" in capsys.readouterr().out


def test_a_tie_that_the_scores_of_a_run_break_is_within_fences_though_the_rule_binds(tmp_path: Path) -> None:
    case_id = "ties/prefill/tie_rule.float32"
    assert main(["diff", *two_sets(case_id, honest_taps(case_id, 3), tmp_path)]) == 0


@pytest.mark.parametrize(("closeness", "status"), [(1 / 20, 0), (1 / 10, 1)])
def test_more_choices_within_noise_than_rounding_explains_are_beyond_fences(
    closeness: float, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fourth_for_third_where_close(probabilities: Array) -> Array:
        order = lowest_first(probabilities)
        third, fourth = np.moveaxis(np.take_along_axis(probabilities, order[..., 2:4], -1), -1, 0)
        return np.where((third < (1 + closeness) * fourth)[..., None], order[..., [0, 1, 3]], order[..., :3])

    sets = routed_anew("square/prefill/padded_batch.bfloat16", fourth_for_third_where_close, tmp_path)
    assert main(["diff", *sets]) == status
    assert (f"{INDEX} bfloat16: other experts" in capsys.readouterr().out) == (status == 0)
