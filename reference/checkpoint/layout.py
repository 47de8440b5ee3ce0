"""Which file of a checkpoint holds which parameter, and whether its content may stand there (SPEC §8)."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from grok_conformance.reference.checkpoint.index import INDEX_NAME, IndexEntry, file_name, read_index, sample_digest
from grok_conformance.reference.checkpoint.pickles import DTYPES, CheckpointError, StoredLeaf, decode
from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.parameters import TrainingState, parameter_shapes
from grok_conformance.reference.quantization import is_quantized

DIRECTORY_NAME = "ckpt-0"

_TENSOR_FILE = re.compile(r"tensor\d+_\d+")
_log = logging.getLogger(__name__)


class ArrayType(Protocol):
    """Whatever has the dtype and the shape of an array: one in memory, one in a file, or its stand-in."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The elements' type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""


@dataclass(frozen=True)
class LeafFile:
    """A parameter and the file that holds it, checked against the configuration."""

    module: str
    name: str
    path: Path
    stored: StoredLeaf


def tensor_files(folder: Path) -> list[str]:
    """Return the sorted names of the tensor files in a folder."""
    return sorted(path.name for path in folder.iterdir() if _TENSOR_FILE.fullmatch(path.name) and path.is_file())


def in_file_order(state: TrainingState) -> list[tuple[str, str, Any]]:
    """Return (module path, name, leaf) in jax's flatten order: paths sorted as strings, layer 10 before 2 (SPEC §8)."""
    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=is_quantized)
    return [(path[-2].key, path[-1].key, leaf) for path, leaf in leaves]


def find_folder(directory: Path) -> Path:
    """Return the folder with the tensor files: the one given, or `ckpt-0` in it.

    Raises CheckpointError if neither holds any.
    """
    for folder in (directory, directory / DIRECTORY_NAME):
        if folder.is_dir() and tensor_files(folder):
            return folder
    raise CheckpointError(
        f"{directory}: no checkpoint here; expected the files {file_name(0)}, … or a folder {DIRECTORY_NAME} of them"
    )


def find_leaves(directory: Path, config: LanguageModelConfig, module_prefix: str = "") -> list[LeafFile]:
    """Return the files of the parameters whose module path starts with the prefix, in file order (SPEC §8).

    Dtype and shape are compared with the configuration; with an index, a sample of the bytes is compared with it too.
    Beyond that no element is read. Without an index the order of the files is taken on trust, which is logged once.
    Raises CheckpointError if a file is missing, extra, truncated, hostile, in a wrong place, or holds something else.
    """
    folder = find_folder(directory)
    expected = in_file_order(TrainingState(parameter_shapes(config)))
    _check_files(folder, len(expected))
    index = read_index(folder)
    if index is None:
        _log_string_order(folder)
    else:
        _check_index(folder, index, [f"{module}/{name}" for module, name, _ in expected])
    leaves = []
    for position, (module, name, shapes) in enumerate(expected):
        if module.startswith(module_prefix):
            path = folder / file_name(position)
            stored = decode(path)
            if index is not None:
                _check_sample(path, index[position], index)
            check_type(f"{path}: {module}/{name}", shapes, stored.weight, stored.scales)
            leaves.append(LeafFile(module, name, path, stored))
    return leaves


def check_names(source: str, expected: Collection[str], found: Collection[str]) -> None:
    """Raise CheckpointError, naming the first, if parameters are missing or are none of the config's."""
    missing, unknown = set(expected) - set(found), set(found) - set(expected)
    if missing or unknown:
        problem = f"lacks {min(missing)!r}" if missing else f"has {min(unknown)!r:.120}, no parameter of the config"
        raise CheckpointError(f"{source}: {problem}, and {len(missing | unknown) - 1} more; is the config right?")


def check_type(subject: str, expected: Any, weight: ArrayType, scales: ArrayType | None) -> None:
    """Raise CheckpointError unless dtypes and shapes are those of the expected leaf of `parameter_shapes`.

    Where an 8-bit weight is expected, a plain float32 or bfloat16 one will do (SPEC §9). Scales may be bfloat16 or
    float32, in any number of groups that divides the rows where several are expected, in one where one is (SPEC §3).
    """
    if is_quantized(expected) and scales is not None:
        fits = weight.dtype == DTYPES["int8"] and scales.dtype != DTYPES["int8"] and _scales_fit(expected, scales)
    else:
        fits = scales is None and weight.dtype in _plain_dtypes(expected)
    if not fits or weight.shape != tuple(expected.shape):
        raise CheckpointError(
            f"{subject}: found {describe(weight, scales)}, expected {_describe_expected(expected)}: another config?"
        )


def describe(weight: ArrayType, scales: ArrayType | None) -> str:
    """Return dtypes and shapes of a leaf in words."""
    plain = f"{weight.dtype} {list(weight.shape)}"
    return plain if scales is None else f"{plain} with {scales.dtype} scales {list(scales.shape)}"


def _plain_dtypes(expected: Any) -> tuple[np.dtype[Any], ...]:
    return (DTYPES["float32"], DTYPES["bfloat16"]) if is_quantized(expected) else (DTYPES["float32"],)


def _scales_fit(expected: Any, scales: ArrayType) -> bool:
    *leading, num_rows, num_columns = expected.shape
    if len(scales.shape) != len(expected.shape):
        return False
    groups = scales.shape[-2]
    groups_fit = groups == 1 or (expected.scales.shape[-2] > 1 <= groups and num_rows % groups == 0)
    return groups_fit and scales.shape == (*leading, groups, num_columns)


def _describe_expected(expected: Any) -> str:
    if not is_quantized(expected):
        return describe(expected, None)
    groups = "1" if expected.scales.shape[-2] == 1 else "G"
    *leading, _, num_columns = map(str, expected.shape)
    scales = ", ".join([*leading, groups, num_columns])
    return f"{describe(expected.weight, None)} with bfloat16 or float32 scales [{scales}] (or a plain float weight)"


def _check_files(folder: Path, num_leaves: int) -> None:
    found, expected = set(tensor_files(folder)), {file_name(position) for position in range(num_leaves)}
    for problem, names in (("missing", expected - found), ("unexpected", found - expected)):
        if names:
            raise CheckpointError(
                f"{folder / min(names)}: {problem}, and {len(names) - 1} more; found {len(found)} tensor files,"
                f" expected {num_leaves}: complete the checkpoint, or give its config"
            )


@functools.cache
def _log_string_order(folder: Path) -> None:
    _log.warning("%s has no %s: its files are taken to be in the published order (SPEC §8)", folder, INDEX_NAME)


def _check_index(folder: Path, index: Sequence[IndexEntry], parameters: Sequence[str]) -> None:
    for entry, parameter in zip(index, parameters, strict=False):
        if entry.parameter != parameter:
            raise CheckpointError(
                f"{folder / entry.file}: {INDEX_NAME} says {entry.parameter!r:.120}, expected {parameter!r}:"
                " the files are in a wrong order, or the config is another one"
            )
    if len(index) != len(parameters):
        raise CheckpointError(f"{folder / INDEX_NAME}: {len(index)} entries, not {len(parameters)}: another config?")


def _check_sample(path: Path, entry: IndexEntry, index: Sequence[IndexEntry]) -> None:
    digest = sample_digest(path)
    if digest != entry.sample_sha256:
        owner = next((other.parameter for other in index if other.sample_sha256 == digest), None)
        found = f"those of {owner}: the files are in a wrong order" if owner else "others: the file is damaged"
        raise CheckpointError(f"{path}: expected the bytes of {entry.parameter}, found {found}; restore the file")
