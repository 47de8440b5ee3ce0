from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.cases.case import rows_with_quirk
from grok_conformance.harness.contract import Array
from grok_conformance.harness.faults import FAULTS, mutant
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import Plans, walk
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.judging.judge import Judged, judge_candidate, unanswered
from grok_conformance.harness.judging.whole_run import HonestRuns
from grok_conformance.harness.running.answers import Answer
from tests.harness.honest_port import (
    INFO,
    NUM_ELEMENTS,
    answered,
    golden_case,
    golden_taps,
    group_of,
    honest_taps,
    taps_of,
)

PREFILL, DECODE = "unequal/prefill/padded_batch.bfloat16", "unequal/decode/pad_token.bfloat16"
FLOAT32 = "unequal/decode/pad_token.float32"

NORMS = ("attention.norm", "attention.output_norm", "moe.norm", "moe.output_norm", "final_norm")
MATRICES = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "moe.expert_activation",
    "moe.expert_up",
    "moe.expert_output",
)


KEPT = RoundingPlan({"weights": "kept"})
MULTIPLIER = RoundingPlan({"multiplier": "kept"})
PRODUCT = RoundingPlan({"query · key": "kept"})

HONEST_WAYS: dict[str, Plans] = {
    "78.38 for 78.5": {"embedding": MULTIPLIER},
    "embedding rounded once": {"embedding": RoundingPlan({"rows": "kept"})},
    "neither": {"embedding": RoundingPlan({"rows": "kept", "multiplier": "kept"})},
    "query times key not rounded": {"attention.logits": PRODUCT},
    "int8 times scale not rounded": dict.fromkeys(MATRICES, KEPT),
    "gate not rounded": {"moe.output": RoundingPlan({"gate": "kept"})},
    "logits rounded once": {"logits": RoundingPlan({"product": "kept"})},
    "everything kept": {
        **dict.fromkeys(MATRICES, KEPT),
        "embedding": MULTIPLIER,
        "attention.logits": PRODUCT,
        "moe.output": RoundingPlan({"gate": "kept"}),
        "logits": RoundingPlan({"product": "kept"}),
    },
    "experts in bf16": {
        "moe.expert_hidden": RoundingPlan({"gelu": "rounded", "hidden": "rounded"}),
        "moe.expert_output": RoundingPlan({"result": "rounded"}),
        "moe.output": RoundingPlan({"terms": "rounded"}),
    },
    "partial sums": {"attention.output": RoundingPlan({"sums": "4 in turn"})},
    "norms rounded before the gain": dict.fromkeys(NORMS, RoundingPlan({"normalised": "rounded"})),
}


def in_words(ways: Plans) -> dict[str, str]:
    return {row: plan.words(GROK_1.by_name[row].points) for row, plan in ways.items()}


def judge(case_ids: Sequence[str], answers: Mapping[str, Answer]) -> Judged:
    (judged,) = judge_candidate([group_of(*case_ids)], [answers], NUM_ELEMENTS, {})
    return judged


def honest_answers(folder: Path, case_ids: Sequence[str], ways: Mapping[str, Plans]) -> dict[str, Answer]:
    return {
        case_id: answered(folder / str(i), honest_taps(case_id, 31, plans=ways.get(case_id)))
        for i, case_id in enumerate(case_ids)
    }


def statuses(judged: Judged) -> list[str]:
    return [verdict.status for verdict in judged.verdicts]


def test_an_honest_port_passes_the_canonical_way(tmp_path: Path) -> None:
    judged = judge((PREFILL, DECODE), honest_answers(tmp_path, (PREFILL, DECODE), {}))
    assert statuses(judged) == ["pass", "pass"]
    assert judged.words == {}
    assert all(verdict.comparisons and verdict.drifts and verdict.seconds == 0.5 for verdict in judged.verdicts)


@pytest.mark.parametrize("way", HONEST_WAYS)
def test_a_permitted_alternative_passes_and_only_what_was_computed_so_is_reported(way: str, tmp_path: Path) -> None:
    ways = HONEST_WAYS[way]
    judged = judge(
        (PREFILL, DECODE), honest_answers(tmp_path, (PREFILL, DECODE), dict.fromkeys((PREFILL, DECODE), ways))
    )
    assert statuses(judged) == ["pass", "pass"]
    assert judged.words.items() <= in_words(ways).items()


@pytest.mark.parametrize(
    "way",
    [
        "78.38 for 78.5",
        "embedding rounded once",
        "neither",
        "query times key not rounded",
        "experts in bf16",
        "partial sums",
        "norms rounded before the gain",
    ],
)
def test_an_alternative_that_the_data_can_tell_apart_is_reported(way: str, tmp_path: Path) -> None:
    ways = HONEST_WAYS[way]
    judged = judge(
        (PREFILL, DECODE), honest_answers(tmp_path, (PREFILL, DECODE), dict.fromkeys((PREFILL, DECODE), ways))
    )
    assert judged.words == in_words(ways)


@pytest.mark.parametrize("way", ["78.38 for 78.5", "neither", "query times key not rounded"])
def test_an_alternative_in_one_case_and_the_canonical_way_in_another_fails(way: str, tmp_path: Path) -> None:
    judged = judge((PREFILL, DECODE), honest_answers(tmp_path, (PREFILL, DECODE), {DECODE: HONEST_WAYS[way]}))
    assert statuses(judged) == ["pass", "fail"]
    assert judged.words == {}


def test_an_alternative_that_the_specification_does_not_permit_fails(tmp_path: Path) -> None:
    wrong = {"embedding": MULTIPLIER}
    taps = honest_taps(FLOAT32, 31, plans=wrong)
    judged = judge((FLOAT32,), {FLOAT32: answered(tmp_path / "same", taps)})
    assert statuses(judged) == ["pass"]  # in float32 the multiplier is the float32 constant either way
    rounded = {
        key: x * np.float32(78.5 / 78.38367176906169) if key.endswith("embedding") else x for key, x in taps.items()
    }
    judged = judge((FLOAT32,), {FLOAT32: answered(tmp_path / "rounded", rounded)})
    assert statuses(judged) == ["fail"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(status="missing", reason="not written"), "missing"),
        (Answer(status="error", reason="killed by signal 11"), "error"),
        (Answer(status="unsupported", reason="no bf16"), "unsupported"),
        (Answer(status="answered", reason="but who?"), "error"),
    ],
)
def test_a_case_without_an_answer_says_so_and_the_others_are_judged(
    answer: Answer, status: str, tmp_path: Path
) -> None:
    answers = {PREFILL: answer, **honest_answers(tmp_path, (DECODE,), {})}
    judged = judge((PREFILL, DECODE), answers)
    assert statuses(judged) == [status, "pass"]
    assert judged.verdicts[0].reason == answer.reason


def test_an_optional_case_may_be_declined_and_nothing_else() -> None:
    case = replace(golden_case(PREFILL)[1], optional=True)
    declined = Answer(status="unsupported", reason="the model has no truncate()")
    assert unanswered(case, declined, ()).waived
    assert not unanswered(replace(case, optional=False), declined, ()).waived
    assert not unanswered(case, Answer(status="error", reason="crashed"), ()).waived


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_port_that_shows_only_its_logits_passes(dtype: str, tmp_path: Path) -> None:
    case_id = f"unequal/prefill/padded_batch.{dtype}"
    taps = {"call0/logits": honest_taps(case_id, 31)["call0/logits"]}
    answer = answered(tmp_path, taps, info=replace(INFO, taps=("logits",)))
    assert statuses(judge((case_id,), {case_id: answer})) == ["pass"]


def test_a_declared_float16_cache_in_a_float32_model_passes(tmp_path: Path) -> None:
    kept = {"kv.keys": "float16", "kv.values": "float16"}
    taps = honest_taps(FLOAT32, 31, dtypes=kept)
    declared = answered(tmp_path / "declared", taps, info=replace(INFO, dtypes={"*.kv.*": "float16"}))
    assert statuses(judge((FLOAT32,), {FLOAT32: declared})) == ["pass"]
    assert statuses(judge((FLOAT32,), {FLOAT32: answered(tmp_path / "silent", taps)})) == ["fail"]


def test_candidates_that_route_alike_share_their_honest_runs_unless_they_keep_other_dtypes(tmp_path: Path) -> None:
    group = group_of(FLOAT32)
    runs: HonestRuns = {}
    taps = honest_taps(FLOAT32, 31)
    for _ in range(2):
        judge_candidate([group], [{FLOAT32: answered(tmp_path, taps)}], NUM_ELEMENTS, runs)
    assert len(runs) == 1
    other = answered(tmp_path / "narrow", taps, info=replace(INFO, dtypes={"*.kv.*": "float16"}))
    judge_candidate([group], [{FLOAT32: other}], NUM_ELEMENTS, runs)
    assert len(runs) == 2


def test_every_tap_of_the_case_is_in_the_verdict(tmp_path: Path) -> None:
    (verdict,) = judge((PREFILL,), honest_answers(tmp_path, (PREFILL,), {})).verdicts
    assert [comparison.tap for comparison in verdict.comparisons] == list(taps_of(PREFILL))
    assert len(verdict.drifts) == len(taps_of(PREFILL)) - 2  # chosen experts are judged as flips


def test_the_fault_of_a_failing_operation_is_named_and_others_have_no_diagnosis(tmp_path: Path) -> None:
    taps = honest_taps(PREFILL, 31, evaluator=mutant(FAULTS["rope_interleaved"]))
    judged = judge((PREFILL,), {PREFILL: answered(tmp_path, taps)})
    assert {operation: found.faults for operation, found in judged.diagnoses.items()} == {
        "attention.query_rotated": ("rope_interleaved",),
        "attention.key_rotated": ("rope_interleaved",),
    }
    assert judge((PREFILL,), honest_answers(tmp_path / "honest", (PREFILL,), {})).diagnoses == {}


@pytest.mark.parametrize(("case_id", "status"), [(PREFILL, "pass"), (FLOAT32, "fail")])
def test_an_expert_product_rounded_to_bf16_is_permitted_in_bf16_and_a_fault_in_float32(
    case_id: str, status: str, tmp_path: Path
) -> None:
    taps = honest_taps(case_id, 31, evaluator=mutant(FAULTS["expert_hidden_bf16"]))
    judged = judge((case_id,), {case_id: answered(tmp_path, taps)})
    assert statuses(judged) == [status]
    words = {"moe.expert_hidden": "gated hidden rounded to the compute dtype"}
    assert judged.words == (words if status == "pass" else {})


def without_claim(folder: Path, case_id: str, taps: Mapping[str, Array]) -> dict[str, Answer]:
    return {case_id: answered(folder, taps, info=replace(INFO, tie_rule=False))}


TIE_RULE = "ties/prefill/tie_rule.float32"


def test_the_order_of_equal_scores_binds_only_a_port_that_claims_it(tmp_path: Path) -> None:
    golden, fault = golden_taps(TIE_RULE), mutant(FAULTS["top_k_tie_highest_index"])
    exact = walk(*golden_case(TIE_RULE), evaluator=fault)  # noise would break the ties
    taps = {key: x.astype(golden[key].dtype) for call, tap, _, x in exact for key in [f"call{call}/{tap}"]}
    assert statuses(judge((TIE_RULE,), {TIE_RULE: answered(tmp_path / "claimed", taps)})) == ["fail"]
    assert statuses(judge((TIE_RULE,), without_claim(tmp_path / "open", TIE_RULE, taps))) == ["quirk"]


def test_another_fault_in_the_case_of_equal_scores_fails_whatever_is_claimed(tmp_path: Path) -> None:
    taps = honest_taps(TIE_RULE, 31, evaluator=mutant(FAULTS["gelu_erf"]))
    assert statuses(judge((TIE_RULE,), without_claim(tmp_path, TIE_RULE, taps))) == ["fail"]


def test_what_is_not_finite_since_a_blind_query_was_not_is_a_quirk_and_nothing_else_is(tmp_path: Path) -> None:
    names = [name for name in taps_of(FLOAT32) if name not in ("embedding", "layers.00.attention.norm")]
    blind, honest = names[names.index("layers.00.attention.heads") :], honest_taps(FLOAT32, 31)
    rows = rows_with_quirk(golden_case(FLOAT32)[1], 0)
    nan = {f"call1/{name}": np.where(rows.reshape(-1, *[1] * (x.ndim - 1)), np.float32(np.nan), x) for name in blind
           for x in [honest[f"call1/{name}"]] if x.dtype.kind == "f"}  # fmt: skip
    assert statuses(judge((FLOAT32,), {FLOAT32: answered(tmp_path / "blind", {**honest, **nan})})) == ["quirk"]
    everywhere = {key: np.full_like(x, np.nan) for key, x in nan.items()}
    assert statuses(judge((FLOAT32,), {FLOAT32: answered(tmp_path / "all", {**honest, **everywhere})})) == ["fail"]
    late = {key: x for key, x in nan.items() if "moe.norm" in key}
    assert statuses(judge((FLOAT32,), {FLOAT32: answered(tmp_path / "late", {**honest, **late})})) == ["fail"]
