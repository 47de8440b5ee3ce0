from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from grok_conformance.reference import GROK_1, LanguageModelConfig, TrainingState, checkpoint
from grok_conformance.reference.checkpoint import CheckpointError
from grok_conformance.reference.checkpoint.encoding import encode
from grok_conformance.reference.checkpoint.index import INDEX_NAME, file_name, read_index, write_index
from grok_conformance.reference.checkpoint.layout import in_file_order
from grok_conformance.reference.parameters import Params, parameter_shapes
from grok_conformance.reference.quantization import is_quantized
from tests.reference.checkpoint.tiny_checkpoints import CONFIG, DENSE, random_params

PUBLISHED = json.loads((Path(__file__).parents[3] / "golden/published/partition_specs.json").read_text())
LAYER_1 = "transformer/decoder_layer_1"


def refusal(directory: Path, config: LanguageModelConfig = CONFIG) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(directory, config)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def file_of(parameter: str) -> str:
    paths = [f"{module}/{name}" for module, name, _ in in_file_order(TrainingState(parameter_shapes(CONFIG)))]
    return file_name(paths.index(parameter))


def exchange(folder: Path, first: str, second: str) -> None:
    one, other, aside = folder / file_of(first), folder / file_of(second), folder / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_files_of_grok_1_are_in_the_published_order() -> None:
    paths = [f"{module}/{name}" for module, name, _ in in_file_order(TrainingState(parameter_shapes(GROK_1)))]
    assert len(paths) == 770
    assert {leaf["path"]: leaf["index"] for leaf in PUBLISHED}.items() <= {p: i for i, p in enumerate(paths)}.items()


def test_file_order_is_the_order_in_which_jax_flattens_the_training_state(params: Params) -> None:
    flattened = jax.tree_util.tree_leaves(TrainingState(params), is_leaf=is_quantized)
    assert all(a is leaf for a, (_, _, leaf) in zip(flattened, in_file_order(TrainingState(params)), strict=True))


@pytest.mark.parametrize("given", ["", "ckpt-0"])
def test_checkpoint_is_found_in_the_folder_given_or_in_ckpt_0_in_it(given: str, folder: Path) -> None:
    assert checkpoint.load_layer(folder.parent / given, CONFIG, 11)


@pytest.mark.parametrize("missing", ["", "nowhere"])
def test_folder_without_checkpoint_is_named(missing: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / missing).startswith(f"{tmp_path / missing}: no checkpoint here")


def test_missing_file_is_named(folder: Path) -> None:
    (folder / "tensor00077_000").unlink()
    assert refusal(folder).startswith(f"{folder / 'tensor00077_000'}: missing")


def test_pipe_in_the_place_of_a_file_counts_as_missing(folder: Path) -> None:
    (folder / "tensor00077_000").unlink()
    os.mkfifo(folder / "tensor00077_000")
    assert refusal(folder).startswith(f"{folder / 'tensor00077_000'}: missing")


@pytest.mark.parametrize("name", ["tensor00146_000", "tensor00003_001", "tensor99999_000"])
def test_extra_file_is_named(name: str, folder: Path) -> None:
    (folder / name).write_bytes((folder / "tensor00000_000").read_bytes())
    assert refusal(folder).startswith(f"{folder / name}: unexpected")


def test_other_files_may_stand_beside_the_tensors(folder: Path) -> None:
    (folder / "README.md").write_text("weights")
    assert checkpoint.load_layer(folder, CONFIG, 0)


@pytest.mark.parametrize("removed_bytes", [1, 100, 3000])
def test_truncated_file_is_named(removed_bytes: int, folder: Path) -> None:
    path = folder / file_of(f"{LAYER_1}/moe/linear/w")
    os.truncate(path, path.stat().st_size - removed_bytes)
    assert refusal(folder).startswith(f"{path}: truncated: ")


@pytest.mark.parametrize(
    ("parameter", "weight", "scales", "found", "expected"),
    [
        ("rms_norm/scale", np.ones(47, np.float32), None, "float32 [47]", "float32 [48]"),
        ("rms_norm/scale", np.ones((1, 48), np.float32), None, "float32 [1, 48]", "float32 [48]"),
        ("rms_norm/scale", np.ones(48, ml_dtypes.bfloat16), None, "bfloat16 [48]", "float32 [48]"),
        ("rms_norm/scale", np.ones(48, np.int8), None, "int8 [48]", "float32 [48]"),
        ("router/w", np.ones((5, 48), np.float32), None, "float32 [5, 48]", "float32 [48, 5]"),
        (
            "multi_head_attention/query/w",
            np.ones((48, 160), np.int8),
            np.ones((8, 160), np.float32),
            "int8 [48, 160] with float32 scales [8, 160]",
            "int8 [48, 160] with bfloat16 or float32 scales [1, 160] (or a plain float weight)",
        ),
        (
            "moe/linear_1/w",
            np.ones((5, 128, 48), np.int8),
            np.ones((5, 3, 48), np.float32),
            "int8 [5, 128, 48] with float32 scales [5, 3, 48]",
            "int8 [5, 128, 48] with bfloat16 or float32 scales [5, G, 48] (or a plain float weight)",
        ),
        (
            "moe/linear_1/w",
            np.ones((5, 128, 48), np.int8),
            np.ones((8, 5, 48), np.float32),
            "int8 [5, 128, 48] with float32 scales [8, 5, 48]",
            "int8 [5, 128, 48] with bfloat16 or float32 scales [5, G, 48] (or a plain float weight)",
        ),
        (
            "moe/linear_1/w",
            np.ones((5, 128, 48), np.int8),
            np.ones(48, np.float32),
            "int8 [5, 128, 48] with float32 scales [48]",
            "int8 [5, 128, 48] with bfloat16 or float32 scales [5, G, 48] (or a plain float weight)",
        ),
        (
            "moe/linear/w",
            np.ones((5, 48, 128), np.int8),
            np.ones((5, 1, 128), np.int8),
            "int8 [5, 48, 128] with int8 scales [5, 1, 128]",
            "int8 [5, 48, 128] with bfloat16 or float32 scales [5, 1, 128] (or a plain float weight)",
        ),
        (
            "moe/linear/w",
            np.ones((5, 48, 128), np.int8),
            None,
            "int8 [5, 48, 128]",
            "int8 [5, 48, 128] with bfloat16 or float32 scales [5, 1, 128] (or a plain float weight)",
        ),
        (
            "router/w",
            np.ones((48, 5), np.int8),
            np.ones((1, 5), np.float32),
            "int8 [48, 5] with float32 scales [1, 5]",
            "float32 [48, 5]",
        ),
    ],
)
def test_other_dtype_or_shape_is_reported_with_file_parameter_expected_and_found(
    parameter: str, weight: Any, scales: Any, found: str, expected: str, folder: Path
) -> None:
    (folder / INDEX_NAME).unlink()
    path = folder / file_of(f"{LAYER_1}/{parameter}")
    path.write_bytes(b"".join(bytes(piece) for piece in encode(weight, scales)))
    assert refusal(folder).startswith(f"{path}: {LAYER_1}/{parameter}: found {found}, expected {expected}: ")


@pytest.mark.parametrize("num_groups", [1, 2, 4, 16])
@pytest.mark.parametrize("scales_dtype", [ml_dtypes.bfloat16, np.float32])
def test_any_number_of_groups_that_divides_the_rows_is_accepted(
    num_groups: int, scales_dtype: Any, tmp_path: Path
) -> None:
    params = random_params(DENSE, num_groups=num_groups, scales_dtype=scales_dtype)
    checkpoint.save(tmp_path, DENSE, params)
    loaded = checkpoint.load(tmp_path, DENSE)
    assert loaded["transformer/decoder_layer_1/linear_1"]["w"].scales.shape == (num_groups, 48)


def test_checkpoint_of_another_config_is_refused(folder: Path) -> None:
    assert "another config" in refusal(folder, replace(CONFIG, vocab_size=62))
    assert "tensor00146_000: missing" in refusal(folder, replace(CONFIG, model=replace(CONFIG.model, num_layers=13)))


def test_exchanged_files_of_equal_type_are_an_error_with_an_index(folder: Path) -> None:
    key, value = (f"{LAYER_1}/multi_head_attention/{name}/w" for name in ("key", "value"))
    exchange(folder, key, value)
    message = refusal(folder)
    assert message.startswith(f"{folder / file_of(key)}: expected the bytes of {key}, found those of {value}")
    assert "wrong order" in message


def test_layers_in_the_order_of_their_numbers_are_an_error_with_an_index(folder: Path) -> None:
    in_string_order = [f"{module}/{name}" for module, name, _ in in_file_order(TrainingState(parameter_shapes(CONFIG)))]
    in_number_order = sorted(
        in_string_order, key=lambda path: [int(number) for number in re.findall(r"layer_(\d+)", path)]
    )
    contents = [(folder / file_of(parameter)).read_bytes() for parameter in in_number_order]
    for position, content in enumerate(contents):
        (folder / file_name(position)).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"decoder_layer_2/.* found those of .*decoder_layer_4/.* wrong order"):
        checkpoint.load_layer(folder, CONFIG, 2)


def test_without_an_index_the_files_are_read_in_string_order_and_it_is_said_once(
    folder: Path, params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / INDEX_NAME).unlink()
    with caplog.at_level(logging.WARNING, "grok_conformance.reference.checkpoint"):
        loaded = [checkpoint.load_layer(folder, CONFIG, i) for i in (2, 10)]
    norms = [f"transformer/decoder_layer_{i}/rms_norm" for i in (2, 10)]
    for layer, norm in zip(loaded, norms, strict=True):
        np.testing.assert_array_equal(layer[norm]["scale"], params[norm]["scale"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder} has no index.json: its files are taken to be in the published order (SPEC §8)"
    ]


def test_with_an_index_nothing_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint.load_layer(folder, CONFIG, 2)
    assert not caplog.records


def test_damaged_byte_in_a_small_file_is_an_error_with_an_index(folder: Path) -> None:
    path = folder / file_of(f"{LAYER_1}/router/w")
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    assert refusal(folder).startswith(f"{path}: expected the bytes of {LAYER_1}/router/w, found others")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "not an index of a checkpoint (JSONDecodeError)"),
        ("[]", "not an index of a checkpoint (TypeError)"),
        ('{"format": 1}', "not an index of a checkpoint (KeyError)"),
        ('{"format": 1, "tensors": [{"file": "x"}]}', "not an index of a checkpoint (TypeError)"),
        ('{"format": 2, "tensors": []}', "format 2, expected 1"),
        ('{"format": 1, "tensors": []}', "altered: its entries have not the sha256 that it gives"),
        ("[" * 100_000, "not an index of a checkpoint (RecursionError)"),
        (" " * (1 << 25), "larger than 16777216 bytes"),
    ],
)
def test_index_that_is_none_is_refused(content: str, problem: str, folder: Path) -> None:
    (folder / INDEX_NAME).write_text(content)
    assert refusal(folder).startswith(f"{folder / INDEX_NAME}: {problem}")


def test_index_in_another_order_is_refused(folder: Path) -> None:
    entries = list(read_index(folder) or ())
    first, second = entries[5], entries[8]
    entries[5] = replace(first, parameter=second.parameter)
    entries[8] = replace(second, parameter=first.parameter)
    write_index(folder, entries)
    assert refusal(folder).startswith(f"{folder / 'tensor00005_000'}: {INDEX_NAME} says ")


def test_index_with_too_few_entries_is_refused(folder: Path) -> None:
    write_index(folder, (read_index(folder) or ())[:5])
    assert refusal(folder).startswith(f"{folder / INDEX_NAME}: 5 entries, not 146")


def test_index_altered_by_another_hand_is_refused(folder: Path) -> None:
    text = (folder / INDEX_NAME).read_text()
    (folder / INDEX_NAME).write_text(text.replace('"shape": [', '"shape": [1, ', 1))
    assert refusal(folder).startswith(f"{folder / INDEX_NAME}: altered: ")


def test_index_that_points_elsewhere_is_refused(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    index["tensors"][5]["file"] = "../elsewhere"
    (folder / INDEX_NAME).write_text(json.dumps(index))
    assert "entry 5 is about '../elsewhere', expected tensor00005_000" in refusal(folder)
