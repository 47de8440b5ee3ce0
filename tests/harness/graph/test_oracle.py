"""The oracle against the published code's own outputs, and against itself: decode, chunks, rows, what is shown."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from grok_conformance.harness.cases.case import Call, Case, Preset, tap_key
from grok_conformance.harness.cases.suite import UNEQUAL, make_preset
from grok_conformance.harness.contract import GOLDEN_DIR, Array, LanguageModelConfig, split_tap, tap_names
from grok_conformance.harness.formats.tensors import open_tensors
from grok_conformance.harness.graph.oracle import ExactWeights, dequantized, walk

PUBLISHED = GOLDEN_DIR / "published"


def published(name: str) -> Mapping[str, Array]:
    return open_tensors(PUBLISHED / f"{name}.safetensors")


@functools.cache
def published_preset(sequence_len: int) -> Preset:
    data = json.loads((PUBLISHED / "config.json").read_text())
    del data["embedding_init_scale"]
    config = LanguageModelConfig.from_json(data)
    return Preset("published", replace(config, sequence_len=sequence_len), dict(published("weights")))


def case_of(preset: Preset, dtype: str, *calls: Call) -> Case:
    return Case(
        id=f"{preset.name}/test/drawn", preset=preset.name, fprop_dtype=dtype, why="", origin="a test", calls=calls
    )


def call_of(kind: str, tokens: Array, lengths: list[int] | None = None) -> Call:
    real = [tokens.shape[1]] * len(tokens) if lengths is None else lengths
    assert kind in {"prefill", "extend", "decode"}
    return Call(
        "prefill" if kind == "prefill" else "extend" if kind == "extend" else "decode", tokens, np.array(real, np.int32)
    )


def run(preset: Preset, case: Case) -> dict[str, Array]:
    """Return every exact tap of a case by `call0/TAP`, float64."""
    return {tap_key(call, tap): value for call, tap, _, value in walk(preset, case)}


def relative_rms(observed: Array, expected: Array) -> float:
    wide = expected.astype(np.float64)
    return float(np.sqrt(np.mean(np.square(observed - wide)) / np.mean(np.square(wide))))


@functools.cache
def published_prefill(dtype: str) -> dict[str, Array]:
    tokens = published(f"prefill_{dtype}")["tokens"]
    preset = published_preset(tokens.shape[1])
    return run(preset, case_of(preset, dtype, call_of("prefill", tokens)))


FLOAT32_TAPS = [name for name in published("prefill_float32") if name != "tokens"]


@pytest.mark.parametrize("tap", FLOAT32_TAPS)
def test_the_oracle_gives_the_published_float32_tap(tap: str) -> None:
    expected, exact = published("prefill_float32")[tap], published_prefill("float32")[f"call0/{tap}"]
    if tap.endswith("expert_index"):
        assert np.array_equal(exact, expected)
    else:
        assert relative_rms(exact, expected.reshape(exact.shape)) <= 1e-6


def test_the_published_taps_show_every_block_of_both_layers() -> None:
    shown = {split_tap(tap)[1] for tap in FLOAT32_TAPS}
    assert len(FLOAT32_TAPS) == 35
    assert {"embedding", "attention.query_rotated", "attention.weights", "attention.output_norm"} <= shown
    assert {"router.probabilities", "moe.expert_activation", "moe.expert_gate", "output", "logits"} <= shown


@functools.cache
def published_decode() -> dict[str, Array]:
    vectors = published("decode_float32")
    preset = published_preset(vectors["layers.00.kv.keys"].shape[1])
    steps = [call_of("decode", vectors[f"step{i}.token"]) for i in range(5)]
    prefill = call_of("prefill", vectors["prompt"], vectors["length"].tolist())
    return run(preset, case_of(preset, "float32", prefill, *steps))


@pytest.mark.parametrize("step", range(6))
def test_the_oracle_gives_the_published_logits_of_a_decoding_step(step: int) -> None:
    vectors = published("decode_float32")
    exact = published_decode()[f"call{step}/logits"]
    if step == 0:
        last = int(vectors["length"][0]) - 1
        assert relative_rms(exact[:, last : last + 1], vectors["prefill.logits"]) <= 1e-6
    else:
        assert relative_rms(exact, vectors[f"step{step - 1}.logits"]) <= 1e-6


@pytest.mark.parametrize("name", ["kv.keys", "kv.values"])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_oracle_leaves_the_published_cache(layer: int, name: str) -> None:
    vectors = published("decode_float32")
    reached = int(vectors["length"][0]) + 5
    exact = published_decode()[f"call5/layers.{layer:02d}.{name}"]
    assert vectors[f"layers.{layer:02d}.kv.step"].tolist() == [reached]
    assert relative_rms(exact[:, :reached], vectors[f"layers.{layer:02d}.{name}"][:, :reached]) <= 1e-6


def test_the_bf16_oracle_is_within_a_percent_of_the_published_program() -> None:
    assert relative_rms(published_prefill("bfloat16")["call0/logits"], published("prefill_bfloat16")["logits"]) <= 0.012


TOKENS = np.array([[5, 9, 60, 3, 77, 21, 8], [91, 4, 4, 50, 12, 33, 2]], np.int32)


@pytest.mark.parametrize("name", ["unequal", "realistic", "dense"])
def test_decoding_after_a_prefill_equals_one_long_prefill(name: str) -> None:
    preset = make_preset(name)
    whole = run(preset, case_of(preset, "float32", call_of("prefill", TOKENS)))
    calls = [call_of("prefill", TOKENS[:, :4]), *(call_of("decode", TOKENS[:, i : i + 1]) for i in range(4, 7))]
    split = run(preset, case_of(preset, "float32", *calls))
    for call, i in enumerate(range(4, 7), start=1):
        assert relative_rms(split[f"call{call}/logits"], whole["call0/logits"][:, i : i + 1]) <= 1e-12
    for layer in range(preset.config.model.num_layers):
        for kind in ("keys", "values"):
            tap = f"layers.{layer:02d}.kv.{kind}"
            assert relative_rms(split[f"call3/{tap}"], whole[f"call0/{tap}"]) <= 1e-12


@pytest.mark.parametrize("chunks", [(3, 4), (1, 2, 4), (2, 2, 2, 1)])
def test_a_prefill_in_chunks_equals_one_prefill(chunks: tuple[int, ...]) -> None:
    preset = make_preset("unequal")
    whole = run(preset, case_of(preset, "float32", call_of("prefill", TOKENS)))["call0/logits"]
    ends = np.cumsum(chunks)
    calls = [
        call_of("extend" if end > size else "prefill", TOKENS[:, end - size : end])
        for size, end in zip(chunks, ends, strict=True)
    ]
    split = run(preset, case_of(preset, "float32", *calls))
    for call, (size, end) in enumerate(zip(chunks, ends, strict=True)):
        assert relative_rms(split[f"call{call}/logits"], whole[:, end - size : end]) <= 1e-12


def test_rows_of_a_batch_are_independent() -> None:
    preset = make_preset("unequal")
    both = run(preset, case_of(preset, "float32", call_of("prefill", TOKENS)))["call0/logits"]
    for row in range(2):
        alone = run(preset, case_of(preset, "float32", call_of("prefill", TOKENS[row : row + 1])))
        assert relative_rms(alone["call0/logits"], both[row : row + 1]) <= 1e-12


def test_padding_on_the_right_changes_no_real_token() -> None:
    preset = make_preset("unequal")
    short = run(preset, case_of(preset, "float32", call_of("prefill", TOKENS[:, :4])))["call0/logits"]
    padded = TOKENS * (np.arange(7) < 4)
    long = run(preset, case_of(preset, "float32", call_of("prefill", padded, [4, 4])))["call0/logits"]
    assert relative_rms(long[:, :4], short) <= 1e-12


def test_later_tokens_change_no_earlier_ones() -> None:
    preset = make_preset("unequal")
    other = TOKENS.copy()
    other[:, 5:] = 17
    first, second = (
        run(preset, case_of(preset, "float32", call_of("prefill", tokens)))["call0/logits"]
        for tokens in (TOKENS, other)
    )
    assert relative_rms(second[:, :5], first[:, :5]) <= 1e-12
    assert relative_rms(second[:, 5:], first[:, 5:]) > 0.1


def test_what_is_shown_flows_on_instead_of_what_is_computed() -> None:
    preset = make_preset("unequal")
    case = case_of(preset, "float32", call_of("prefill", TOKENS))
    tap = "layers.00.attention.output"
    shown = np.zeros((2, 7, 40))
    made = {
        name: (exact, value)
        for _, name, exact, value in walk(preset, case, lambda _, name: shown if name == tap else None)
    }
    assert made[tap][1] is shown
    assert np.abs(made[tap][0].value).max() > 0.01
    assert np.array_equal(made["layers.00.attention.residual"][1], made["embedding"][1])


def test_every_tap_of_a_case_is_walked_once_in_order() -> None:
    preset = make_preset("unequal")
    case = case_of(preset, "float32", call_of("prefill", TOKENS[:, :3]), call_of("decode", TOKENS[:, 3:4]))
    walked = [(call, tap) for call, tap, _, _ in walk(preset, case)]
    assert walked == [(call, tap) for call in (0, 1) for tap in tap_names(preset.config)]


WEIGHT = np.array([[1, -2], [3, 4], [-5, 6], [127, -127]], np.int8)
SCALES = np.array([[0.1, 0.2], [0.3, 0.4]])
PRODUCT = np.array([[0.1, -0.4], [0.3, 0.8], [-1.5, 2.4], [38.1, -50.8]])


def stored(path: str, dtype: object) -> dict[str, Array]:
    return {f"{path}.weight": WEIGHT, f"{path}.scales": SCALES.astype(np.dtype(dtype))}  # type: ignore[call-overload] # any dtype


@pytest.mark.parametrize(
    "path", ["transformer/decoder_layer_0/moe/linear_1/w", "transformer/decoder_layer_0/multi_head_attention/linear/w"]
)
def test_groups_of_scales_are_contiguous_and_exact_in_float32(path: str) -> None:
    config = replace(UNEQUAL, fprop_dtype="float32")
    made = dequantized(config, stored(path, np.float32), path, "published")
    scales = SCALES.astype(np.float32).astype(np.float64)
    assert np.array_equal(made, WEIGHT * np.repeat(scales, 2, axis=0))
    assert np.allclose(made, PRODUCT)


def test_a_bf16_product_is_rounded_in_bf16_and_kept_by_another_choice() -> None:
    config, path = replace(UNEQUAL, fprop_dtype="bfloat16"), "transformer/decoder_layer_0/moe/linear/w"
    weights = stored(path, ml_dtypes.bfloat16)
    exact = WEIGHT * np.repeat(weights[f"{path}.scales"].astype(np.float64), 2, axis=0)
    canonical = dequantized(config, weights, path, "published")
    assert np.array_equal(canonical, exact.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64))
    assert not np.array_equal(canonical, exact)
    assert np.array_equal(dequantized(config, weights, path, "kept"), exact)
    assert np.array_equal(dequantized(config, weights, path, "rounded"), canonical)
    float32 = replace(config, fprop_dtype="float32")
    assert np.array_equal(dequantized(float32, weights, path, "published"), exact)
    assert np.array_equal(dequantized(float32, weights, path, "rounded"), canonical)


def test_float32_scales_make_wide_experts_but_attention_is_cast_to_the_compute_dtype() -> None:
    config = replace(UNEQUAL, fprop_dtype="bfloat16")
    expert, linear = (
        "transformer/decoder_layer_0/moe/linear/w",
        "transformer/decoder_layer_0/multi_head_attention/linear/w",
    )
    wide = dequantized(config, stored(expert, np.float32), expert, "published")
    narrow = dequantized(config, stored(linear, np.float32), linear, "published")
    assert np.array_equal(wide.astype(np.float32), wide)
    assert not np.array_equal(wide, narrow)
    assert np.array_equal(narrow, wide.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64))


@pytest.mark.parametrize(
    ("name", "narrow"),
    [
        ("transformer/decoder_layer_0/moe/linear/w", True),
        ("transformer/decoder_layer_0/multi_head_attention/query/w", True),
        ("transformer/decoder_layer_0/router/w", False),
        ("transformer/decoder_layer_0/rms_norm_1/scale", False),
    ],
)
def test_plain_matrices_are_cast_to_the_compute_dtype_but_not_router_and_norms(name: str, *, narrow: bool) -> None:
    plain = {name: np.full((2, 2), 1.001, np.float32)}
    made = dequantized(replace(UNEQUAL, fprop_dtype="bfloat16"), plain, name, "published")
    assert made[0, 0] == (1.0 if narrow else np.float64(np.float32(1.001)))
    float32 = dequantized(replace(UNEQUAL, fprop_dtype="float32"), plain, name, "published")
    assert float32[0, 0] == np.float64(np.float32(1.001))


def test_a_weight_is_dequantized_once_per_way_of_rounding() -> None:
    path = "transformer/decoder_layer_0/moe/linear/w"
    weights = ExactWeights(UNEQUAL, stored(path, ml_dtypes.bfloat16))
    assert weights.get(path, "published") is weights.get(path, "published")
    assert not np.array_equal(weights.get(path, "published"), weights.get(path, "kept"))
