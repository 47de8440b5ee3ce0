"""The golden store: a golden set read without trusting it, each tensor verified when it is asked for.

`golden/README.md` describes the folder; `harness.golden.audit` checks a whole set, `harness.golden.writing` writes one.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grok_conformance.harness.cases.case import Cache, Call, CallKind, Case, Preset, tap_key
from grok_conformance.harness.contract import Array, LanguageModelConfig
from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.formats.files import MAX_JSON_BYTES, FileError, parse_json, plain_path
from grok_conformance.harness.formats.schema import validate
from grok_conformance.harness.formats.suggestions import unknown
from grok_conformance.harness.formats.tensors import TensorFile, digest, open_tensors
from grok_conformance.harness.golden.consistency import config_problems, value_problems, weight_problems
from grok_conformance.harness.golden.manifest import MANIFEST_DIGEST, NOISE, Manifest, Tensors, parse_manifest


class FixtureError(FileError):
    """A golden set that does not hold what it should; one line: file, found, expected, how to fix it."""


@dataclass(frozen=True)
class Golden:
    """An open golden set: its folder and what its manifest says."""

    directory: Path
    manifest: Manifest


@dataclass(frozen=True, eq=False)
class VerifiedTensors(Mapping[str, Array]):
    """The tensors of a golden file by name, read lazily; each access verifies the digest and may raise FixtureError."""

    golden: Path
    file: TensorFile
    known: Tensors

    def __getitem__(self, name: str) -> Array:
        """Return one tensor, a read-only view whose bytes have the manifest's digest."""
        array, expected = self.file[name], self.known[name].sha256
        found = digest(array)
        if found != expected:
            detail = f"tensor {name!a} was altered: sha256 {found[:12]}…, expected {expected[:12]}…"
            raise broken(self.golden, self.file.path, detail)
        return array

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order of the data."""
        return iter(self.file)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.file)

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a tensor of that name, without reading it."""
        return name in self.known


def open_golden(directory: Path) -> Golden:
    """Open a golden set; only its manifest is read. Raises FixtureError."""
    if not directory.is_dir():
        raise broken(directory, directory, "no such folder")
    text, checksum = (_read_bytes(directory, name) for name in (MANIFEST, MANIFEST_DIGEST))
    with _fixing(directory):
        return Golden(directory, parse_manifest(directory / MANIFEST, text, checksum))


def case_ids(golden: Golden, pattern: str = "*") -> tuple[str, ...]:
    """Return the ids of the cases that a glob pattern matches, sorted; raises FixtureError if it matches none."""
    known = sorted(golden.manifest.cases)
    ids = tuple(case_id for case_id in known if fnmatch.fnmatchcase(case_id, pattern))
    return ids or (_known(golden, "case", pattern, known),)


def read_config(golden: Golden, name: str) -> LanguageModelConfig:
    """Read the configuration of a preset, verified, its sizes checked. Raises FixtureError."""
    stored = golden.manifest.presets[_known(golden, "preset", name, golden.manifest.presets)]
    path = f"presets/{name}/config.json"
    data = _read_json(golden, path, stored.config, "preset")
    try:
        config = LanguageModelConfig.from_json(data)
    except OverflowError:
        raise broken(golden.directory, golden.directory / path, "a number too large") from None
    for problem in config_problems(config):
        raise broken(golden.directory, golden.directory / path, problem)
    return config


def read_preset(golden: Golden, name: str) -> Preset:
    """Read a preset; its sizes are checked, its weights are verified as they are used. Raises FixtureError."""
    config = read_config(golden, name)
    stored = golden.manifest.presets[name]
    weights = _open_verified(golden, f"presets/{name}/weights.safetensors", stored.weights)
    preset = Preset(name, config, weights)
    for problem in weight_problems({key: tensor.shape for key, tensor in stored.weights.items()}):
        raise broken(golden.directory, weights.file.path, problem)
    for problem in value_problems(weights.file):
        raise broken(golden.directory, weights.file.path, problem)
    return preset


def read_reason(golden: Golden, case_id: str) -> str:
    """Read why a case exists, verified. Raises FixtureError."""
    stored = golden.manifest.cases[_known(golden, "case", case_id, golden.manifest.cases)]
    return str(_read_json(golden, f"cases/{case_id}/case.json", stored.case, "case")["why"])


def read_case(golden: Golden, case_id: str) -> Case:
    """Read a case and its inputs, all verified. Raises FixtureError."""
    stored = golden.manifest.cases[_known(golden, "case", case_id, golden.manifest.cases)]
    name = f"cases/{case_id}/case.json"
    data = _read_json(golden, name, stored.case, "case")
    inputs = _open_verified(golden, f"cases/{case_id}/inputs.safetensors", stored.inputs)
    kinds = [call["kind"] for call in data["calls"]]
    if data["id"] != case_id or data["preset"] != case_id.split("/", 1)[0]:
        detail = f"describes case {data['id']} of preset {data['preset']}, expected {case_id}"
        raise broken(golden.directory, golden.directory / name, detail)
    _check_names(golden, inputs.file, _input_names(len(kinds), preload=data["preload"]))
    preload = Cache(*(inputs[f"preload/{part}"] for part in ("keys", "values", "steps"))) if data["preload"] else None
    calls = tuple(_read_call(i, kind, inputs) for i, kind in enumerate(kinds))
    return Case(**{**data, "calls": calls, "preload": preload, "detects": tuple(data["detects"])})


def read_taps(golden: Golden, case_id: str) -> Mapping[str, Array]:
    """Open the expected taps of a case by `tap_key`; each is verified as it is used. Raises FixtureError."""
    stored = golden.manifest.cases[_known(golden, "case", case_id, golden.manifest.cases)]
    return _open_verified(golden, f"cases/{case_id}/taps.safetensors", stored.taps)


def read_noise(golden: Golden) -> Any:
    """Read the record of the noise model, verified. Raises FixtureError."""
    return _read_json(golden, NOISE, golden.manifest.noise, "noise")


def _input_names(num_calls: int, *, preload: bool) -> frozenset[str]:
    """Return the names of the tensors in a case's inputs.safetensors."""
    calls = (tap_key(call, name) for call in range(num_calls) for name in ("tokens", "lengths"))
    cache = ("preload/keys", "preload/values", "preload/steps") if preload else ()
    return frozenset((*calls, *cache))


def broken(directory: Path, path: Path, detail: str) -> FixtureError:
    """Return the error for a file of a golden set, with the way to fix it."""
    return FixtureError(f"{path}: {detail}; {_fix(directory)}")


def _plain_file(directory: Path, name: str) -> Path:
    """Return the path of a file of a golden set; raises FixtureError unless it is a regular file reached by no link."""
    path, problem = plain_path(directory, *Path(name).parts)
    if problem:
        raise broken(directory, path, problem)
    return path


def _fix(directory: Path) -> str:
    return f"restore it (git checkout -- {directory}) or write the set again (python -m grok_conformance capture)"


@contextlib.contextmanager
def _fixing(directory: Path) -> Iterator[None]:
    """Turn the error of a single file into that of a golden set."""
    try:
        yield
    except FileError as error:
        raise FixtureError(f"{error}; {_fix(directory)}") from None


def _known(golden: Golden, kind: str, name: str, names: Collection[str]) -> str:
    if name not in names:
        raise FixtureError(f"{golden.directory}: {unknown(kind, name, names)}")
    return name


def _read_bytes(directory: Path, name: str) -> bytes:
    path = _plain_file(directory, name)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise broken(directory, path, f"larger than {MAX_JSON_BYTES} bytes, the most that is read")
        return path.read_bytes()
    except OSError as error:
        raise broken(directory, path, f"cannot be read: {error.strerror}") from None


def _read_json(golden: Golden, name: str, sha256: str, schema: str) -> Any:
    path, text = golden.directory / name, _read_bytes(golden.directory, name)
    found = hashlib.sha256(text).hexdigest()
    if found != sha256:
        raise broken(golden.directory, path, f"was altered: sha256 {found[:12]}…, expected {sha256[:12]}…")
    try:
        data = parse_json(text)
        validate(data, schema)
    except ValueError as error:
        raise broken(golden.directory, path, str(error)) from None
    return data


def _open_verified(golden: Golden, name: str, known: Tensors) -> VerifiedTensors:
    path = _plain_file(golden.directory, name)
    with _fixing(golden.directory):
        file = open_tensors(path)
    _check_names(golden, file, known)
    for tensor, header in file.headers.items():
        expected = known[tensor]
        if (header.dtype.name, header.shape) != (expected.dtype, expected.shape):
            found = f"{header.dtype.name} {list(header.shape)}, expected {expected.dtype} {list(expected.shape)}"
            raise broken(golden.directory, path, f"tensor {tensor!a} is {found}")
    return VerifiedTensors(golden.directory, file, known)


def _check_names(golden: Golden, file: TensorFile, expected: Collection[str]) -> None:
    missing, extra = sorted(set(expected) - set(file)), sorted(set(file) - set(expected))
    for names, detail in ((missing, "is missing"), (extra, "is not expected there")):
        if names:
            more = f" (and {len(names) - 1} more)" if names[1:] else ""
            raise broken(golden.directory, file.path, f"tensor {names[0]!a}{more} {detail}")


def _read_call(index: int, kind: CallKind, inputs: Mapping[str, Array]) -> Call:
    return Call(kind, inputs[tap_key(index, "tokens")], inputs[tap_key(index, "lengths")])
