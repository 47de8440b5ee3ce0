"""What a preset must fulfil beyond its schema, whoever signed it: sizes that fit each other and a machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import numpy as np

from grok_conformance.harness.contract import Array, LanguageModelConfig

LIMITS: Mapping[str, tuple[int, int]] = {
    "emb_size": (1, 2**16),
    "key_size": (1, 2**12),
    "num_q_heads": (1, 2**10),
    "num_kv_heads": (1, 2**10),
    "num_layers": (1, 2**7),
    "num_experts": (0, 2**10),
    "num_selected_experts": (0, 2**10),
    "vocab_size": (1, 2**20),
    "sequence_len": (1, 2**20),
}
"""The least and the most that a size of a configuration may be; Grok-1 has at most a quarter of each."""

MAX_WEIGHT = 1e10
"""The largest size of a weight: three are multiplied with one another, and summed, in float32."""

MAX_REAL = 1e6
"""The largest size of a multiplier; the published ones are below 100."""


def config_problems(config: LanguageModelConfig) -> Iterator[str]:
    """Yield what is wrong with a configuration's numbers: kinds and ranges, then how they fit each other (SPEC 1)."""
    values = {**asdict(config), **asdict(config.model)}
    wrong = [
        f"{name} is {str(values[name])[:20]}, expected an integer from {least} to {most}"
        for name, (least, most) in LIMITS.items()
        if type(values[name]) is not int or not least <= values[name] <= most
    ]
    wrong += [
        f"{name} is {value:g}, expected a number of at most {MAX_REAL:g}"
        for name, value in values.items()
        if isinstance(value, float) and name not in LIMITS and not (math.isfinite(value) and abs(value) <= MAX_REAL)
    ]
    yield from wrong or _misfits(config)


def value_problems(weights: Mapping[str, Array]) -> Iterator[str]:
    """Yield which weights are so large that products of them leave the range of float32, in an honest port too."""
    for name, x in weights.items():
        with np.errstate(invalid="ignore"):  # a NaN is some other check's business
            largest = float(np.abs(x.astype(np.float64)).max(initial=0.0))
        if largest > MAX_WEIGHT:
            yield f"tensor {name!a} holds {largest:.3g}, beyond {MAX_WEIGHT:g}: products leave the range of float32"


def _misfits(config: LanguageModelConfig) -> Iterator[str]:
    m = config.model
    if m.num_q_heads % m.num_kv_heads:
        yield f"num_q_heads {m.num_q_heads} is no multiple of num_kv_heads {m.num_kv_heads}"
    if m.key_size % 2:
        yield f"key_size {m.key_size} is odd, and rotation takes its halves"
    if m.num_selected_experts > max(m.num_experts, 1):
        yield f"num_selected_experts {m.num_selected_experts} is more than num_experts {m.num_experts}"
    if m.widening_factor <= 0:
        yield f"widening_factor {m.widening_factor:g} is not positive"
    for name in ("pad_token", "eos_token"):
        token = getattr(config, name)
        if type(token) is not int or not -config.vocab_size <= token < config.vocab_size:
            yield f"{name} {str(token)[:20]} is no token of {config.vocab_size}"


def weight_problems(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield what is wrong with the names and shapes of stored weights: scales divide the axes of what they scale."""
    for name, shape in shapes.items():
        stem, _, kind = name.rpartition(".")
        if not name or (kind == "scales" and f"{stem}.weight" not in shapes):
            yield f"tensor {name!a} is none that a model has"
            continue
        scaled = shapes.get(f"{stem}.weight", shape) if kind == "scales" else shape
        if len(scaled) != len(shape) or any(
            not part or whole % part for whole, part in zip(scaled, shape, strict=True)
        ):
            yield f"tensor {name!a} of shape {list(shape)} does not divide what it scales, {list(scaled)}"
