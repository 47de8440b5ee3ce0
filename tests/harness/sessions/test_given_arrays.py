"""What a caller gives in Python: what does not fit is refused in one line, with what is wanted."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import grok_conformance as gc
from grok_conformance.harness.sessions.given_arrays import compute_dtype, whole_numbers, whole_numbers_of
from tests.harness.honest_port import golden_case

PRESET, _ = golden_case("unequal/prefill/padded_batch.float32")
X = np.ones((1, 8, 2, 64), np.float32)
INPUTS = {"moe.expert_activation": X, "moe.expert_up": X}
READS = "it reads moe.expert_activation, moe.expert_up"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": (X, X)}, "inputs: tuple, expected names with arrays: moe.expert_hidden reads {'moe"),
        ({"inputs": {"activation": X, "moe.expert_up": X}}, f"inputs activation, moe.expert_up; {READS}"),
        ({"dtype": "bf16"}, "dtype: no compute dtype 'bf16'; did you mean bfloat16?"),
        ({"weights": [X]}, "weights: list, expected names with arrays"),
        ({"observed": X[0]}, "moe.expert_hidden: shape [8, 2, 64], expected [b, t, c, f]"),
        ({"tokens": [[1, 2]]}, "tokens: shape [1, 2], expected [1, 8]"),
        ({"mask": [True] * 8}, "mask: shape [8], expected [b, t]: write one row as [[…]]"),
    ],
)  # fmt: skip
def test_what_a_kernel_was_given_otherwise_is_one_line_with_what_is_wanted(given: dict[str, Any], message: str) -> None:
    asked = {"inputs": INPUTS, "observed": X, **given}
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        gc.check_operation("moe.expert_hidden", **asked)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": [5, 6, 7]}, "tokens: shape [3], expected [b, t]: write one row as [[…]]"),
        ({"tokens": [[5, 101]]}, "tokens: 101 at [0, 1], expected 0 to 100"),
        ({"tokens": [[5, -1]]}, "tokens: -1 at [0, 1], expected 0 to 100"),
        ({"tokens": [[0.5]]}, "tokens: float64, expected whole numbers"),
        ({"tokens": [[1], [2, 3]]}, "tokens: rows of unequal lengths are no array: pad them"),
        ({"tokens": [[1] * 10]}, "tokens: shape [1, 10], expected rows of 1 to 9, which the cache holds"),
        ({"tokens": [[]]}, "tokens: shape [1, 0], expected rows of 1 to 9"),
        ({"lengths": [1, 1]}, "lengths: shape [2], expected [1]"),
        ({"lengths": [3]}, "lengths: 3 at [0], expected 0 to 2"),
        ({"weights": {}}, "weights: language_model/in_out_embed/embeddings is missing"),
    ],
)  # fmt: skip
def test_what_a_model_was_given_otherwise_is_one_line_with_what_is_wanted(given: dict[str, Any], message: str) -> None:
    asked = {"config": PRESET.config, "weights": PRESET.weights, "tokens": [[1, 2]], **given}
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        gc.oracle(**asked)


def test_what_fits_is_taken_as_it_is() -> None:
    assert compute_dtype("float32") == "float32"
    assert whole_numbers("tokens", [[0, 3]], 3, "bt").tolist() == [[0, 3]]
    assert whole_numbers_of("steps", None, 7, 9, (2,)).tolist() == [7, 7]
