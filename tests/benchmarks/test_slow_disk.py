from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from grok_conformance.reference.streaming.reading import Region
from tests.benchmarks.slow_disk import SLACK_SECONDS, held

REGION = Region(Path("none"), np.dtype(np.int8), (1000,), 0)


def test_arrays_come_no_sooner_than_a_disk_of_that_rate_gives_them() -> None:
    read = held(lambda region, memory: (region, memory), bytes_per_second=10_000)
    began = time.perf_counter()
    for i in range(3):
        assert read(REGION, i) == (REGION, i)
    assert time.perf_counter() - began >= 0.3 - SLACK_SECONDS
