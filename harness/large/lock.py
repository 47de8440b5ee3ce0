"""`golden/large.lock.json`: large goldens by name and digest, and where they are kept; none of them is in git."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.formats.files import FileError, read_json, write_json
from grok_conformance.harness.formats.schema import validate
from grok_conformance.harness.golden.manifest import file_digest

LOCK = GOLDEN_DIR / "large.lock.json"
FORMAT = 1

FOLDER_VARIABLE = "GROK_LARGE_GOLDEN"
"""The environment variable that names the folder in which large goldens lie by name, such as in CI."""


@dataclass(frozen=True)
class Entry:
    """A large golden: the sha256 of its manifest, its size, and where it is kept or how it is made."""

    manifest: str
    num_bytes: int
    source: str


def read_lock(path: Path = LOCK) -> dict[str, Entry]:
    """Return the entries of a lock file by name; raises FileError."""
    data = read_json(path)
    try:
        validate(data, "large_lock")
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
    return {name: Entry(**row) for name, row in data["captures"].items()}


def add(name: str, folder: Path, source: str, path: Path = LOCK) -> None:
    """Enter a complete capture into a lock file; raises FileError for a name that stands for another one."""
    entries = read_lock(path) if path.exists() else {}
    entry = Entry(file_digest(folder / MANIFEST), sum(file.stat().st_size for file in folder.iterdir()), source)
    if name in entries and entries[name].manifest != entry.manifest:
        raise FileError(f"{path}: {name} is another capture already: give a new name, or remove its entry")
    rows = {key: asdict(value) for key, value in sorted({**entries, name: entry}.items())}
    data = {"format": FORMAT, "captures": rows}
    validate(data, "large_lock")
    write_json(path, data)


def find(text: str, path: Path = LOCK) -> Path:
    """Return the folder of a large golden: a path, or a name in the lock file, whose digest is then verified.

    Raises FileError.
    """
    if Path(text).is_dir():
        return Path(text)
    entries = read_lock(path) if path.exists() else {}
    if text not in entries:
        raise FileError(f"{text}: neither a folder nor a name in {path}; there are {', '.join(entries) or 'none'}")
    if FOLDER_VARIABLE not in os.environ:
        raise FileError(f"{text}: set {FOLDER_VARIABLE} to the folder that holds it; source: {entries[text].source}")
    folder = Path(os.environ[FOLDER_VARIABLE]) / text
    if not (folder / MANIFEST).is_file() or file_digest(folder / MANIFEST) != entries[text].manifest:
        raise FileError(f"{folder}: missing, or not the capture in {path}; source: {entries[text].source}")
    return folder
