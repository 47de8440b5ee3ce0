"""The bytes of a file that are read when they are asked for: what lies on disk takes no memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.held import Held

HELD = Held(2**26)
"""The files asked for last, read whole."""

MAX_WHOLE_BYTES = 2**24
"""Of larger files only what is asked for is read."""

Stamp = tuple[int, int, int]
"""Which file it is, its size, and when it was last changed, which no program can set."""


@dataclass(frozen=True, eq=False)
class BytesOnDisk:
    """The last `num_bytes` of a file, read-only uint8 by slices; what it held when it was opened, or an error."""

    path: Path
    num_bytes: int
    stamp: Stamp

    def __getitem__(self, part: slice) -> Array:
        """Return the bytes begin:end; raises FileError where the file is not what it was."""
        begin, end, _ = part.indices(self.num_bytes)
        if self.num_bytes > MAX_WHOLE_BYTES:
            return self._read(begin, end)
        return HELD.get(self, lambda: self._read(0, self.num_bytes))[begin:end]

    def _read(self, begin: int, end: int) -> Array:
        try:
            with self.path.open("rb") as file:
                file.seek(self.stamp[1] - self.num_bytes + begin)
                data = np.fromfile(file, np.uint8, end - begin)  # of any size: one call of the system reads 2 GiB
                changed = stamp_of(file.fileno()) != self.stamp
        except OSError as error:
            raise FileError(f"{self.path}: cannot be read any more: {error.strerror}") from None
        if changed or data.size != end - begin:
            raise FileError(f"{self.path}: was changed while it was judged; is a process of the candidate left over?")
        data.flags.writeable = False
        return data


def stamp_of(descriptor: int) -> Stamp:
    """Return the stamp of an open file."""
    status = os.fstat(descriptor)
    return status.st_ino, status.st_size, status.st_ctime_ns
