"""What a candidate and the harness agree on; all that a candidate imports of the harness is here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from grok_conformance.harness.contract.configuration import LanguageModelConfig, TransformerConfig, ffn_size
from grok_conformance.harness.contract.taps import (
    GOLDEN_DIR,
    LEVELS,
    LOGITS,
    TapSpec,
    select_taps,
    split_tap,
    tap_matches,
    tap_name,
    tap_names,
    tap_specs,
)

if TYPE_CHECKING:
    from grok_conformance.harness.contract.candidate import (
        ALL_LOGITS,
        DTYPES,
        QUANTISATIONS,
        Array,
        CandidateInfo,
        ExtendingModel,
        LogitForm,
        Model,
        PreloadingModel,
        TruncatingModel,
        Unsupported,
        Weights,
        WeightShowingModel,
    )

__all__ = [
    "ALL_LOGITS",
    "DTYPES",
    "GOLDEN_DIR",
    "LEVELS",
    "LOGITS",
    "QUANTISATIONS",
    "Array",
    "CandidateInfo",
    "ExtendingModel",
    "LanguageModelConfig",
    "LogitForm",
    "Model",
    "PreloadingModel",
    "TapSpec",
    "TransformerConfig",
    "TruncatingModel",
    "Unsupported",
    "WeightShowingModel",
    "Weights",
    "ffn_size",
    "select_taps",
    "split_tap",
    "tap_matches",
    "tap_name",
    "tap_names",
    "tap_specs",
]


def __getattr__(name: str) -> Any:
    """Import what needs NumPy only when it is asked for, so that lists and help start at once."""
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.candidate"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
