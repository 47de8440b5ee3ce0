"""The canonical JAX model as a candidate, without a mesh; `reference_1x2` and its kin run it on one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok_conformance import reference
from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Weights, select_taps

INFO = CandidateInfo(name="reference", version=jax.__version__, tie_rule=True)

NARROW = 512
"""A model of less width computes every tap in every call, whichever are asked for.

One program then serves tapped and untapped runs, and compiling it takes longer than any such run. That a program
without taps gives the same bits is for `tests/reference/test_meshes.py` to show.
"""


@dataclass
class Model:
    """The reference with a cache of `sequence_len` slots; `memory` is what the next call starts from.

    Without `pin_rounding` the compiler may drop roundings to narrower dtypes (SPEC §9).
    """

    config: reference.LanguageModelConfig
    params: reference.Params
    mesh: jax.sharding.Mesh | None
    pin_rounding: bool = True
    memory: reference.Memory | None = None

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] from an empty cache."""
        self.memory = reference.init_memory(self.config, len(tokens), self.config.sequence_len)
        return self.extend(tokens, lengths, taps)

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        """Start from caches [layer, b, s, g, h] at steps int32 [b]."""
        layers = [
            reference.KVMemory(jnp.asarray(k), jnp.asarray(v), jnp.asarray(steps))
            for k, v in zip(keys, values, strict=True)
        ]
        self.memory = reference.Memory(layers)

    def truncate(self, steps: Array) -> None:
        """Cut each row's cache back to steps int32 [b]: what lies beyond is not seen, and is overwritten."""
        if self.memory is None:
            raise ValueError("truncate before prefill or preload: there is no cache yet")
        self.memory = reference.Memory([layer._replace(step=jnp.asarray(steps)) for layer in self.memory.layers])

    def decode(self, tokens: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run one token per row, int32 [b, 1]."""
        return self.extend(tokens, np.ones(len(tokens), np.int32), taps)

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] at each row's step, and set the steps to the true lengths (SPEC §5)."""
        if self.memory is None:
            raise ValueError("decode or extend before prefill or preload: there is no cache yet")
        steps = self.memory.layers[0].step
        every = self.config.model.emb_size < NARROW
        output, collected = reference.apply_with_taps(
            self.config,
            self.params,
            tokens,
            taps=None if every else tuple(taps),
            memory=self.memory,
            mesh=self.mesh,
            pin_rounding=self.pin_rounding,
        )
        assert isinstance(output, reference.LanguageModelOutput)  # noqa: S101 - narrows the type: no last_hid_only here
        assert output.model_state is not None  # noqa: S101 - likewise: there is a memory
        layers = [layer._replace(step=steps + lengths) for layer in output.model_state.layers]
        self.memory = reference.Memory(layers)
        return {tap: np.asarray(collected[tap]) for tap in select_taps(tuple(collected), taps)}


def load(config: LanguageModelConfig, weights: Weights, mesh: jax.sharding.Mesh | None = None) -> Model:
    """Build the reference's configuration and parameter tree from the stored ones (SPEC §2)."""
    return Model(reference_config(config), parameter_tree(weights), mesh)


def reference_config(config: LanguageModelConfig) -> reference.LanguageModelConfig:
    """Return a configuration as the reference has it: the same published names."""
    fields = asdict(config)
    model = reference.TransformerConfig(**fields.pop("model"))
    return reference.LanguageModelConfig(**{**fields, "model": model, "fprop_dtype": jnp.dtype(config.fprop_dtype)})


def parameter_tree(weights: Weights) -> reference.Params:
    """Return stored weights as the reference's tree: {module path: {name: array or QuantizedWeight8bit}} (SPEC §2)."""
    params: dict[str, dict[str, Any]] = {}
    for name, value in weights.items():
        if name.endswith(".scales"):
            continue
        module, _, leaf = name.removesuffix(".weight").rpartition("/")
        quantised = name.endswith(".weight")
        scales = weights[f"{module}/{leaf}.scales"] if quantised else None
        params.setdefault(module, {})[leaf] = (
            reference.QuantizedWeight8bit(jnp.asarray(value), jnp.asarray(scales)) if quantised else jnp.asarray(value)
        )
    return params
