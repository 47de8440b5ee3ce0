"""What a candidate and the harness agree on; all that a candidate imports of the harness is here."""

from __future__ import annotations

from grok_conformance.harness.contract.candidate import (
    DTYPES,
    Array,
    CandidateInfo,
    ExtendingModel,
    Model,
    PreloadingModel,
    Unsupported,
    Weights,
    WeightShowingModel,
)
from grok_conformance.harness.contract.configuration import LanguageModelConfig, TransformerConfig, ffn_size
from grok_conformance.harness.contract.taps import (
    GOLDEN_DIR,
    LEVELS,
    TapSpec,
    select_taps,
    split_tap,
    tap_name,
    tap_names,
    tap_specs,
)

__all__ = [
    "DTYPES",
    "GOLDEN_DIR",
    "LEVELS",
    "Array",
    "CandidateInfo",
    "ExtendingModel",
    "LanguageModelConfig",
    "Model",
    "PreloadingModel",
    "TapSpec",
    "TransformerConfig",
    "Unsupported",
    "WeightShowingModel",
    "Weights",
    "ffn_size",
    "select_taps",
    "split_tap",
    "tap_name",
    "tap_names",
    "tap_specs",
]
