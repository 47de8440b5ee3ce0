"""What a large capture is to hold: the model, the calls, and in which form each tap is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from grok_conformance.harness.cases.case import Call, Case
from grok_conformance.harness.contract import LOGITS, Array, LanguageModelConfig, split_tap, tap_names
from grok_conformance.harness.formats.files import FileError, read_json, write_json
from grok_conformance.harness.formats.schema import validate
from grok_conformance.harness.golden.consistency import config_problems
from grok_conformance.harness.graph.grok_1 import GROK_1

FORMAT = 1
PLAN = "plan.json"

Form = Literal["full", "rows", "sketch"]

SMALL = frozenset("btec")
"""Axes of which a tap that has no other is small."""


def is_always_full(operation: str) -> bool:
    """Return whether every form keeps a tap whole: it is small, or a cache, which every local check needs."""
    return operation in GROK_1.copies or SMALL.issuperset(GROK_1.specs[operation].axes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is captured; plan.json holds it, and a capture is resumed only under an equal one.

    `name` is the preset's, `weights` a digest of the checkpoint. `num_layers` are run; the logits too if these are all.
    `rows` are the positions of the first call that the form `rows` keeps; `seed` draws the sketch.
    """

    name: str
    config: LanguageModelConfig
    weights: str
    num_layers: int
    calls: tuple[Call, ...]
    form: Form
    rows: tuple[int, ...]
    seed: int

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages in order: the embedding, every layer, the logits."""
        layers = tuple(f"layers.{i:02d}" for i in range(self.num_layers))
        return (GROK_1.stream[0], *layers, *((LOGITS,) if self.complete else ()))

    @property
    def complete(self) -> bool:
        """Whether every layer is run."""
        return self.num_layers == self.config.model.num_layers

    @property
    def case(self) -> Case:
        """The calls as a case, which the masks of the comparison are made for."""
        return Case(
            id=f"{self.name}/large/{self.form}",
            preset=self.name,
            fprop_dtype=self.config.fprop_dtype,
            why="the model of full size",
            origin="harness.large",
            calls=self.calls,
        )

    def taps(self, stage: str) -> tuple[str, ...]:
        """Return the taps that a stage makes."""
        names = tap_names(self.config)
        first = GROK_1.stream[0]
        if stage == first:
            return (first,)
        if stage == LOGITS:
            return tuple(name for name in names if split_tap(name)[0] is None and name != first)
        return tuple(name for name in names if name.startswith(f"{stage}."))

    def form_of(self, tap: str) -> Form:
        """Return the form in which a tap is kept."""
        return "full" if is_always_full(split_tap(tap)[1]) else self.form

    def kept_rows(self, call: int) -> tuple[int, ...]:
        """Return the positions of a call that the form `rows` keeps: all of a call of one token."""
        return (0,) if self.calls[call].tokens.shape[1] == 1 else self.rows

    def to_json(self) -> dict[str, Any]:
        """Return what plan.json holds."""
        return {
            "format": FORMAT,
            "name": self.name,
            "config": LanguageModelConfig.from_json(self.config.to_json()).to_json(),  # real numbers as floats
            "weights": self.weights,
            "num_layers": self.num_layers,
            "calls": [
                {"kind": call.kind, "tokens": call.tokens.tolist(), "lengths": call.lengths.tolist()}
                for call in self.calls
            ],
            "form": self.form,
            "rows": list(self.rows),
            "seed": self.seed,
        }


def make_calls(tokens: Array, num_decoded: int) -> tuple[Call, ...]:
    """Return a prefill of tokens int32 [b, t] but for the last `num_decoded`, which are decoded one by one."""
    batch, num_tokens = tokens.shape
    split = num_tokens - num_decoded
    if not 0 < split <= num_tokens:
        raise FileError(f"{num_decoded} of {num_tokens} tokens to decode: at least one must be left for the prefill")

    def call(kind: Literal["prefill", "decode"], start: int, stop: int) -> Call:
        return Call(kind, tokens[:, start:stop], np.full(batch, stop - start, np.int32))

    return (call("prefill", 0, split), *(call("decode", i, i + 1) for i in range(split, num_tokens)))


def write_plan(folder: Path, plan: Plan) -> None:
    """Write plan.json; raises FileError."""
    data = plan.to_json()
    _check(folder / PLAN, data)
    write_json(folder / PLAN, data)


def read_plan(folder: Path) -> Plan:
    """Read plan.json; raises FileError."""
    data = read_json(folder / PLAN)
    _check(folder / PLAN, data)
    try:
        plan = Plan(
            name=data["name"],
            config=LanguageModelConfig.from_json(data["config"]),
            weights=data["weights"],
            num_layers=data["num_layers"],
            calls=tuple(_parse_call(row) for row in data["calls"]),
            form=data["form"],
            rows=tuple(data["rows"]),
            seed=data["seed"],
        )
        for problem in plan_problems(plan):
            raise ValueError(problem)
    except (OverflowError, ValueError) as error:
        raise FileError(f"{folder / PLAN}: {error}") from None
    return plan


def plan_problems(plan: Plan) -> Iterator[str]:
    """Yield what is wrong with a plan beyond its schema: the sizes of its model, the shapes of its calls, its rows."""
    yield from config_problems(plan.config)
    if not 1 <= plan.num_layers <= plan.config.model.num_layers:
        yield f"num_layers {plan.num_layers}, of a model of {plan.config.model.num_layers}"
    for call in plan.calls:
        if call.tokens.ndim != 2 or call.lengths.shape != call.tokens.shape[:1] or not call.tokens.size:  # noqa: PLR2004 - b, t
            yield f"tokens {list(call.tokens.shape)} with lengths {list(call.lengths.shape)}, expected [b, t] and [b]"
        elif not ((call.lengths >= 0) & (call.lengths <= call.tokens.shape[1])).all():
            yield "a length is none of a row of tokens"
        elif not ((call.tokens >= 0) & (call.tokens < plan.config.vocab_size)).all():
            yield f"a token is none of {plan.config.vocab_size}"
    if not all(0 <= row < plan.calls[0].tokens.shape[1] for row in plan.rows):
        yield "rows that the first call does not have"


def differences(old: Plan, new: Plan) -> list[str]:
    """Return the keys in which two plans differ."""
    before, after = old.to_json(), new.to_json()
    return [key for key in before if before[key] != after[key]]


def _parse_call(row: Mapping[str, Sequence[Any]]) -> Call:
    return Call(row["kind"], np.array(row["tokens"], np.int32), np.array(row["lengths"], np.int32))  # type: ignore[arg-type]


def _check(path: Path, data: Any) -> None:
    try:
        validate(data, "large_plan")
        validate(data["config"], "preset")
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
