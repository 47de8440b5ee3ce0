"""The model with the weights of about one layer in memory: the next ones are read while these compute (SPEC §4).

A layer's weights serve every call that is given: prefill and decoding of known tokens take one pass over the files.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok_conformance.reference.checkpoint.pickles import Array
from grok_conformance.reference.inference import check_room, check_tokens
from grok_conformance.reference.memory import KVMemory, Memory
from grok_conformance.reference.model import LanguageModelOutput
from grok_conformance.reference.streaming import programs
from grok_conformance.reference.streaming.experts import padded_rows
from grok_conformance.reference.streaming.files import Stream
from grok_conformance.reference.streaming.layer_files import LayerFiles
from grok_conformance.reference.streaming.processes import gather_pairs, own_experts
from grok_conformance.reference.streaming.reading import element, read_region, rows_of
from grok_conformance.reference.streaming.tasks import submit_expert
from grok_conformance.reference.taps import select_taps

LOGITS_BYTES = 1 << 27
"""Bytes of the embedding table that are read at a time for the logits."""

EXPERT_TAPS = ("moe.expert_activation", "moe.expert_up", "moe.expert_hidden", "moe.expert_output")

Taps = dict[str, Array]


@dataclass(frozen=True)
class Call:
    """One call to the model: tokens int32 [b, t], of which the first lengths int32 [b] of each row are real."""

    tokens: Array
    lengths: Array


@dataclass(frozen=True)
class Stage:
    """What a stage of the forward pass gave, call by call: the residual streams [b, t, d], and the taps that it made.

    `layer` is None for the embedding and the logits. `memory` is the layer's cache after the last call, or None.
    """

    layer: int | None
    embeddings: tuple[jax.Array, ...]
    memory: KVMemory | None
    taps: tuple[Taps, ...]


def apply_with_taps(
    stream: Stream, tokens: Any, *, taps: Collection[str] | None = None, memory: Memory | None = None
) -> tuple[LanguageModelOutput, Taps]:
    """Run the streamed model as `reference.apply_with_taps` runs the one in memory, which must hold all taps wanted.

    Raises ValueError and CheckpointError.
    """
    tokens = np.asarray(tokens, np.int32)
    call = Call(tokens, np.full(len(tokens), tokens.shape[1], np.int32))
    caches: Sequence[KVMemory | None] = [None] * stream.config.model.num_layers if memory is None else memory.layers
    wanted = select_taps(stream.config, taps)
    collected: Taps = {}
    updated = []
    for stage in run(stream, [call], caches, taps=(*wanted, "logits")):
        collected |= stage.taps[0]
        if stage.layer is not None:
            updated.append(stage.memory)
    logits = jnp.asarray(collected["logits"])
    state = None if memory is None else Memory([layer for layer in updated if layer is not None])
    return LanguageModelOutput(logits, state), {name: collected[name] for name in wanted}


def run(
    stream: Stream,
    calls: Sequence[Call],
    caches: Sequence[KVMemory | None],
    *,
    taps: Collection[str] | None = None,
    first_layer: int = 0,
    embeddings: Sequence[Any] = (),
) -> Generator[Stage, None, None]:
    """Yield the embedding, each layer and the logits of some calls, in order; each stage's taps are dropped after it.

    Calls continue the caches of the one before at the true lengths (SPEC §5); with a cache of None for every layer
    there is but one call. To go on where a run was cut off, give the first layer that is missing and the
    residual streams before it.
    Raises ValueError for tokens outside the vocabulary and caches with too little room, before anything is read, and
    CheckpointError.
    """
    config = stream.config
    names = select_taps(config, taps)
    check_calls(stream, calls, caches)
    xs = [jnp.asarray(x) for x in embeddings]
    if not xs:
        xs, shown = _embed(stream, calls, names)
        yield Stage(None, tuple(xs), None, shown)
    weights = LayerFiles(stream, sum(call.tokens.size for call in calls), first_layer)
    try:
        for i in range(first_layer, config.model.num_layers):
            step = _run_dense if config.model.dense else _run_layer
            stage = step(stream, weights, i, calls, xs, caches[i], _in_layer(names, i))
            xs = list(stage.embeddings)
            yield stage
    finally:
        weights.close()
    yield Stage(None, tuple(xs), None, _logits(stream, xs, names))


def check_calls(stream: Stream, calls: Sequence[Call], caches: Sequence[KVMemory | None]) -> None:
    """Raise ValueError if a token is outside the vocabulary, or a cache is empty or has too little room."""
    for call in calls:
        check_tokens(stream.config, call.tokens)
    if caches[0] is None:
        if len(calls) > 1:
            raise ValueError(f"{len(calls)} calls without a cache: the second cannot see the first; give caches")
        return
    cache = caches[0]
    for call in calls:
        check_room(Memory([cache]), call.tokens)
        cache = cache._replace(step=cache.arrays()[2] + call.lengths)


def _embed(stream: Stream, calls: Sequence[Call], names: tuple[str, ...]) -> tuple[list[jax.Array], tuple[Taps, ...]]:
    xs, shown = [], []
    for call in calls:
        rows = np.empty((*call.tokens.shape, stream.config.model.emb_size), np.float32)
        for position, token in np.ndenumerate(call.tokens):
            read_region(element(stream.table, int(token)), rows[position].view(np.uint8))
        x, taps = programs.embed(rows, config=stream.config, taps=_outside(names, "embedding"))
        xs.append(x)
        shown.append(_to_host(taps))
    return xs, tuple(shown)


def _run_layer(
    stream: Stream,
    weights: LayerFiles,
    i: int,
    calls: Sequence[Call],
    xs: Sequence[jax.Array],
    cache: KVMemory | None,
    names: tuple[str, ...],
) -> Stage:
    config = stream.config
    routed, shown = [], []
    with weights.before_experts(i) as params:
        for call, x in zip(calls, xs, strict=True):
            mask = jnp.asarray(call.tokens > config.pad_token)
            result, taps = programs.route(params, x, mask, cache, config=config, taps=names)
            routed.append(result)
            shown.append(_to_host(taps))
            cache = _continued(cache, result.memory, call)
        last_norm = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params["rms_norm_3"])
        jax.block_until_ready((routed, last_norm))
    values = _run_experts(stream, weights, i, routed, [name for name in names if name in EXPERT_TAPS])
    outputs = []
    for taps, result, made in zip(shown, routed, values, strict=True):
        x, last = programs.finish(
            {"rms_norm_3": last_norm},
            result.residual,
            result.gates,
            made["expert_output"],
            config=config,
            taps=names,
        )
        outputs.append(x)
        taps.update({name: made[name.removeprefix("moe.")] for name in names if name in EXPERT_TAPS})
        taps.update(_to_host(last))
    return Stage(i, tuple(outputs), cache, tuple(_named(taps, i) for taps in shown))


def _run_experts(
    stream: Stream, weights: LayerFiles, i: int, routed: Sequence[programs.Routed], names: Sequence[str]
) -> list[Taps]:
    """Return the experts' values [b, t, c, …] call by call; every expert computes its own tokens only, once."""
    d, k = stream.config.model.emb_size, stream.config.model.num_selected_experts
    rows = np.concatenate([np.asarray(result.normed).reshape(-1, d) for result in routed])  # [tokens, d]
    experts = np.concatenate([np.asarray(result.experts).reshape(-1) for result in routed])  # [pairs], pairs tokens · c
    chosen = own_experts(np.unique(experts).tolist())
    matrices = weights.experts(i, chosen)
    own = np.flatnonzero(np.isin(experts, chosen))  # this process's pairs
    pairs = {e: np.flatnonzero(experts[own] == e) for e in chosen}
    kinds = stream.expert_values(i)
    dtypes = kinds["expert_activation"].dtype, kinds["expert_up"].dtype
    wanted = {"expert_output", *(name.removeprefix("moe.") for name in names)}
    values = {name: np.empty((len(own), *kinds[name].shape), kinds[name].dtype) for name in kinds if name in wanted}

    def submit(e: int) -> Future[Taps]:
        x = np.zeros((padded_rows(len(pairs[e])), d), rows.dtype)
        x[: len(pairs[e])] = rows[own[pairs[e]] // k]
        device = jax.local_devices()[e % jax.local_device_count()]
        return submit_expert(stream.workers, x, matrices[e], dtypes, tuple(values), device)

    submitted = {e: submit(e) for e in chosen}
    for e in chosen:
        computed = submitted.pop(e).result()
        for name, value in values.items():
            value[pairs[e]] = computed[name][: len(pairs[e])]
    whole = gather_pairs(experts, values)
    ends = np.cumsum([result.experts.size for result in routed])
    return [
        {name: x[end - result.experts.size : end].reshape(*result.experts.shape, -1) for name, x in whole.items()}
        for end, result in zip(ends, routed, strict=True)
    ]


def _run_dense(
    stream: Stream,
    weights: LayerFiles,
    i: int,
    calls: Sequence[Call],
    xs: Sequence[jax.Array],
    cache: KVMemory | None,
    names: tuple[str, ...],
) -> Stage:
    outputs, shown = [], []
    with weights.before_experts(i) as params:
        for call, x in zip(calls, xs, strict=True):
            mask = jnp.asarray(call.tokens > stream.config.pad_token)
            (output, updated), taps = programs.dense_layer(params, x, mask, cache, config=stream.config, taps=names)
            outputs.append(output)
            shown.append(_named(_to_host(taps), i))
            cache = _continued(cache, updated, call)
        jax.block_until_ready((outputs, cache))
    return Stage(i, tuple(outputs), cache, tuple(shown))


def _logits(stream: Stream, xs: Sequence[jax.Array], names: tuple[str, ...]) -> tuple[Taps, ...]:
    """Return the last norm and the logits, the table read in pieces while the one before is multiplied."""
    scale = np.empty(stream.final_norm.shape, np.float32)
    read_region(stream.final_norm, scale.view(np.uint8))
    normed, shown = [], []
    for x in xs:
        norm, taps = programs.final_norm({"rms_norm": {"scale": scale}}, x, taps=_outside(names, "final_norm"))
        normed.append(norm)
        shown.append(_to_host(taps))
    if "logits" not in names:
        return tuple(shown)
    num_rows = max(1, min(LOGITS_BYTES, stream.slot_bytes) // stream.table_row_bytes)
    v = stream.config.vocab_size
    starts = range(0, v, num_rows)
    pieces = [rows_of(stream.table, start, min(start + num_rows, v)) for start in starts]
    found = [np.empty((*x.shape[:2], v), x.dtype) for x in xs]
    for start, future in zip(starts, [stream.reader.request([piece]) for piece in pieces], strict=True):
        with future.result() as (rows,):
            table = jax.device_put(rows)
            for x, logits in zip(normed, found, strict=True):
                logits[..., start : start + num_rows] = programs.logits(table, x, config=stream.config)
    return tuple({**taps, "logits": logits} for taps, logits in zip(shown, found, strict=True))


def _continued(before: KVMemory | None, updated: KVMemory | None, call: Call) -> KVMemory | None:
    """Return the updated cache at the true lengths: a pad's slot is the next token's (SPEC §5)."""
    if before is None or updated is None:
        return None
    return updated._replace(step=before.arrays()[2] + jnp.asarray(call.lengths))


def _in_layer(names: Sequence[str], layer: int) -> tuple[str, ...]:
    prefix = f"layers.{layer:02d}."
    return tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def _outside(names: Sequence[str], name: str) -> tuple[str, ...]:
    return (name,) if name in names else ()


def _named(taps: Taps, layer: int) -> Taps:
    return {f"layers.{layer:02d}.{name}": value for name, value in taps.items()}


def _to_host(taps: Mapping[str, jax.Array]) -> Taps:
    return {name: np.asarray(value) for name, value in taps.items()}
