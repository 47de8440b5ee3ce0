"""The KV cache of the decoder, as data (SPEC §5)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class KVMemory(NamedTuple):
    """One layer's cache: k (after RoPE) and v [b, sequence_len, g, h] in the cache's dtype, step int32 [b] (SPEC §5).

    `step` counts, per row of the batch, the slots that hold keys; the next token is written there. A memory of None
    is empty: the first call makes a cache of as many slots as it has tokens.
    """

    k: jax.Array | None
    v: jax.Array | None
    step: jax.Array | None

    def arrays(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return k, v and step. Raises ValueError for an empty memory, which has none."""
        if self.k is None or self.v is None or self.step is None:
            raise ValueError("the KV memory is empty: make one with init_memory, or run a call that fills it")
        return self.k, self.v, self.step


class Memory(NamedTuple):
    """The caches of all layers (SPEC §5)."""

    layers: list[KVMemory]


def init_layer_memories(
    batch_size: int, sequence_len: int, num_kv_heads: int, key_size: int, num_layers: int, dtype: Any
) -> list[KVMemory]:
    """Return empty caches: zeros [b, sequence_len, g, h] of `dtype`, and step 0 for every row (SPEC §5)."""
    shape = (batch_size, sequence_len, num_kv_heads, key_size)
    return [
        KVMemory(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(batch_size, jnp.int32))
        for _ in range(num_layers)
    ]
