"""llama.cpp judged: the harness names by itself what it does otherwise than Grok-1, and finds all else right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.candidates.llama_cpp import binding, load
from grok_conformance.candidates.llama_cpp.model import TAPS, LlamaModel
from grok_conformance.harness.contract import GOLDEN_DIR, Array, Unsupported, tap_specs
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.graph.oracle import walk
from grok_conformance.harness.judging.emulation import emulating
from grok_conformance.harness.judging.groups import read_groups
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.judging.waivers import Waiver, builtin_waivers, in_case
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.sessions.run import run_candidates
from tests.harness.honest_port import exact_weights, golden_case, golden_preset, taps_of

CASES = "square*"
PADDED, PADS = "square/prefill/padded_batch.float32", "square/prefill/pads_inside.float32"
STRESS = "square_stress/prefill/saturated_cap.float32"

SWAPPED = """
from grok_conformance.harness.contract import gguf_file

gguf_file.TENSORS |= {"blk.{}.ffn_gate_exps": "moe/linear_v/w", "blk.{}.ffn_up_exps": "moe/linear/w"}

from grok_conformance.candidates.llama_cpp import INFO, load
"""


def judge(name: str, folder: Path, cases: str = CASES, waivers: tuple[Waiver, ...] = ()) -> CandidateVerdict:
    golden = open_golden(GOLDEN_DIR / "v1")
    groups, limits = read_groups(golden, cases), Limits()
    (found,) = run_candidates([find_candidate(name)], groups, golden.manifest.suite, folder, limits, waivers=waivers)
    return found.verdict


@pytest.fixture(scope="module", params=["llama_cpp", "llama_cpp_f16"])
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CandidateVerdict:
    """Return the verdict that takes nothing for granted, in float32 and bf16, with either cache."""
    return judge(request.param, tmp_path_factory.mktemp("bare"))


def test_two_operations_deviate_in_every_layer_and_their_faults_are_named(bare: CandidateVerdict) -> None:
    named = {
        (row.operation, row.fprop_dtype): row.diagnosis.faults
        for row in bare.operations
        if row.status != "pass" and row.diagnosis is not None
    }
    assert named == {
        (operation, dtype): faults
        for operation, faults in {
            "moe.expert_gate": ("gates_renormalised", "softmax_after_top_k"),
            "moe.expert_hidden": ("gelu_fp16_table",),
        }.items()
        for dtype in ("float32", "bfloat16")
    }
    assert all(row.layers_at_fault == (0, 1) for row in bare.operations if row.status != "pass")


def test_every_other_operation_passes_at_the_fences_of_its_dtype(bare: CandidateVerdict) -> None:
    passed = {row.operation for row in bare.operations if row.status in {"pass", "quirk"}}
    deviating = {"moe.expert_gate", "moe.expert_hidden"}
    assert passed | deviating == {spec.operation for spec in tap_specs() if spec.block != "dense"}
    assert all(row.alternative == "" for row in bare.operations if row.fprop_dtype == "float32") == (
        bare.name == "llama_cpp"  # a float16 cache rounds what it is multiplied with
    )


def test_with_its_known_deviations_it_passes_and_padding_is_a_quirk_of_the_published_model(tmp_path: Path) -> None:
    verdict = judge("llama_cpp", tmp_path, "square*.float32", builtin_waivers())
    assert verdict.summary == "pass (caches) with 2 known deviations"
    assert {row.operation for row in verdict.operations if row.status == "waived"} == {
        "moe.expert_gate",
        "moe.expert_hidden",
    }


def test_a_known_deviation_does_not_hide_matrices_put_in_each_others_place(tmp_path: Path) -> None:
    (tmp_path / "swapped.py").write_text(SWAPPED)
    known = tuple(replace(waiver, candidate="*") for waiver in builtin_waivers())
    verdict = judge(str(tmp_path / "swapped.py"), tmp_path / "run", PADDED, known)
    failed = {row.operation for row in verdict.operations if row.status == "fail"}
    assert failed == {"moe.expert_activation", "moe.expert_up"}


def loaded(preset: str, dtype: str = "float32") -> LlamaModel:
    stored = golden_preset(preset)
    return load(replace(stored.config, fprop_dtype=dtype), stored.weights)


def prefilled(case_id: str) -> dict[str, Array]:
    call = golden_case(case_id)[1].calls[0]
    return loaded(golden_case(case_id)[1].preset).prefill(call.tokens, call.lengths, taps_of(case_id))


def relative_error(case_id: str, waivers: tuple[Waiver, ...]) -> float:
    """Return the largest error of the logits along the engine's route, relative to the largest logit."""
    preset, case = golden_case(case_id)
    shown = prefilled(case_id)
    route = {tap: x.astype(np.float64) for tap, x in shown.items() if tap.endswith("expert_index")}
    made = walk(
        preset, case, lambda _call, tap: route.get(tap),
        weights=exact_weights(preset.name, "float32"), evaluator=emulating(waivers),
    )  # fmt: skip
    (exact,) = (value for _, tap, _, value in made if tap == "logits")
    lengths = case.calls[0].lengths
    real = np.arange(exact.shape[1]) < lengths[:, None]
    return float(np.abs(shown["logits"] - exact)[real].max() / np.abs(exact)[real].max())


@pytest.mark.parametrize("case_id", [PADDED, STRESS])
def test_with_the_deviations_emulated_the_logits_agree_to_about_1e_5(case_id: str) -> None:
    own = [waiver for waiver in builtin_waivers() if waiver.candidate.startswith("llama_cpp")]
    emulated = relative_error(case_id, in_case(own, case_id))
    assert emulated < 1e-5
    assert relative_error(case_id, ()) > 10 * emulated


def test_what_the_architecture_cannot_express_is_declined_with_the_reason() -> None:
    with pytest.raises(Unsupported, match=r"heads · head width must be the model width: 12 heads · 8 is not 40"):
        loaded("unequal")
    with pytest.raises(Unsupported, match="only mixtures of experts"):
        loaded("dense")


def test_a_structure_that_has_moved_is_noticed_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(binding.KNOWN_DEFAULTS, "n_batch", 512)
    with pytest.raises(Unsupported, match="n_batch is 2048, not 512: install the pinned xllamacpp"):
        loaded("square")


def test_two_chunks_give_what_one_prefill_gives() -> None:
    call = golden_case(PADS)[1].calls[0]
    whole = prefilled(PADS)["logits"]
    model, length = loaded("square"), np.array([3], np.int32)
    first = model.prefill(call.tokens[:, :3], length, ("logits",))["logits"]
    second = model.extend(call.tokens[:, 3:], call.lengths - length, ("logits",))["logits"]
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, rtol=0, atol=1e-5 * np.abs(whole).max())


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    call = golden_case(PADDED)[1].calls[0]
    together = prefilled(PADDED)["logits"]
    for row, length in enumerate(call.lengths):
        alone = loaded("square").prefill(call.tokens[[row], :length], call.lengths[[row]], ("logits",))["logits"]
        np.testing.assert_allclose(together[row, :length], alone[0], rtol=0, atol=1e-5 * np.abs(alone).max())


def test_the_table_names_a_tensor_for_every_tap_of_a_mixture_of_experts() -> None:
    assert set(TAPS) == {spec.operation for spec in tap_specs() if spec.block != "dense"}
