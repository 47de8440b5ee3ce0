"""The command line with a disk held to a rate: `python -m tests.benchmarks.slow_disk GB_PER_SECOND COMMAND …`.

Every array that is streamed from a checkpoint is handed on no sooner than its bytes could have come from such a disk.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from grok_conformance.harness.__main__ import main
from grok_conformance.reference.streaming import reading

SLACK_SECONDS = 0.05
"""A disk that had nothing to do is not ahead by more than this when it is asked again."""


def held(read: Callable[..., Any], bytes_per_second: float) -> Callable[..., Any]:
    """Return `read_array` held to a rate; the reader's one thread calls it."""
    due = 0.0

    def read_slowly(region: reading.Region, memory: Any) -> Any:
        nonlocal due
        due = max(due, time.perf_counter() - SLACK_SECONDS) + region.num_bytes / bytes_per_second
        array = read(region, memory)
        time.sleep(max(due - time.perf_counter(), 0.0))
        return array

    return read_slowly


if __name__ == "__main__":
    reading.read_array = held(reading.read_array, float(sys.argv.pop(1)) * 1e9)
    sys.exit(main(sys.argv[1:]))
