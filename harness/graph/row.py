"""The shape of a row of the graph, and the values that pass between rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from grok_conformance.harness.contract import ALL_LOGITS, Array, LanguageModelConfig, LogitForm
from grok_conformance.harness.graph.rounding import Point


@dataclass(frozen=True)
class Exact:
    """What an operation should have given, and how far honest arithmetic may stray from it.

    `bound` and `spread` are errors in units of u(float32): the first bounds what the elementwise roundings add, the
    second is √3 standard deviations of a sum of many terms in any order. `jump` is what an inner rounding can jump by,
    in the unit of the value; `inherited` is the deviation of what the inputs may have been, likewise. All have the
    shape of the tap, float64. `shared` tells that a whole row shares one sum and its error; `argument` is what an error
    of the function may depend on, where the function is elementwise.
    """

    value: Array
    bound: Array | float = 0.0
    spread: Array | float = 0.0
    jump: Array | float = 0.0
    inherited: Array | float = 0.0
    shared: bool = False
    argument: Array | None = None


Multiply = Callable[[Array, Array], Array]
"""Multiplies x [..., k] by a stored matrix w [k, n] in float64: [..., n]."""


@dataclass(frozen=True)
class Scope:
    """What an operation knows besides its inputs: the configuration and the call that it is part of.

    tokens int32 [b, t]; steps int32 [b], the cache steps before the call; visible bool [b, t, s], the keys that each
    query sees; margin is λ·u(float32)/√3: within so many spreads of a sum, its rounding may go either way. `form` is
    how the logits are shown; `multiply` is how a fault multiplies by stored matrices, None for what is right. `scales`
    [.., G, n] are those of the matrix at hand where a plan scales its sums and not its values, else None; `offset`
    [.., k, n] is what a plan adds to that matrix and takes away again, else None. `group_size` is how many rows of that
    matrix share a scale, 0 where it has none. `measured` is what an operation takes
    its statistic of where that is not the input that it divides.
    """

    config: LanguageModelConfig
    tokens: Array
    steps: Array
    visible: Array
    margin: float
    form: LogitForm = ALL_LOGITS
    multiply: Multiply | None = None
    scales: Array | None = None
    offset: Array | None = None
    group_size: int = 0
    measured: Array | None = None

    def of_expert(self, expert: int) -> Scope:
        """Return the scope of the matrix of one expert, of those of all."""
        scales, offset = (None if each is None else each[expert] for each in (self.scales, self.offset))
        return replace(self, scales=scales, offset=offset)

    @property
    def rounds(self) -> bool:
        """Whether the compute dtype is narrower than float32."""
        return self.config.fprop_dtype != "float32"


RESIDUAL_STREAM, LAST_OUTPUT = "residual_stream", "last_output"
"""What a row may read besides the taps of its layer: the stream that enters the layer, or that leaves the last."""

Function = Callable[..., Exact]
"""`function(*inputs, *weights, scope=…, plan=…) -> Exact`."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One row: the tap it makes, the taps and weights it reads, its function, and its points.

    Inputs are operations of the same layer, or `residual_stream` (the embedding or the previous layer's output),
    `previous:TAP` (the tap of the call before, or the preloaded cache) and `last_output`. Weights are paths below
    the layer's module. `points` are the values inside it that a port may keep otherwise than published: one plan is
    found per candidate, compute dtype and stored form of its weights, or of those at `stored_as` where it has none.
    `products` are the axes of a contraction, kept and summed ones: it multiplies and adds once per element of all of
    them together. `operands` are the inputs, by number, that a port may declare to multiply or keep in fewer bits, and
    `unquantised` is its function where a port has.
    `through` is a point that splits it through a hidden row before it, and the row that then makes it
    from what that one reads. `makes` is the tap it makes where that has another name, `block` the kind of model it is
    part of.

    Traits: it adds to the residual stream, its first input (`is_stream`); it `chooses` experts by the scores that
    another row, which `scores`, gives; it `copies`, so that nothing may round; in layer 0 it depends on the
    `token_alone`; it divides its input by a statistic of it (`measures`); it reads one row of its weights per
    token (`looks_up`).
    """

    name: str
    section: str
    function: Function
    inputs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    through: tuple[Point, Operation] | None = None
    stored_as: str = ""
    products: str = ""
    operands: tuple[int, ...] = ()
    unquantised: Function | None = None
    makes: str = ""
    block: Literal["always", "moe", "dense"] = "always"
    is_stream: bool = False
    chooses: bool = False
    scores: bool = False
    copies: bool = False
    token_alone: bool = False
    measures: bool = False
    looks_up: bool = False

    @property
    def tap(self) -> str:
        """The name of the tap that it makes, without the layer."""
        return self.makes or self.name

    @property
    def passed_over(self) -> frozenset[str]:
        """The inputs that it does without where it is split through a hidden row."""
        return frozenset() if self.through is None else frozenset(self.inputs) - frozenset(self.through[1].inputs)
