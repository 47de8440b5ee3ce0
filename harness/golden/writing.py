"""Golden sets written whole or not at all, and never replaced unasked."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grok_conformance.harness.cases.case import Case, Preset, input_tensors
from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.formats.files import read_json, write_json
from grok_conformance.harness.formats.schema import validate
from grok_conformance.harness.formats.tensors import write_tensors
from grok_conformance.harness.golden.audit import input_problems, tap_problems
from grok_conformance.harness.golden.manifest import (
    NOISE,
    PRESET_NAME,
    Manifest,
    Provenance,
    StoredCase,
    StoredPreset,
    describe,
    file_digest,
    write_manifest,
)
from grok_conformance.harness.golden.noise_record import record_problems
from grok_conformance.harness.golden.reading import FixtureError, open_golden


def write_golden(
    directory: Path,
    *,
    suite: str,
    provenance: Provenance,
    presets: Sequence[Preset],
    cases: Iterable[tuple[Case, Mapping[str, Array]]],
    replace: Collection[str] = (),
) -> Manifest:
    """Write a golden set of presets and of cases with their expected taps (by `tap_key`).

    The set is built beside `directory` and takes that name only when it is complete; `cases` are asked for only once no
    other writer can be at work. `replace` holds glob patterns of the presets and cases of a present set that may change
    or go; with "*" that set need not even be readable. The record of the noise model is this harness's own. Raises
    FixtureError for what may not be stored or replaced, and then the present set stays as it was.
    """
    by_name = {preset.name: preset for preset in presets}
    record = read_json(GOLDEN / NOISE)
    with whole_folder(directory) as folder:
        manifest = Manifest(
            suite=suite,
            provenance=provenance,
            noise=_write_record(folder, record),
            presets={preset.name: _write_preset(folder, preset) for preset in presets},
            cases={case.id: _write_case(folder, case, by_name.get(case.preset), taps) for case, taps in cases},
        )
        write_manifest(folder, manifest)
        if directory.exists() and "*" not in replace:
            _refuse_changes(directory, manifest, replace)
    return manifest


def replace_record(directory: Path, record: Any) -> None:
    """Give a golden set another record of the noise model, whole or not at all; everything else stays as it is.

    Raises FixtureError for a record that does not vouch for this harness.
    """
    present = open_golden(directory).manifest
    with whole_folder(directory) as folder:
        shutil.copytree(directory, folder, copy_function=os.link, dirs_exist_ok=True)
        write_manifest(folder, dataclasses.replace(present, noise=_write_record(folder, record)))


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to fill, which takes the name `folder`, and the place of an older one, once it is on disk.

    Whenever it is interrupted, `folder` is wholly the old or wholly the new one. Only a process killed between the two
    renames of a replacement leaves the old one as `.NAME.replaced`; the next writer puts it back. Raises FixtureError
    if the disk refuses or another writer is at work.
    """
    partial, replaced = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "replaced"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except FileExistsError:
        raise FixtureError(f"{partial}: another capture is writing, or was killed; if none runs, remove it") from None
    except OSError as error:
        raise FixtureError(f"{partial}: cannot be written: {error.strerror}; nothing was replaced") from None
    try:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        yield partial
        for path in (*partial.rglob("*/"), partial):
            _sync(path)
        _take_place(partial, folder, replaced)
    except OSError as error:
        raise FixtureError(f"{folder}: cannot be written: {error.strerror or error}; make room and try again") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, folder: Path, replaced: Path) -> None:
    shutil.rmtree(replaced, ignore_errors=True)
    try:
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    except BaseException:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Put a folder's entries on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_record(golden: Path, record: Any) -> str:
    """Write the record of the noise model and return its digest."""
    _check(NOISE, record, "noise")
    for problem in record_problems(record):
        raise FixtureError(f"{NOISE}: cannot be stored: {problem}")
    write_json(golden / NOISE, record)
    return file_digest(golden / NOISE)


def _write_preset(golden: Path, preset: Preset) -> StoredPreset:
    config = preset.config.to_json()
    if not PRESET_NAME.fullmatch(preset.name):
        raise FixtureError(
            f"preset {preset.name!a}: a name consists of a-z, 0-9, _, . and -, and begins with a-z or 0-9"
        )
    _check(f"preset {preset.name}", config, "preset")
    folder = _new_folder(golden, f"presets/{preset.name}")
    write_json(folder / "config.json", config)
    write_tensors(folder / "weights.safetensors", preset.weights)
    return StoredPreset(file_digest(folder / "config.json"), describe(preset.weights))


def _write_case(golden: Path, case: Case, preset: Preset | None, taps: Mapping[str, Array]) -> StoredCase:
    data = {
        "id": case.id,
        "preset": case.preset,
        "fprop_dtype": case.fprop_dtype,
        "why": case.why,
        "origin": case.origin,
        "calls": [{"kind": call.kind} for call in case.calls],
        "preload": case.preload is not None,
        "detects": list(case.detects),
        "published_degenerate": case.published_degenerate,
        **({"tie_rule": True} if case.tie_rule else {}),
    }
    what = f"case {case.id!a}"
    _check(what, data, "case")
    if preset is None or case.id.split("/", 1)[0] != preset.name:
        raise FixtureError(f"{what}: cannot be stored: an id begins with the name of a preset of the set")
    inputs, stored_taps = input_tensors(case), describe(taps)
    for problem in input_problems(case, preset.config) or tap_problems(case, preset, stored_taps):
        raise FixtureError(f"{what}: cannot be stored: {problem}")
    folder = _new_folder(golden, f"cases/{case.id}")
    write_json(folder / "case.json", data)
    write_tensors(folder / "inputs.safetensors", inputs)
    write_tensors(folder / "taps.safetensors", taps)
    return StoredCase(file_digest(folder / "case.json"), describe(inputs), stored_taps)


def _check(what: str, data: Any, schema: str) -> None:
    try:
        validate(data, schema)
    except ValueError as error:
        raise FixtureError(f"{what}: cannot be stored: {error}") from None


def _new_folder(golden: Path, name: str) -> Path:
    folder = golden / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise FixtureError(f"{name}: given twice; give each preset and case a name of its own") from None
    return folder


def _refuse_changes(directory: Path, manifest: Manifest, replace: Collection[str]) -> None:
    """Raise FixtureError if a preset or case of the present set would change or go unasked."""
    old = open_golden(directory).manifest
    before, after = ({**each.presets, **each.cases} for each in (old, manifest))
    changed = [
        name
        for name, stored in before.items()
        if after.get(name) != stored and not any(fnmatch.fnmatchcase(name, pattern) for pattern in replace)
    ]
    if changed:
        first, more = changed[0], f" and {len(changed) - 1} more" if changed[1:] else ""
        change = f"would {'change' if first in after else 'go'}{more}"
        raise FixtureError(f"{directory}: {first} {change}; if that is meant: --replace {first} --reason TEXT")
