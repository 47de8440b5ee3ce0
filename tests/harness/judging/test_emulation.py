"""A candidate with known deviations passes with exactly those, and with nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.contract import Array, CandidateInfo, select_taps
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.faults import FAULTS, mutant
from grok_conformance.harness.judging.emulation import diagnosed, emulating
from grok_conformance.harness.judging.judge import judge_candidate
from grok_conformance.harness.judging.summary import summarise
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.running.answers import Answer
from tests.harness.honest_port import INFO, NUM_ELEMENTS, answered, golden_taps, group_of, honest_taps

CASE = "square/prefill/padded_batch.float32"
DECODE = "square/decode/unequal_lengths.float32"
GATE = "call0/layers.00.moe.expert_gate"


def waiver(tap: str, fault: str = "", **fields: str) -> Waiver:
    return Waiver(
        source="known.toml", candidate="port", case="*", reason="why", reference="where", expires="2999-01-01",
        tap=tap, fault=fault, **fields,
    )  # fmt: skip


GATES = waiver("moe.expert_gate", "gates_renormalised")
TABLE = waiver("moe.expert_hidden", "gelu_fp16_table")


def port_with(*faults: Waiver, case: str = CASE, seed: int = 5) -> dict[str, Array]:
    """Return what a port shows that is honest but for some faults at some taps."""
    return honest_taps(case, seed, evaluator=emulating(faults))


def judged(
    folder: Path, taps: Mapping[str, Array], waivers: Sequence[Waiver], case: str = CASE, info: CandidateInfo = INFO
) -> CandidateVerdict:
    shown = {key: x for key, x in taps.items() if select_taps([key.partition("/")[2]], info.taps)}
    answers = [{case: answered(folder, shown, info=info)}]
    group = group_of(case)
    return summarise(
        "port", [group], answers, judge_candidate([group], answers, NUM_ELEMENTS, {}, waivers), 0.0, (), waivers
    )


def found(verdict: CandidateVerdict) -> dict[str, str]:
    return {row.operation: row.status for row in verdict.operations if row.status != "pass"}


@pytest.mark.parametrize("case", [CASE, DECODE, CASE.replace("float32", "bfloat16")])
def test_a_port_with_known_faults_passes_with_those_deviations_in_every_layer(case: str, tmp_path: Path) -> None:
    verdict = judged(tmp_path, port_with(GATES, TABLE, case=case), [GATES, TABLE], case)
    assert found(verdict) == {"moe.expert_gate": "waived", "moe.expert_hidden": "waived"}
    assert [row.layers_at_fault for row in verdict.operations if row.status == "waived"] == [(0, 1), (0, 1)]
    assert verdict.cases[0].status == "waived"
    assert verdict.passed
    assert verdict.summary == "pass (caches) with 2 known deviations"


def test_without_its_waiver_the_same_port_fails_there_and_end_to_end(tmp_path: Path) -> None:
    taps = port_with(GATES)
    assert found(judged(tmp_path / "1", taps, [])) == {"moe.expert_gate": "fail"}
    (case,) = judged(tmp_path / "2", taps, []).cases
    assert max(drift.ratio for drift in case.drifts) > 1e3
    (case,) = judged(tmp_path / "3", taps, [GATES]).cases
    assert max(drift.ratio for drift in case.drifts) < 1


def test_a_waiver_counts_only_where_the_diagnosis_names_its_fault_unless_it_has_none() -> None:
    blind = waiver("moe.expert_gate")
    other, named = (
        Diagnosis(faults, faults[0], 1.0, 0.0, 1.0, 9.0, "no fault")
        for faults in (("top_1_only",), ("softmax_after_top_k", "gates_renormalised"))
    )
    assert diagnosed([GATES, blind], {}) == (blind,)
    assert diagnosed([GATES, blind], {"moe.expert_gate": other}) == (blind,)
    assert diagnosed([GATES, blind], {"moe.expert_gate": named}) == (GATES, blind)


def test_a_waiver_of_one_layer_does_not_excuse_the_others(tmp_path: Path) -> None:
    one = waiver("layers.01.moe.expert_gate", "gates_renormalised")
    verdict = judged(tmp_path, port_with(GATES), [one])
    assert found(verdict) == {"moe.expert_gate": "fail"}
    assert [c.tap for c in verdict.cases[0].comparisons if not c.passed] == ["layers.00.moe.expert_gate"]


def test_a_deviation_that_is_not_the_fault_of_its_waiver_fails(tmp_path: Path) -> None:
    taps = port_with(waiver("moe.expert_hidden", "gelu_erf"))
    assert found(judged(tmp_path, taps, [TABLE])) == {"moe.expert_hidden": "fail"}


def test_a_waived_tap_that_errs_in_another_way_too_fails(tmp_path: Path) -> None:
    taps = port_with(GATES)
    gate = np.array(taps[GATE])
    gate[0, 1, 0] *= np.float32(1 + 2**-18)
    assert judged(tmp_path / "1", taps, [GATES]).passed
    assert found(judged(tmp_path / "2", {**taps, GATE: gate}, [GATES]))["moe.expert_gate"] == "fail"


def test_a_fault_elsewhere_fails_beside_a_known_deviation(tmp_path: Path) -> None:
    taps = port_with(GATES, waiver("attention.logits", "attention_scale_double"))
    verdict = judged(tmp_path, taps, [GATES])
    assert found(verdict) == {"attention.logits": "fail", "moe.expert_gate": "waived"}
    assert not verdict.passed


def test_a_key_that_the_specification_masks_may_be_let_in_by_a_known_fault(tmp_path: Path) -> None:
    case = "square/prefill/pads_inside.float32"
    pads = waiver("attention.weights", "padding_attended")
    taps = honest_taps(case, 5, evaluator=mutant(FAULTS["padding_attended"]))
    assert judged(tmp_path / "1", taps, [], case).status == "quirk"
    assert found(judged(tmp_path / "2", taps, [pads], case)) == {"attention.weights": "waived"}


def test_a_deviation_without_a_fault_is_accepted_and_what_follows_is_judged_from_it(tmp_path: Path) -> None:
    taps = port_with(waiver("moe.expert_hidden", "gelu_quick"))
    verdict = judged(tmp_path / "1", taps, [waiver("moe.expert_hidden")])
    assert found(verdict) == {"moe.expert_hidden": "waived"}
    assert verdict.passed
    assert max(drift.ratio for drift in verdict.cases[0].drifts) < 1
    assert not judged(tmp_path / "2", taps, [waiver("moe.expert_up")]).passed


@pytest.mark.parametrize("broken", ["missing", "misshapen", "NaN"])
def test_nothing_excuses_a_tap_that_is_not_there(broken: str, tmp_path: Path) -> None:
    taps = dict(golden_taps(CASE))
    if broken == "missing":
        del taps[GATE]
    else:
        taps[GATE] = taps[GATE][:, :-1] if broken == "misshapen" else np.full_like(taps[GATE], np.nan)
    assert not judged(tmp_path, taps, [waiver("moe.expert_gate")]).passed


def test_an_honest_port_passes_without_known_deviations(tmp_path: Path) -> None:
    verdict = judged(tmp_path, honest_taps(CASE, 5), [GATES, TABLE, waiver("attention.weights")])
    assert verdict.status == "pass"
    assert verdict.summary == "pass (caches)"
    assert verdict.waivers == ()


def test_a_case_that_a_candidate_is_known_to_decline_does_not_count_but_declining_all_is_no_pass(
    tmp_path: Path,
) -> None:
    refusal = waiver("", says="no square *")
    groups = [group_of(CASE), group_of(DECODE)]

    def verdict(reason: str, other: Answer) -> CandidateVerdict:
        answers = [{CASE: other}, {DECODE: Answer(status="unsupported", reason=reason)}]
        return summarise(
            "port", groups, answers, judge_candidate(groups, answers, NUM_ELEMENTS, {}, [refusal]), 0.0, (), [refusal]
        )

    good = answered(tmp_path, honest_taps(CASE, 5))
    assert verdict("no square matrices", good).summary == "pass (caches)"
    assert verdict("out of patience", good).status == "unsupported"
    assert verdict("no square matrices", Answer(status="unsupported", reason="no square heads")).status == "missing"


def test_an_outdated_waiver_fails_a_candidate_that_passes(tmp_path: Path) -> None:
    verdict = judged(tmp_path, honest_taps(CASE, 5), [])
    assert verdict.passed
    assert replace(verdict, outdated=("known.toml: …: no longer needed; remove it",)).status == "fail"


LOGITS_ALONE = CandidateInfo(name="port", version="", taps=("logits",))


def judged_by_logits(folder: Path, *known: Waiver) -> CandidateVerdict:
    return judged(folder, port_with(GATES, TABLE), known, info=LOGITS_ALONE)


def test_faults_behind_the_logits_are_waived_together_where_they_explain_them(tmp_path: Path) -> None:
    verdict = judged_by_logits(tmp_path, GATES, TABLE)
    assert found(verdict) == {"logits": "waived"}
    assert verdict.status == "waived"
    (case,) = verdict.cases
    assert set(case.waived) == {GATES.name, TABLE.name}


@pytest.mark.parametrize("known", [(GATES,), (TABLE,), ()])
def test_one_of_two_faults_behind_the_logits_does_not_excuse_the_other(
    known: tuple[Waiver, ...], tmp_path: Path
) -> None:
    assert found(judged_by_logits(tmp_path, *known)) == {"logits": "fail"}


def test_a_deviation_that_the_port_does_not_have_is_no_help(tmp_path: Path) -> None:
    verdict = judged_by_logits(tmp_path, GATES, TABLE, waiver("embedding", "embedding_multiplier_missing"))
    assert found(verdict) == {"logits": "fail"}


def test_a_deviation_without_effect_is_not_named(tmp_path: Path) -> None:
    verdict = judged_by_logits(tmp_path, GATES, TABLE, waiver("attention.weights", "padding_attended"))
    (case,) = verdict.cases
    assert set(case.waived) == {GATES.name, TABLE.name}
