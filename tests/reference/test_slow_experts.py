"""The published algorithm for the experts and the grouped one are one function (SPEC §4.6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_conformance.reference import QuantizedWeight8bit, dequantize, make_mesh, quantize
from grok_conformance.reference.experts import ExpertWeights, compute_experts, run_experts
from grok_conformance.reference.quantization import is_quantized
from grok_conformance.reference.slow_experts import run_experts_slowly
from grok_conformance.reference.taps import collect_taps
from tests.reference.published import relative_rms

NAMES = ("expert_activation", "expert_up", "expert_hidden", "expert_output")
NUM_EXAMPLES, NUM_EXAMPLES_THOROUGH = 4, 200
Values = dict[str, np.ndarray]


class Drawn(NamedTuple):
    """Experts of some size, their weights plain (no groups) or int8, on a mesh or none."""

    num_experts: int
    num_selected: int
    num_groups: int | None
    mesh: tuple[int, int] | None
    batch_size: int
    dtype: str
    seed: int


@st.composite
def drawn_experts(draw: st.DrawFn) -> Drawn:
    num_experts = draw(st.integers(1, 16))
    return Drawn(
        num_experts,
        num_selected=draw(st.integers(1, min(4, num_experts))),
        num_groups=draw(st.none() | st.integers(1, 8)),
        mesh=draw(st.sampled_from([None, (1, 2), (2, 4)])),
        batch_size=draw(st.integers(1, 3)),
        dtype=draw(st.sampled_from(["float32", "bfloat16"])),
        seed=draw(st.integers(0, 999)),
    )


def make(drawn: Drawn) -> tuple[Any, Any, ExpertWeights]:
    """Tokens, their chosen experts, and weights whose rows every group and every model shard divides."""
    random = np.random.default_rng(drawn.seed)
    d, f = 12, 2 * math.lcm(drawn.num_groups or 1, 4)
    x = jnp.asarray(random.standard_normal((drawn.batch_size, 5, d)), drawn.dtype)
    order = np.argsort(random.random((drawn.batch_size, 5, drawn.num_experts)), axis=-1)

    def weight(num_rows: int, num_columns: int, num_groups: int | None) -> Any:
        w = random.standard_normal((drawn.num_experts, num_rows, num_columns)) / np.sqrt(num_rows)
        stored = np.float32(w) if num_groups is None else quantize(w, num_groups)
        return jax.tree.map(jnp.asarray, stored)

    one = None if drawn.num_groups is None else 1
    weights = ExpertWeights(weight(d, f, one), weight(d, f, one), weight(f, d, drawn.num_groups))
    return x, jnp.asarray(order[..., : drawn.num_selected], jnp.int32), weights


def compute(run: Callable[..., Any], drawn: Drawn) -> Values:
    """All values of the chosen experts by one of the two ways, compiled."""
    x, experts, weights = make(drawn)

    def program(x: Any, experts: Any, weights: ExpertWeights) -> Any:
        with collect_taps({f"moe.{name}" for name in NAMES}):
            return compute_experts(x, experts, weights, run=run)

    if drawn.mesh is None:
        values = jax.jit(program)(x, experts, weights)
    else:
        with jax.set_mesh(make_mesh(drawn.mesh)):
            values = jax.jit(program)(x, experts, weights)
    return {name: np.asarray(values[name]) for name in NAMES}


def product(x: Any, weight: Any, experts: Any, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """The exact products of x [b, t, c, k] with the chosen experts, and what float32 sums of them may be off by."""
    chosen = np.asarray(weight, np.float64)[np.asarray(experts)]  # [b, t, c, k, n]
    wide = np.asarray(x, np.float64)
    exact = np.einsum("btck,btckn->btcn", wide, chosen)
    summed = np.einsum("btck,btckn->btcn", np.abs(wide), np.abs(chosen)) * wide.shape[-1] * 2.0**-24
    return exact, epsilon * np.abs(exact) + summed


def widened(weight: Any, dtype: Any) -> Any:
    """A stored weight in the compute dtype; in float32 the scales are widened first, so that nothing is rounded."""
    if is_quantized(weight):
        weight = dequantize(QuantizedWeight8bit(weight.weight, weight.scales.astype(dtype)))
    return weight.astype(dtype)


def check(values: Values, drawn: Drawn) -> None:
    """Hold every value to the exact one of the inputs that this way itself used, within its own rounding."""
    x, experts, weights = make(drawn)
    dtype = jnp.dtype(drawn.dtype)
    wide = ExpertWeights(*(np.asarray(widened(weight, dtype), np.float64) for weight in weights))
    copies = np.broadcast_to(np.asarray(x, np.float64)[:, :, None], (*experts.shape, x.shape[-1]))
    rounding = 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-23
    activation, up, hidden, output = (np.asarray(values[name], np.float64) for name in NAMES)
    for observed, weight in ((activation, wide.linear), (up, wide.linear_v)):
        exact, allowed = product(copies, weight, experts, rounding)
        assert np.all(np.abs(observed - exact) <= allowed)
    inner = np.sqrt(2 / np.pi) * (activation + 0.044715 * activation**3)
    exact = 0.5 * activation * (1 + np.tanh(inner)) * up
    assert np.all(np.abs(hidden - exact) <= 2.0**-20 * np.abs(activation * up))
    exact, allowed = product(hidden, wide.linear_1, experts, 2.0**-23)
    assert np.all(np.abs(output - exact) <= allowed)


def compare(drawn: Drawn, slow: Callable[..., Any] = run_experts_slowly) -> None:
    grouped, slowly = compute(run_experts, drawn), compute(slow, drawn)
    for values in (grouped, slowly):
        check(values, drawn)
    for name in NAMES:
        assert slowly[name].dtype == grouped[name].dtype
        if drawn.dtype == "float32":
            assert relative_rms(slowly[name], grouped[name]) <= 1e-6


def hold(drawn: Drawn) -> None:
    """What hypothesis calls: its functions have no defaults."""
    compare(drawn)


def test_the_slow_way_equals_the_grouped_way(pytestconfig: pytest.Config) -> None:
    num_examples = NUM_EXAMPLES_THOROUGH if pytestconfig.getoption("--thorough") else NUM_EXAMPLES
    settings(max_examples=num_examples, deadline=None)(given(drawn_experts())(hold))()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sixteen_experts_on_eight_devices_with_groups_that_the_shards_cut(dtype: str) -> None:
    compare(Drawn(16, 4, num_groups=3, mesh=(2, 4), batch_size=2, dtype=dtype, seed=1))


def next_expert(x: Any, experts: Any, weights: ExpertWeights, names: tuple[str, ...]) -> Any:
    return run_experts_slowly(x, (experts + 1) % weights.linear.shape[0], weights, names)


def swapped(x: Any, experts: Any, weights: ExpertWeights, names: tuple[str, ...]) -> Any:
    return run_experts_slowly(x, experts, weights._replace(linear=weights.linear_v, linear_v=weights.linear), names)


@pytest.mark.parametrize("broken", [next_expert, swapped])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_broken_way_is_seen(broken: Callable[..., Any], dtype: str) -> None:
    with pytest.raises(AssertionError):
        compare(Drawn(5, 2, num_groups=2, mesh=None, batch_size=2, dtype=dtype, seed=2), broken)


def test_top_k_of_one_expert_is_that_expert() -> None:
    compare(Drawn(1, 1, num_groups=None, mesh=(1, 2), batch_size=1, dtype="float32", seed=3))
