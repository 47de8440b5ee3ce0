"""The model's configuration under its published names, and the sizes that follow from it (SPEC §1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


def ffn_size(emb_size: int, widening_factor: float) -> int:
    """Return the hidden width f of an expert, a multiple of 8 (SPEC §1)."""
    size = int(widening_factor * emb_size) * 2 // 3
    return size + (8 - size) % 8


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The decoder's configuration under its published names (SPEC §1)."""

    emb_size: int
    widening_factor: float
    key_size: int
    num_q_heads: int
    num_kv_heads: int
    num_layers: int
    attn_output_multiplier: float
    num_experts: int
    num_selected_experts: int
    shard_activations: bool = True
    data_axis: str = "data"
    model_axis: str = "model"


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """The model's configuration under its published names (SPEC §1); `sequence_len` is the length of the KV cache."""

    model: TransformerConfig
    vocab_size: int
    pad_token: int
    eos_token: int
    sequence_len: int
    embedding_multiplier_scale: float
    output_multiplier_scale: float
    fprop_dtype: str

    @property
    def dense(self) -> bool:
        """Whether the feed-forward block has no experts and no router."""
        return self.model.num_experts <= 1

    @property
    def axis_sizes(self) -> dict[str, int]:
        """Sizes of the axes that the configuration fixes, by axis letter (s, d, q, g, r, h, e, c, f, v)."""
        m = self.model
        return {
            "s": self.sequence_len,
            "d": m.emb_size,
            "q": m.num_q_heads,
            "g": m.num_kv_heads,
            "r": m.num_q_heads // m.num_kv_heads,
            "h": m.key_size,
            "e": m.num_experts,
            "c": m.num_selected_experts,
            "f": ffn_size(m.emb_size, m.widening_factor),
            "v": self.vocab_size,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the nested dictionary that `config.json` holds; real numbers travel as strings."""
        return {key: _stringify(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LanguageModelConfig:
        """Build a configuration from `config.json`; raises TypeError for unknown or missing fields."""
        fields: dict[str, Any] = {key: float(value) if key in _REALS else value for key, value in data.items()}
        if "model" in data:
            model: dict[str, Any] = {
                key: float(value) if key in _REALS else value for key, value in data["model"].items()
            }
            fields["model"] = TransformerConfig(**model)
        return cls(**fields)


_REALS = {"widening_factor", "attn_output_multiplier", "embedding_multiplier_scale", "output_multiplier_scale"}


def _stringify(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {key: _stringify(item) for key, item in value.items()}
    return value
