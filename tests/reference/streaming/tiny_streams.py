"""Tiny models and checkpoints of them, to be streamed and to be held in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance import reference
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.reference import checkpoint
from tests.reference.published import tree
from tests.reference.shardable import as_reference
from tests.small_configurations import SHARDABLE

CONFIG = replace(SHARDABLE, model=replace(SHARDABLE.model, num_layers=2))
TOKENS = np.random.default_rng(0).integers(1, 61, (2, 6)).astype(np.int32)


def save(
    folder: Path, dtype: str = "bfloat16", statistics: Statistics | None = None, **changes: Any
) -> tuple[Path, reference.LanguageModelConfig, reference.Params]:
    """Write a checkpoint of a tiny model with some fields of its decoder changed; return it, its config and weights."""
    config = replace(CONFIG, model=replace(CONFIG.model, **changes))
    params = tree(synthesize(config, statistics or Statistics(seed=9, num_groups=8)))
    made = as_reference(config, dtype)
    return checkpoint.save(folder, made, params), made, params
