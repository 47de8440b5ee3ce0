"""Folders for a while, removed afterwards whatever a program has made of them."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

STAT_BLOCK_BYTES = 512
"""The unit in which the system tells how much a file takes."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that is removed at the end, however deeply nested, barred or linked what it then holds is."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        try:
            remove_tree(folder)
        except KeyboardInterrupt:  # which fell into this very moment
            remove_tree(folder)
            raise


def remove_tree(folder: Path) -> None:
    """Remove a folder and all it holds, following no link; what the system will not remove (immutable files) stays.

    Folders inside are lifted to the top before they are emptied, so that no path grows and nothing recurses.
    """
    for number in range(1 << 30):
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        removed = [_remove(entry, folder, f".lifted-{number}-{index}-") for index, entry in enumerate(entries)]
        if not any(removed):
            break
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove(entry: os.DirEntry[str], top: Path, prefix: str) -> bool:
    """Remove what an entry of `top` names, its folders lifted to the top; return whether anything has changed."""
    changed = False
    with contextlib.suppress(OSError):
        if not entry.is_dir(follow_symlinks=False):
            Path(entry.path).unlink()
            return True
        Path(entry.path).chmod(stat.S_IRWXU)
        for index, inner in enumerate(list(os.scandir(entry.path))):
            with contextlib.suppress(OSError):
                if inner.is_dir(follow_symlinks=False):
                    Path(inner.path).rename(top / f"{prefix}{index}")
                else:
                    Path(inner.path).unlink()
                changed = True
        Path(entry.path).rmdir()
        changed = True
    return changed


def disk_bytes(folder: Path) -> int:
    """Return the bytes on the disk of all files below a folder, no link followed, as far as they can be read."""
    found, folders = 0, [str(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:  # it may go, or be too deep to name
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    found += STAT_BLOCK_BYTES * entry.stat(follow_symlinks=False).st_blocks
    return found
