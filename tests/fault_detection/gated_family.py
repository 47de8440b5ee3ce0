"""A family of faults that hang on a size, a count or what came before, made from borders and operations.

Every border is a gate, asked before an operation of `torch_eager` returns; where it opens, the last real token of the
last row (or the last token of an expert) is 5 % too large. Nothing here knows the harness's own lists of borders.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from grok_conformance.candidates import torch_eager
from grok_conformance.candidates.torch_eager import model, operations, parameters
from grok_conformance.candidates.torch_eager.model import TorchModel


@dataclass(frozen=True)
class Moment:
    """What a gate sees: the call's kind, its lengths and steps, how many came before it, and what it is given.

    `requests` counts those begun on the loaded model, this one included, `calls` all calls to it; `chunks` those of
    several tokens, and `steps_in_a_row` those of one, in this request. `largest` is the longest prompt before.
    """

    kind: str
    lengths: np.ndarray
    steps: np.ndarray
    num_tokens: int
    num_layers: int
    requests: int
    calls: int
    chunks: int
    steps_in_a_row: int
    largest: int
    after_cut: bool
    num_taps: int
    arguments: tuple[Any, ...] = ()

    @property
    def num_rows(self) -> int:
        """The rows of the batch."""
        return len(self.lengths)

    @property
    def decodes(self) -> bool:
        """Whether one token per row is given to a cache that holds some."""
        return self.num_tokens == 1 and self.kind != "prefill"


Gate = Callable[[Moment], bool]


def tokens(is_met: Callable[[int], bool]) -> Gate:
    """Return a gate on the tokens of a prompt."""
    return lambda m: m.kind == "prefill" and is_met(m.num_tokens)


def step(is_met: Callable[[int], bool]) -> Gate:
    """Return a gate on the step in the cache of the last row when one token is decoded."""
    return lambda m: m.decodes and is_met(int(m.steps[-1]))


def grouped(is_met: Callable[[int], bool]) -> Gate:
    """Return a gate on the tokens of one expert."""
    return lambda m: is_met(len(m.arguments[-1]))


def summed(is_met: Callable[[int], bool]) -> Gate:
    """Return a gate on the terms of a sum."""
    return lambda m: is_met(m.arguments[0].shape[-1])


OF_A_CALL = ("rotate", "update_cache", "attention_weights", "attention_heads", "rms_norm", "router_logits", "residual")
"""Operations that a gate on a call is put into, in turn."""

OF_AN_EXPERT = ("expert_output", "expert_hidden", "expert_activation")
OF_A_SUM = ("linear", "expert_linear")
"""Operations whose own arguments are gated."""


OF_EXPERTS = "sweep_[bl]o[nt]*"
"""The sweeps of which experts have many tokens: of long prompts, and of a model that sends each to both experts."""


@dataclass(frozen=True)
class Border:
    """Where a gate opens: what it hangs on, in words, whether it does, the sweep that meets it, and the operations."""

    name: str
    gate: Gate
    sweep: str = "sweep_long/*"
    operations: tuple[str, ...] = OF_A_CALL


def multiple(of: int) -> Callable[[int], bool]:
    """Return whether a number is a multiple of another, and no less."""
    return lambda n: n >= of and n % of == 0


def one_more(than: int) -> Callable[[int], bool]:
    """Return whether a number is one more than a multiple of another."""
    return lambda n: n > than and n % than == 1


def one_less(than: int) -> Callable[[int], bool]:
    """Return whether a number is one less than a multiple of another."""
    return lambda n: n >= than - 1 and n % than == than - 1


def beyond(border: int) -> Callable[[int], bool]:
    """Return whether a number is greater."""
    return lambda n: n > border


BORDERS: tuple[Border, ...] = (
    *(Border(f"a prompt of one token more than blocks of {n}", tokens(one_more(n))) for n in (16, 32, 64, 128, 256)),
    *(Border(f"a prompt that fills blocks of {n}", tokens(multiple(n))) for n in (64, 128, 256)),
    *(Border(f"a prompt one token short of blocks of {n}", tokens(one_less(n))) for n in (128, 256)),
    *(Border(f"a step at a block of {n}", step(multiple(n))) for n in (16, 32, 64, 128, 256)),
    *(Border(f"a step behind a block of {n}", step(one_more(n))) for n in (16, 32, 64, 128, 256)),
    *(Border(f"an expert with more than {n} tokens", grouped(beyond(n)), OF_EXPERTS, OF_AN_EXPERT)
      for n in (16, 64, 128, 256)),
    *(Border(f"an expert whose tokens fill blocks of {n}", grouped(multiple(n)), OF_EXPERTS, OF_AN_EXPERT)
      for n in (64, 128)),
    *(Border(f"an expert with one token more than blocks of {n}", grouped(one_more(n)), OF_EXPERTS, OF_AN_EXPERT)
      for n in (16, 32, 64, 256)),
    Border("an expert with one token", grouped(lambda n: n == 1), OF_EXPERTS, OF_AN_EXPERT),
    Border("an odd number of tokens beyond 32", grouped(lambda n: n > 32 and n % 2 == 1), OF_EXPERTS, OF_AN_EXPERT),
    Border("sums of more than 1024 terms", summed(beyond(1024)), "sweep_above_1024/*", OF_A_SUM[:1]),
    Border("sums of 256 terms", summed(lambda n: n == 256), "sweep_at_256/*", OF_A_SUM),
    Border("sums of more than 128 terms, no multiple of 16", summed(lambda n: n > 128 and n % 16 != 0),
           "sweep_below_256/*", OF_A_SUM),
    Border("five rows or more", lambda m: m.num_rows >= 5),
    Border("nine rows", lambda m: m.num_rows > 8),
    Border("six rows", lambda m: m.num_rows == 6, "sweep_at_256/*"),
    Border("a row whose neighbour is longer by a block", lambda m: m.num_rows > 1 and int(np.ptp(m.lengths)) >= 32),
    Border("the second chunk", lambda m: m.chunks == 2 and m.num_tokens > 1),
    Border("the third chunk", lambda m: m.chunks == 3 and m.num_tokens > 1),
    Border("the fifth chunk", lambda m: m.chunks == 5 and m.num_tokens > 1),
    Border("a chunk that begins inside a block", lambda m: m.kind == "extend" and int(m.steps[-1]) % 16 != 0),
    Border("the eighth step in a row", lambda m: m.steps_in_a_row == 8),
    Border("the seventeenth step in a row", lambda m: m.steps_in_a_row == 17),
    Border("a chunk that begins at a block of 128", lambda m: m.kind == "extend" and multiple(128)(int(m.steps[-1]))),
    Border("a chunk with an empty row", lambda m: m.kind == "extend" and 0 in m.lengths),
    Border("a row cut back to nothing", lambda m: m.after_cut and 0 in m.steps),
    Border("every third call", lambda m: m.calls % 3 == 0),
    Border("every second request", lambda m: m.requests % 2 == 0),
    Border("a smaller request after a larger one", lambda m: m.kind == "prefill" and m.num_tokens < m.largest),
    Border("the call after a cut of the cache", lambda m: m.after_cut),
    Border("twelve layers", lambda m: m.num_layers >= 12, "sweep_deep/*"),
)  # fmt: skip
"""Every border; the operations are put in by turns, so that each meets many."""

NUM_OPERATIONS = 2
"""Operations that each border is put into."""


@dataclass(frozen=True)
class GatedFault:
    """One fault of the family: a border and an operation."""

    border: Border
    operation: str

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.operation}: {self.border.name}"


def family() -> list[GatedFault]:
    """Return every fault: each border at a few operations, which follow one another from border to border."""
    found = []
    turns: dict[tuple[str, ...], Iterator[str]] = {}
    for border in BORDERS:
        turn = turns.setdefault(border.operations, itertools.cycle(border.operations))
        count = min(NUM_OPERATIONS, len(border.operations))
        found += [GatedFault(border, next(turn)) for _ in range(count)]
    return found


TAPS: Mapping[str, frozenset[str]] = {
    "rotate": frozenset({"attention.query_rotated", "attention.key_rotated"}),
    "update_cache": frozenset({"kv.keys", "kv.values"}),
    "attention_weights": frozenset({"attention.weights"}),
    "attention_heads": frozenset({"attention.heads"}),
    "rms_norm": frozenset({"attention.norm", "attention.output_norm", "moe.norm", "moe.output_norm", "final_norm"}),
    "router_logits": frozenset({"router.logits"}),
    "residual": frozenset({"attention.residual", "output"}),
    "expert_output": frozenset({"moe.expert_output"}),
    "expert_hidden": frozenset({"moe.expert_hidden"}),
    "expert_activation": frozenset({"moe.expert_activation"}),
    "linear": frozenset({"attention.query", "attention.key", "attention.value", "attention.output", "logits"}),
    "expert_linear": frozenset({"moe.expert_activation", "moe.expert_up", "moe.expert_output"}),
}
"""Where each operation is seen; a fault is located if it is found there and nowhere else."""

RIGHT = {name: getattr(operations, name) for name in dir(operations)}


def struck(name: str, value: Tensor, m: Moment) -> Tensor:
    """Return a value that is 5 % too large at the last real token of the last row, or in its last row."""
    value, last = value.clone(), int(m.lengths[-1]) - 1
    if name == "update_cache":
        value[-1, int(m.steps[-1]) + last] *= 1.05
    elif name == "attention_weights":
        value[-1, :, :, last] *= 1.05
    elif name in OF_A_SUM:
        value[..., -1] *= 1.05
    else:
        value[-1, last] *= 1.05
    return value


class Watched(TorchModel):
    """The port, which keeps for the gates what is asked of it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.requests = self.calls = self.chunks = self.in_a_row = self.largest = 0
        self.kind, self.after_cut = "", False
        self.moment: Moment | None = None

    def prefill(self, tokens: Any, lengths: Any, taps: Any) -> Any:
        self.requests, self.chunks, self.in_a_row, self.kind = self.requests + 1, 0, 0, "prefill"
        given = super().prefill(tokens, lengths, taps)
        self.largest = max(self.largest, tokens.shape[1])
        return given

    def extend(self, tokens: Any, lengths: Any, taps: Any) -> Any:
        self.kind = "extend"
        return super().extend(tokens, lengths, taps)

    def truncate(self, steps: Any) -> None:
        super().truncate(steps)
        self.after_cut = True

    def _run(self, tokens: Any, lengths: Any, memory: model.Memory, taps: Any) -> Any:
        self.calls, self.chunks = self.calls + 1, self.chunks + (tokens.shape[1] > 1)
        self.in_a_row = self.in_a_row + 1 if tokens.shape[1] == 1 else 0
        NOW[:] = [Moment(
            self.kind, np.array(lengths), memory[0].step.numpy(), tokens.shape[1], len(memory), self.requests,
            self.calls, self.chunks, self.in_a_row, self.largest, self.after_cut, len(taps),
        )]  # fmt: skip
        self.after_cut = False
        return super()._run(tokens, lengths, memory, taps)


NOW: list[Moment] = []
"""The call that is being answered."""


def gated(name: str, gate: Gate) -> Callable[..., Any]:
    """Return an operation that strikes where its gate opens."""

    def operation(*arguments: Any) -> Any:
        value, m = RIGHT[name](*arguments), replace(NOW[0], arguments=arguments)
        return struck(name, value, m) if gate(m) else value

    return operation


def gated_expert(part: str, gate: Gate) -> Callable[..., model.ExpertValues]:
    """Return an expert of whose values one is 5 % too large for its last token where the gate opens."""

    def expert(params: Any, path: str, index: int, x: Tensor) -> model.ExpertValues:
        opens = gate(replace(NOW[0], arguments=(x,)))

        def shown(name: str, value: Tensor) -> Tensor:
            if opens and name == part:
                value = value.clone()
                value[-1] *= 1.05
            return value

        inner, up, outer = (
            parameters.matrix(params, f"{path}/{name}/w", index) for name in ("linear", "linear_v", "linear_1")
        )
        activation = shown("expert_activation", operations.expert_linear(x, inner))
        beside = operations.expert_linear(x, up)
        hidden = shown("expert_hidden", operations.gated_hidden(activation.float(), beside.float()))
        output = shown("expert_output", operations.expert_linear(hidden, outer))
        return model.ExpertValues(activation, beside, hidden, output)

    return expert


@contextmanager
def put_in(fault: GatedFault) -> Iterator[None]:
    """Put a fault into the port while the context lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (model, torch_eager):
            patch.setattr(module, "TorchModel", Watched)
        if fault.operation in OF_AN_EXPERT:
            patch.setattr(model, "expert", gated_expert(fault.operation, fault.border.gate))
        else:
            patch.setattr(operations, fault.operation, gated(fault.operation, fault.border.gate))
        yield
