"""The manifest of a golden set: what it holds, by digest, and where it comes from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.formats.files import FileError, parse_json, whole_file, write_json
from grok_conformance.harness.formats.schema import validate
from grok_conformance.harness.formats.tensors import digest

FORMAT = 1
MANIFEST_DIGEST = "manifest.sha256"
"""What `sha256sum -c` reads: the manifest vouches for every other file, and this one for the manifest."""

NOISE = "noise.json"

PRESET_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the manifest knows it; `sha256` is that of its raw little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


Tensors = Mapping[str, StoredTensor]


@dataclass(frozen=True)
class StoredPreset:
    """A preset's files: the sha256 of config.json, and the tensors of weights.safetensors."""

    config: str
    weights: Tensors


@dataclass(frozen=True)
class StoredCase:
    """A case's files: the sha256 of case.json, and the tensors of inputs.safetensors and taps.safetensors."""

    case: str
    inputs: Tensors
    taps: Tensors


@dataclass(frozen=True)
class Provenance:
    """Where a golden set comes from.

    `generator` and `specification` name the program and the SPEC with their versions; `toolchain` maps packages to
    versions, `platform` describes the machine, and `precision` states every pin of the arithmetic.
    """

    generator: str
    specification: str
    toolchain: Mapping[str, str]
    platform: Mapping[str, str]
    precision: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds; `suite` is the version of the golden set, presets and cases go by name and id.

    `noise` is the sha256 of the record of the noise model, `noise.json`.
    """

    suite: str
    provenance: Provenance
    noise: str
    presets: Mapping[str, StoredPreset]
    cases: Mapping[str, StoredCase]

    def files(self) -> frozenset[str]:
        """Return the path of every file of the set, relative to its folder."""
        presets = (f"presets/{name}/{file}" for name in self.presets for file in ("config.json", "weights.safetensors"))
        cases = (
            f"cases/{case_id}/{file}"
            for case_id in self.cases
            for file in ("case.json", "inputs.safetensors", "taps.safetensors")
        )
        return frozenset((MANIFEST, MANIFEST_DIGEST, NOISE, *presets, *cases))


def describe(tensors: Mapping[str, Array]) -> dict[str, StoredTensor]:
    """Return what the manifest says of these tensors."""
    return {name: StoredTensor(x.dtype.name, x.shape, digest(x)) for name, x in sorted(tensors.items())}


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` and `manifest.sha256`; raises FileError for what the schema forbids."""
    data = {"format": FORMAT, **asdict(manifest)}
    try:
        validate(data, "manifest")
    except ValueError as error:
        raise FileError(f"{folder / MANIFEST}: cannot be stored: {error}") from None
    write_json(folder / MANIFEST, data)
    with whole_file(folder / MANIFEST_DIGEST) as file:
        file.write(_checksum_line((folder / MANIFEST).read_bytes()))


def parse_manifest(path: Path, text: bytes, checksum: bytes) -> Manifest:
    """Parse the bytes of `manifest.json` and `manifest.sha256`; raises FileError, which names `path`."""
    try:
        data = parse_json(text)
        _check_format(data)
        validate(data, "manifest")
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
    if checksum != _checksum_line(text):
        raise FileError(f"{path}: altered: its sha256 is not the one in {MANIFEST_DIGEST}")
    manifest = Manifest(
        suite=data["suite"],
        provenance=Provenance(**data["provenance"]),
        noise=data["noise"],
        presets={
            name: StoredPreset(row["config"], _parse_tensors(row["weights"])) for name, row in data["presets"].items()
        },
        cases={
            case_id: StoredCase(row["case"], _parse_tensors(row["inputs"]), _parse_tensors(row["taps"]))
            for case_id, row in data["cases"].items()
        },
    )
    for case_id in manifest.cases:
        if case_id.split("/", 1)[0] not in manifest.presets:
            raise FileError(f"{path}: case {case_id}: its preset is not in the set")
    return manifest


def _check_format(data: Any) -> None:
    """Tell a set of another format apart from a broken one, before the schema does not know what to make of it."""
    found = data.get("format") if isinstance(data, dict) else None
    if type(found) is int and found != FORMAT:
        raise ValueError(f"format {found}, expected {FORMAT}: use the harness of that format")


def _checksum_line(text: bytes) -> bytes:
    return f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode()


def _parse_tensors(rows: Mapping[str, Any]) -> dict[str, StoredTensor]:
    return {name: StoredTensor(row["dtype"], tuple(row["shape"]), row["sha256"]) for name, row in rows.items()}
