from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.golden.consistency import config_problems, value_problems, weight_problems
from tests.harness.tiny_golden import CONFIG, QUANTISED


def test_the_tiny_preset_has_no_problem() -> None:
    assert list(config_problems(CONFIG)) == []
    assert list(weight_problems({name: array.shape for name, array in QUANTISED.weights.items()})) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_layers": 10**8}, "num_layers is 100000000, expected an integer from 1 to 128"),
        ({"num_layers": 1e2}, "num_layers is 100.0, expected an integer"),
        ({"emb_size": 10**400}, "emb_size is 10000000000000000000, expected an integer"),
        ({"num_q_heads": 3, "num_kv_heads": 2}, "num_q_heads 3 is no multiple of num_kv_heads 2"),
        ({"key_size": 7}, "key_size 7 is odd"),
        ({"num_selected_experts": 4}, "num_selected_experts 4 is more than num_experts 3"),
        ({"widening_factor": 0.0}, "widening_factor 0 is not positive"),
        ({"attn_output_multiplier": 1e99}, "attn_output_multiplier is 1e+99, expected a number of at most 1e+06"),
    ],
)
def test_sizes_that_no_model_has_are_named(changes: dict[str, Any], problem: str) -> None:
    found = "; ".join(config_problems(replace(CONFIG, model=replace(CONFIG.model, **changes))))
    assert problem in found


@pytest.mark.parametrize("token", [7, -8, 1.0])
def test_a_token_outside_the_vocabulary_is_named(token: Any) -> None:
    assert [f"pad_token {token} is no token of 7"] == list(config_problems(replace(CONFIG, pad_token=token)))


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        ({"w.weight": (8, 4), "w.scales": (4, 2, 2)}, "w.scales"),
        ({"w.weight": (8, 4), "w.scales": (3, 4)}, "w.scales"),
        ({"w.weight": (8, 4), "w.scales": (0, 4)}, "w.scales"),
        ({"w.scales": (1, 4)}, "w.scales"),
        ({"": (1,)}, "''"),
    ],
)
def test_scales_that_fit_no_weight_and_nameless_tensors_are_named(
    shapes: dict[str, tuple[int, ...]], named: str
) -> None:
    (problem,) = weight_problems(shapes)
    assert named in problem


def test_weights_whose_products_leave_float32_are_told() -> None:
    assert not list(value_problems({"w": np.array([1.0, -1e9]), "empty": np.empty(0), "q": np.array([-128], np.int8)}))
    (problem,) = value_problems({"w": np.array([1.0, -2e10])})
    assert problem.startswith("tensor 'w' holds 2e+10, beyond 1e+10")
