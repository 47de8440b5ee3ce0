"""The feed-forward block: experts, or one dense block (SPEC §4.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import (
    TANH_APPROXIMATE_ERROR,
    add_rounded,
    approximation,
    round_to,
    rounded,
)
from grok_conformance.harness.graph.products import ADDITIONS, add_as_ring, product, product_by_expert
from grok_conformance.harness.graph.rounding import (
    AS_PUBLISHED,
    HARDWARE_TANH,
    IN_BLOCKS,
    ORDERS,
    RINGS,
    Point,
    RoundingPlan,
    rounding_point,
)
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.graph.sharing import (
    Sharing,
    evenly,
    in_blocks,
    in_groups,
    in_tiles,
    spread,
    to_the_nearest,
)

GELU_FACTOR = math.sqrt(2 / math.pi)

TANH = Point(
    "tanh",
    {"exact": "", HARDWARE_TANH: "tanh of gelu approximated to 2⁻¹¹ (tanh.approx)"},
    narrow=False,
    approximation=True,
)
GELU = rounding_point("gelu", "kept", "gelu rounded to the compute dtype")
DENSE_GELU = rounding_point("gelu", "rounded", "gelu not rounded")
HIDDEN = replace(rounding_point("hidden", "kept", "gated hidden rounded to the compute dtype"), wide=True)
GATE = rounding_point("gate", "rounded", "gate not rounded")
TERMS = rounding_point("terms", "kept", "gate times output rounded for every expert")
OF_ROUNDED = " of rounded"
"""Ends the choices in which the gated hidden is rounded as an operand of the last product."""

ROUNDED_TOO = ", rounded"
"""Ends those in which each shard's product is rounded too, before it is multiplied by its gate."""

RANKS = Point(
    "ranks",
    {
        "whole": "",
        **{
            f"{n}{ending}": f"{n} shards of the experts' hidden width{words}, each combined over the experts, rounded "
            "and added"
            for ending, words in (
                ("", ""),
                (OF_ROUNDED, ", rounded as an operand"),
                (OF_ROUNDED + ROUNDED_TOO, ", rounded as an operand and as a product"),
            )
            for n in (2, 3, 4, 5, 6, 8, 16)
        },
        "gated": "gate multiplied into the gated hidden, which is rounded then, before the last product",
    },
    alone=True,
)
SHARES = Point(
    "shares",
    {
        "evenly": "",
        "in tiles": "shards in equal tiles, the last shorter",
        "spread": "shards cut where a longer one may lie anywhere",
        "nearest": "shards cut at the nearest place",
        "in scale groups": "shards of whole scale groups",
        **{f"{IN_BLOCKS.removeprefix(', ')}{size}": f"shards of whole blocks of {size}" for size in (16, 32, 64, 128)},
    },
)
"""How shards share out a width: two that are not of one length hold other terms."""

GROUPS = Point(
    "groups",
    {
        "whole": "",
        **{
            f"{n}{placed}": f"{n} ranks with experts of their own{words}, each adds its own and rounds"
            for n in (2, 4, 8)
            for placed, words in (("", ""), (" in turn", ", dealt out in turn"))
        },
    },
    alone=True,
)
SUM = Point(
    "sum",
    {
        "float32": "",
        "by rank": "sum over experts rounded after every one, in the order of their ranks",
        "by id": "sum over experts rounded after every one, in the order of their ids",
        **{order: f"sum over experts or their shards {added}" for order, added in ORDERS.items() if order in ADDITIONS},
        **{order: f"sum over shards {added}" for order, added in RINGS.items()},
    },
)


def gelu(x: Array) -> Array:
    """Return the tanh approximation of gelu (SPEC §4.6)."""
    activated: Array = 0.5 * x * (1 + np.tanh(gelu_argument(x)))
    return activated


def gelu_argument(x: Array) -> Array:
    """Return the argument of gelu's tanh."""
    argument: Array = GELU_FACTOR * (x + 0.044715 * x * x * x)
    return argument


def expert_in(x: Array, index: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply x [b, t, d] by the chosen experts' matrices w [e, d, f]: [b, t, c, f] (SPEC §4.6)."""
    rows = np.broadcast_to(x[:, :, None, :], (*index.shape, x.shape[-1]))  # [b, t, c, d]
    return product_by_expert(rows, w, index.astype(np.int64), scope, plan)


def gated_hidden(activation: Array, up: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Return gelu(activation)·up, elementwise, in float32 (SPEC §4.6)."""
    return gated(activation, up, scope, plan, GELU)


def dense_hidden(activation: Array, up: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Return gelu(activation)·up of a dense block, gelu rounded to the compute dtype (SPEC §4.6, §9)."""
    return gated(activation, up, scope, plan, DENSE_GELU)


def gated(activation: Array, up: Array, scope: Scope, plan: RoundingPlan, point: Point) -> Exact:
    """Return gelu(activation)·up; `point` says whether gelu itself is rounded.

    In the left tail 1 + tanh cancels, so the error of gelu is proportional to its argument, not to its value.
    """
    dtype = scope.config.fprop_dtype
    off = 4 * np.abs(activation)
    if plan.at(TANH) == HARDWARE_TANH:
        off = off + approximation(TANH_APPROXIMATE_ERROR / 2 * np.abs(activation * np.tanh(gelu_argument(activation))))
    inner = Exact(gelu(activation), bound=off, argument=activation)
    if scope.rounds and plan.at(point) == "rounded":
        inner = rounded(inner, dtype, scope.margin)
        hidden = Exact(inner.value * up, bound=np.abs(activation * up), jump=np.abs(inner.jump * up))
    else:
        hidden = Exact(inner.value * up, bound=off * np.abs(up))
    hidden = replace(hidden, argument=activation)
    return rounded(hidden, dtype, scope.margin) if scope.rounds and plan.at(HIDDEN) == "rounded" else hidden


def expert_out(hidden: Array, index: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply hidden [b, t, c, f] by the chosen experts' matrices w [e, f, d]: [b, t, c, d] (SPEC §4.6)."""
    return product_by_expert(hidden, w, index.astype(np.int64), scope, plan)


def combine(gate: Array, outputs: Array, index: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Sum the outputs [b, t, c, d] times the gates [b, t, c], which are rounded to the compute dtype (SPEC §4.6).

    Chosen experts index [b, t, c] matter only where the sum is rounded in the order of their ids.
    """
    dtype = scope.config.fprop_dtype
    if scope.rounds and plan.at(GATE) == "rounded":
        gate = round_to(gate, dtype)
    terms = Exact(gate[..., None] * outputs)
    size, num_terms = np.abs(terms.value).sum(-2), outputs.shape[-2]
    grouped = 1 < num_groups(plan) < scope.config.model.num_experts  # with one expert a rank it is TERMS
    apart = num_terms > 1 and (plan.at(TERMS) == "rounded" or plan.at(SUM) != "float32")  # one term is the sum itself
    if not scope.rounds or not (grouped or apart):
        return Exact(terms.value.sum(-2), bound=(1 + num_terms) * size)
    terms = replace(terms, bound=np.abs(terms.value))
    if plan.at(TERMS) == "rounded":
        terms = rounded(terms, dtype, scope.margin)
    if grouped:
        return add_groups(terms, index, scope, plan)
    if plan.at(SUM) == "float32":
        return Exact(terms.value.sum(-2), bound=num_terms * size, jump=np.sum(terms.jump, -2))
    value, jump = terms.value, np.broadcast_to(terms.jump, terms.value.shape)
    if plan.at(SUM) == "by id":
        order = np.argsort(index, axis=-1, kind="stable")[..., None]
        value, jump = (np.take_along_axis(each, order, -2) for each in (value, jump))
    parts = [Exact(value[..., c, :], jump=jump[..., c, :]) for c in range(num_terms)]
    return replace(add_parts(parts, dtype, plan), bound=num_terms * size)


def add_parts(parts: Sequence[Exact], dtype: str, plan: RoundingPlan) -> Exact:
    """Add the sums of some ranks, or the terms of some experts, in the order that a plan says."""
    order = plan.at(SUM)
    if order == SUM.published:
        size = sum(np.abs(part.value) for part in parts)
        return Exact(np.sum([p.value for p in parts], 0), bound=size, jump=sum(np.asarray(p.jump) for p in parts))
    if order in RINGS:
        return add_as_ring(parts, dtype, order, len(parts), evenly)
    return ADDITIONS.get(order, add_rounded)(parts, dtype)


def num_groups(plan: RoundingPlan) -> int:
    """Return among how many ranks the experts are shared out."""
    choice = plan.at(GROUPS)
    return 1 if choice == GROUPS.published else int(choice.partition(" ")[0])


def add_groups(terms: Exact, index: Array, scope: Scope, plan: RoundingPlan) -> Exact:
    """Sum gated outputs [b, t, c, d] as expert parallel ranks do: each adds those of its own experts and rounds."""
    num_ranks, dtype = num_groups(plan), scope.config.fprop_dtype
    rank_of = (
        index % num_ranks
        if plan.at(GROUPS).endswith("in turn")
        else index // -(-scope.config.model.num_experts // num_ranks)
    )
    parts = []
    for rank in range(num_ranks):
        own = (rank_of == rank)[..., None]
        part = Exact((terms.value * own).sum(-2), bound=terms.value.shape[-2] * (np.abs(terms.value) * own).sum(-2),
                     jump=np.sum(terms.jump * own, -2))  # fmt: skip
        parts.append(rounded(part, dtype, scope.margin))
    return add_parts(parts, dtype, plan)


def combine_in_ranks(gate: Array, hidden: Array, index: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Sum the gated outputs of shards of the hidden width [b, t, c, f], as tensor parallel ranks do it (SPEC §4.6).

    Every rank combines its part over the chosen experts, whose terms may be rounded, and rounds it; the parts are added
    in float32 and rounded once, or in the compute dtype. A kernel may also multiply the gate into the hidden values, so
    that the last product gives terms that are only to be added.
    """
    dtype = scope.config.fprop_dtype
    if plan.at(GATE) == "rounded":
        gate = round_to(gate, dtype)
    if plan.at(RANKS) == "gated":
        gated_too = Exact(gate[..., None] * hidden, bound=np.abs(gate[..., None] * hidden))
        return combine_gated(rounded(gated_too, dtype, scope.margin), index, w, scope, plan)
    parts = []
    num_ranks, _, rounds = plan.at(RANKS).partition(" ")
    if rounds:
        hidden = round_to(hidden, dtype)
    for at in shared_out(hidden.shape[-1], int(num_ranks), plan.at(SHARES), scope.group_size):
        made = product_by_expert(hidden[..., at], w[:, at], index.astype(np.int64), scope, AS_PUBLISHED)
        made = rounded(made, dtype, scope.margin) if rounds.endswith(ROUNDED_TOO) else made
        value, weight = gate[..., None] * made.value, gate[..., None]  # [b, t, c, d]
        terms = Exact(value, bound=np.abs(value), spread=weight * made.spread, jump=weight * made.jump)
        if plan.at(TERMS) == "rounded":
            terms = rounded(terms, dtype, scope.margin)
        spread = np.sqrt(np.square(terms.spread).sum(-2)) if np.ndim(terms.spread) else 0.0
        bound = (1 + value.shape[-2]) * np.abs(terms.value).sum(-2)
        jump = np.sum(terms.jump, -2) if np.ndim(terms.jump) else 0.0
        parts.append(rounded(Exact(terms.value.sum(-2), bound, spread, jump), dtype, scope.margin))
    return add_parts(parts, dtype, plan)


def shared_out(length: int, num_ranks: int, choice: str, group_size: int) -> list[slice]:
    """Share a width, of which so many places share a scale, out among ranks by a choice at `SHARES`."""
    named: dict[str, Sharing] = {"evenly": evenly, "in tiles": in_tiles, "spread": spread, "nearest": to_the_nearest}
    named["in scale groups"] = in_groups(group_size)
    return (named.get(choice) or in_blocks(int(choice.rpartition(" ")[2])))(length, num_ranks)


def combine_gated(hidden: Exact, index: Array, w: Array, scope: Scope, plan: RoundingPlan) -> Exact:
    """Sum the products of hidden values [b, t, c, f], the gates in them, with the chosen experts' matrices."""
    made = product_by_expert(hidden.value, w, index.astype(np.int64), scope, AS_PUBLISHED)
    jump = product_by_expert(np.abs(hidden.jump), np.abs(w), index.astype(np.int64), scope, AS_PUBLISHED).value
    terms = replace(made, jump=made.jump + jump)
    if plan.at(TERMS) == "rounded":
        terms = rounded(terms, scope.config.fprop_dtype, scope.margin)
    spread = np.sqrt(np.square(terms.spread).sum(-2)) if np.ndim(terms.spread) else 0.0
    bound = terms.value.shape[-2] * np.abs(terms.value).sum(-2)
    return Exact(terms.value.sum(-2), bound, spread, np.sum(terms.jump, -2))


def dense_in(x: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply x [b, t, d] by a dense block's matrix [d, f] (SPEC §4.6)."""
    return product(x, w, scope, plan)


def dense_out(hidden: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply hidden [b, t, f] by a dense block's last matrix [f, d] (SPEC §4.6)."""
    return product(hidden, w, scope, plan)
