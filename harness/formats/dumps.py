"""Dumps that engines write: read as {the engine's own name: array}, as a tap map wants them.

What one call left in the folder of its case:

* `npz`: `call0.npz`, arrays by name.
* `torch`: `call0.pt`, a dict saved by torch.save; nested values get names such as `hidden_states[3]` (transformers).
* `sglang`: `call0/`, one file per value, `forward_pass_id=…___rank=…___name=…___layer_id=….pt`, which holds the value
  or a dict of `value` and `meta`.
* `vllm`: `call0/0.safetensors`, one per row, with `hidden_states` [n, layer, d] and `token_ids` [n].

Files of torch are read as data alone (`weights_only`): none of them can run code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.tensors import open_tensors

Dump = Mapping[str, Array]

OFFSETS = "row_offsets"
"""The name under which rows that lie one after the other tell where each begins, for `ragged`."""


def read_npz(folder: Path, call: str) -> Dump:
    """Read the arrays of a NumPy archive; pickled objects are refused."""
    path = present(folder / f"{call}.npz")
    try:
        with (
            path.open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):  # which NumPy leaves open if it fails
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # noqa: BLE001 - whatever a file makes NumPy and the archive's reader raise
        raise FileError(f"{path}: {unreadable(error, 'arrays, as np.savez writes them')}") from None


def read_torch(folder: Path, call: str) -> Dump:
    """Read a dict saved by torch.save, its tensors by name."""
    path = present(folder / f"{call}.pt")
    saved = load_torch(path)
    if not isinstance(saved, Mapping):
        raise FileError(f"{path}: holds a {type(saved).__name__}, expected a dict of tensors")
    return dict(flattened(saved))


def read_sglang(folder: Path, call: str) -> Dump:
    """Read the files of SGLang's dumper: `NAME`, `NAME.LAYER`, and `rank1.NAME.LAYER` where there are several ranks."""
    paths = sorted(present(folder / call).glob("*.pt"))
    fields = {path: dict(part.split("=", 1) for part in path.stem.split("___") if "=" in part) for path in paths}
    several = len({each.get("rank") for each in fields.values()}) > 1
    dump: dict[str, Array] = {}
    for path, each in fields.items():
        if "name" not in each:
            raise FileError(f"{path}: no name in the file's name, expected name=…___layer_id=….pt")
        saved = load_torch(path)
        value = saved["value"] if isinstance(saved, Mapping) and "value" in saved else saved
        name = each["name"] + (f".{each['layer_id']}" if "layer_id" in each else "")
        name = f"rank{each['rank']}.{name}" if several else name
        if name in dump:
            raise FileError(f"{path}: {name} is dumped twice in {call}; give each forward pass a folder of its own")
        dump |= dict(flattened(value, name))
    return dump


def read_vllm(folder: Path, call: str) -> Dump:
    """Read the hidden states that vLLM extracts, one file per row, as `hidden_states.LAYER`, rows in sequence."""
    paths = sorted(present(folder / call).glob("*.safetensors"), key=lambda path: (len(path.stem), path.stem))
    rows = [np.array(open_tensors(path)["hidden_states"]) for path in paths]
    if not rows or any(row.ndim != 3 or row.shape[1:] != rows[0].shape[1:] for row in rows):  # noqa: PLR2004 - n, layer, d
        raise FileError(f"{folder / call}: no files with hidden_states [tokens, layers, width] of one width")
    joined = np.concatenate(rows)
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    return {OFFSETS: offsets, **{f"hidden_states.{i}": joined[:, i] for i in range(joined.shape[1])}}


READERS: Mapping[str, Callable[[Path, str], Dump]] = {
    "npz": read_npz,
    "torch": read_torch,
    "sglang": read_sglang,
    "vllm": read_vllm,
}
"""A reader takes the folder of a case and the name of a call, `call0`."""


def present(path: Path) -> Path:
    """Return a path; raises FileError where there is nothing."""
    if not path.exists():
        raise FileError(f"{path}: not there; a case has one dump per call, call0 first")
    return path


def load_torch(path: Path) -> Any:
    """Return what torch.save wrote, as data alone; raises FileError."""
    try:
        import torch  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise FileError(f"{path}: reading it needs torch (pip install torch)") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever a file makes torch raise
        raise FileError(f"{path}: {unreadable(error, 'a dict of tensors, as torch.save writes it')}") from None


def unreadable(error: Exception, expected: str) -> str:
    """Return why a file cannot be read; what its reader would have one do about it is not told: it may run code."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return f"cannot be read ({reason}): expected {expected}"


def flattened(saved: Any, name: str = "") -> Iterator[tuple[str, Array]]:
    """Yield every tensor of nested dicts, lists and tuples by name: `logits`, `past_key_values[0][1]`."""
    if isinstance(saved, Mapping):
        for key, value in saved.items():
            yield from flattened(value, f"{name}.{key}" if name else str(key))
    elif isinstance(saved, list | tuple):
        for i, value in enumerate(saved):
            yield from flattened(value, f"{name}[{i}]")
    elif hasattr(saved, "detach"):
        yield name, to_numpy(saved)
    elif isinstance(saved, np.ndarray):
        yield name, saved


def to_numpy(x: Any) -> Array:
    """Return a torch tensor as an array, bfloat16 bit for bit."""
    if re.fullmatch(r"torch\.bfloat16", str(x.dtype)):
        import torch  # noqa: PLC0415 - it made the tensor

        bits: Array = x.contiguous().view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = x.numpy()
    return array
