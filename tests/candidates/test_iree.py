from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import batching

from tests.candidates.tiny_models import MODELS, ints, random_tokens, random_weights
from tests.candidates.tiny_models import load as load_eager

for module in ("iree.compiler", "iree.runtime"):
    pytest.importorskip(module, reason="needs the extra iree")

TOKENS, LENGTHS = random_tokens(2, 5), ints(5, 3)


@pytest.fixture
def iree(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The candidate; the batching rule that its `load` replaces is put back."""
    batchers: dict[Any, Any] = batching.fancy_primitive_batchers
    monkeypatch.setitem(batchers, jax.lax.dynamic_update_slice_p, batchers[jax.lax.dynamic_update_slice_p])
    from grok_conformance.candidates import iree  # noqa: PLC0415 - beside the other engines only where it is installed

    return iree


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_rows_are_updated_at_their_own_steps(iree: ModuleType, dtype: str) -> None:
    cache, new = jnp.zeros((3, 6, 2), dtype), jnp.ones((3, 2, 2), dtype)
    steps, zero = jnp.array([0, 3, 4]), jnp.array(0)
    made, axis = iree.update_rows([cache, new, steps, zero], [0, 0, 0, None])
    expected = np.zeros((3, 6, 2), dtype)
    for row, step in enumerate((0, 3, 4)):
        expected[row, step : step + 2] = 1
    assert axis == 0
    assert np.array_equal(made, expected)


def test_the_exported_program_gives_the_logits_of_the_torch_port(iree: ModuleType) -> None:
    config, num_groups, scales_dtype = MODELS["4 groups"]
    model, eager = iree.load(config, random_weights(config, num_groups, scales_dtype)), load_eager("4 groups")
    for call in ("prefill", "extend"):
        observed, expected = (getattr(each, call)(TOKENS, LENGTHS, ("logits",))["logits"] for each in (model, eager))
        assert np.allclose(observed[:, :3], expected[:, :3], rtol=1e-5, atol=1e-6)
    assert len(model.programs) == 1


def test_decoding_before_a_prefill_is_refused(iree: ModuleType) -> None:
    config, num_groups, scales_dtype = MODELS["1 group"]
    with pytest.raises(ValueError, match="before prefill or preload"):
        iree.load(config, random_weights(config, num_groups, scales_dtype)).decode(ints(1)[:, None], ("logits",))
