"""llama.cpp as a model with a cache: rows of a batch are sequences, engine tensors become taps by one table."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from grok_conformance.candidates.llama_cpp import binding
from grok_conformance.harness.contract import Array, LanguageModelConfig, split_tap, tap_specs


@dataclass(frozen=True)
class Call:
    """Where the tokens of one call lie: batch row and position in the call int [n], and the cell of every slot.

    `cells` int [b, s] holds for each row the cell of llama.cpp's shared cache in which a slot lies, -1 where empty.
    """

    shape: tuple[int, int]
    rows: Array
    offsets: Array
    cells: Array


@dataclass(frozen=True)
class TapRow:
    """One tap: the engine's tensor, `{layer}` filled in, and the function that lays it out on the tap's axes."""

    tensor: str
    lay_out: Callable[[Array, Call, tuple[int, ...]], Array]


def by_token(x: Array, call: Call, tail: tuple[int, ...]) -> Array:
    """Spread values of n tokens over the padded batch: [b, t, *tail]."""
    values = np.zeros((*call.shape, *tail), x.dtype)
    values[call.rows, call.offsets] = x.reshape(len(call.rows), *tail)
    return values


def attention_map(x: Array, call: Call, tail: tuple[int, ...]) -> Array:
    """Bring [1, q, n, cells] to [b, g, r, t, s], each row with the slots of its own sequence."""
    g, r, s = tail
    per_token = x[0].swapaxes(0, 1)  # [n, q, cells]
    values = np.zeros((*call.shape, g * r, s), x.dtype)  # [b, t, q, s]
    cells = call.cells[call.rows]  # [n, s]
    token, slot = np.nonzero(cells >= 0)
    values[call.rows[token], call.offsets[token], :, slot] = per_token[token, :, cells[token, slot]]
    b, t = call.shape
    return values.reshape(b, t, g, r, s).transpose(0, 2, 3, 1, 4)


def cache_of(axes: str) -> Callable[[Array, Call, tuple[int, ...]], Array]:
    """Return the layout of a cache whose last three axes are `axes`, a permutation of s, g and h: to [b, s, g, h]."""

    def lay_out(x: Array, call: Call, tail: tuple[int, ...]) -> Array:
        by_cell = x[0].transpose([axes.index(axis) for axis in "sgh"])  # [cells, g, h]
        values = np.zeros((len(call.cells), *tail), x.dtype)
        row, slot = np.nonzero(call.cells >= 0)
        values[row, slot] = by_cell[call.cells[row, slot]]
        return values

    return lay_out


TAPS = {
    "embedding": TapRow("embd", by_token),
    "attention.norm": TapRow("attn_norm-{layer}", by_token),
    "attention.query": TapRow("blk.{layer}.attn_q.weight @", by_token),
    "attention.key": TapRow("blk.{layer}.attn_k.weight @", by_token),
    "attention.value": TapRow("blk.{layer}.attn_v.weight @", by_token),
    "attention.query_rotated": TapRow("Qcur-{layer}", by_token),
    "attention.key_rotated": TapRow("Kcur-{layer}", by_token),
    "kv.keys": TapRow("cache_k_l{layer} (view) (permuted)", cache_of("gsh")),
    "kv.values": TapRow("cache_v_l{layer} (view) (permuted)", cache_of("ghs")),
    "attention.logits": TapRow("kq_scaled-{layer}", attention_map),
    "attention.weights": TapRow("kq_soft_max-{layer}", attention_map),
    "attention.heads": TapRow("kqv_out-{layer}", by_token),
    "attention.output": TapRow("blk.{layer}.attn_output.weight @", by_token),
    "attention.output_norm": TapRow("attn_out_norm-{layer}", by_token),
    "attention.residual": TapRow("ffn_inp-{layer}", by_token),
    "moe.norm": TapRow("ffn_norm-{layer}", by_token),
    "router.logits": TapRow("ffn_moe_logits-{layer}", by_token),
    "router.probabilities": TapRow("ffn_moe_probs-{layer}", by_token),
    "moe.expert_index": TapRow("ffn_moe_topk-{layer}", by_token),
    "moe.expert_gate": TapRow("ffn_moe_weights_norm-{layer}", by_token),
    "moe.expert_activation": TapRow("ffn_moe_gate-{layer}", by_token),
    "moe.expert_up": TapRow("ffn_moe_up-{layer}", by_token),
    "moe.expert_hidden": TapRow("ffn_moe_geglu-{layer}", by_token),
    "moe.expert_output": TapRow("ffn_moe_down-{layer}", by_token),
    "moe.output": TapRow("ffn_moe_out-{layer}", by_token),
    "moe.output_norm": TapRow("ffn_post_norm-{layer}", by_token),
    "output": TapRow("l_out-{layer}", by_token),
    "final_norm": TapRow("result_norm", by_token),
    "logits": TapRow("result_output", by_token),
}
"""Our tap -> the engine's tensor and its layout. `moe.expert_gate` is what weighs the experts: renormalised gates."""

AXES = {spec.operation: spec.axes for spec in tap_specs()}


@dataclass
class LlamaModel:
    """A loaded model and its context; `steps` int32 [b], and the next free cell of the cache."""

    library: ctypes.CDLL
    handle: int
    config: LanguageModelConfig
    cache_dtype: str
    context: binding.Context | None = None
    steps: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    cells: Array = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] from an empty cache, each row as a sequence of its real tokens."""
        num_rows, num_slots = len(tokens), self.config.sequence_len
        if self.context is not None:
            self.context.close()
        self.context = binding.open_context(
            self.library,
            self.handle,
            num_slots=num_rows * num_slots,
            num_sequences=num_rows,
            cache_dtype=self.cache_dtype,
        )
        self.steps = np.zeros(num_rows, np.int32)
        self.cells = np.full((num_rows, num_slots), -1)
        return self.extend(tokens, lengths, taps)

    def decode(self, tokens: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run one token per row, int32 [b, 1]."""
        return self.extend(tokens, np.ones(len(tokens), np.int32), taps)

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run the real tokens of int32 [b, t] at each row's step."""
        if self.context is None:
            raise ValueError("decode or extend before prefill: there is no cache yet")
        rows, offsets = np.nonzero(np.arange(tokens.shape[1]) < lengths[:, None])  # [n]
        positions = self.steps[rows] + offsets
        # llama.cpp fills the cells of its shared cache one after the other, in the order of the batch.
        self.cells[rows, positions] = self.cells.max() + 1 + np.arange(len(rows))
        self.steps = self.steps + lengths
        call = Call((tokens.shape[0], tokens.shape[1]), rows, offsets, self.cells)
        tensors = {tap: self.tensor(tap) for tap in taps}
        seen = binding.decode(self.context, tokens[rows, offsets], positions, rows, set(tensors.values()))
        return {tap: self.lay_out(tap, seen[name], call) for tap, name in tensors.items()}

    def tensor(self, tap: str) -> str:
        """Return the name of the engine's tensor that is a tap."""
        layer, operation = split_tap(tap)
        return TAPS[operation].tensor.format(layer=layer)

    def lay_out(self, tap: str, x: Array, call: Call) -> Array:
        """Return an engine's tensor on the axes of a tap."""
        operation = split_tap(tap)[1]
        sizes = self.config.axis_sizes
        tail = tuple(sizes[axis] for axis in AXES[operation] if axis not in "bt")
        return TAPS[operation].lay_out(x, call, tail)
