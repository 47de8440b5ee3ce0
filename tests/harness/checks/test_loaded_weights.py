"""The weights that a candidate shows: honest readings pass, and each known mistake is identified by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.checks.loaded_weights import WeightProblem, check_partition_specs, check_weights
from grok_conformance.harness.contract import DTYPES, GOLDEN_DIR, Array, LanguageModelConfig, Weights
from grok_conformance.harness.formats.files import read_json
from tests.harness.honest_port import golden_preset

LAYER = "transformer/decoder_layer_0"


QUERY, LINEAR, EXPERT = (
    f"{LAYER}/multi_head_attention/query/w",
    f"{LAYER}/multi_head_attention/linear/w",
    f"{LAYER}/moe/linear_1/w",
)


NORM, ROUTER = f"{LAYER}/rms_norm/scale", f"{LAYER}/router/w"


def config(dtype: str = "float32") -> LanguageModelConfig:
    return replace(golden_preset("unequal").config, fprop_dtype=dtype)


def stored() -> Weights:
    return golden_preset("unequal").weights


def check(shown: Mapping[str, Array], dtype: str = "float32") -> tuple[WeightProblem, ...]:
    return check_weights("unequal", config(dtype), stored(), shown)


def parts(name: str) -> tuple[Array, Array]:
    return stored()[f"{name}.weight"].astype(np.float32), stored()[f"{name}.scales"].astype(np.float32)


def product(name: str) -> Array:
    """Return a dequantized matrix in float32, written out group by group."""
    weight, scales = parts(name)
    groups = np.split(weight, scales.shape[-2], axis=-2)
    return np.concatenate([group * scales[..., i : i + 1, :] for i, group in enumerate(groups)], axis=-2)


def test_stored_tensors_and_dequantized_matrices_pass() -> None:
    shown = {f"loaded/{name}": array for name, array in stored().items()}
    assert check(shown | {f"dequantized/{name}": product(name) for name in (QUERY, LINEAR, EXPERT)}) == ()
    assert check({f"loaded/{EXPERT}": product(EXPERT).astype(DTYPES["bfloat16"])}) == ()


def test_roundings_to_the_compute_dtype_pass_where_the_specification_rounds_and_nowhere_else() -> None:
    table = "language_model/in_out_embed/embeddings"
    shown = {f"loaded/{name}": stored()[name].astype(DTYPES["bfloat16"]) for name in (table, NORM, ROUTER)}
    assert [problem.tensor for problem in check(shown, "bfloat16")] == [f"loaded/{NORM}", f"loaded/{ROUTER}"]
    assert {problem.likely for problem in check(shown, "bfloat16")} == {"rounded to bfloat16"}
    assert len(check(shown, "float32")) == 3


def heads(x: Array) -> Array:
    return x.reshape(len(x), -1, config().model.key_size)


MISTAKES: dict[str, tuple[str, Callable[[], Array], str]] = {
    "transposed": (LINEAR, lambda: product(LINEAR).T, "transposed: its last two axes are exchanged"),
    "row_0": (EXPERT, lambda: parts(EXPERT)[0] * parts(EXPERT)[1][:, :1], "scales of row 0 used for every group"),
    "interleaved": (
        LINEAR,
        lambda: parts(LINEAR)[0] * np.tile(parts(LINEAR)[1], (6, 1)),
        "scales interleaved: row k has those of group k % 16, not k // 6",
    ),
    "unscaled": (QUERY, lambda: parts(QUERY)[0], "scales left out"),
    "one_plus_scale": (NORM, lambda: 1 + stored()[NORM], "1 + scale, where the specification multiplies by scale"),
    "negated": (LINEAR, lambda: -product(LINEAR), "negated: every value has the other sign"),
    "another": (
        f"{LAYER}/moe/linear/w",
        lambda: product(f"{LAYER}/moe/linear_v/w"),
        f"the values of {LAYER}/moe/linear_v/w",
    ),
    "experts_reversed": (EXPERT, lambda: product(EXPERT)[::-1], "its experts are in reverse order"),
    "rotary_pairs": (
        QUERY,
        lambda: np.stack(np.split(heads(product(QUERY)), 2, axis=-1), -1).reshape(product(QUERY).shape),
        "heads in interleaved rotary order: x1 and x2 alternate, where they are the two halves",
    ),
    "heads_tiled": (
        QUERY,
        lambda: heads(product(QUERY)).reshape(40, 3, 4, 8).swapaxes(1, 2).reshape(40, 96),
        "query heads tiled: head j uses KV head j % g, not j // r",
    ),
    "float16": (QUERY, lambda: product(QUERY).astype(np.float16), "rounded to float16"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_known_mistake_is_named(name: str) -> None:
    tensor, make, likely = MISTAKES[name]
    (problem,) = check({f"loaded/{tensor}": make()})
    assert problem.tensor == f"loaded/{tensor}"
    assert problem.likely == likely


def test_one_wrong_value_is_told_with_its_place_and_both_values() -> None:
    wrong = product(EXPERT)
    wrong[2, 5, 7] += 0.25
    (problem,) = check({f"dequantized/{EXPERT}": wrong})
    assert problem.index == (2, 5, 7)
    assert problem.observed - problem.expected == pytest.approx(0.25)
    assert problem.likely == ""
    assert f"1 of {wrong.size} values differ, most at [2, 5, 7]: observed" in str(problem)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_a_problem(value: float) -> None:
    wrong = stored()[NORM].copy()
    wrong[3] = value
    (problem,) = check({f"loaded/{NORM}": wrong})
    assert problem.index == (3,)


def test_a_name_that_is_not_stored_is_a_problem() -> None:
    unlike, alike, bare = check({"loaded/nothing": np.zeros(1), f"loaded/{NORM}s": np.zeros(1), NORM: np.zeros(1)})
    assert unlike.problem == "no parameter of this configuration"
    assert alike.problem == f"no parameter of this configuration: did you mean {NORM}?"
    assert bare.problem == "no parameter of this configuration: put loaded/ or dequantized/ before it"


def test_published_partition_specs_pass_and_another_is_named() -> None:
    rows = read_json(GOLDEN_DIR / "published" / "partition_specs.json")
    names = {row["path"]: np.zeros(0) for row in rows}
    shown = {row["path"]: row["spec"] for row in rows}
    assert check_partition_specs("grok-1", names, shown) == ()
    assert check_partition_specs("grok-1", names, {**shown, ROUTER: ["data", None]}) == ()
    (problem,) = check_partition_specs("grok-1", names, {**shown, EXPERT: [None, "data", "model"]})
    assert str(problem) == (
        f"grok-1: {EXPERT}: partition spec [None, 'data', 'model'], expected [None, 'model', 'data']"
    )
    without = {name: spec for name, spec in shown.items() if name != ROUTER}
    assert [problem.tensor for problem in check_partition_specs("grok-1", names, without)] == [ROUTER]


@pytest.mark.parametrize("part", [".weight", ".scales", ""])
def test_a_name_like_a_stored_one_is_told_with_the_stored_name(part: str) -> None:
    shown = QUERY.replace("query", "q_query")
    (problem,) = check({f"loaded/{shown}{part}": stored()[f"{QUERY}.weight"]})
    assert problem.problem == f"no parameter of this configuration: did you mean {QUERY}{part}?"


@pytest.mark.parametrize("name", [NORM, QUERY, f"{QUERY}.scales"])
def test_what_stands_before_a_stored_name_is_told(name: str) -> None:
    (problem,) = check({f"loaded/model.{name}": stored()[NORM]})
    assert problem.problem == "no parameter of this configuration"
    assert problem.likely == "'model.' before the stored name: leave it out"
