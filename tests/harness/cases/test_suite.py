"""The suite: legal inputs, the same in every run, and each case with the property for which it exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.cases.case import Case, steps_before
from grok_conformance.harness.cases.suite import CASES, LARGE, PRESETS, UNEQUAL, make_preset, suite_cases
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.checks.undecided import boundary_gap
from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.tensors import digest
from grok_conformance.harness.golden.audit import input_problems
from grok_conformance.harness.golden.reading import case_ids, read_preset
from grok_conformance.harness.graph.masks import visible_keys
from tests.harness.honest_port import golden, golden_case, golden_taps

SUITE = suite_cases()
BY_ID = {case.id: case for case in SUITE}


def arrays_of(case: Case) -> list[Array]:
    cache = () if case.preload is None else (case.preload.keys, case.preload.values, case.preload.steps)
    return [*(x for call in case.calls for x in (call.tokens, call.lengths)), *cache]


@pytest.mark.parametrize("case", SUITE, ids=lambda case: str(case.id))
def test_a_case_is_legal_and_says_why_it_exists(case: Case) -> None:
    preset, area, what = case.id.split("/")
    assert case.preset == preset
    assert area in {"prefill", "decode", "chunked"}
    assert what.endswith(f".{case.fprop_dtype}")
    assert input_problems(case, PRESETS[preset].config) == []
    assert len(case.why.split()) > 4


def test_every_case_has_its_own_name_and_every_preset_has_a_case() -> None:
    assert len(BY_ID) == len(SUITE) == 2 * len(CASES)
    assert {case.preset for case in SUITE} == set(PRESETS)


def test_cases_and_weights_are_the_same_whenever_they_are_drawn() -> None:
    for first, second in zip(SUITE, suite_cases(), strict=True):
        assert [digest(x) for x in arrays_of(first)] == [digest(x) for x in arrays_of(second)]
    for name in PRESETS:
        first_weights, second_weights = make_preset(name).weights, make_preset(name).weights
        assert {k: digest(x) for k, x in first_weights.items()} == {k: digest(x) for k, x in second_weights.items()}


def test_a_case_has_the_same_tokens_in_every_dtype() -> None:
    for row in CASES:
        narrow, wide = BY_ID[f"{row.name}.bfloat16"], BY_ID[f"{row.name}.float32"]
        assert [call.tokens.tolist() for call in narrow.calls] == [call.tokens.tolist() for call in wide.calls]


def test_golden_v1_holds_this_suite_and_nothing_else() -> None:
    assert case_ids(golden()) == tuple(sorted(BY_ID))
    for case_id, case in BY_ID.items():
        stored = golden_case(case_id)[1]
        assert replace(stored, calls=(), preload=None) == replace(case, calls=(), preload=None)
        assert [digest(x) for x in arrays_of(stored)] == [digest(x) for x in arrays_of(case)]
    for name in PRESETS:
        preset, stored_weights = make_preset(name), read_preset(golden(), name)
        assert stored_weights.config == preset.config
        assert {k: digest(x) for k, x in stored_weights.weights.items()} == {
            k: digest(x) for k, x in preset.weights.items()
        }


def test_golden_v1_is_below_10_megabytes() -> None:
    files = [path for path in golden().directory.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6


# What the cases are there for.


def test_all_axes_of_the_unequal_preset_differ() -> None:
    b, t = BY_ID["unequal/prefill/padded_batch.float32"].calls[0].tokens.shape
    sizes = {**UNEQUAL.axis_sizes, "t": t, "G": PRESETS["unequal"].statistics.num_groups}
    assert len(set(sizes.values())) == len(sizes)
    assert UNEQUAL.model.num_experts != UNEQUAL.model.num_layers != UNEQUAL.model.num_kv_heads
    assert b == 2


def test_scale_groups_divide_the_matrices_they_scale() -> None:
    for name, row in PRESETS.items():
        sizes = row.config.axis_sizes
        assert (sizes["q"] * sizes["h"]) % row.statistics.num_groups == 0, name
        assert sizes["f"] % row.statistics.num_groups == 0, name


def gaps(case_id: str) -> Array:
    preset, _ = golden_case(case_id)
    taps = golden_taps(case_id)
    scores = [x.astype(np.float64) for key, x in taps.items() if key.endswith("router.probabilities")]
    return np.concatenate([boundary_gap(x, preset.config).ravel() for x in scores])


def test_near_ties_are_near_and_stress_routing_is_decided() -> None:
    near = gaps("realistic/prefill/near_ties.float32")
    assert 0.4 < (near < 0.006).mean() < 0.8
    stress = golden_taps("stress/prefill/saturated_cap.float32")["call0/layers.00.router.logits"]
    best = -np.sort(-stress.astype(np.float64), axis=-1)
    assert np.median(best[..., 1] - best[..., 2]) > 1


def test_stress_logits_would_pass_the_cap_without_it() -> None:
    logits = golden_taps("stress/prefill/saturated_cap.float32")["call0/layers.00.attention.logits"]
    uncapped = 30 * np.arctanh(np.abs(logits.astype(np.float64)) / 30)
    assert uncapped.max() > 30
    assert (uncapped - np.abs(logits) > 1).mean() > 0.05


@pytest.mark.parametrize("name", ["ties/prefill/exact_ties.float32", "ties/prefill/tie_rule.float32"])
def test_tied_experts_have_exactly_equal_scores_at_the_boundary(name: str) -> None:
    assert (gaps(name) == 0).sum() > 2
    scores = golden_taps(name)["call0/layers.00.router.logits"]
    assert np.array_equal(scores[..., 1], scores[..., 2])
    assert np.array_equal(scores[..., 1], scores[..., 4])


def test_one_case_tests_the_order_of_ties_in_every_dtype() -> None:
    assert [case.id for case in SUITE if case.tie_rule] == [
        "ties/prefill/tie_rule.float32",
        "ties/prefill/tie_rule.bfloat16",
    ]


def test_large_positions_lie_beyond_the_integers_of_bf16_and_tf32_and_unused_slots_are_large() -> None:
    case = BY_ID["long/decode/large_positions.float32"]
    assert case.preload is not None
    steps = case.preload.steps
    assert steps[0] > 256
    assert steps[1] > 2048
    assert steps[2] == 4095
    assert all(step % 2 for step in steps)  # odd: no narrower float holds it
    unused = np.arange(case.preload.keys.shape[2]) >= steps[:, None]
    assert (case.preload.keys[0][unused] == LARGE).all()
    assert np.abs(case.preload.values[0][~unused]).max() < 10


def test_decoding_starts_from_unequal_lengths_and_chunks_are_padded() -> None:
    decode = BY_ID["unequal/decode/unequal_lengths.float32"]
    assert [call.kind for call in decode.calls] == ["prefill", "decode", "decode"]
    assert len(set(steps_before(decode, 1).tolist())) == 2
    (chunked,) = (case for case in SUITE if "/chunked/" in case.id and case.fprop_dtype == "float32")
    assert {call.kind for call in chunked.calls} == {"prefill", "extend"}
    assert any((call.lengths < call.tokens.shape[1]).any() for call in chunked.calls)


def blind_queries(case: Case) -> int:
    """Return how many real tokens of a case see no key."""
    config, blind = PRESETS[case.preset].config, 0
    for i, call in enumerate(case.calls):
        seen = visible_keys(config, call.tokens, steps_before(case, i)).any(-1)
        blind += int((~seen & (np.arange(call.tokens.shape[1]) < call.lengths[:, None])).sum())
    return blind


@pytest.mark.parametrize("case", SUITE, ids=lambda case: str(case.id))
def test_only_published_degenerate_cases_hold_queries_that_see_no_key(case: Case) -> None:
    assert (blind_queries(case) > 0) == case.published_degenerate
    if case.published_degenerate:  # pads beyond a row's length are not compared, so there must be none
        assert all((call.lengths == call.tokens.shape[1]).all() for call in case.calls)


def test_pads_inside_a_prompt_stay_in_the_cache_that_decoding_reads() -> None:
    prefill, decode = BY_ID["unequal/decode/pads_in_cache.float32"].calls
    for row, length in enumerate(prefill.lengths):
        assert (prefill.tokens[row, :length] == UNEQUAL.pad_token).sum() == 1
        assert prefill.tokens[row, length - 1] != UNEQUAL.pad_token
    assert (decode.tokens != UNEQUAL.pad_token).all()


# Synthetic weights.


def test_weights_are_stored_as_their_statistics_say() -> None:
    assert make_preset("float32_scales").weights["transformer/decoder_layer_0/moe/linear/w.scales"].dtype == np.float32
    assert not [name for name in make_preset("float_weights").weights if name.endswith((".weight", ".scales"))]
    assert not [name for name in make_preset("dense").weights if "router" in name or "moe" in name]
    unequal: Mapping[str, Array] = make_preset("unequal").weights
    assert unequal["transformer/decoder_layer_1/moe/linear_1/w.scales"].shape == (5, 16, 40)
    assert unequal["transformer/decoder_layer_1/moe/linear/w.scales"].shape == (5, 1, 160)
    assert unequal["transformer/decoder_layer_1/multi_head_attention/linear/w.scales"].shape == (16, 40)
    assert unequal["transformer/decoder_layer_1/multi_head_attention/query/w.weight"].shape == (40, 96)


def test_embedding_int8_weights_scales_and_norms_have_the_size_asked_for() -> None:
    weights = synthesize(UNEQUAL, Statistics(seed=11, num_groups=16))
    table = weights["language_model/in_out_embed/embeddings"].astype(np.float64)
    assert np.sqrt(np.mean(table**2)) == pytest.approx(0.01274, rel=0.05)
    drawn = weights["transformer/decoder_layer_0/moe/linear_1/w.weight"].astype(np.float64)
    assert drawn.std() == pytest.approx(127 / 3.5, rel=0.02)
    assert np.abs(drawn).max() == 127
    scales = weights["transformer/decoder_layer_0/moe/linear_1/w.scales"].astype(np.float64)
    assert np.log(scales).std() == pytest.approx(0.3, rel=0.1)
    assert scales[:, 0].tolist() != scales[:, 1].tolist()
    for norm, size in (("rms_norm", 1.0), ("rms_norm_1", 0.88), ("rms_norm_3", 0.64)):
        gain = weights[f"transformer/decoder_layer_1/{norm}/scale"]
        assert gain.mean() == pytest.approx(size, rel=0.15)
        assert len(set(gain.tolist())) == UNEQUAL.model.emb_size


def test_a_shift_moves_the_mean_of_the_router_and_ties_share_a_column() -> None:
    plain = synthesize(UNEQUAL, Statistics(seed=11))["transformer/decoder_layer_0/router/w"]
    shifted = synthesize(UNEQUAL, Statistics(seed=11, router_shift=-3.0, tied_experts=(0, 3)))
    router = shifted["transformer/decoder_layer_0/router/w"]
    assert np.allclose(router[:, 0], plain[:, 0] - 3)
    assert np.array_equal(router[:, 0], router[:, 3])
    assert not np.array_equal(router[:, 1], router[:, 3])
