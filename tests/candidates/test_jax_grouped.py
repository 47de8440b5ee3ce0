from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.candidates import jax_grouped
from grok_conformance.candidates.jax_grouped import experts
from grok_conformance.candidates.jax_grouped.experts import Experts, batch_sizes
from grok_conformance.candidates.jax_grouped.layers import multiply_row
from grok_conformance.candidates.jax_grouped.model import Model
from grok_conformance.candidates.jax_grouped.parameters import Matrix
from grok_conformance.harness.cases.case import Preset, tap_key
from grok_conformance.harness.cases.suite import make_preset
from grok_conformance.harness.checks.exhibit import Ways, exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import Array, Unsupported, tap_names
from grok_conformance.harness.graph.grok_1 import OPERATIONS
from grok_conformance.harness.graph.rounding import WEIGHTS, RoundingPlan
from tests.harness.honest_port import at_fault, golden_case

TOKENS, LENGTHS = np.array([[5, 9, 60, 3], [91, 4, 0, 0]], np.int32), np.array([4, 2], np.int32)
NUM_ELEMENTS = 10**7
SCALED_SUMS = {row.name: RoundingPlan({"weights": "kept"}) for row in OPERATIONS if WEIGHTS in row.points}


def mesh(data: int, model: int) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()[: data * model]).reshape(data, model), ("data", "model"))


def load(preset: Preset, dtype: str = "float32", mesh: jax.sharding.Mesh | None = None) -> Model:
    return jax_grouped.load(replace(preset.config, fprop_dtype=dtype), preset.weights, mesh)


def logits(
    model: Model, tokens: Array = TOKENS, lengths: Array = LENGTHS, taps: Collection[str] = ("logits",)
) -> Array:
    return model.prefill(tokens, lengths, taps)["logits"]


def test_every_operation_of_a_padded_batch_is_right_on_a_mesh() -> None:
    preset, case = golden_case("unequal/prefill/padded_batch.bfloat16")
    model = load(preset, "bfloat16", mesh(2, 4))
    shown = model.prefill(case.calls[0].tokens, case.calls[0].lengths, ("*",))
    taps = {tap_key(0, tap): value for tap, value in shown.items()}
    exhibit = replace(exhibit_of(preset, case, jax_grouped.INFO, taps), ways=Ways(SCALED_SUMS))
    found = check_case(exhibit, num_elements=NUM_ELEMENTS)
    assert len(found) == len(tap_names(preset.config))
    assert at_fault(found) == set()


def test_a_mesh_that_cuts_groups_of_scales_changes_float32_logits_by_rounding_only() -> None:
    preset = make_preset("realistic")  # 4 groups of scales on 8 shards
    assert np.allclose(logits(load(preset, mesh=mesh(1, 8))), logits(load(preset)), rtol=1e-5, atol=1e-6)


def test_a_mesh_that_does_not_divide_the_hidden_width_is_refused() -> None:
    with pytest.raises(ValueError, match="3 model shards do not divide f = 160"):
        load(make_preset("unequal"), mesh=mesh(1, 3))


def test_another_compute_dtype_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="float16"):
        load(make_preset("unequal"), "float16")


@given(num_tokens=st.integers(1, 5000), num_rows=st.integers(0, 5000))
def test_the_smallest_batch_that_holds_some_rows_wastes_at_most_half_of_them(num_tokens: int, num_rows: int) -> None:
    sizes = batch_sizes(num_tokens, 2**20)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == num_tokens
    rows = min(num_rows, num_tokens)
    batch = next(size for size in sizes if size >= rows)
    assert batch <= max(16, 1.5 * rows)


def test_an_expert_of_few_weights_takes_all_rows_and_gives_what_smaller_batches_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, lengths = np.arange(1, 64, dtype=np.int32).reshape(7, 9), np.full(7, 9, np.int32)
    assert batch_sizes(63, 2**17) == (63,)
    whole = logits(load(make_preset("unequal")), tokens, lengths)
    monkeypatch.setattr(experts, "FEW_WEIGHTS", 0)
    jax.clear_caches()
    assert batch_sizes(63, 2**17) == (16, 24, 32, 48, 63)
    assert np.allclose(logits(load(make_preset("unequal")), tokens, lengths), whole, rtol=1e-5, atol=1e-6)


@given(num_groups=st.integers(1, 8), rows_per_group=st.integers(1, 40), num_columns=st.sampled_from([8, 2**20, 2**21]))
def test_a_tile_lies_within_one_group_of_scales(num_groups: int, rows_per_group: int, num_columns: int) -> None:
    rows = num_groups * rows_per_group
    weight = jax.ShapeDtypeStruct((2, rows, num_columns), np.int8)
    scales = jax.ShapeDtypeStruct((2, num_groups, num_columns), np.float32)
    matrix = Matrix(weight, scales)  # type: ignore[arg-type] # shapes are all it looks at
    size = Experts(matrix, matrix, matrix).tile_size
    assert rows_per_group % size == 0
    assert size == 1 or size * num_columns <= 2**22


def test_the_logits_do_not_depend_on_the_taps() -> None:
    model = load(make_preset("unequal"))
    assert np.allclose(logits(model, taps=("*",)), logits(model), rtol=1e-5, atol=1e-6)


def test_a_token_outside_the_vocabulary_is_refused_before_any_compute() -> None:
    with pytest.raises(ValueError, match=r"token 101 in row 0 at position 1 is outside the vocabulary 0\.\.100"):
        logits(load(make_preset("unequal")), np.array([[1, 101]], np.int32), np.array([2], np.int32))


def test_a_full_cache_is_refused() -> None:
    model = load(make_preset("unequal"))
    tokens = np.ones((1, 9), np.int32)
    model.prefill(tokens, np.array([9], np.int32), ())
    with pytest.raises(ValueError, match=r"row 0: step 9 \+ 1 tokens exceeds the cache of 9 slots"):
        model.decode(tokens[:, :1], ())


def test_decoding_without_a_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="no cache to continue"):
        load(make_preset("unequal")).decode(TOKENS[:, :1], ())


@pytest.mark.parametrize(("num_rows", "num_groups"), [(24, 3), (37, 1), (2 * 70, 2), (64, 1)])
@pytest.mark.parametrize("expert", [(), (1,)])
def test_one_row_is_multiplied_by_all_rows_of_a_matrix(num_rows: int, num_groups: int, expert: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    experts = (2,) * len(expert)
    weight = random.integers(-127, 128, (*experts, num_rows, 5), np.int8)
    x = random.integers(-9, 10, num_rows)
    scales = 2.0 ** -random.integers(0, 4, (*experts, num_groups, 5))  # so that float32 is exact
    rows = np.repeat(scales, num_rows // num_groups, axis=-2) * weight
    matrix = Matrix(jnp.asarray(weight), jnp.asarray(scales, jnp.float32))
    observed = multiply_row(jnp.asarray(x, jnp.float32), matrix, *map(jnp.asarray, expert))
    assert np.array_equal(observed, x @ rows[expert])
