"""The canonical JAX model under a second compiler: exported to StableHLO with jax.export, compiled and run by IREE.

One program per shape of call and choice of taps, the weights among its arguments. IREE 3.13 has no scatter with batch
axes, which is what a cache written at each row's own step becomes under `vmap`: it is exported row by row. Slices of
booleans are exported as integers: IREE writes only the first four elements of a boolean slice, which this harness found
as attention weights that miss every key from the fifth on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import iree.compiler
import iree.runtime
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.interpreters import batching

from grok_conformance import reference
from grok_conformance.candidates.reference import parameter_tree, reference_config
from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Weights
from grok_conformance.reference.inference import forward

INFO = CandidateInfo(name="iree", version=metadata.version("iree-base-compiler"))

Program = Callable[..., Sequence[Any]]


def update_rows(arguments: Sequence[jax.Array], axes: Sequence[int | None], **options: Any) -> tuple[jax.Array, int]:
    """Apply dynamic_update_slice to every row of a batch by itself; the batch axis of an argument may be None."""
    del options
    if arguments[0].dtype == bool:
        rows, axis = update_rows([x.astype(jnp.int32) for x in arguments], axes)
        return rows != 0, axis
    pairs = list(zip(arguments, axes, strict=True))
    num_rows = next(x.shape[axis] for x, axis in pairs if axis is not None)

    def row(i: int) -> jax.Array:
        operand, update, *start = (x if axis is None else jnp.take(x, i, axis) for x, axis in pairs)
        return jax.lax.dynamic_update_slice(operand, update, start)

    return jnp.stack([row(i) for i in range(num_rows)]), 0


@dataclass
class Model:
    """The reference's configuration, its parameters on IREE's device, and the caches and steps of the next call."""

    config: reference.LanguageModelConfig
    params: reference.Params
    device: iree.runtime.Config
    on_device: list[Any]
    programs: dict[tuple[tuple[int, ...], tuple[str, ...]], Program] = field(default_factory=dict)
    memory: list[Array] = field(default_factory=list)

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] from an empty cache."""
        memory = reference.init_memory(self.config, len(tokens), self.config.sequence_len)
        self.memory = [np.asarray(leaf) for leaf in jax.tree.leaves(memory)]
        return self.extend(tokens, lengths, taps)

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        """Start from caches [layer, b, s, g, h] at steps int32 [b]."""
        self.memory = [leaf for pair in zip(keys, values, strict=True) for leaf in (*pair, steps)]

    def decode(self, tokens: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run one token per row, int32 [b, 1]."""
        return self.extend(tokens, np.ones(len(tokens), np.int32), taps)

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] at each row's step, and set the steps to the true lengths (SPEC §5)."""
        if not self.memory:
            raise ValueError("decode or extend before prefill or preload: there is no cache yet")
        names = tuple(taps)
        key = (tokens.shape, names)
        if key not in self.programs:
            self.programs[key] = self._compile(tokens, names)
        made = self.programs[key](*self.on_device, tokens, *self.memory)
        outputs = [np.array(value.to_host()) for value in made]  # copied: IREE uses the memory again
        steps = self.memory[2] + lengths
        num_leaves = len(self.memory)
        self.memory = [steps if i % 3 == 2 else leaf for i, leaf in enumerate(outputs[:num_leaves])]  # noqa: PLR2004 - k, v, step
        return dict(zip(names, outputs[num_leaves:], strict=True))

    def _compile(self, tokens: Array, names: tuple[str, ...]) -> Program:
        """Return the program of a call of this shape: (parameters, tokens, caches) -> (caches, taps)."""
        leaves, structure = jax.tree.flatten(self.params)
        memory = jax.tree.structure(reference.init_memory(self.config, len(tokens), 1))

        def run(leaves: list[Any], tokens: jax.Array, caches: list[jax.Array]) -> tuple[list[Any], list[jax.Array]]:
            params, before = jax.tree.unflatten(structure, leaves), jax.tree.unflatten(memory, caches)
            output, taps = forward(params, tokens, before, None, config=self.config, taps=names)
            assert isinstance(output, reference.LanguageModelOutput)  # noqa: S101 - narrows the type: no last_hid_only
            return jax.tree.leaves(output.model_state), [taps[name] for name in names]

        exported = jax.export.export(jax.jit(run, keep_unused=True))(
            leaves, jnp.asarray(tokens), [jnp.asarray(x) for x in self.memory]
        )
        binary = iree.compiler.compile_str(
            exported.mlir_module(),
            target_backends=["llvm-cpu"],
            input_type="stablehlo",
            extra_args=["--iree-llvmcpu-target-cpu=host"],
        )
        context = iree.runtime.SystemContext(config=self.device)
        module = iree.runtime.VmModule.copy_buffer(context.instance, binary)
        context.add_vm_module(module)
        program: Program = context.modules[module.name]["main"]
        return program


def load(config: LanguageModelConfig, weights: Weights) -> Model:
    """Put the reference's parameters on IREE's CPU device."""
    batching.primitive_batchers[jax.lax.dynamic_update_slice_p] = update_rows
    device = iree.runtime.Config("local-task")
    params = parameter_tree(weights)
    on_device = [iree.runtime.asdevicearray(device.device, np.asarray(leaf)) for leaf in jax.tree.leaves(params)]
    return Model(reference_config(config), params, device, on_device)
