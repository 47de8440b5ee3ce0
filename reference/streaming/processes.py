"""The experts divided over the processes of `jax.distributed`: each reads and computes its own, and all gather them.

Expert e belongs to process e modulo their number, so that its values are those of a single process bit for bit.
Everything else of a layer, 2 % of its bytes in Grok-1, is read and computed by every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from grok_conformance.reference.checkpoint.pickles import Array


def own_experts(experts: Iterable[int]) -> list[int]:
    """Return those of some experts that belong to this process."""
    return [e for e in experts if e % jax.process_count() == jax.process_index()]


def gather_pairs(experts: Array, own: Mapping[str, Array]) -> dict[str, Array]:
    """Return the values [pairs, …] of all pairs of token and expert, given those of this process's pairs, in order.

    `experts` int [pairs] is each pair's expert. What is sent are bytes: nothing is rounded.
    """
    if jax.process_count() == 1:
        return dict(own)
    pairs = [np.flatnonzero(experts % jax.process_count() == process) for process in range(jax.process_count())]
    return {name: _gather(pairs, len(experts), values) for name, values in own.items()}


def _gather(pairs: Sequence[Array], num_pairs: int, values: Array) -> Array:
    sent = np.zeros((max(map(len, pairs)), *values.shape[1:]), values.dtype)
    sent[: len(values)] = values
    received = np.asarray(multihost_utils.process_allgather(sent.view(np.uint8)))  # [process, pairs, …]
    whole = np.empty((num_pairs, *values.shape[1:]), values.dtype)
    for part, taken in zip(received.view(values.dtype), pairs, strict=True):
        whole[taken] = part[: len(taken)]
    return whole
