"""The dtype in which the specification keeps each operation's result."""

from __future__ import annotations

from grok_conformance.harness.cases.case import Preset
from grok_conformance.harness.contract import LanguageModelConfig, tap_specs


def recorded_dtypes(config: LanguageModelConfig, preset: Preset) -> dict[str, str]:
    """Return the dtype in which the specification keeps each operation's result, by operation (taps.json, `dtypes`)."""
    scales = preset.weights.get("transformer/decoder_layer_0/moe/linear/w.scales")
    wide_experts = scales is not None and str(scales.dtype) == "float32"
    names = {
        "fprop": config.fprop_dtype,
        "cache": config.fprop_dtype,
        "expert": "float32" if wide_experts else config.fprop_dtype,
    }
    return {spec.operation: names.get(spec.dtype, spec.dtype) for spec in tap_specs()}
