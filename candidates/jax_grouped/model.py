"""The model: three compiled programs, of which the decoder layer's is called once per layer (SPEC §4, §5)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grok_conformance.candidates.jax_grouped.experts import combine, compute_experts
from grok_conformance.candidates.jax_grouped.layers import (
    Call,
    KVCache,
    add,
    attention,
    contract,
    dense_block,
    rms_norm,
    route,
    scaled,
)
from grok_conformance.candidates.jax_grouped.parameters import ModelParams, Params
from grok_conformance.harness.contract import (
    Array,
    LanguageModelConfig,
    TransformerConfig,
    select_taps,
    split_tap,
    tap_name,
    tap_names,
)

ROUNDING = {"xla_allow_excess_precision": False}
"""The compiler keeps every cast to bf16 that the specification asks for."""

QUICKLY = {**ROUNDING, "xla_backend_optimization_level": 0}
"""Compiled so, a program is made in a quarter less time, and takes up to twice as long to run."""

NARROW = 512
"""A model of less width takes longer to be compiled than to run.

It is compiled quickly on a CPU, and computes every value that has a name, so that no second program need be made.
"""


@dataclass(frozen=True)
class Runtime:
    """What the programs are compiled for: a configuration, and a mesh ("data", "model") if there is one."""

    config: LanguageModelConfig
    mesh: Mesh | None


def embed(config: LanguageModelConfig, table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Look tokens [b, t] up in the table [v, d] and multiply by embedding_multiplier_scale (SPEC §4.2)."""
    return scaled(table[tokens], config.embedding_multiplier_scale)


def decoder_layer(
    config: TransformerConfig,
    params: Params,
    x: jax.Array,
    call: Call,
    cache: KVCache,
    *,
    mesh: Mesh | None,
    names: tuple[str, ...],
) -> tuple[dict[str, jax.Array], KVCache]:
    """Return the named values of a layer and its new cache, for the residual stream x [b, t, d] (SPEC §4.4-§4.7)."""
    values = {"attention.norm": rms_norm(x, params["rms_norm/scale"].weight)}
    attended, cache = attention(config, params, values["attention.norm"], call, cache)
    values |= attended
    values["attention.output_norm"] = rms_norm(values["attention.output"], params["rms_norm_1/scale"].weight)
    values["attention.residual"] = add(x, values["attention.output_norm"])
    norm = values["moe.norm"] = rms_norm(values["attention.residual"], params["rms_norm_2/scale"].weight)
    if config.num_experts <= 1:
        values |= dense_block(params, norm)
    else:
        values |= route(params, norm, config.num_selected_experts)
        hidden = [name.removeprefix("moe.") for name in names]
        made = compute_experts(params, norm, values["moe.expert_index"], hidden, mesh)
        values |= {f"moe.{name}": value for name, value in made.items()}
        values["moe.output"] = combine(values["moe.expert_gate"], values["moe.expert_output"], x.dtype)
    values["moe.output_norm"] = rms_norm(values["moe.output"], params["rms_norm_3/scale"].weight)
    values["output"] = add(values["attention.residual"], values["moe.output_norm"])
    return {name: values[name] for name in names}, cache


def unembed(config: LanguageModelConfig, params: ModelParams, x: jax.Array) -> dict[str, jax.Array]:
    """Return the last norm [b, t, d] and the logits [b, t, v] of the residual stream x [b, t, d] (SPEC §4.8)."""
    hidden = rms_norm(x, params.norm)
    logits = contract("btd,vd->btv", hidden, params.table).astype(x.dtype)
    return {"final_norm": hidden, "logits": scaled(logits, config.output_multiplier_scale)}


class Programs(NamedTuple):
    """`embed`, `decoder_layer` and `unembed`, compiled for every shape that they are called with."""

    embed: Callable[..., jax.Array]
    decoder_layer: Callable[..., tuple[dict[str, jax.Array], KVCache]]
    unembed: Callable[..., dict[str, jax.Array]]


@functools.cache
def programs(*, quickly: bool) -> Programs:
    """Return the programs, compiled quickly or well."""
    compiled = functools.partial(jax.jit, compiler_options=QUICKLY if quickly else ROUNDING)
    return Programs(
        compiled(embed, static_argnames="config"),
        compiled(decoder_layer, static_argnames=("config", "mesh", "names")),
        compiled(unembed, static_argnames="config"),
    )


class Model:
    """A loaded model and the caches of its current batch; see `harness.contract.Model` for the calls."""

    def __init__(self, runtime: Runtime, params: ModelParams) -> None:
        """Keep the parameters; there is no cache until `prefill` or `preload`."""
        self.runtime = runtime
        self.params = params
        self.narrow = runtime.config.model.emb_size < NARROW
        self.programs = programs(quickly=self.narrow and jax.default_backend() == "cpu")
        self.caches: list[KVCache] = []
        self.steps = np.zeros(0, np.int32)

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run int32 [b, t], padded beyond lengths [b], from an empty cache; steps become lengths (SPEC §5)."""
        config = self.runtime.config
        shape = (len(tokens), config.sequence_len, config.model.num_kv_heads, config.model.key_size)
        empty = jnp.zeros(shape, config.fprop_dtype)
        self.caches = [KVCache(empty, empty)] * config.model.num_layers
        self.steps = np.zeros(len(tokens), np.int32)
        return self.extend(tokens, lengths, taps)

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        """Start from caches [layer, b, s, g, h] at steps int32 [b]."""
        self.caches = [KVCache(jnp.asarray(k), jnp.asarray(v)) for k, v in zip(keys, values, strict=True)]
        self.steps = np.array(steps)

    def truncate(self, steps: Array) -> None:
        """Cut each row's cache back to steps int32 [b]: what lies beyond is not seen, and is overwritten."""
        self.steps = np.array(steps)

    def decode(self, tokens: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run one token per row, int32 [b, 1]; steps grow by one."""
        return self.extend(tokens, np.ones(len(tokens), np.int32), taps)

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] at each row's step; steps grow by lengths int32 [b] (SPEC §4.4)."""
        self._check(tokens)
        values = self.run(tokens, select_taps(tap_names(self.runtime.config), taps))
        self.steps = self.steps + lengths
        return {name: np.asarray(value) for name, value in values.items()}

    def run(self, tokens: Array, taps: Collection[str]) -> dict[str, jax.Array]:
        """Run tokens and update the caches, without moving the steps; the named taps stay on the device."""
        config, mesh = self.runtime.config, self.runtime.mesh
        call = Call(jnp.asarray(tokens > config.pad_token), jnp.asarray(self.steps))
        x = self.programs.embed(config, self.params.table, jnp.asarray(tokens))  # [b, t, d]
        values = {"embedding": x}
        computed = tap_names(config) if self.narrow else taps
        for layer, params in enumerate(self.params.layers):
            names = tuple(operation for index, operation in map(split_tap, computed) if index == layer)
            wanted = names if "output" in names else (*names, "output")
            made, self.caches[layer] = self.programs.decoder_layer(
                config.model, params, x, call, self.caches[layer], mesh=mesh, names=wanted
            )
            x = made["output"]
            values |= {tap_name(layer, name): value for name, value in made.items()}
        values |= self.programs.unembed(config, self.params, x)
        return {name: values[name] for name in taps}

    def _check(self, tokens: Array) -> None:
        """Raise ValueError for a token outside the vocabulary and for a cache without room (SPEC §9)."""
        config = self.runtime.config
        if len(self.caches) == 0:
            raise ValueError("there is no cache to continue; call prefill or preload first")
        outside = np.argwhere((tokens < 0) | (tokens >= config.vocab_size))
        if len(outside):
            row, position = outside[0]
            raise ValueError(
                f"token {tokens[row, position]} in row {row} at position {position} is outside the vocabulary "
                f"0..{config.vocab_size - 1}"
            )
        full = np.flatnonzero(self.steps + tokens.shape[1] > config.sequence_len)
        if len(full):
            ends = f"step {self.steps[full[0]]} + {tokens.shape[1]} tokens"
            raise ValueError(f"row {full[0]}: {ends} exceeds the cache of {config.sequence_len} slots")
