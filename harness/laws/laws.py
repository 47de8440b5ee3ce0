"""The laws: each changes the inputs or the weights of a run, and says what the taps must be then.

A law is a row of `LAWS` and a function from a draw to an `Experiment`. `bitwise` laws change nothing that rounds; the
others are held to honest rounding, since a change of shapes may honestly change the order of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from grok_conformance.harness.cases.case import Cache, Call, Preset
from grok_conformance.harness.contract import DTYPES, Array
from grok_conformance.harness.graph.grok_1 import CANCELLING, DOUBLED, GROK_1
from grok_conformance.harness.laws.draws import (
    MORE_SLOTS,
    Draw,
    decode,
    prefill,
    preset_of,
    prompt_and_step,
    prompt_lengths,
    sequences_of,
)


@dataclass(frozen=True)
class Experiment:
    """A changed run of a draw, and how its taps follow from those of the unchanged run.

    Row i of the changed run is row `rows[i]` of the unchanged one, equal at its first `num_positions[i]` positions.
    `order` permutes the axes of the taps by letter, `order[axis][new] = old`; `factors` multiply operations' results.
    `preload` is what the caches hold before the first call, which begins anew all the same.
    """

    preset: Preset
    calls: tuple[Call, ...]
    rows: tuple[int, ...]
    num_positions: tuple[int, ...]
    order: Mapping[str, Array] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    preload: Cache | None = None


@dataclass(frozen=True)
class Law:
    """One law in a sentence; `bitwise` where not even rounding may differ, for a port that repeats itself bitwise."""

    name: str
    sentence: str
    experiment: Callable[[Draw], Experiment]
    bitwise: bool = False


def unchanged(draw: Draw) -> Experiment:
    """Return the run that every law starts from."""
    sequences = sequences_of(draw)
    lengths = prompt_lengths(draw)
    return Experiment(
        preset_of(draw),
        prompt_and_step(draw, sequences),
        rows=tuple(range(draw.batch_size)),
        num_positions=tuple(int(length) + 1 for length in lengths),
    )


def later_token(draw: Draw) -> Experiment:
    """Change every token from some position on."""
    base, sequences = unchanged(draw), sequences_of(draw)
    first = np.random.default_rng((draw.seed, 3)).integers(1, draw.num_tokens + 1)
    sequences[:, first:] = (sequences[:, first:] + 1) % (draw.vocab_size - 1) + 1
    kept = tuple(min(int(first), positions) for positions in base.num_positions)
    return replace(base, calls=prompt_and_step(draw, sequences), num_positions=kept)


def other_rows(draw: Draw) -> Experiment:
    """Run the rows beside others: in reverse order, without the longest of several, and a short new one first."""
    base, sequences, lengths = unchanged(draw), sequences_of(draw), prompt_lengths(draw)
    longest = int(lengths.argmax())
    rows = [row for row in reversed(base.rows) if row != longest] or [longest]
    stranger = (sequences[:1, ::-1] + 2) % (draw.vocab_size - 1) + 1
    sequences = np.concatenate([stranger, sequences[rows]])
    lengths = np.concatenate([[1], lengths[rows]]).astype(np.int32)
    return replace(
        base,
        calls=(prefill(sequences, lengths, draw.num_tokens), decode(sequences, lengths)),
        rows=(0, *rows),
        num_positions=(0, *(base.num_positions[row] for row in rows)),
    )


def more_padding(draw: Draw) -> Experiment:
    """Pad the prompts on the right to a longer bucket."""
    sequences, lengths = sequences_of(draw), prompt_lengths(draw)
    calls = prefill(sequences, lengths, draw.num_tokens + MORE_SLOTS), decode(sequences, lengths)
    return replace(unchanged(draw), calls=calls)


def in_steps(draw: Draw) -> Experiment:
    """Prefill one token and decode all others."""
    base, sequences = unchanged(draw), sequences_of(draw)
    ones = np.ones(draw.batch_size, np.int32)
    steps = (decode(sequences, position * ones) for position in range(1, draw.num_tokens + 1))
    return replace(base, calls=(prefill(sequences, ones, 1), *steps))


def in_chunks(draw: Draw) -> Experiment:
    """Prefill some tokens, continue by several at once, and decode the last."""
    base, sequences = unchanged(draw), sequences_of(draw)
    cut = int(np.random.default_rng((draw.seed, 4)).integers(1, draw.num_tokens))
    ones = np.ones(draw.batch_size, np.int32)
    rest = Call("extend", sequences[:, cut : draw.num_tokens], (draw.num_tokens - cut) * ones)
    calls = prefill(sequences, cut * ones, cut), rest, decode(sequences, draw.num_tokens * ones)
    return replace(base, calls=calls)


def experts_in_another_order(draw: Draw) -> Experiment:
    """Permute the experts, and with them the columns of the router."""
    base = unchanged(draw)
    order = another_order((draw.seed, 5), draw.num_experts)
    return replace(base, preset=changed(base.preset, in_order({"e": order})), order={"e": order})


def kv_heads_in_another_order(draw: Draw) -> Experiment:
    """Permute the KV heads, each with its query heads."""
    base, h, r = unchanged(draw), draw.key_size, draw.heads_per_kv_head
    order = another_order((draw.seed, 6), draw.num_kv_heads)
    query_order = blocks(order, r)
    rows = blocks(query_order, h)
    # A head may lie in several groups of scales: one row of them for each row of the matrix.
    groups = rows // (len(rows) // draw.num_groups)
    permuted = in_order({"(q h)": rows, "(g h)": blocks(order, h), groups_of("(q h)"): groups})
    return replace(base, preset=changed(base.preset, permuted), order={"g": order, "q": query_order})


def expert_channels_in_another_order(draw: Draw) -> Experiment:
    """Permute the hidden channels of the experts, or of the dense block: groups of scales, and channels within them."""
    base = unchanged(draw)
    group_size = base.preset.config.axis_sizes["f"] // draw.num_groups
    groups = another_order((draw.seed, 7), draw.num_groups)
    order = np.concatenate([group * group_size + another_order((draw.seed, 7, group), group_size) for group in groups])
    permuted = in_order({"f": order, groups_of("f"): groups})
    return replace(base, preset=changed(base.preset, permuted), order={"f": order})


def vocabulary_in_another_order(draw: Draw) -> Experiment:
    """Rename all tokens but the pad token, which has a meaning of its own."""
    base = unchanged(draw)
    order = np.concatenate([[0], 1 + another_order((draw.seed, 8), draw.vocab_size - 1)])
    renamed = np.argsort(order).astype(np.int32)
    calls = tuple(replace(call, tokens=renamed[call.tokens]) for call in base.calls)
    return replace(base, calls=calls, preset=changed(base.preset, in_order({"v": order})), order={"v": order})


def doubled_and_halved(draw: Draw) -> Experiment:
    """Double the gains of the first norm and linear_v, halve what follows them: query, key, value and linear_1."""
    base = unchanged(draw)

    def scaled(name: str, w: Array) -> Array:
        if w.dtype == np.int8:
            return w
        factor = CANCELLING.get(GROK_1.below(name.removesuffix(".scales"))[1], 1.0)
        return (w * np.float32(factor)).astype(w.dtype)

    return replace(base, preset=changed(base.preset, scaled), factors=dict.fromkeys(DOUBLED, 2.0))


def nan_in_unwritten_slots(draw: Draw) -> Experiment:
    """Leave NaN in every slot of the caches, as memory that was never written or another request may have left it."""
    base = unchanged(draw)
    sizes = base.preset.config.axis_sizes
    shape = (draw.num_layers, draw.batch_size, base.preset.config.sequence_len, sizes["g"], sizes["h"])
    nan = np.full(shape, np.nan, DTYPES[draw.fprop_dtype])
    return replace(base, preload=Cache(nan, nan.copy(), np.zeros(draw.batch_size, np.int32)))


def another_order(seed: tuple[int, ...], size: int) -> Array:
    """Return a drawn order of so many things, another than the one they have."""
    order: Array = np.random.default_rng(seed).permutation(size)
    return np.roll(order, 1) if np.array_equal(order, np.arange(size)) else order


def groups_of(axis: str) -> str:
    """Return the name of the axis of scales that stand for groups of an axis of their matrix."""
    return f"groups of {axis}"


def in_order(orders: Mapping[str, Array]) -> Callable[[str, Array], Array]:
    """Return a change of stored tensors that puts axes of theirs into an order, `orders[axis][new] = old`."""

    def permuted(name: str, w: Array) -> Array:
        weight = GROK_1.weight_of(name)
        axes = [] if weight is None else [*weight.axes]
        if name.endswith(".scales"):
            axes[-2] = groups_of(axes[-2])
        for i, axis in enumerate(axes):
            w = np.take(w, orders[axis], axis=i) if axis in orders else w
        return w

    return permuted


def blocks(order: Array, size: int) -> Array:
    """Return the order of the elements of blocks of one size that are put into an order."""
    return (order[:, None] * size + np.arange(size)).reshape(-1)


def changed(preset: Preset, change: Callable[[str, Array], Array]) -> Preset:
    """Return the preset with every stored tensor changed by its name."""
    weights = {name: np.ascontiguousarray(change(name, w)) for name, w in preset.weights.items()}
    return replace(preset, weights=weights)


DETERMINISM = Law("determinism", "the same run again gives the same", unchanged)

LAWS = (
    DETERMINISM,
    Law("causality", "a later token changes no earlier output", later_token),
    Law("batch_invariance", "a row does not see the rows beside it", other_rows),
    Law("padding_invariance", "right padding to any bucket changes nothing", more_padding),
    Law("decode_like_prefill", "one token at a time gives what one prefill gives", in_steps),
    Law("chunks_like_prefill", "a prompt in chunks gives what one prefill gives", in_chunks),
    Law("expert_permutation", "experts stand in any order", experts_in_another_order),
    Law("kv_head_permutation", "KV heads, each with its query heads, stand in any order", kv_heads_in_another_order),
    Law("channel_permutation", "an expert's hidden channels stand in any order", expert_channels_in_another_order),
    Law("vocabulary_permutation", "tokens may be renamed", vocabulary_in_another_order),
    Law(
        "unwritten_slots",
        "what slots hold before a request writes them, NaN too, changes nothing",
        nan_in_unwritten_slots,
    ),
    Law("doubling", "doubled scales and a halved following weight cancel", doubled_and_halved, bitwise=True),
)
"""Every law of a conforming port, whatever it shows."""
