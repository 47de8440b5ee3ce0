from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from grok_conformance import reference
from grok_conformance.reference import GROK_1, checkpoint
from grok_conformance.reference.checkpoint import CheckpointError, synthesis
from grok_conformance.reference.checkpoint.synthesis import layer_kind, synthesize, unique_bytes
from grok_conformance.reference.parameters import Params
from grok_conformance.reference.quantization import dequantize, is_quantized
from tests.reference.checkpoint.tiny_checkpoints import CONFIG, DENSE, ONE_LAYER, all_bits
from tests.reference.shardable import as_reference
from tests.small_configurations import small

EIGHT_EXPERTS = as_reference(
    small(
        vocab_size=2048,
        sequence_len=512,
        emb_size=256,
        widening_factor=2,
        key_size=32,
        num_q_heads=8,
        num_kv_heads=4,
        num_layers=1,
        attn_output_multiplier=32**-0.5,
        num_experts=8,
    )
)
"""As many experts as Grok-1, and dimensions enough for averages."""

BLOCK_0 = ["embedding", "layers.00.attention.*", "layers.00.router.*", "layers.00.moe.*", "logits"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Params:
    folder = synthesize(tmp_path_factory.mktemp("synthetic"), EIGHT_EXPERTS)
    params: Params = checkpoint.load(folder, EIGHT_EXPERTS)
    return params


@pytest.fixture(scope="module")
def taps(weights: Params) -> dict[str, Any]:
    """What 512 random tokens give in block 0, by the last word or two of the tap's name."""
    tokens = np.random.default_rng(1).integers(3, EIGHT_EXPERTS.vocab_size, (1, 512))
    _, taps = reference.apply_with_taps(EIGHT_EXPERTS, weights, tokens, taps=BLOCK_0)
    return {name.removeprefix("layers.00."): np.asarray(value, np.float64) for name, value in taps.items()}


def rms(x: Any) -> Any:
    return np.sqrt(np.mean(np.square(x), axis=-1))


def test_embedding_rows_have_the_reported_rms(weights: Params) -> None:
    table = np.asarray(weights["language_model/in_out_embed"]["embeddings"], np.float64)  # [v, d]
    assert rms(table).mean() == pytest.approx(0.01274, rel=0.01)


def test_attention_updates_have_088_of_the_residual_in_block_0(taps: dict[str, Any]) -> None:
    assert (rms(taps["attention.output_norm"]) / rms(taps["embedding"])).mean() == pytest.approx(0.88, rel=0.02)


def test_moe_updates_have_048_of_the_residual_in_block_0(taps: dict[str, Any]) -> None:
    assert (rms(taps["moe.output_norm"]) / rms(taps["attention.residual"])).mean() == pytest.approx(0.48, rel=0.02)


def test_best_two_experts_are_0006_apart_at_the_median(taps: dict[str, Any]) -> None:
    best = np.sort(taps["router.probabilities"][0], axis=-1)  # [t, e]
    assert np.median(best[:, -1] - best[:, -2]) == pytest.approx(0.006, rel=0.2)


def test_expert_loads_lie_between_010_and_017(taps: dict[str, Any]) -> None:
    index = taps["moe.expert_index"].astype(int)
    load = np.bincount(index.reshape(-1), minlength=8) / index.size  # [e]
    assert load.min() > 0.095
    assert load.max() < 0.175
    assert load.max() / load.min() > 1.1


def test_attention_and_logits_are_neither_flat_nor_certain(taps: dict[str, Any]) -> None:
    assert taps["attention.logits"].std() == pytest.approx(4, rel=0.1)
    assert taps["logits"].std() == pytest.approx(2.5, rel=0.1)


def test_int8_weights_are_normal_and_reach_both_ends(weights: Params) -> None:
    w = weights["transformer/decoder_layer_0/moe/linear"]["w"].weight.astype(np.float64)  # [e, d, f]
    assert (w.min(), w.max()) == (-127, 127)
    assert w.mean() == pytest.approx(0, abs=0.3)
    assert np.mean(np.abs(w) < w.std()) == pytest.approx(0.683, abs=0.01)


def test_weights_keep_the_size_of_what_they_multiply(weights: Params) -> None:
    for path in ("moe/linear", "moe/linear_1", "multi_head_attention/linear", "multi_head_attention/value"):
        w = np.asarray(dequantize(weights[f"transformer/decoder_layer_0/{path}"]["w"]), np.float64)  # [..., k, n]
        assert w.std() * np.sqrt(w.shape[-2]) == pytest.approx(1, rel=0.02)


def test_groups_and_channels_have_scales_of_their_own(weights: Params) -> None:
    scales = weights["transformer/decoder_layer_0/moe/linear_1"]["w"].scales.astype(np.float64)  # [e, G, d]
    assert scales.shape[1] == 8
    for axis in range(3):
        assert np.ptp(scales, axis=axis).min() > 0
    assert scales.std() / scales.mean() == pytest.approx(0.1, rel=0.1)


def test_weights_depend_on_the_seed_and_not_on_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "CHUNK_ELEMENTS", 1000)
    loaded = []
    for name, seed, num_threads in (("a", 1, 1), ("b", 1, 3), ("c", 2, 1)):
        monkeypatch.setattr(synthesis, "NUM_THREADS", num_threads)
        loaded.append(all_bits(checkpoint.load(synthesize(tmp_path / name, ONE_LAYER, seed=seed), ONE_LAYER)))
    assert loaded[0] == loaded[1]
    assert all(loaded[0][key] != loaded[2][key] for key in loaded[0])


def test_no_two_leaves_are_alike(tmp_path: Path) -> None:
    loaded = all_bits(checkpoint.load(synthesize(tmp_path, CONFIG), CONFIG))
    assert len({content for _, _, content in loaded.values()}) == len(loaded)


def test_dense_model_is_synthesised(tmp_path: Path) -> None:
    loaded = checkpoint.load(synthesize(tmp_path, DENSE), DENSE)
    assert all(np.isfinite(array.astype(np.float32)).all() for array in jax.tree.leaves(loaded))
    assert is_quantized(loaded["transformer/decoder_layer_1/linear_1"]["w"])


def test_distinct_layers_are_shared_by_hard_links(tmp_path: Path) -> None:
    folder = synthesize(tmp_path, CONFIG, distinct_layers=3)
    inodes = Counter(path.stat().st_ino for path in folder.glob("tensor*"))
    assert len(list(folder.glob("tensor*"))) == 2 + 12 * 12
    assert len(inodes) == 2 + 3 * 12
    norms = [
        checkpoint.load_layer(tmp_path, CONFIG, i)[f"transformer/decoder_layer_{i}/rms_norm"]["scale"].tobytes()
        for i in range(12)
    ]
    kinds = [layer_kind(i, 3) for i in range(12)]
    assert [norms.index(norm) for norm in norms] == [kinds.index(kind) for kind in kinds]


@pytest.mark.parametrize("num_kinds", [2, 3, 4])
def test_no_stretch_of_layers_repeats_twice_and_begins_again(num_kinds: int) -> None:
    kinds = [layer_kind(i, num_kinds) for i in range(64)]
    assert set(kinds) == set(range(num_kinds))
    for start, period in itertools.product(range(64), range(1, 32)):
        stretch = kinds[start : start + 2 * period + 1]
        assert len(stretch) <= 2 * period or stretch[period:] != stretch[:-period]


def test_as_many_kinds_as_layers_are_all_distinct() -> None:
    assert [layer_kind(i, 64) for i in range(64)] == list(range(64))


def test_grok_1_with_three_distinct_layers_takes_18_gigabytes() -> None:
    assert unique_bytes(GROK_1) == 318_239_694_848
    assert unique_bytes(GROK_1, 3) / 1e9 == pytest.approx(17.99, abs=0.01)


@pytest.mark.parametrize("distinct_layers", [0, 13])
def test_impossible_number_of_distinct_layers_is_refused(distinct_layers: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^{distinct_layers} distinct layers of 12: choose from 1 to 12$"):
        synthesize(tmp_path, CONFIG, distinct_layers=distinct_layers)


def test_too_small_a_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match=rf"needs {unique_bytes(ONE_LAYER)} bytes, 1000 are free"):
        synthesize(tmp_path / "new", ONE_LAYER)
    assert list(tmp_path.iterdir()) == []


def test_number_of_experts_does_not_change_the_gap() -> None:
    for num_experts in (3, 8, 16):
        std = synthesis.router_logits_std(num_experts)
        logits = std * np.random.default_rng(5).standard_normal((20_000, num_experts))
        weights = np.exp(logits)
        best = np.sort(weights / weights.sum(axis=1, keepdims=True), axis=1)
        assert np.median(best[:, -1] - best[:, -2]) == pytest.approx(0.006, rel=0.05)
