"""A preset as a checkpoint: what an engine's loader reads is what is stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.cases.probes import make_probe
from grok_conformance.harness.contract.gguf_file import dequantized
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.tensors import open_tensors
from grok_conformance.harness.sessions.export import export

PRESET = make_probe("probe_ties")
BELOW = "transformer/decoder_layer_0/"


def test_gguf_holds_every_matrix_transposed_and_the_constants(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    export(PRESET, "gguf", "float32", tmp_path / "x.gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(tensors) == 14
    for name, stored in (("attn_q", "multi_head_attention/query/w"), ("ffn_down_exps", "moe/linear_1/w")):
        x = dequantized(PRESET.weights, BELOW + stored)
        np.testing.assert_array_equal(tensors[f"blk.0.{name}.weight"], np.swapaxes(x, -1, -2))
    assert reader.fields["grok.expert_used_count"].contents() == 2
    assert reader.fields["grok.attn_logit_softcapping"].contents() == 30
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 256


@pytest.mark.parametrize(("precision", "worst"), [("bfloat16", 2**-8), ("q8_0", 2**-6)])
def test_narrow_gguf_matrices_are_near(precision: str, worst: float, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    export(PRESET, "gguf", precision, tmp_path / "x.gguf")
    (tensor,) = (each for each in gguf.GGUFReader(tmp_path / "x.gguf").tensors if each.name == "blk.0.attn_q.weight")
    made = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    x = dequantized(PRESET.weights, f"{BELOW}multi_head_attention/query/w").T
    assert 0 < np.abs(made - x).max() <= worst * np.abs(x).max()


def test_a_transformers_folder_has_the_ports_names(tmp_path: Path) -> None:
    assert main(["export", "probe_ties", str(tmp_path / "hf"), "--format", "hf", "--precision", "float32"]) == 0
    tensors = open_tensors(tmp_path / "hf" / "model.safetensors")
    x = dequantized(PRESET.weights, f"{BELOW}moe/linear_v/w")[5].T
    np.testing.assert_array_equal(tensors["model.layers.0.moe_block.experts.5.linear_v.weight"], x)
    np.testing.assert_array_equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["num_experts_per_tok"], config["max_attn_value"], config["vocab_size"]) == (2, 30.0, 256)


def test_the_published_format_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("haiku")
    from grok_conformance.reference.checkpoint.arrays import read_array  # noqa: PLC0415 - needs JAX
    from grok_conformance.reference.checkpoint.pickles import decode  # noqa: PLC0415 - likewise

    export(PRESET, "xai", "bfloat16", tmp_path / "xai")
    files = sorted((tmp_path / "xai" / "ckpt-0").glob("tensor*"))
    assert len(files) == 2 + 12
    leaf = decode(files[2])  # moe/linear, the first of the layer in file order
    assert leaf.scales is not None
    for part, stored in (("weight", leaf.weight), ("scales", leaf.scales)):
        np.testing.assert_array_equal(read_array(files[2], stored), PRESET.weights[f"{BELOW}moe/linear/w.{part}"])


def test_nothing_is_overwritten_and_what_a_format_lacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileError, match="exists already"):
        export(PRESET, "hf", "float32", tmp_path / "there")
    with pytest.raises(FileError, match="q8_0 is a format of GGUF"):
        export(PRESET, "hf", "q8_0", tmp_path / "hf")
    model = replace(PRESET.config.model, num_q_heads=2)
    with pytest.raises(FileError, match="heads times head width"):
        export(replace(PRESET, config=replace(PRESET.config, model=model)), "gguf", "float32", tmp_path / "x.gguf")
