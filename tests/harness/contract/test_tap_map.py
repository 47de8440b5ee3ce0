"""A tap map undoes what an engine did to a layout: laws on tensors whose every axis has another size."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.tap_map import TapSource, map_taps, shown_taps

B, T = 2, 6
TOKENS = np.ones((B, T), np.int32)
G, R, H, V, S = 3, 4, 8, 101, 9
QUERY = "layers.*.attention.query"


def tensor(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def mapped(row: TapSource, x: Array, tap: str, tokens: Array = TOKENS) -> Array:
    (made,) = map_taps([row], UNEQUAL, tokens, ["*"], {str(row.engine).format(layer=1): x}).items()
    assert made[0] == tap
    return made[1]


@pytest.mark.parametrize(
    ("axes", "engine_layout"),
    [
        ("b t q h", lambda x: x),
        ("b t (q h)", lambda x: x.reshape(B, T, -1)),
        ("h q t b", lambda x: x.transpose()),
        ("(b t) q h", lambda x: x.reshape(B * T, G * R, H)),
        ("b (g r) t h", lambda x: x.swapaxes(1, 2)),
        ("b t (r g) h", lambda x: x.reshape(B, T, G, R, H).swapaxes(2, 3).reshape(B, T, G * R, H)),
        ("b t q (j p)", lambda x: np.stack([x[..., : H // 2], x[..., H // 2 :]], -1).reshape(x.shape)),
    ],
)
def test_every_layout_of_the_heads_comes_back_to_that_of_the_contract(
    axes: str, engine_layout: Callable[[Array], Array]
) -> None:
    x = tensor(B, T, G * R, H)
    made = mapped(TapSource(QUERY, "blk.{layer}.q", axes), engine_layout(x), "layers.01.attention.query")
    np.testing.assert_array_equal(made, x)


def test_an_engine_of_one_row_may_leave_the_batch_out() -> None:
    x = tensor(1, T, G * R, H)
    made = mapped(TapSource(QUERY, "q{layer}", "t q h"), x[0], "layers.01.attention.query", TOKENS[:1])
    np.testing.assert_array_equal(made, x)
    with pytest.raises(ValueError, match=r"query has axes b t q h, but the row says t q h"):
        mapped(TapSource(QUERY, "q{layer}", "t q h"), x[0], "layers.01.attention.query")


def test_padding_is_cropped_where_the_row_says_so_and_nowhere_else() -> None:
    x = tensor(B, T, V + 27)
    np.testing.assert_array_equal(mapped(TapSource("logits", "out", "b t v", padded="v"), x, "logits"), x[..., :V])
    with pytest.raises(ValueError, match=r"logits: shape \[2, 6, 128\], expected b t v = \[2, 6, 101\]"):
        mapped(TapSource("logits", "out", "b t v"), x, "logits")


def test_the_key_axis_may_have_any_size() -> None:
    x = tensor(B, G * R, T, S + 23)
    made = mapped(TapSource("layers.*.attention.logits", "kq{layer}", "b q t s"), x, "layers.01.attention.logits")
    np.testing.assert_array_equal(made, x.reshape(B, G, R, T, S + 23))


def test_only_what_is_wanted_and_recorded_is_mapped() -> None:
    tap_map = [TapSource("logits", "out", "b t v"), TapSource("embedding", "embd", "b t d")]
    assert shown_taps(tap_map) == ("logits", "embedding")
    recorded = {"out": tensor(B, T, V), "something": tensor(1)}
    assert set(map_taps(tap_map, UNEQUAL, TOKENS, ["*"], recorded)) == {"logits"}
    assert map_taps(tap_map, UNEQUAL, TOKENS, ["embedding"], recorded) == {}


def test_a_tensor_of_torch_is_recorded_as_well_and_what_is_no_array_is_refused() -> None:
    x = torch.ones(B, T, V, dtype=torch.bfloat16)
    (made,) = map_taps(
        [TapSource("logits", "out", "b t v")], UNEQUAL, TOKENS, ["*"], {"out": cast("Array", x)}
    ).values()
    assert (made.dtype.name, made.shape) == ("bfloat16", (B, T, V))
    with pytest.raises(ValueError, match="logits: out: list is no array: record a NumPy array or a tensor"):
        map_taps([TapSource("logits", "out", "b t v")], UNEQUAL, TOKENS, ["*"], {"out": cast("Array", [[1.0]])})


def test_a_misspelt_name_is_refused_with_the_one_that_was_recorded() -> None:
    recorded = {name: tensor(B, T, V) for name in ("layers.0.moe.norm", "out")}
    row = TapSource("layers.*.moe.norm", "layers.{layer}.moe.nrm", "b t d")
    with pytest.raises(
        ValueError, match=r"recorded no 'layers\.0\.moe\.nrm'; did you mean 'layers\.0\.moe\.norm'\? fix"
    ):
        map_taps([row], UNEQUAL, TOKENS, ["layers.00.moe.norm"], recorded)
    other = TapSource("layers.*.moe.output_norm", "layers.{layer}.moe.norm", "b t d")  # what another row reads
    assert map_taps([row, other], UNEQUAL, TOKENS, ["layers.00.moe.norm"], recorded) == {}


def test_an_axis_or_a_word_in_braces_that_there_is_not_is_told() -> None:
    with pytest.raises(ValueError, match=r"logits: axes 'b t zz': no axis z; there are .*v.*: fix the tap map"):
        mapped(TapSource("logits", "out", "b t zz"), tensor(B, T, V), "logits")
    with pytest.raises(ValueError, match=r"moe.norm: 'l{lyer}': in a name {layer} alone stands for something: fix the"):
        map_taps([TapSource("layers.*.moe.norm", "l{lyer}", "b t d")], UNEQUAL, TOKENS, ["*"], {})


def test_every_layer_is_mapped_by_one_row() -> None:
    recorded = {f"blk.{layer}.q": tensor(B, T, G * R, H) + layer for layer in range(2)}
    made = map_taps([TapSource(QUERY, "blk.{layer}.q", "b t q h")], UNEQUAL, TOKENS, ["*"], recorded)
    assert {tap: x.flat[0] for tap, x in made.items()} == {f"layers.0{i}.attention.query": i for i in range(2)}


def test_a_layers_output_is_not_that_of_its_blocks() -> None:
    recorded = {f"l{layer}": tensor(B, T, 40) for layer in range(2)}
    made = map_taps([TapSource("layers.*.output", "l{layer}", "b t d")], UNEQUAL, TOKENS, ["*"], recorded)
    assert set(made) == {"layers.00.output", "layers.01.output"}


def test_a_tap_that_two_rows_claim_is_refused() -> None:
    twice = [TapSource("logits", "out", "b t v"), TapSource("logits", "lm_head", "b t v")]
    with pytest.raises(ValueError, match=r"tap map: logits is claimed by 2 rows; leave one"):
        shown_taps(twice)
    with pytest.raises(ValueError, match="claimed by 2 rows"):
        map_taps(twice, UNEQUAL, TOKENS, ["*"], {})


def test_a_row_of_no_tap_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tap map: layers\.\*\.attention\.qurey is no tap"):
        shown_taps([TapSource("layers.*.attention.qurey", "q", "b t q h")])
