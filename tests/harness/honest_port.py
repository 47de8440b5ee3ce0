"""An honest port without an engine: every operation exact but for modelled noise and a rounding, over golden cases."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import Case, Preset, tap_key
from grok_conformance.harness.checks.evidence import Evidence, gather
from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import DTYPES, GOLDEN_DIR, Array, CandidateInfo, split_tap, tap_names
from grok_conformance.harness.formats.tensors import TensorFile, open_tensors, write_tensors
from grok_conformance.harness.golden.reading import Golden, open_golden, read_case, read_preset, read_taps
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights, Plans, evaluate, walk
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.noise import honest_result
from grok_conformance.harness.running.answers import Answer, Repeated

NUM_ELEMENTS = 10**7
"""The size of the run whose λ the checks of these tests use."""

INFO = CandidateInfo(name="honest_port", version="1", tie_rule=True)

Shown = Callable[[int, str], Array | None]


@functools.cache
def golden() -> Golden:
    return open_golden(GOLDEN_DIR / "v1")


@functools.cache
def golden_preset(name: str) -> Preset:
    preset = read_preset(golden(), name)
    return Preset(name, preset.config, dict(preset.weights))


@functools.cache
def golden_case(case_id: str) -> tuple[Preset, Case]:
    case = read_case(golden(), case_id)
    return golden_preset(case.preset), case


@functools.cache
def golden_taps(case_id: str) -> Mapping[str, Array]:
    return dict(read_taps(golden(), case_id))


@functools.cache
def exact_weights(preset: str, dtype: str) -> ExactWeights:
    drawn = golden_preset(preset)
    return ExactWeights(replace(drawn.config, fprop_dtype=dtype), drawn.weights)


def taps_of(case_id: str) -> tuple[str, ...]:
    return tap_names(golden_case(case_id)[0].config)


def honest_taps(
    case_id: str,
    seed: int,
    *,
    plans: Plans | None = None,
    dtypes: Mapping[str, str] | None = None,
    shown: Shown = lambda _call, _tap: None,
    evaluator: Evaluator = evaluate,
) -> dict[str, Array]:
    """Return what an honest port shows in a golden case; see `noisy_taps`."""
    preset, case = golden_case(case_id)
    weights = exact_weights(preset.name, case.fprop_dtype)
    return noisy_taps(preset, case, weights, seed, plans=plans, dtypes=dtypes, shown=shown, evaluator=evaluator)


def noisy_taps(
    preset: Preset,
    case: Case,
    weights: ExactWeights,
    seed: int,
    *,
    plans: Plans | None = None,
    dtypes: Mapping[str, str] | None = None,
    shown: Shown = lambda _call, _tap: None,
    evaluator: Evaluator = evaluate,
) -> dict[str, Array]:
    """Return what an honest port shows: `dtypes` are operations kept in another dtype, `shown` values forced on it.

    Another evaluator makes it a port with a fault.
    """
    kept = {**GROK_1.recorded_dtypes(weights.config, preset.weights), **(dtypes or {})}
    random = np.random.default_rng(seed)

    def compute(tap: str, exact: Exact) -> Array:
        return honest_result(exact, kept[split_tap(tap)[1]], random)

    made = walk(preset, case, shown, weights=weights, plans=plans, perturb=compute, evaluator=evaluator)
    return {tap_key(call, tap): value.astype(DTYPES[kept[split_tap(tap)[1]]]) for call, tap, _, value in made}


def evidence_of(
    case_id: str,
    taps: Mapping[str, Array],
    patterns: Collection[str] = ("*",),
    dtypes: Mapping[str, str] | None = None,
) -> Evidence:
    preset, case = golden_case(case_id)
    return gather(preset, case, replace(INFO, taps=tuple(patterns), dtypes=dtypes or {}), taps)


def check(
    case_id: str,
    taps: Mapping[str, Array],
    patterns: Collection[str] = ("*",),
    *,
    plans: Plans | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> list[Comparison]:
    preset, case = golden_case(case_id)
    evidence = evidence_of(case_id, taps, patterns, dtypes)
    weights = exact_weights(preset.name, case.fprop_dtype)
    exhibit = Exhibit(preset, case, evidence, weights, Ways(plans or {}))
    return check_case(exhibit, num_elements=NUM_ELEMENTS)


def at_fault(comparisons: Collection[Comparison]) -> set[str]:
    return {comparison.operation for comparison in comparisons if not comparison.passed}


def group_of(*case_ids: str) -> Group:
    """Return the group of some golden cases of one preset and compute dtype."""
    preset, first = golden_case(case_ids[0])
    return Group(preset, first.fprop_dtype, tuple(golden_case(case_id)[1] for case_id in case_ids), golden_taps)


def answered(
    folder: Path,
    taps: Mapping[str, Array],
    *,
    info: CandidateInfo = INFO,
    reruns: Mapping[str, Mapping[str, Array]] | None = None,
) -> Answer:
    """Return an answer whose taps lie in files of a folder, as the runner reads them."""
    folder.mkdir(parents=True, exist_ok=True)

    def stored(name: str, tensors: Mapping[str, Array]) -> TensorFile:
        write_tensors(folder / f"{name}.safetensors", tensors)
        return open_tensors(folder / f"{name}.safetensors", on_disk=True)

    again = {name: Repeated(taps=stored(name, tensors)) for name, tensors in (reruns or {}).items()}
    return Answer(status="answered", info=info, taps=stored("taps", taps), reruns=again, seconds=0.5)
