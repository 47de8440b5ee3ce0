"""The maps of the recipes are maps, and every name in them is a module of the engine that it is for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.contract import tap_map, tap_sources
from grok_conformance.harness.contract.attach import find_places
from grok_conformance.harness.contract.tap_map import engine_names, shown_taps

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "original_modules.md").read_text()
NORMS = ("pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm")
LAYERS = {
    "VLLM": (*NORMS, "attn", "attn.qkv_proj", "attn.o_proj", "attn.attn", "moe_block", "moe_block.gate",
             "moe_block.experts"),
    "SGLANG": (*NORMS, "self_attn", "self_attn.qkv_proj", "self_attn.o_proj", "self_attn.attn", "block_sparse_moe",
               "block_sparse_moe.gate", "block_sparse_moe.topk", "block_sparse_moe.experts"),
    "TRANSFORMERS": (*NORMS, "attn", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "moe_block",
                     "moe_block.gate", "moe_block.experts"),
}  # fmt: skip
"""The modules of a layer, as the sources that the page names have them."""


def maps() -> dict[str, Any]:
    """Return what the page's Python defines."""
    known: dict[str, Any] = {**vars(tap_map), **vars(tap_sources), "QKV": ("q h", "g h", "g h")}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(block, known)  # noqa: S102 - of our own page
    return known


def paths(engine: str) -> list[str]:
    top = ["", "model", "model.embed_tokens", "model.norm", "lm_head", "model.layers"]
    layers = [f"model.layers.{layer}" for layer in range(2)]
    return top + layers + [f"{layer}.{name}" for layer in layers for name in LAYERS[engine]]


@pytest.mark.parametrize("engine", LAYERS)
def test_every_name_of_a_recipe_is_one_module_in_every_layer(engine: str) -> None:
    rows = maps()[engine]
    names = engine_names(rows)
    assert len(shown_taps(rows)) == len(rows) >= 11
    places = find_places(names, paths(engine))
    assert len(places) == sum(2 if "{layer}" in name else 1 for name in names)


def test_a_name_that_an_engine_does_not_have_is_told() -> None:
    with pytest.raises(ValueError, match="no module has this path"):
        find_places(engine_names(maps()["VLLM"]), paths("TRANSFORMERS"))
