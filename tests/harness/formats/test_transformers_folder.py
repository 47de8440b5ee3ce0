"""A folder of transformers: every weight under the port's name, in the precision asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from grok_conformance.harness.formats.tensors import open_tensors
from grok_conformance.harness.formats.transformers_folder import configuration, named_weights, write_transformers
from tests.harness.honest_port import golden_preset

PRESET = golden_preset("unequal")
CONFIG, WEIGHTS = PRESET.config, PRESET.weights


def test_what_is_written_are_the_named_weights_and_the_configuration(tmp_path: Path) -> None:
    write_transformers(tmp_path / "hf", CONFIG, WEIGHTS, "float32")
    named = named_weights(CONFIG, WEIGHTS, "float32")
    stored = open_tensors(tmp_path / "hf" / "model.safetensors")
    assert set(stored) == set(named)
    assert all(np.array_equal(stored[name], x) for name, x in named.items())
    assert json.loads((tmp_path / "hf" / "config.json").read_text()) == json.loads(
        json.dumps(configuration(CONFIG, "float32"))
    )


def test_the_table_keeps_its_shape_and_norms_and_the_router_stay_float32() -> None:
    named = named_weights(CONFIG, WEIGHTS, "bfloat16")
    table = np.asarray(WEIGHTS["language_model/in_out_embed/embeddings"])
    assert any(x.shape == table.shape for x in named.values())
    assert {x.dtype.name for x in named.values()} == {"float32", "bfloat16"}
    assert all(x.dtype.name == "float32" for name, x in named.items() if "norm" in name)
