"""Runs a Python candidate in this process, so that breakpoints, prints and profilers work: no job folder, no limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.contract import (
    Array,
    CandidateInfo,
    LanguageModelConfig,
    Unsupported,
    Weights,
    select_taps,
    tap_names,
)
from grok_conformance.harness.contract.tap_map import TapSource, shown_taps
from grok_conformance.harness.formats.tensors import digest
from grok_conformance.harness.running.answers import Answer
from grok_conformance.harness.running.forward_only import ForwardOnly
from grok_conformance.harness.running.jobs import inputs_of, job_case_of
from grok_conformance.harness.running.python_runner import (
    import_candidate,
    info_of,
    load_model,
    run_calls,
)
from grok_conformance.harness.running.registry import UnknownCandidateError, find_candidate

Load = Callable[[LanguageModelConfig, Weights], Any]


@dataclass(frozen=True)
class Adapter:
    """A candidate in this process: what it is called, what it says of itself, and how it loads a model.

    `module` has its optional hooks, such as `dequantize`.
    """

    name: str
    info: CandidateInfo
    load: Load
    module: Any = None


def adapter_of(candidate: Any, taps: Sequence[TapSource] = ()) -> Adapter:
    """Return the adapter of a candidate.

    It is a name as the command line takes it, a module or another object with INFO and load, or a function
    `load(config, weights)` with the tap map of what it returns. Raises UnknownCandidateError, TypeError and ValueError.
    """
    if isinstance(candidate, str):
        found = find_candidate(candidate)
        if not found.serves_many:
            raise UnknownCandidateError(f"{candidate}: a program runs in a process of its own: leave out --in-process")
        module = import_candidate(found.command[-1])
        return Adapter(candidate, info_of(module, candidate), module.load, module)
    if hasattr(candidate, "INFO"):
        name = getattr(candidate, "__name__", type(candidate).__name__)
        info = info_of(candidate, name)
        return Adapter(info.name, info, candidate.load, candidate)
    if not callable(candidate):
        raise TypeError(f"{candidate!r} is no candidate: give a name, a module with INFO and load, or a load function")
    if not taps:
        raise TypeError("a load function needs taps=(TapSource(…), …): where its model has the logits, at least")
    info = CandidateInfo(name=candidate.__name__, version="", taps=shown_taps(taps))

    def load(config: LanguageModelConfig, weights: Weights) -> Any:
        model = candidate(config, weights)
        return model if model is None or hasattr(model, "prefill") else ForwardOnly(model, taps, config)

    return Adapter(candidate.__name__, info, load)


@dataclass(frozen=True)
class Loaded:
    """A model with the weights of one preset in one compute dtype, or the reason why there is none."""

    model: Any
    refusal: str = ""


def load_adapter(adapter: Adapter, config: LanguageModelConfig, weights: Weights) -> Loaded:
    """Load the model; what an adapter refuses is an answer, whatever else it raises is raised."""
    if config.fprop_dtype not in adapter.info.fprop_dtypes:
        return Loaded(None, f"fprop_dtype {config.fprop_dtype}; it runs {', '.join(adapter.info.fprop_dtypes)}")
    try:
        return Loaded(load_model(adapter, config, weights))
    except Unsupported as error:
        return Loaded(None, str(error))


def answer_cases(
    adapter: Adapter, loaded: Loaded, preset: Preset, cases: Sequence[Case], *, again: bool, untapped: bool
) -> Iterator[tuple[Case, Answer]]:
    """Yield the answer to every case as it is given; `again` runs each a second time, `untapped` without taps too.

    Whatever a candidate raises is raised, unless it refuses the case.
    """
    for index, case in enumerate(cases):
        try:
            yield case, answer(adapter, loaded, preset, case, index, again=again, untapped=untapped)
        except Unsupported as error:
            yield case, Answer(status="unsupported", reason=str(error), info=adapter.info)


def answer(
    adapter: Adapter, loaded: Loaded, preset: Preset, case: Case, index: int, *, again: bool, untapped: bool
) -> Answer:
    """Return the answer to one case; raises what the candidate raises."""
    if loaded.refusal:
        raise Unsupported(loaded.refusal)
    described = job_case_of(index, case, tap_names(preset.config), again=untapped)
    inputs, taps = inputs_of(case), select_taps(described.taps, adapter.info.taps)
    began = time.perf_counter()
    shown = wanted(run_calls(loaded.model, described, inputs, taps), taps, len(case.calls))
    seconds = time.perf_counter() - began
    repeat = None
    if again:
        repeat = {key: digest(x) for key, x in run_calls(loaded.model, described, inputs, taps).items()}
    fewer = select_taps(described.untapped, adapter.info.taps)
    alone = wanted(run_calls(loaded.model, described, inputs, fewer), fewer, len(case.calls)) if untapped else None
    return Answer(status="answered", info=adapter.info, taps=shown, untapped=alone, repeat=repeat, seconds=seconds)


def wanted(shown: Mapping[str, Array], taps: Sequence[str], num_calls: int) -> dict[str, Array]:
    """Return what was asked for of what was returned."""
    keys = {f"call{call}/{tap}" for call in range(num_calls) for tap in taps}
    return {key: x for key, x in shown.items() if key in keys}
