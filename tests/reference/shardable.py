"""A small model that meshes divide, in the reference's own form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from grok_conformance import reference
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.contract import LanguageModelConfig
from tests.reference.published import tree
from tests.small_configurations import SHARDABLE


def as_reference(config: LanguageModelConfig, dtype: str | None = None) -> reference.LanguageModelConfig:
    """Return a configuration as the reference has it, in another compute dtype if one is given."""
    fields = vars(config) | {
        "fprop_dtype": jnp.dtype(dtype or config.fprop_dtype),
        "model": reference.TransformerConfig(**vars(config.model)),
    }
    return reference.LanguageModelConfig(**fields)


def model(num_groups: int, dtype: str = "float32", **changes: Any) -> tuple[reference.LanguageModelConfig, Any]:
    """Return the model's configuration with some fields of its decoder changed, and its weights."""
    config = replace(SHARDABLE, model=replace(SHARDABLE.model, **changes))
    return as_reference(config, dtype), tree(synthesize(config, Statistics(seed=9, num_groups=num_groups)))
