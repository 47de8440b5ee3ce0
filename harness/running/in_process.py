"""Runs a Python candidate in this process, so that breakpoints, prints and profilers work: no job folder, no limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grok_conformance.harness.cases.case import Case, Preset, input_tensors, tap_key
from grok_conformance.harness.cases.reruns import reruns_named
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
from grok_conformance.harness.running.answers import Answer, Repeated
from grok_conformance.harness.running.forward_only import ForwardOnly
from grok_conformance.harness.running.jobs import JobCase, job_case_of
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
    if not all(isinstance(row, TapSource) for row in taps):
        raise TypeError("taps= takes rows of a tap map: give (TapSource('logits', engine='output', axes='b t v'), …)")
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


def answer(adapter: Adapter, loaded: Loaded, preset: Preset, case: Case, *, again: bool) -> Answer:
    """Return the answer to one case, with `again` and those further runs that are made at once.

    What the candidate refuses is an answer; whatever else it raises is raised.
    """
    if loaded.refusal:
        return Answer(status="unsupported", reason=loaded.refusal, info=adapter.info)
    described = job_case_of(0, case, tap_names(preset.config), reruns=None if again else ())
    taps = select_taps(described.taps, adapter.info.taps)
    began = time.perf_counter()
    try:
        shown = wanted(run_calls(loaded.model, described, input_tensors(case), [taps] * len(case.calls)), taps)
        seconds = time.perf_counter() - began
        first = Answer(status="answered", info=adapter.info, taps=shown, seconds=seconds)
        return run_again(loaded, described, input_tensors(case), first, after_all=False)
    except Unsupported as error:
        return Answer(status="unsupported", reason=str(error), info=adapter.info)


def answer_later(loaded: Loaded, preset: Preset, case: Case, first: Answer) -> Answer:
    """Return an answer with the further runs that are made when all cases have run; a refused one stays as it is."""
    if first.status != "answered":
        return first
    return run_again(
        loaded, job_case_of(0, case, tap_names(preset.config), None), input_tensors(case), first, after_all=True
    )


def run_again(loaded: Loaded, case: JobCase, inputs: Mapping[str, Array], first: Answer, *, after_all: bool) -> Answer:
    """Return an answer with further runs of the case added."""
    found = dict(first.reruns)
    for rerun in reruns_named(case.reruns, after_all=after_all):
        shown = select_taps(case.taps, first.info.taps if first.info else ())
        asked = [select_taps(shown, patterns) for patterns in rerun.taps_by_call(len(case.calls))]
        keys = {tap_key(call, tap) for call, each in enumerate(asked) for tap in each}
        given = {key: x for key, x in run_calls(loaded.model, case, inputs, asked).items() if key in keys}
        found[rerun.name] = Repeated(digests={key: digest(x) for key, x in given.items()}, taps=given)
    return replace(first, reruns=found)


def wanted(shown: Mapping[str, Array], taps: Sequence[str]) -> dict[str, Array]:
    """Return what was asked for of what was returned."""
    return {key: x for key, x in shown.items() if key.partition("/")[2] in taps}
