"""Rounding plans: where a port may keep a value otherwise than published, chosen per operation and never per element.

An operation names its points, the values inside it. At each a plan has one choice, the published one where it names
none: no plan widens a fence, it says what is computed. Approximations of functions and truncating sums are choices
that add their documented error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True)
class Point:
    """A value inside an operation, and the ways to keep it with the words a report has for each, the published first.

    `narrow` choices mean something only where the compute dtype is narrower than float32. Those of an `approximation`
    add a documented error instead of a rounding, and are thought of last. A point is of a `wide` result where it means
    something only if that is recorded in float32. One that stands `alone` is tried where no other explains what is
    shown, and not in every combination with them; one that is `slow` to work out only after all others.
    """

    name: str
    choices: Mapping[str, str]
    narrow: bool = True
    approximation: bool = False
    wide: bool = False
    alone: bool = False
    slow: bool = False

    @property
    def published(self) -> str:
        """The choice that the published model makes."""
        return next(iter(self.choices))


CallAxes = Literal["t", "bt", "e"]
"""Along which axes of its tokens [b, t] the size of a call is told; "e" are the tokens of each expert by itself."""


@dataclass(frozen=True)
class Calls:
    """Calls of at most so many tokens, in a row or in all, pads too: engines have kernels of their own for few."""

    axes: CallAxes
    limit: int

    def hold(self, shape: tuple[int, ...]) -> bool:
        """Return whether a call of tokens [b, t] is among them."""
        return size_of_call(shape, self.axes) <= self.limit

    @property
    def words(self) -> str:
        """Which calls these are."""
        if self.axes == "e":
            return f"in experts of at most {self.limit} tokens" if self.limit > 1 else "in experts of one token"
        if self.axes == "bt":
            return f"in calls of at most {self.limit} tokens" if self.limit > 1 else "in calls of one token"
        return f"in calls of at most {self.limit} tokens a row" if self.limit > 1 else "in calls of one token a row"


def size_of_call(shape: tuple[int, ...], axes: CallAxes) -> int:
    """Return the size of a call of tokens [b, t] along one axis or two."""
    b, t = shape
    return t if axes == "t" else b * t


@dataclass(frozen=True)
class RoundingPlan:
    """What a port does at the points of one operation: the choice by point, where it is not the published one.

    A plan may hold `within` some calls only, and another one `beyond` them.
    """

    choices: Mapping[str, str] = field(default_factory=dict)
    within: Calls | None = None
    beyond: Mapping[str, str] = field(default_factory=dict)

    def at(self, point: Point) -> str:
        """Return the choice at a point."""
        return self.choices.get(point.name, point.published)

    def but(self, point: Point, choice: str) -> RoundingPlan:
        """Return the plan with another choice at one point."""
        others = {name: made for name, made in self.choices.items() if name != point.name}
        return replace(self, choices=others if choice == point.published else {**others, point.name: choice})

    def in_call(self, shape: tuple[int, ...]) -> RoundingPlan:
        """Return the plan that holds in a call of tokens [b, t]."""
        if self.within is None or self.hangs_on_experts:
            return self
        return RoundingPlan(self.choices if self.within.hold(shape) else self.beyond)

    @property
    def hangs_on_experts(self) -> bool:
        """Whether what is done in an expert hangs on how many tokens it has."""
        return self.within is not None and self.within.axes == "e"

    @property
    def hangs_on_the_batch(self) -> bool:
        """Whether what is done to a row of a batch hangs on how many there are."""
        made = (*self.choices.values(), *self.beyond.values())
        scattered = any(order in choice for choice in made for order in SCATTERED)
        return scattered or (self.within is not None and self.within.axes != "t")

    def adds_an_error(self, points: Sequence[Point]) -> bool:
        """Return whether a choice allows a range of values, as an approximation and an unknown order do."""
        return self.without_added_errors(points) != self

    def without_added_errors(self, points: Sequence[Point]) -> RoundingPlan:
        """Return the plan with the published choice wherever another one allows a range of values."""
        approximate = {point.name for point in points if point.approximation}
        choices, beyond = (
            {name: made for name, made in part.items() if not (name in approximate or made.endswith(ATOMICS))}
            for part in (self.choices, self.beyond)
        )
        return replace(self, choices=choices, beyond=beyond)

    def words(self, points: Sequence[Point]) -> str:
        """Return what is done at some points in words, empty where all is as published."""
        told, others = (
            ", ".join(point.choices[choices[point.name]] for point in points if point.name in choices)
            for choices in (self.choices, self.beyond)
        )
        if self.within is None:
            return told
        larger = "experts" if self.within.axes == "e" else "calls"
        parts = [f"{told} {self.within.words}" if told else "", f"{others} in larger {larger}" if others else ""]
        return ", ".join(part for part in parts if part)


AS_PUBLISHED = RoundingPlan()


ATOMICS = "by atomics"
"""Ends the choices whose order is another at every call: no plan says which, but few sums have few orders."""


def rounding_point(name: str, published: str, words: str) -> Point:
    """Return a point that is either kept in float32 or rounded to the compute dtype; `words` for the other of both."""
    other = "kept" if published == "rounded" else "rounded"
    return Point(name, {published: "", other: words})


# Points that several operations have

WEIGHTS = Point(
    "weights",
    {
        "published": "",
        "kept": "weights kept in float32",
        "rounded": "int8 times scale rounded to the scales' dtype",
        "compute": "weights rounded to the compute dtype",
    },
    narrow=False,
)
OPERANDS = Point("operands", {"shown": "", "compute": "activations rounded to the compute dtype"})
LIKE_THE_CACHE = Point(
    "operands", {**OPERANDS.choices, "float16": "operands rounded to float16, like the cache"}, narrow=False
)
RESULT = Point(
    "result", {"kept": "", "rounded": "result rounded to the compute dtype, as a bf16 GEMM gives"}, wide=True
)
SCALES = Point(
    "scales",
    {
        "weights": "",
        "sums": "sums of products with int8 values rounded before they are scaled",
        "sums, and scaled": "sums of products with int8 values rounded before and after they are scaled, by group",
    },
    alone=True,
)
HARDWARE_TANH = "tanh.approx"
"""The choice of a tanh that errs by 2⁻¹¹: far more than float32 rounds, so that mistakes of a float32 port fit in."""

PROMOTES = "promotes"
"""The choice of a truncating sum that errs by so few units of float32 that no mistake could hide in them."""

ACCUMULATOR = Point(
    "accumulator",
    {
        "rounds": "",
        "truncates": "sums truncated, as the accumulators of tensor cores do",
        PROMOTES: "sums truncated as on tensor cores, every few blocks of them added in float32",
    },
    narrow=False,
    approximation=True,
)

UNSIGNED = Point(
    "unsigned",
    {"signed": "", "zero point": "int8 values as unsigned bytes, whose zero point is taken away again in float32"},
    narrow=False,
    approximation=True,
)

SHARDS = (*range(2, 17), 24, 32, 48, 64)
"""Numbers of partial sums: split-K and tensor parallelism."""

FEW_SHARDS = (3, 5, 6, 7)
"""Numbers by which a width is seldom divided, and that ranks have all the same."""

RINGS = {
    "as ring": "added around a ring",
    "as ring by token": "added around a ring that begins elsewhere for other tokens",
    "as flat ring": "added around a ring that begins elsewhere for other parts of the flat result",
}
"""How a reduce-scatter adds, by what it scatters: features, tokens, or the elements of the flattened result."""

SCATTERED = tuple(order for order in RINGS if order != "as ring")
"""Those in which what is added first hangs on how many tokens there are."""

ORDERS = {
    "at once": "added in float32",
    "in turn": "added one by one in the compute dtype",
    "as tree": "added pairwise in the compute dtype",
    **RINGS,
    "by halving": "added in the compute dtype with those half as many ranks away, then a quarter",
    "by node": "added in float32 by each of two nodes, rounded, and added",
}
"""How partial sums are added."""

HANDED_ON = {
    "handed on": "each added to the sum of those before, which is rounded",
    "handed back": "from the last to the first, each added to the sum of those before, which is rounded",
}
"""How one part after the other adds what it has to one result in the compute dtype: serial split-K."""

HANDS = range(2, 9)
"""How many parts do so: more would be an accumulator in the compute dtype."""

EVENLY = ", evenly"
"""Ends the choices that share out a length which the number of partial sums does not divide: not in equal tiles of
which the last is shorter, but so that no two parts differ by more than one."""

SPREAD = ", spread"
"""Ends the choices that cut such a length at ⌊i · length / n⌋, so that the longer parts lie anywhere."""

NEAREST = ", nearest"
"""Ends the choices that cut such a length at the whole number nearest to i · length / n."""

IN_BLOCKS = ", in blocks of "
"""Ends the choices that share out whole blocks of so many, as tiled kernels do, with the size of a block."""

BLOCKS = tuple(f"{IN_BLOCKS}{size}" for size in (16, 32, 64, 128))

IN_GROUPS = ", in scale groups"
"""Ends the choices that share out whole groups of a scale, no part with two more than another."""

DEALT = ", dealt out in turn in blocks of "
"""Ends the choices in which every part has each so manieth block, with the size of a block: the threads of a kernel
that share a length without cutting it up."""

DEALT_BLOCKS = tuple(f"{DEALT}{size}" for size in (1, 8, 16, 32))

SUMS = Point(
    "sums",
    {
        "whole": "",
        **{
            f"{n} {order}{split}": f"{n} partial sums{words}, each rounded, {added}"
            for split, words in (
                ("", ""),
                (EVENLY, " of nearly equal length"),
                (SPREAD, " of nearly equal length, the longer ones spread"),
            )
            for order, added in ORDERS.items()
            for n in SHARDS
        },
        **{
            f"{n} {order}{NEAREST}": f"{n} partial sums cut at the nearest place, each rounded, {added}"
            for order, added in ORDERS.items()
            for n in FEW_SHARDS
        },
        **{
            f"{n} at once{blocks}": f"{n} partial sums{blocks}, each rounded, {ORDERS['at once']}"
            for blocks in (*BLOCKS, IN_GROUPS, *DEALT_BLOCKS)
            for n in (2, 3, 4, 8)
        },
        **{
            f"{n} {order}{split}": f"{n} partial sums{words}, {added}"
            for split, words in (("", ""), (EVENLY, " of nearly equal length"))
            for order, added in HANDED_ON.items()
            for n in HANDS
        },
        **{
            f"{n} {ATOMICS}": f"{n} partial sums, each rounded, added by atomics in the compute dtype, in any order"
            for n in (3, 4)
        },
    },
)
