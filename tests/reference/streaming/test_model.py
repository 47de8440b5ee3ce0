"""The streamed model gives the numbers of the one in memory, whatever is read, skipped, or done in one pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from grok_conformance import reference
from grok_conformance.harness.cases.synthesis import Statistics
from grok_conformance.reference import streaming
from grok_conformance.reference.checkpoint.pickles import Array, CheckpointError
from grok_conformance.reference.streaming.reading import ReadAhead, Region
from tests.reference.published import relative_rms
from tests.reference.streaming.tiny_streams import TOKENS, save

WHOLE = Statistics(seed=9, scales_dtype=None)
WIDE_SCALES = Statistics(seed=9, num_groups=4, scales_dtype="float32")


def memory_after(output: Any) -> reference.Memory:
    assert isinstance(output.model_state, reference.Memory)
    return output.model_state


def bits(taps: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (str(np.asarray(x).dtype), np.shape(x), np.asarray(x).tobytes()) for name, x in taps.items()}


@pytest.mark.parametrize(
    ("num_layers", "statistics"), [(2, None), (1, WHOLE), (1, WIDE_SCALES)], ids=["int8", "plain", "float32 scales"]
)
def test_streamed_equals_resident_bit_for_bit(num_layers: int, statistics: Statistics | None, tmp_path: Path) -> None:
    folder, config, params = save(tmp_path, statistics=statistics, num_layers=num_layers)
    memory = reference.init_memory(config, 2, 9)
    resident, expected = reference.apply_with_taps(config, params, TOKENS, memory=memory)
    with streaming.open_stream(folder, config) as stream:
        streamed, taps = streaming.apply_with_taps(stream, TOKENS, memory=memory)
    assert bits(taps) == bits(expected)
    assert list(taps) == list(expected)
    for ours, theirs in zip(memory_after(streamed).layers, memory_after(resident).layers, strict=True):
        assert bits(ours._asdict()) == bits(theirs._asdict())


@pytest.mark.parametrize("changes", [{}, {"num_experts": 1, "num_selected_experts": 1}], ids=["experts", "dense"])
def test_streamed_equals_resident_in_float32(changes: dict[str, Any], tmp_path: Path) -> None:
    folder, config, params = save(tmp_path, "float32", num_layers=1, **changes)
    _, expected = reference.apply_with_taps(config, params, TOKENS)
    with streaming.open_stream(folder, config) as stream:
        _, taps = streaming.apply_with_taps(stream, TOKENS)
    different = [name for name in taps if not np.array_equal(taps[name], np.asarray(expected[name]))]
    assert set(different) <= {"logits"}  # a float32 product of fewer columns of the table is summed in another order
    assert relative_rms(taps["logits"], expected["logits"]) <= 1e-6


def test_experts_in_several_tiles_agree_to_the_rounding_of_their_sums(tmp_path: Path) -> None:
    folder, config, params = save(tmp_path, "float32", num_layers=1, widening_factor=24)  # f = 768: 8 groups of 96
    _, expected = reference.apply_with_taps(config, params, TOKENS)
    with streaming.open_stream(folder, config) as stream:
        _, taps = streaming.apply_with_taps(stream, TOKENS)
    assert max(relative_rms(taps[name], expected[name]) for name in taps if "index" not in name) <= 1e-6


def test_prefill_and_decoding_take_one_pass_over_the_layers(tmp_path: Path) -> None:
    folder, config, params = save(tmp_path)
    lengths = np.array([6, 4], np.int32)
    memory = reference.init_memory(config, 2, 9)
    prefill, first = reference.apply_with_taps(config, params, TOKENS, memory=memory)
    steps = jnp.asarray(lengths)
    layers = [layer._replace(step=steps) for layer in memory_after(prefill).layers]
    _, second = reference.apply_with_taps(config, params, TOKENS[:, :1], memory=reference.Memory(layers))
    calls = [streaming.Call(TOKENS, lengths), streaming.Call(TOKENS[:, :1], np.ones(2, np.int32))]
    with streaming.open_stream(folder, config) as stream:
        stages = list(streaming.run(stream, calls, memory.layers))
    assert [stage.layer for stage in stages] == [None, 0, 1, None]
    for call, expected in enumerate((first, second)):
        taps = {name: x for stage in stages for name, x in stage.taps[call].items()}
        assert bits(taps) == bits(expected)


def test_a_run_goes_on_from_any_layer(tmp_path: Path) -> None:
    folder, config, _ = save(tmp_path)
    calls, caches = [streaming.Call(TOKENS, np.full(2, 6, np.int32))], reference.init_memory(config, 2, 6).layers
    with streaming.open_stream(folder, config) as stream:
        whole = list(streaming.run(stream, calls, caches))
        rest = list(streaming.run(stream, calls, caches, first_layer=1, embeddings=whole[1].embeddings))
    assert [bits(stage.taps[0]) for stage in rest] == [bits(stage.taps[0]) for stage in whole[2:]]


def test_an_unfinished_run_ends_with_its_stream(tmp_path: Path) -> None:
    folder, config, _ = save(tmp_path)
    with streaming.open_stream(folder, config) as stream:
        stages = streaming.run(stream, [streaming.Call(TOKENS, np.full(2, 6, np.int32))], [None] * 2)
        assert next(stages).layer is None
        assert next(stages).layer == 0


def test_a_token_outside_the_vocabulary_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder, config, _ = save(tmp_path)
    with streaming.open_stream(folder, config) as stream, pytest.raises(ValueError, match="token id 61 at row 0"):
        streaming.apply_with_taps(stream, [[61]])


def test_a_full_cache_is_refused_by_the_call_that_fills_it(tmp_path: Path) -> None:
    folder, config, _ = save(tmp_path)
    calls = [streaming.Call(TOKENS, np.full(2, 6, np.int32)), streaming.Call(TOKENS[:, :1], np.ones(2, np.int32))]
    caches = reference.init_memory(config, 2, 6).layers
    with streaming.open_stream(folder, config) as stream, pytest.raises(ValueError, match="1 tokens at step 6 do not"):
        next(streaming.run(stream, calls, caches))


def test_several_calls_need_a_cache(tmp_path: Path) -> None:
    folder, config, _ = save(tmp_path)
    call = streaming.Call(TOKENS, np.full(2, 6, np.int32))
    with streaming.open_stream(folder, config) as stream, pytest.raises(ValueError, match="give caches"):
        next(streaming.run(stream, [call, call], [None] * 2))


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    folder, config, _ = save(tmp_path)
    other = replace(config, model=replace(config.model, key_size=4))
    with (
        pytest.raises(CheckpointError, match="another config"),
        streaming.open_stream(folder, other),
    ):
        pass


def region(path: Path, content: bytes, shape: tuple[int, ...]) -> Region:
    path.write_bytes(content)
    return Region(path, np.dtype(np.int8), shape, 0)


def test_a_file_that_ends_early_is_an_error_that_names_it(tmp_path: Path) -> None:
    reader = ReadAhead(1, 64)
    future = reader.request([region(tmp_path / "tensor00003_000", b"short", (8,))])
    with pytest.raises(CheckpointError, match="tensor00003_000: truncated"):
        future.result()
    reader.close()


def test_requests_wait_for_memory_that_is_given_back(tmp_path: Path) -> None:
    reader = ReadAhead(1, 64)
    one, two = (reader.request([region(tmp_path / name, name.encode(), (3,))]) for name in ("one", "two"))
    with one.result() as (array,):
        first: Array = array.copy()
        assert not two.done()
    with two.result() as (array,):
        assert (first.tobytes(), array.tobytes()) == (b"one", b"two")
    reader.close()
