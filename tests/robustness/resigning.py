"""Golden sets signed again after they were changed: digests hold, so that only what the values mean can be refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.harness.formats.tensors import digest, open_tensors
from grok_conformance.harness.golden.manifest import file_digest
from tests.robustness.corruptions import join_tensors, places, split_tensors

Random = np.random.Generator

LIES: tuple[Any, ...] = (
    *(-1, 0, 1, 2, 7, 100.0, 2**31, 10**8, 2**63, 10**400, 1e308, True, None),
    *("", "1e99", "-1e99", "7", "../../etc/passwd", "float32", "bfloat16", "int8", "decode", "prefill"),
    *([], {}, [[]], [1, 2, 3], "é\n", "x" * 5000),
)
"""What stands where a size, a multiplier, a name or a list should."""


def lie(random: Random, data: Any) -> str:
    """Put a value that lies into one place of parsed JSON, or drop the place; return where."""
    found = list(places(data))
    path = found[int(random.integers(len(found)))]
    owner = data
    for key in path[:-1]:
        owner = owner[key]
    if random.random() < 0.1 and isinstance(owner, dict):
        del owner[path[-1]]
    else:
        owner[path[-1]] = LIES[int(random.integers(len(LIES)))]
    return "/".join(map(str, path))


def lie_about_a_tensor(random: Random, path: Path, stored: dict[str, Any]) -> str:
    """Give a tensor another shape, name or dtype over the same bytes, in its file and in the manifest alike."""
    header, values = split_tensors(path.read_bytes())
    name = str(random.choice(sorted(header)))
    entry, row = header[name], stored[name]
    what = str(random.choice(["shape", "name", "dtype"]))
    if what == "shape":
        size = int(np.prod(entry["shape"]))
        shapes = ([size], [1, size], [*entry["shape"], 1], entry["shape"][::-1], [1] * 31 + [size])
        entry["shape"] = row["shape"] = shapes[int(random.integers(len(shapes)))]
    elif what == "dtype":
        twins = {"F32": "I32", "I32": "F32", "BF16": "F16", "I8": "BOOL"}
        names = {"F32": "float32", "I32": "int32", "F16": "float16", "BOOL": "bool"}
        entry["dtype"] = twins.get(entry["dtype"], entry["dtype"])
        row["dtype"] = names.get(entry["dtype"], row["dtype"])
    else:
        other = str(random.choice(["", "x", "logits", "call9/logits", "transformer/rms_norm/scale"]))
        header[other], stored[other] = header.pop(name), stored.pop(name)
    path.write_bytes(join_tensors(json.dumps(header), values))
    return f"{what} of {name}"


def change_and_sign(random: Random, directory: Path) -> str:
    """Change one thing in a golden set and sign it again; return what was changed."""
    manifest = json.loads((directory / "manifest.json").read_text())
    targets = list(signed_files(directory, manifest))
    path, owner, key = targets[int(random.integers(len(targets)))]
    if path.suffix == ".safetensors":
        where = lie_about_a_tensor(random, path, owner[key])
    elif path.name == "manifest.json":
        where = lie(random, manifest)
    else:
        data = json.loads(path.read_text())
        where = lie(random, data)
        path.write_text(json.dumps(data))
        owner[key] = file_digest(path)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    sign_manifest(directory)
    return f"{path.relative_to(directory)}: {where}"


def sign_manifest(directory: Path) -> None:
    signature = file_digest(directory / "manifest.json")
    (directory / "manifest.sha256").write_text(f"{signature}  manifest.json\n")


def sign(directory: Path) -> None:
    """Make every digest of a golden set hold again, as far as its files can still be read."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        for path, owner, key in signed_files(directory, manifest):
            if path.suffix == ".json" and path.name != "manifest.json":
                owner[key] = file_digest(path)
            elif path.suffix == ".safetensors":
                for name, array in open_tensors(path).items():
                    owner[key][name]["sha256"] = digest(array)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    else:
        (directory / "manifest.json").write_text(json.dumps(manifest))
    sign_manifest(directory)


def signed_files(directory: Path, manifest: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """Yield every file of a set with the place of the manifest that vouches for it."""
    yield directory / "manifest.json", manifest, ""
    yield directory / "noise.json", manifest, "noise"
    for kind in ("presets", "cases"):
        for name, row in manifest[kind].items():
            for key in row:
                suffix = "json" if isinstance(row[key], str) else "safetensors"
                yield directory / kind / name / f"{key}.{suffix}", row, key
