from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from grok_conformance.candidates.torch_eager import model as wiring
from grok_conformance.candidates.torch_eager.model import TorchModel
from grok_conformance.candidates.torch_eager.parameters import device_here, placed
from grok_conformance.harness.contract import (
    DTYPES,
    Array,
    split_tap,
    tap_names,
    tap_specs,
)
from tests.candidates.tiny_models import CONFIG, MODELS, assert_agree, cut, ints, load, random_tokens

ALL = ("*",)
WEIGHTS_TAP = "layers.00.attention.weights"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products lose more time to waking threads than they take."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> TorchModel:
    return load(request.param)


# One call against several


def test_decoding_after_prompts_of_unequal_lengths_equals_one_prefill(model: TorchModel) -> None:
    tokens, lengths = random_tokens(3, 12), ints(4, 7, 2)
    whole = model.prefill(tokens, ints(12, 12, 12), ALL)
    model.prefill(np.where(np.arange(8) < lengths[:, None], tokens[:, :8], 0), lengths, ())
    observed, expected = [], []
    for positions in (lengths + step for step in range(5)):
        taps = model.decode(np.take_along_axis(tokens, positions[:, None], axis=1), ALL)
        for row, position in enumerate(positions):
            rows, num_seen = slice(row, row + 1), position + 1
            observed.append(cut(taps, rows, slice(1), num_seen))
            expected.append(cut(whole, rows, slice(position, num_seen), num_seen))
    assert_agree(observed, expected)


def test_chunks_of_unequal_sizes_equal_one_prefill(model: TorchModel) -> None:
    tokens = random_tokens(2, 14)
    whole = model.prefill(tokens, ints(14, 14), ALL)
    observed, expected = [], []
    begin = 0
    for end, call in ((5, model.prefill), (8, model.extend), (9, model.extend), (14, model.extend)):
        taps = call(tokens[:, begin:end], ints(end - begin, end - begin), ALL)
        observed.append(cut(taps, slice(None), slice(None), end))
        expected.append(cut(whole, slice(None), slice(begin, end), end))
        begin = end
    assert_agree(observed, expected)


def run_calls(model: TorchModel, rows: slice, pads: int = 0) -> list[dict[str, Array]]:
    """Prefill, extend and decode some of three rows of unequal lengths."""
    tokens = np.pad(random_tokens(3, 5), ((0, 0), (0, pads)))[rows]
    more = np.pad(random_tokens(3, 3), ((0, 0), (0, pads)))[rows]
    return [
        model.prefill(tokens, ints(5, 3, 4)[rows], ALL),
        model.extend(more, ints(2, 3, 3)[rows], ALL),
        model.decode(more[:, :1], ALL),
    ]


def test_rows_of_a_batch_equal_each_row_alone(model: TorchModel) -> None:
    together = run_calls(model, slice(None))
    observed, expected = [], []
    for row in (slice(0, 1), slice(1, 2), slice(2, 3)):
        observed += [cut(taps, row, slice(None), CONFIG.sequence_len) for taps in together]
        expected += run_calls(model, row)
    assert_agree(observed, expected)


def test_more_padding_on_the_right_changes_nothing(model: TorchModel) -> None:
    observed, expected = [], []
    for row, lengths in enumerate(((5, 2, 1), (3, 3, 1), (4, 3, 1))):
        here = slice(row, row + 1)
        plain, padded = run_calls(model, here), run_calls(model, here, pads=4)
        for call, length in enumerate(lengths):
            num_seen = sum(lengths[: call + 1])
            observed.append(cut(padded[call], slice(None), slice(length), num_seen))
            expected.append(cut(plain[call], slice(None), slice(length), num_seen))
    assert_agree(observed, expected)


def test_a_preloaded_cache_continues_bitwise_whatever_its_unused_slots_hold(model: TorchModel) -> None:
    tokens, lengths = random_tokens(2, 6), ints(6, 4)
    taken = model.prefill(tokens, lengths, ["*.kv.*"])
    expected = model.extend(tokens[:, :2], ints(2, 2), ["logits"])["logits"]
    keys, values = (np.stack([taken[f"layers.{i:02d}.kv.{name}"] for i in (0, 1)]) for name in ("keys", "values"))
    unused = np.arange(CONFIG.sequence_len) >= lengths[:, None]
    keys[:, unused] = values[:, unused] = 1e4
    model.preload(keys, values, lengths)
    observed = model.extend(tokens[:, :2], ints(2, 2), ["logits"])["logits"]
    np.testing.assert_array_equal(observed, expected)


def test_rows_cut_back_by_unequal_numbers_continue_as_if_the_drafts_had_not_been(model: TorchModel) -> None:
    tokens, lengths = random_tokens(2, 6), ints(6, 4)
    model.prefill(tokens, lengths, ())
    expected = [model.decode(tokens[:, :1], ALL)["logits"], model.decode(tokens[:, 1:2], ALL)["logits"]]
    model.prefill(tokens, lengths, ())
    model.decode(tokens[:, :1], ())
    model.extend(tokens[:, 3:], ints(3, 1), ())
    model.truncate(lengths)
    np.testing.assert_array_equal(model.decode(tokens[:, :1], ALL)["logits"], expected[0])
    np.testing.assert_array_equal(model.decode(tokens[:, 1:2], ALL)["logits"], expected[1])
    with pytest.raises(ValueError, match="they must lie in"):
        model.truncate(ints(20, 1))


# What is shown


@pytest.mark.parametrize("fprop_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_tap_has_the_axes_and_the_dtype_of_the_contract(name: str, fprop_dtype: str) -> None:
    model = load(name, fprop_dtype)
    dtypes = {"fprop": fprop_dtype, "cache": fprop_dtype, "expert": fprop_dtype}
    if MODELS[name][2] == "float32":
        dtypes["expert"] = "float32"
    specs = {spec.operation: spec for spec in tap_specs()}
    calls = {7: model.prefill(random_tokens(2, 7), ints(7, 4), ALL), 1: model.decode(random_tokens(2, 1), ALL)}
    for num_tokens, taps in calls.items():
        assert tuple(taps) == tap_names(model.config)
        sizes = {**model.config.axis_sizes, "b": 2, "t": num_tokens}
        for tap, value in taps.items():
            spec = specs[split_tap(tap)[1]]
            assert value.shape == tuple(sizes[axis] for axis in spec.axes), tap
            assert value.dtype == DTYPES[dtypes.get(spec.dtype, spec.dtype)], tap
            assert np.isfinite(value.astype(np.float32)).all(), tap


def test_only_wanted_taps_are_shown_and_writing_into_them_leaves_the_cache_alone() -> None:
    model = load("plain")
    shown = model.prefill(random_tokens(1, 4), ints(4), ["logits", "layers.01.kv.keys"])
    assert list(shown) == ["layers.01.kv.keys", "logits"]
    keys = shown["layers.01.kv.keys"].copy()
    shown["layers.01.kv.keys"][:] = 0
    after = model.decode(random_tokens(1, 1), ["*.kv.keys"])["layers.01.kv.keys"]
    np.testing.assert_array_equal(after[:, :4], keys[:, :4])


# Pads and experts


def seen_slots(weights: Array) -> list[list[int]]:
    """Return the slots with a positive weight for each query of the first row and head."""
    return [np.flatnonzero(row).tolist() for row in weights[0, 0, 0]]


def test_pads_are_masked_in_their_own_call_and_seen_in_later_ones() -> None:
    model = load("plain")
    weights = model.prefill(ints(7, 0, 9)[None], ints(3), [WEIGHTS_TAP])[WEIGHTS_TAP]
    assert seen_slots(weights) == [[0], [0], [0, 2]]
    weights = model.extend(ints(5, 0)[None], ints(2), [WEIGHTS_TAP])[WEIGHTS_TAP]
    assert seen_slots(weights) == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_a_query_that_sees_no_key_averages_the_slots_up_to_the_end_of_its_call() -> None:
    weights = load("plain").prefill(ints(0, 7, 0, 9)[None], ints(4), [WEIGHTS_TAP])[WEIGHTS_TAP]
    assert seen_slots(weights) == [[0, 1, 2, 3], [1], [1], [1, 3]]
    np.testing.assert_array_equal(weights[:, :, :, 0, :4], np.full((1, 3, 2, 4), 0.25))


def test_decoding_a_pad_averages_all_slots_of_the_cache() -> None:
    model = load("plain")
    model.prefill(random_tokens(1, 4), ints(4), ())
    weights = model.decode(ints(0)[None], [WEIGHTS_TAP])[WEIGHTS_TAP]
    np.testing.assert_array_equal(weights, np.full((1, 3, 2, 1, 19), np.float32(1 / 19)))
    weights = model.decode(ints(5)[None], [WEIGHTS_TAP])[WEIGHTS_TAP]
    assert seen_slots(weights) == [[0, 1, 2, 3, 4, 5]]


def test_experts_without_tokens_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    whole_expert = wiring.expert

    def spy(params: Any, path: str, index: int, x: torch.Tensor) -> wiring.ExpertValues:
        ran.append(index)
        return whole_expert(params, path, index, x)

    monkeypatch.setattr(wiring, "expert", spy)
    chosen = load("eleven experts").prefill(random_tokens(1, 2), ints(2), ["*.expert_index"])
    assert ran == [expert for index in chosen.values() for expert in np.unique(index)]


def test_loading_pins_float32_products_to_full_precision() -> None:
    torch.set_float32_matmul_precision("medium")
    load("plain")
    assert torch.get_float32_matmul_precision() == "highest"


# On another device: torch's "meta", which computes no value, but refuses operands on two devices


def choose_first_experts(params: Any, path: str, x: torch.Tensor, index: torch.Tensor, _: int) -> wiring.ExpertValues:
    """Stand in for the grouping by expert, which must read what the router chose."""
    values = [wiring.expert(params, path, i, x) for i in range(index.shape[-1])]
    return wiring.ExpertValues(*(torch.stack(parts, -2) for parts in zip(*values, strict=True)))


@pytest.mark.parametrize("num_tokens", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_on_another_device_computes_there_alone(
    name: str, num_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, devices = load(name), set()

    def tap(_name: str, value: torch.Tensor) -> torch.Tensor:
        devices.add(value.device.type)
        return value

    monkeypatch.setattr(wiring, "run_experts", choose_first_experts)
    there = TorchModel(model.config, placed(model.params, torch.device("meta")))
    tokens = torch.ones((2, num_tokens), dtype=torch.int64, device=there.device)
    memory = wiring.init_memory(model.config, 2, there.device)
    updated = wiring.advance(wiring.forward(model.config, there.params, tokens, memory, tap), tokens[:, 0])
    assert devices == {value.device.type for cache in updated for value in (cache.k, cache.v, cache.step)} == {"meta"}


@pytest.mark.parametrize("there", [False, True])
def test_the_port_computes_on_a_gpu_where_there_is_one(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a case
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device_here().type == ("cuda" if there else "cpu")


def test_loading_lets_no_gpu_round_partial_sums() -> None:
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    load("plain")
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


# Errors


BAD_CALLS = {
    "token 37 in row 1 at position 2 is outside the vocabulary 0..36": ([[1, 2, 3], [1, 2, 37]], [3, 3]),
    "token -1 in row 0 at position 1 is outside the vocabulary 0..36": ([[1, -1, 3], [1, 2, 3]], [3, 3]),
    "row 1: step 17 + 3 tokens exceeds the cache of sequence_len 19 slots": ([[1, 2, 3], [1, 2, 3]], [3, 3]),
    "lengths are [3, 4]; give one in 0..3 for each of 2 rows": ([[1, 2, 3], [1, 2, 3]], [3, 4]),
    "lengths are [3]; give one in 0..3 for each of 2 rows": ([[1, 2, 3], [1, 2, 3]], [3]),
    "tokens have shape (1, 3); use [b, t] with b = 2, the rows of the cache": ([[1, 2, 3]], [3]),
    "tokens have shape (2,); use [b, t] with b = 2, the rows of the cache": ([1, 2], [1, 1]),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_a_call_that_does_not_fit_is_refused_and_the_cache_stays(message: str) -> None:
    tokens, lengths = BAD_CALLS[message]
    model = load("plain")
    model.prefill(random_tokens(2, 17), ints(3, 17), ())
    before = model.memory
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.extend(np.array(tokens, np.int32), np.array(lengths, np.int32), ())
    assert model.memory is before


def test_a_prompt_longer_than_the_cache_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^row 0: step 0 \+ 20 tokens exceeds the cache of sequence_len 19 slots$"):
        load("plain").prefill(random_tokens(1, 20), ints(20), ())


def test_importing_the_port_leaves_torch_s_compiler_out() -> None:
    told = "import sys, grok_conformance.candidates.torch_eager; print('torch._dynamo' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)  # noqa: S603
    assert shown.stdout == "False\n"


def test_decoding_without_a_cache_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^there is no cache to continue; call prefill or preload first$"):
        load("plain").decode(random_tokens(1, 1), ())


def test_preloading_another_shape_or_a_step_beyond_the_cache_is_refused() -> None:
    cache = np.zeros((2, 1, 19, 3, 8), np.float32)
    with pytest.raises(ValueError, match=r"^keys \(2, 1, 18, 3, 8\) and values \(2, 1, 19, 3, 8\) must have the shape"):
        load("plain").preload(cache[:, :, 1:], cache, ints(4))
    with pytest.raises(ValueError, match=r"^steps are \[20\]; they must lie in 0\.\.19$"):
        load("plain").preload(cache, cache, ints(20))
