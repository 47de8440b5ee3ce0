"""The reference gives the same numbers on every mesh, for every number of scale groups, in every split into calls."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from grok_conformance import reference
from grok_conformance.reference import LanguageModelOutput
from tests.reference.published import memory_after, relative_rms, run
from tests.reference.shardable import model

MESHES = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (2, 4)]


TOKENS = np.random.default_rng(0).integers(1, 61, (3, 6)).astype(np.int32)


@pytest.mark.parametrize("mesh", MESHES)
def test_float32_taps_agree_on_every_mesh(mesh: tuple[int, int]) -> None:
    config, params = model(num_groups=8)
    _, alone = reference.apply_with_taps(config, params, TOKENS)
    _, sharded = reference.apply_with_taps(config, params, TOKENS, mesh=reference.make_mesh(mesh))
    assert list(alone) == list(sharded)
    assert max(relative_rms(sharded[name], alone[name]) for name in alone if "index" not in name) <= 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mesh", [None, (1, 2), (2, 4)])
def test_tapping_does_not_change_the_logits_by_a_bit(mesh: tuple[int, int] | None, dtype: str) -> None:
    config, params = model(num_groups=8, dtype=dtype)
    on = None if mesh is None else reference.make_mesh(mesh)
    outputs = [reference.apply_with_taps(config, params, TOKENS, taps=taps, mesh=on)[0] for taps in (None, ())]
    tapped, untapped = (np.asarray(output.logits) for output in outputs if isinstance(output, LanguageModelOutput))
    assert np.array_equal(tapped, untapped)


@pytest.mark.parametrize(("num_groups", "mesh"), [(1, (1, 4)), (4, (1, 8)), (16, (1, 2)), (2, (2, 4))])
def test_a_shard_may_hold_several_scale_groups_or_part_of_one(num_groups: int, mesh: tuple[int, int]) -> None:
    config, params = model(num_groups)
    alone = run(config, params, TOKENS)
    sharded = run(config, params, TOKENS, mesh=reference.make_mesh(mesh))
    assert relative_rms(sharded.logits, alone.logits) <= 1e-6


def test_bfloat16_logits_agree_on_a_mesh_to_their_rounding() -> None:
    config, params = model(num_groups=8, dtype="bfloat16")
    alone = run(config, params, TOKENS)
    sharded = run(config, params, TOKENS, mesh=reference.make_mesh((2, 4)))
    assert relative_rms(sharded.logits, alone.logits) <= 0.01


def test_dense_blocks_agree_on_a_mesh() -> None:
    config, params = model(num_groups=2, num_experts=1, num_selected_experts=1)
    alone = run(config, params, TOKENS)
    sharded = run(config, params, TOKENS, mesh=reference.make_mesh((2, 4)))
    assert relative_rms(sharded.logits, alone.logits) <= 1e-6


def test_chunks_and_steps_give_what_one_prefill_gives() -> None:
    config, params = model(num_groups=4)
    whole = run(config, params, TOKENS).logits
    memory = reference.init_memory(config, 3, 12)
    logits = []
    for chunk in (TOKENS[:, :3], TOKENS[:, 3:5], TOKENS[:, 5:]):
        output = run(config, params, chunk, memory=memory)
        memory = memory_after(output)
        logits.append(np.asarray(output.logits))
    assert relative_rms(np.concatenate(logits, 1), whole) <= 1e-6


def test_each_row_decodes_at_its_own_step() -> None:
    config, params = model(num_groups=4)
    lengths = np.array([6, 4, 2], np.int32)
    padded = np.where(np.arange(6) < lengths[:, None], TOKENS, 0)
    output = run(config, params, padded, memory=reference.init_memory(config, 3, 12))
    memory = reference.Memory([layer._replace(step=jnp.asarray(lengths)) for layer in memory_after(output).layers])
    token = np.array([[7], [8], [9]], np.int32)
    stepped = np.asarray(run(config, params, token, memory=memory).logits)
    for row, length in enumerate(lengths):
        alone = np.concatenate([TOKENS[row, :length], token[row]])[None]
        padded_alone = np.pad(alone, ((0, 0), (0, 7 - alone.shape[1])))
        expected = np.asarray(run(config, params, padded_alone).logits)[:, length]
        assert relative_rms(stepped[row], expected) <= 1e-6
