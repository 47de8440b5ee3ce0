"""The audit of a golden set: every file, every digest, and every tensor that the contract demands."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import Case, Preset, steps_before, tap_key
from grok_conformance.harness.contract import Array, LanguageModelConfig, split_tap, tap_names, tap_specs
from grok_conformance.harness.golden.manifest import NOISE, StoredTensor
from grok_conformance.harness.golden.noise_record import record_problems
from grok_conformance.harness.golden.reading import (
    Golden,
    broken,
    open_golden,
    read_case,
    read_noise,
    read_preset,
    read_taps,
)
from grok_conformance.harness.graph.grok_1 import GROK_1


def check_golden(directory: Path) -> None:
    """Check a whole golden set, every byte of it; raises FixtureError at the first thing wrong."""
    golden = open_golden(directory)
    _check_files(golden)
    for problem in record_problems(read_noise(golden)):
        raise broken(directory, directory / NOISE, problem)
    presets = {name: read_preset(golden, name) for name in golden.manifest.presets}
    for preset in presets.values():
        _read_all(preset.weights)
    for case_id in golden.manifest.cases:
        case = read_case(golden, case_id)
        check_case_fits(golden, case, presets[case.preset])
        _read_all(read_taps(golden, case_id))


def check_case_fits(golden: Golden, case: Case, preset: Preset) -> None:
    """Raise FixtureError unless a case's inputs and expected taps are those that its preset's model takes and makes."""
    folder = golden.directory / "cases" / case.id
    for problem in input_problems(case, preset.config):
        raise broken(golden.directory, folder / "inputs.safetensors", problem)
    for problem in tap_problems(case, preset, golden.manifest.cases[case.id].taps):
        raise broken(golden.directory, folder / "taps.safetensors", problem)


def input_problems(case: Case, config: LanguageModelConfig) -> list[str]:
    """Return what is wrong with a case's inputs: dtypes and shapes, else values and the order of the calls."""
    return list(_shape_problems(case, config)) or list(_value_problems(case, config))


def tap_problems(case: Case, preset: Preset, taps: Mapping[str, StoredTensor]) -> list[str]:
    """Return what is wrong with names, dtypes and shapes of a case's expected taps, against the contract."""
    demanded = demanded_taps(case, preset)
    missing = [f"tap {key} is missing" for key in demanded if key not in taps]
    unknown = [f"tap {key!a} is none that the contract demands of this case" for key in taps if key not in demanded]
    misshapen = [
        _mismatch(f"tap {key}", (stored.dtype, stored.shape), demanded[key])
        for key, stored in taps.items()
        if key in demanded and (stored.dtype, stored.shape) != demanded[key]
    ]
    return missing + unknown + misshapen


def demanded_taps(case: Case, preset: Preset) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of every tap that a case must hold, by `tap_key`."""
    config = replace(preset.config, fprop_dtype=case.fprop_dtype)
    dtypes = GROK_1.recorded_dtypes(config, preset.weights)
    axes = {spec.operation: spec.axes for spec in tap_specs()}
    demanded = {}
    for index, call in enumerate(case.calls):
        b, t = call.tokens.shape
        sizes = {**config.axis_sizes, "b": b, "t": t}
        for tap in tap_names(config):
            operation = split_tap(tap)[1]
            demanded[tap_key(index, tap)] = dtypes[operation], tuple(sizes[axis] for axis in axes[operation])
    return demanded


def _check_files(golden: Golden) -> None:
    known, found = golden.manifest.files(), set(_files(golden.directory))
    for name in sorted(found - known):
        raise broken(golden.directory, golden.directory / name, "the manifest does not know it, remove it")
    for name in sorted(known - found):
        raise broken(golden.directory, golden.directory / name, "no such file")


def _files(directory: Path) -> Iterator[str]:
    """Yield the relative path of everything below a folder that is no folder; links are not followed."""
    for folder, folders, files in os.walk(directory):
        for path in (Path(folder, name) for name in (*files, *folders)):
            if path.is_symlink() or not path.is_dir():
                yield path.relative_to(directory).as_posix()


def _read_all(tensors: Mapping[str, Array]) -> None:
    """Read every tensor, which verifies it."""
    for name in tensors:
        tensors[name]


def _shape_problems(case: Case, config: LanguageModelConfig) -> Iterator[str]:
    b, *_ = *case.calls[0].tokens.shape, 0
    for index, call in enumerate(case.calls):
        _, t, *_ = *call.tokens.shape, 0, 0
        yield from _tensor_problem(tap_key(index, "tokens"), call.tokens, "int32", (b, t))
        yield from _tensor_problem(tap_key(index, "lengths"), call.lengths, "int32", (b,))
    if case.preload is not None:
        shape = (config.model.num_layers, b, *(config.axis_sizes[axis] for axis in "sgh"))
        yield from _tensor_problem("preload/keys", case.preload.keys, case.fprop_dtype, shape)
        yield from _tensor_problem("preload/values", case.preload.values, case.fprop_dtype, shape)
        yield from _tensor_problem("preload/steps", case.preload.steps, "int32", (b,))


def _value_problems(case: Case, config: LanguageModelConfig) -> Iterator[str]:
    if case.preload is not None:
        yield from _range_problems("preload/steps", case.preload.steps, config.sequence_len)
    for index, call in enumerate(case.calls):
        t = call.tokens.shape[1]
        yield from _range_problems(tap_key(index, "tokens"), call.tokens, config.vocab_size - 1)
        yield from _range_problems(tap_key(index, "lengths"), call.lengths, t)
        if (call.kind == "prefill") != (index == 0 and case.preload is None):
            yield f"call {index} is {call.kind}: prefill starts an empty cache, extend and decode continue one"
        if call.kind == "decode" and (t != 1 or np.any(call.lengths != 1)):
            yield f"call {index} is decode of {t} tokens with lengths {call.lengths.tolist()}, expected 1 per row"
        if np.any(steps_before(case, index) + t > config.sequence_len):
            yield f"call {index} ends beyond the cache of {config.sequence_len} slots"


def _tensor_problem(name: str, array: Array, dtype: str, shape: tuple[int, ...]) -> Iterator[str]:
    if (array.dtype.name, array.shape) != (dtype, shape):
        yield _mismatch(name, (array.dtype.name, array.shape), (dtype, shape))


def _range_problems(name: str, values: Array, largest: int) -> Iterator[str]:
    for index in np.argwhere((values < 0) | (values > largest)):
        yield f"{name}{index.tolist()} is {values[tuple(index)]}, expected 0 to {largest}"


def _mismatch(name: str, found: tuple[str, tuple[int, ...]], expected: tuple[str, tuple[int, ...]]) -> str:
    return f"{name} is {found[0]} {list(found[1])}, expected {expected[0]} {list(expected[1])}"
