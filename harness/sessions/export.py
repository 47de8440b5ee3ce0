"""A preset written as the checkpoint that an engine loads, so that the engine's own loader is under test too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.harness.cases.case import Preset
from grok_conformance.harness.contract import Array, Weights
from grok_conformance.harness.contract.gguf_file import PRECISIONS, write_gguf
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.transformers_folder import write_transformers

FORMATS: Mapping[str, str] = {
    "xai": "the published ckpt-0, int8 with its scales as stored",
    "hf": "a transformers-style folder: config.json and model.safetensors",
    "gguf": "a GGUF file for llama.cpp",
}


def export(preset: Preset, kind: str, precision: str, out: Path) -> None:
    """Write a preset in one of `FORMATS`; raises FileError for what exists already or cannot be had in a format."""
    if out.exists():
        raise FileError(f"{out}: exists already: give a new path")
    if preset.config.dense:
        raise FileError(f"{preset.name}: has no experts, and these formats have no dense block: choose another preset")
    if kind == "hf" and precision == "q8_0":
        raise FileError("q8_0 is a format of GGUF: leave it out, or choose float32 or bfloat16")
    if kind == "xai":
        write_published(out, preset.weights)
    elif kind == "hf":
        write_transformers(out, preset.config, preset.weights, precision)
    else:
        square = preset.config.model.num_q_heads * preset.config.model.key_size == preset.config.model.emb_size
        if not square:
            raise FileError(f"{preset.name}: heads times head width is not the model's width, as llama.cpp wants it")
        unfinished = out.with_name(f".{out.name}.partial")
        write_gguf(unfinished, preset.config, preset.weights, precision)
        unfinished.replace(out)


def write_published(out: Path, weights: Weights) -> None:
    """Write the weights as the published checkpoint, ckpt-0 in a folder (SPEC §8)."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed
    from grok_conformance.reference.checkpoint.layout import in_file_order  # noqa: PLC0415 - needs JAX
    from grok_conformance.reference.checkpoint.writing import LeafSource, write  # noqa: PLC0415 - likewise
    from grok_conformance.reference.parameters import TrainingState  # noqa: PLC0415 - likewise

    params: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name.removesuffix(".weight").removesuffix(".scales") for name in weights):
        module, _, leaf = name.rpartition("/")
        params.setdefault(module, {})[leaf] = name

    def leaf_of(name: str) -> tuple[Array, Array | None]:
        if name in weights:
            return np.asarray(weights[name]), None
        return np.asarray(weights[f"{name}.weight"]), np.asarray(weights[f"{name}.scales"])

    sources = [LeafSource(name, name, partial(leaf_of, name)) for _, _, name in in_file_order(TrainingState(params))]
    write(out, sources)


__all__ = ["FORMATS", "PRECISIONS", "export", "write_published"]
