"""The table of faults that the properties of the reference kill: for each property, implementations that break it.

A property that no broken implementation fails is vacuous: `test_kills.py` puts every row in and sees the property fail.
"""

from __future__ import annotations

from tests.properties import (
    test_config,
    test_partitioning,
    test_quantization,
)
from tests.properties.broken_layers import ATTENTION, LAYERS, MEMORY, MOE
from tests.properties.broken_parameters import CONFIG, PARTITIONING, QUANTIZATION
from tests.properties.kill import Kill
from tests.reference import test_attention, test_layers, test_memory, test_moe

KILLS: tuple[Kill, ...] = tuple(
    Kill(getattr(module, law), fault, patches, traced)
    for module, rows, traced in (
        (test_quantization, QUANTIZATION, False),
        (test_config, CONFIG, False),
        (test_partitioning, PARTITIONING, False),
        (test_layers, LAYERS, True),
        (test_attention, ATTENTION, True),
        (test_memory, MEMORY, True),
        (test_moe, MOE, True),
    )
    for law, fault, patches in rows
)
