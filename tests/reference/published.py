"""The vectors of the published code, and small configurations in which every axis differs."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from grok_conformance import reference
from grok_conformance.harness.formats.tensors import open_tensors

PUBLISHED = Path(__file__).resolve().parents[2] / "golden" / "published"


def tensors(name: str) -> Mapping[str, np.ndarray]:
    return open_tensors(PUBLISHED / f"{name}.safetensors")


@functools.cache
def config(fprop_dtype: str) -> reference.LanguageModelConfig:
    fields = json.loads((PUBLISHED / "config.json").read_text())
    model = reference.TransformerConfig(**fields.pop("model"))
    del fields["embedding_init_scale"]  # how the published code drew its weights
    return reference.LanguageModelConfig(**{**fields, "model": model, "fprop_dtype": jnp.dtype(fprop_dtype)})


def tree(weights: Mapping[str, np.ndarray]) -> reference.Params:
    params: dict[str, dict[str, Any]] = {}
    for name, value in weights.items():
        if name.endswith(".scales"):
            continue
        module, _, leaf = name.removesuffix(".weight").rpartition("/")
        stored: Any = jnp.asarray(value)
        if name.endswith(".weight"):
            stored = reference.QuantizedWeight8bit(stored, jnp.asarray(weights[f"{module}/{leaf}.scales"]))
        params.setdefault(module, {})[leaf] = stored
    return params


def run(*arguments: Any, **keywords: Any) -> reference.LanguageModelOutput:
    """Apply the model where it gives logits."""
    output = reference.apply(*arguments, **keywords)
    assert isinstance(output, reference.LanguageModelOutput)
    return output


def memory_after(output: reference.LanguageModelOutput) -> reference.Memory:
    assert isinstance(output.model_state, reference.Memory)
    return output.model_state


def relative_rms(observed: Any, expected: Any) -> float:
    observed, expected = np.asarray(observed, np.float64), np.asarray(expected, np.float64)
    return float(np.sqrt(np.mean((observed.reshape(expected.shape) - expected) ** 2) / np.mean(expected**2)))
