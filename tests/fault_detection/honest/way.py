"""A way to compute in which a real engine does, put into the torch port: what it replaces, shows and declares."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from torch import Tensor

from grok_conformance.candidates import torch_eager
from grok_conformance.candidates.torch_eager import model, operations, parameters
from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.contract import Array, CandidateInfo, select_taps, tap_names, tap_specs
from tests.conformance.torch_cases import torch_taps

Mark = Literal["honest", "declared", "quirk", "wrong"]
"""honest: must pass; declared: passes only where INFO says so; quirk: misses a published quirk alone; wrong: fails."""

Driving = Callable[[Preset, Case], dict[str, Array]]
"""Runs the torch port over a case, and returns all its taps."""

Showing = Callable[[dict[str, Array], Preset, Case], dict[str, Array]]
"""Changes what is shown (by `call0/TAP`), as an engine that keeps or gives its values otherwise."""


def as_they_are(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
    """Show the taps as they are."""
    del preset, case
    return taps


@dataclass(frozen=True, kw_only=True)
class Way:
    """One row of the zoo.

    `engines` do it, `does` says what in one sentence. `operations`, `model` and `parameters` are the names that are
    replaced in those modules of the torch port, `driving` makes the calls, `showing` changes what is shown. `hides` are
    operations that are not shown, `info` fields of INFO that differ. `plan` are the operations at which another
    rounding must be named, but for those that are `untold`: what hidden taps or a wide fence may keep from being told
    (a way that approximates need not err beyond what the published one may). `fault` is the name of what is wrong.
    """

    id: str
    mark: Mark = "honest"
    engines: str
    does: str
    operations: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    hides: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    driving: Driving = torch_taps
    showing: Showing = as_they_are
    plan: tuple[str, ...] = ()
    untold: bool = False
    fault: str = ""

    @property
    def shown(self) -> CandidateInfo:
        """The INFO of the port: all taps but the hidden ones."""
        taps = tuple(spec.name for spec in tap_specs() if spec.operation not in self.hides)
        return replace(torch_eager.INFO, name=self.id, taps=taps, **self.info)


@contextlib.contextmanager
def computing(way: Way) -> Iterator[None]:
    """Let the torch port compute in a way while the context lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in ((operations, way.operations), (model, way.model), (parameters, way.parameters)):
            for name, replacement in names.items():
                patch.setattr(module, name, replacement)
        yield


def taps_of(way: Way, preset: Preset, case: Case) -> dict[str, Array]:
    """Run the torch port in a way over a case, and return what it shows, by `call0/TAP`."""
    with computing(way):
        taps = way.showing(way.driving(preset, case), preset, case)
    wanted = select_taps(tap_names(preset.config), way.shown.taps)
    return {key: value for key, value in taps.items() if key.partition("/")[2] in wanted}


def both(one: Way, *others: Way, **fields: Any) -> Way:
    """Return several ways as one, whose replacements must not overlap."""
    rows = (one, *others)
    merged = {
        name: _union([getattr(row, name) for row in rows]) for name in ("operations", "model", "parameters", "info")
    }
    hides = tuple(dict.fromkeys(hidden for row in rows for hidden in row.hides))
    plan = tuple(dict.fromkeys(operation for row in rows for operation in row.plan if operation not in hides))
    untold = any(row.untold for row in rows)
    return replace(one, **{**merged, "hides": hides, "plan": plan, "untold": untold, **fields})


def _union(parts: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    union: dict[str, Any] = {}
    for part in parts:
        if overlap := [name for name in part if name in union and union[name] is not part[name]]:
            raise ValueError(f"two ways replace {overlap[0]}: write the combination by hand")
        union |= part
    return union


def narrow(x: Tensor) -> bool:
    """Return whether a tensor has a compute dtype below float32."""
    return x.element_size() == 2


def matching(names: Collection[str], pattern: str) -> tuple[str, ...]:
    """Return the ids that match a glob."""
    return select_taps(names, [pattern])
