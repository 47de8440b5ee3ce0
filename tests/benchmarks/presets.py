"""The models of the throughput benchmark, written once as a folder that every worker maps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from grok_conformance import reference
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.contract import Array, LanguageModelConfig, TransformerConfig
from grok_conformance.harness.formats.tensors import write_tensors
from grok_conformance.reference.config import BENCH
from grok_conformance.reference.parameters import parameter_shapes

REPEATED_BYTES = 2**26
"""The weights of the full-size layer repeat after so many bytes: random enough to multiply, quick to draw."""


@dataclass(frozen=True)
class Load:
    """A model and the prompt that is run on it: [num_rows, num_tokens] tokens, then `num_decoded` single ones."""

    name: str
    config: LanguageModelConfig
    num_rows: int
    num_tokens: int
    num_decoded: int


def harness_config(config: reference.LanguageModelConfig) -> LanguageModelConfig:
    """Return a configuration of the reference as the harness has it: the same published names."""
    fields = asdict(config)
    model = TransformerConfig(**fields.pop("model"))
    return LanguageModelConfig(**{**fields, "model": model, "fprop_dtype": "bfloat16"})


ONE_LAYER = replace(
    reference.GROK_1, vocab_size=256, sequence_len=128, model=replace(reference.GROK_1.model, num_layers=1)
)

FAST_PORT = "torch_compiled"
"""The candidate that is to be ahead of all engines on every load."""

LOADS = {
    "bench": Load("bench", harness_config(BENCH), num_rows=1, num_tokens=256, num_decoded=4),
    "grok-1-layer": Load("grok-1-layer", harness_config(ONE_LAYER), num_rows=1, num_tokens=64, num_decoded=2),
}
"""The preset of the benchmarks, and one layer of Grok-1 at its true size (4.9 GB of int8)."""


def prompt(load: Load) -> Array:
    """Return the tokens of a load, int32 [b, t], pads excluded."""
    random = np.random.default_rng(1)
    return random.integers(1, load.config.vocab_size, (load.num_rows, load.num_tokens)).astype(np.int32)


def write_load(load: Load, folder: Path) -> Path:
    """Write a load's config.json and weights.safetensors below a folder unless they are there; return where."""
    target = folder / load.name
    if not (target / "config.json").is_file():
        target.mkdir(parents=True, exist_ok=True)
        write_tensors(target / "weights.safetensors", draw(load))
        (target / "config.json").write_text(json.dumps(load.config.to_json()))
    return target


def draw(load: Load) -> dict[str, Array]:
    """Draw a load's weights; those of the full-size layer by repetition."""
    if load.name == "bench":
        return synthesize(load.config, Statistics(seed=9, num_groups=8, router_deviation=0.16))
    random = np.random.default_rng(2)
    drawn = random.integers(-127, 128, REPEATED_BYTES, np.int8)
    weights: dict[str, Array] = {}
    for module, leaves in parameter_shapes(ONE_LAYER).items():
        for leaf, shape in leaves.items():
            name = f"{module}/{leaf}"
            if isinstance(shape, reference.QuantizedWeight8bit):
                weights[f"{name}.weight"] = np.resize(drawn, shape.shape)
                deviation = 73 * np.sqrt(shape.shape[-2])
                weights[f"{name}.scales"] = np.full(shape.scales.shape, 1 / deviation).astype(shape.scales.dtype)
            else:
                size = 0.01274 if leaf == "embeddings" else 1 / np.sqrt(load.config.model.emb_size)
                values = np.ones(shape.shape) if leaf == "scale" else size * random.standard_normal(shape.shape)
                weights[name] = values.astype(np.float32)
    return weights
