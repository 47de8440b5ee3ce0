"""Products with stored matrices as plans say: split, scaled, accumulated and added in so many ways."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import (
    add_rounded,
    contract,
    contraction_spread,
    round_to,
    rounded,
    sum_of_squares,
)
from grok_conformance.harness.graph.rounding import (
    ACCUMULATOR,
    ATOMICS,
    DEALT,
    HANDED_ON,
    IN_BLOCKS,
    PROMOTES,
    RESULT,
    RINGS,
    SCALES,
    SUMS,
    RoundingPlan,
)
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.graph.sharing import Sharing, evenly, in_tiles, parts_between, shared_as
from grok_conformance.harness.graph.tensor_cores import TENSOR_CORE, contract_on_tensor_core


def contract_in_parts(x: Array, w: Array, sums: str, dtype: str, margin: float, group_size: int = 0) -> Exact:
    """Multiply x [..., k] by w [k, n] in shards of k, whose partial sums are rounded to a dtype and then added.

    `sums` is a choice at the point of that name: how many, and in which order; `group_size` is how many rows share a
    scale.
    """
    dealt_out, _, dealt = sums.partition(DEALT)
    shared, _, block = dealt_out.partition(IN_BLOCKS)
    plain, comma, sharing = shared.partition(",")
    count, _, order = plain.partition(" ")
    share_out = shared_as(comma + sharing, int(block or 0), group_size)
    if dealt:  # what a part has is brought together
        part_of = np.arange(x.shape[-1]) // int(dealt) % int(count)
        together, sizes = np.argsort(part_of, kind="stable"), np.bincount(part_of)
        x, w, share_out = x[..., together], w[together], lambda *_: parts_between([0, *np.cumsum(sizes).tolist()])
    shards = share_out(x.shape[-1], int(count))
    if len(shards) == 1:  # one block holds all: nothing is split, and nothing rounds but the result
        return contract(x, w)
    if order in HANDED_ON:
        made = [contract(x[..., at], w[at]) for at in shards]
        return handed_on(made if order == "handed on" else made[::-1], dtype, margin)
    parts = partial_sums(x, w, shards, dtype, margin)
    if order == "at once":
        total = np.sum([part.value for part in parts], axis=0)
        jump = sum(np.asarray(part.jump) for part in parts)
        return Exact(total, bound=len(parts) * np.abs(total), jump=jump)
    if order in RINGS:
        return add_as_ring(parts, dtype, order, int(count), share_out)
    return ADDITIONS[order](parts, dtype)


def contract_unscaled(x: Array, w: Array, scales: Array, choice: str, dtype: str, margin: float) -> Exact:
    """Multiply x [..., k] by w [k, n] in the groups of its scales [G, n], each rounded as if it were not yet scaled.

    `choice` is one at the point `scales`: whether a group is rounded again when it is scaled and added.
    """
    parts = []
    for at, scale in zip(in_tiles(x.shape[-1], len(scales)), scales, strict=True):
        made = contract(x[..., at], w[at] / scale)
        made = rounded(made, dtype, margin)
        value = made.value * scale
        parts.append(Exact(value, bound=np.abs(value), jump=np.abs(made.jump * scale)))
    if choice == "sums":
        total = np.sum([part.value for part in parts], 0)
        size = np.sum([np.abs(part.value) for part in parts], 0)
        return Exact(total, bound=len(parts) * size, jump=np.sum([np.asarray(part.jump) for part in parts], 0))
    return add_rounded([rounded(part, dtype, margin) for part in parts], dtype)


def partial_sums(x: Array, w: Array, shards: Sequence[slice], dtype: str, margin: float) -> list[Exact]:
    """Multiply x [..., k] by w [k, n] in each of some shards of k and round; those of one length together."""
    parts = []
    for size, alike in itertools.groupby(shards, key=lambda at: at.stop - at.start):
        first, *others = alike
        at, count = slice(first.start, first.stop + size * len(others)), 1 + len(others)
        some = np.moveaxis(x[..., at].reshape(*x.shape[:-1], count, size), -2, 0)  # [parts, ..., size]
        made = contract(some, w[at].reshape(count, *(1,) * (x.ndim - 2), size, w.shape[-1]))
        made = rounded(made, dtype, margin)
        parts += [Exact(value, jump=jump) for value, jump in zip(made.value, np.asarray(made.jump), strict=True)]
    return parts


def handed_on(parts: Sequence[Exact], dtype: str, margin: float) -> Exact:
    """Add parts of a sum one after the other to a result that is rounded each time, but for the last."""
    total = parts[0]
    for part in parts[1:]:
        kept = rounded(total, dtype, margin)
        value = kept.value + part.value
        total = Exact(value, bound=np.abs(value), spread=part.spread, jump=kept.jump)
    return total


def add_in_any_order(parts: Sequence[Exact], dtype: str) -> Exact:
    """Add a few terms in an order that is not known, every sum rounded: between the least and the largest result."""
    orders = [add_rounded(each, dtype) for each in itertools.permutations(parts)]
    low, high = (
        limit.reduce([round_to(each.value + sign * np.asarray(each.jump), dtype) for each in orders])
        for limit, sign in ((np.minimum, -1), (np.maximum, 1))
    )
    return Exact((low + high) / 2, jump=(high - low) / 2)


def add_as_tree(parts: Sequence[Exact], dtype: str) -> Exact:
    """Add neighbours in pairs until one sum is left, every sum but the last rounded."""
    level = list(parts)
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        last = len(pairs) == 1
        level = [
            pair[0] if len(pair) == 1 else added if last else rounded(added, dtype, 0.0)
            for pair in pairs
            for added in [add_rounded(pair, dtype)]
        ]
    return level[0]


def add_by_halving(parts: Sequence[Exact], dtype: str) -> Exact:
    """Add every part to the one half as many ranks away, then those to one a quarter away, all but the last rounded."""
    level = list(parts)
    while len(level) > 1:
        half = -(-len(level) // 2)
        added = [add_rounded(level[i::half], dtype) for i in range(half)]
        level = added if half == 1 else [rounded(each, dtype, 0.0) for each in added]
    return level[0]


def add_by_node(parts: Sequence[Exact], dtype: str) -> Exact:
    """Add the parts of each of two nodes in float32, round both sums, and add them."""
    nodes = [parts[at] for at in evenly(len(parts), 2)]
    sums = []
    for node in nodes:
        total = np.sum([part.value for part in node], axis=0)
        size = np.sum([np.abs(part.value) for part in node], axis=0)
        jump = np.sum([np.asarray(part.jump) for part in node], axis=0)
        sums.append(rounded(Exact(total, bound=len(node) * size, jump=jump), dtype, 0.0))
    return add_rounded(sums, dtype)


ADDITIONS: Mapping[str, Callable[[Sequence[Exact], str], Exact]] = {
    "in turn": add_rounded,
    "as tree": add_as_tree,
    "by halving": add_by_halving,
    "by node": add_by_node,
    ATOMICS: add_in_any_order,
}
"""How rounded partial sums are added in the compute dtype."""


def add_as_ring(parts: Sequence[Exact], dtype: str, order: str, num_ranks: int, share_out: Sharing) -> Exact:
    """Add around a ring: the sum of every chunk starts at another part, as a reduce-scatter does it."""
    value = np.stack([part.value for part in parts])  # [parts, ..., n]
    jump = np.stack([np.asarray(part.jump) for part in parts])
    turns = [[rank for i in range(num_ranks) if (rank := (chunk + 1 + i) % num_ranks) < len(parts)]
             for chunk in range(num_ranks)]  # fmt: skip
    which = np.moveaxis(np.array(turns)[chunk_of(value.shape[1:], order, num_ranks, share_out)], -1, 0)
    turned = zip(np.take_along_axis(value, which, 0), np.take_along_axis(jump, which, 0), strict=True)
    return add_rounded([Exact(one, jump=reach) for one, reach in turned], dtype)


def chunk_of(shape: tuple[int, ...], order: str, num_ranks: int, share_out: Sharing) -> Array:
    """Return the chunk of every element of a result [..., n] in an order of `RINGS`, with axes of 1 where all agree."""
    *rows, width = shape
    scattered = {"as ring": (*[1] * len(rows), width), "as ring by token": (*rows, 1), "as flat ring": shape}[order]
    size = math.prod(scattered)
    ends = [at.stop for at in share_out(size, num_ranks)]
    return np.searchsorted(ends, np.arange(size), side="right").reshape(scattered)


BLOCK = 8
"""Products that a tensor core aligns and truncates together; published sizes are 4, 8 and 16."""


PROMOTED = 2
"""Blocks that an accumulator which is promoted to float32 takes in before it is (DeepGEMM, stream-K)."""


def accumulated(exact: Exact, num_terms: int, plan: RoundingPlan) -> Exact:
    """Return a sum of so many terms whose accumulator may truncate after every block instead of rounding: a bias.

    Every block loses up to two units of its partial sum, and of its largest product what lies below the common
    exponent (Fasi et al., Numerical behavior of NVIDIA tensor cores, 2021).
    """
    if plan.at(ACCUMULATOR) == ACCUMULATOR.published:
        return exact
    num_blocks = PROMOTED if plan.at(ACCUMULATOR) == PROMOTES else math.ceil(num_terms / BLOCK)
    size = np.abs(exact.value) + np.asarray(exact.spread) / math.sqrt(num_terms / 2 + 1)
    return replace(exact, bound=exact.bound + 2 * num_blocks * size)


def spread_of_both(x: Array, w: Array, offset: Array) -> Array:
    """Return the spread of x [..., k] times w + offset [k, n], less x times the offset, each summed in float32.

    Lanes that scale and compensate a few products each round every one of both sums twice more. A row shares the error
    of what is taken away.
    """
    variance = 0.0
    for matrix in (w + offset, offset):
        squares = sum_of_squares(x, matrix)
        variance = variance + np.square(contraction_spread(squares, x @ matrix, x.shape[-1])) + 2 * squares
    spread: Array = np.sqrt(variance)
    return spread


def product(x: Array, w: Array, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply x [..., k] by w [k, n] as a plan says: partial sums, accumulator, and what becomes of the result."""
    dtype = scope.config.fprop_dtype
    if scope.rounds and scope.scales is not None:
        exact = contract_unscaled(x, w, scope.scales, plan.at(SCALES), dtype, scope.margin)
    elif scope.rounds and plan.at(SUMS) != SUMS.published:
        exact = contract_in_parts(x, w, plan.at(SUMS), dtype, scope.margin, scope.group_size)
    elif plan.at(TENSOR_CORE) != TENSOR_CORE.published:
        exact = contract_on_tensor_core(x, w, plan.at(TENSOR_CORE))
    else:
        exact = contract(x, w)
    if scope.offset is not None:
        exact = replace(exact, spread=spread_of_both(x, w, scope.offset), shared=True)
    if scope.multiply is not None:
        exact = replace(exact, value=scope.multiply(x, w))
    exact = accumulated(exact, x.shape[-1], plan)
    return rounded(exact, dtype, scope.margin) if scope.rounds and plan.at(RESULT) == "rounded" else exact


def product_by_expert(x: Array, w: Array, index: Array, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply each chosen row x [b, t, c, k] by its expert's matrix w [e, k, n]; index int [b, t, c]."""
    value = np.zeros((*index.shape, w.shape[-1]))  # [b, t, c, n]
    bound, spread, jump = np.zeros_like(value), np.zeros_like(value), np.zeros_like(value)
    for expert in np.unique(index):
        chosen = index == expert
        made = product(x[chosen], w[expert], scope.of_expert(int(expert)), plan)  # [rows, n]
        value[chosen], bound[chosen], spread[chosen], jump[chosen] = made.value, made.bound, made.spread, made.jump
    return Exact(
        value,
        bound=bound if bound.any() else 0.0,
        spread=spread,
        jump=jump if jump.any() else 0.0,
        shared=scope.offset is not None,
    )
