"""Values made when they are asked for, and kept as long as there is room: memory that no number of cases grows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from grok_conformance.harness.contract import Array


@dataclass
class Held:
    """The arrays asked for last, by their keys, of at most `max_bytes` together; what is asked for is always made."""

    max_bytes: int
    arrays: OrderedDict[object, Array] = field(default_factory=OrderedDict)
    num_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: object, make: Callable[[], Array]) -> Array:
        """Return what is held for a key, made where nothing is; what was asked for longest ago gives way to it."""
        with self.lock:
            if key in self.arrays:
                self.arrays.move_to_end(key)
                return self.arrays[key]
        made = make()
        with self.lock:
            if key not in self.arrays:
                self.arrays[key] = made
                self.num_bytes += made.nbytes
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= self.arrays.popitem(last=False)[1].nbytes
        return made
