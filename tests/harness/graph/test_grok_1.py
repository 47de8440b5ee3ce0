"""Grok-1 as a table of operations; and nothing else of the harness spells a name or a constant of it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from grok_conformance.harness.cases.suite import PRESETS, UNEQUAL, make_preset
from grok_conformance.harness.commands.glossary import WORDS
from grok_conformance.harness.contract import LanguageModelConfig, split_tap, tap_names, tap_specs
from grok_conformance.harness.contract import grok_1 as stored
from grok_conformance.harness.graph.grok_1 import GROK_1, OPERATIONS

DENSE = replace(UNEQUAL, model=replace(UNEQUAL.model, num_experts=1, num_selected_experts=1))
CONFIGS = {"moe": UNEQUAL, "dense": DENSE}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_input_of_an_operation_is_a_tap_made_earlier(config: LanguageModelConfig) -> None:
    names = tap_names(config)
    for i, tap in enumerate(names):
        for name in GROK_1.input_taps(tap, config):
            assert name in names[:i] or name == f"previous:{tap}"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_tap_but_the_last_is_read_by_some_operation(config: LanguageModelConfig) -> None:
    names = tap_names(config)
    read = {name for tap in names for name in GROK_1.input_taps(tap, config)}
    assert set(names) - read == {"logits"}


def test_the_graph_and_the_contract_on_taps_name_the_same_operations() -> None:
    made = {GROK_1.operation_of(tap, config).name for config in CONFIGS.values() for tap in tap_names(config)}
    assert made == {operation.name for operation in OPERATIONS}
    assert made - {spec.operation for spec in tap_specs()} == {"dense.output"}
    assert max(Counter(operation.name for operation in OPERATIONS).values()) == 1


def test_the_residual_stream_is_the_embedding_first_and_then_the_previous_layers_output() -> None:
    for reader in ("attention.norm", "attention.residual"):
        assert GROK_1.input_taps(f"layers.00.{reader}", UNEQUAL)[0] == "embedding"
        assert GROK_1.input_taps(f"layers.01.{reader}", UNEQUAL)[0] == "layers.00.output"
    assert GROK_1.input_taps("final_norm", UNEQUAL) == ("layers.01.output",)


def test_the_ways_of_a_row_may_hang_on_its_weights_and_on_the_block_before_it() -> None:
    presets = {"moe": make_preset("unequal"), "dense": make_preset("dense")}
    told = {
        (name, row): GROK_1.form_of(GROK_1.by_name[row], preset.config, preset.weights)
        for name, preset in presets.items()
        for row in ("moe.output_norm", "output", "embedding")
    }
    assert told["moe", "moe.output_norm"][-1] == "behind experts"
    assert told["dense", "moe.output_norm"][-1] == "behind a dense block"
    assert told["moe", "output"] == told["dense", "output"] == ()
    assert told["moe", "embedding"] == ("float weights",)


def test_moe_output_of_a_dense_block_is_made_by_its_own_operation() -> None:
    assert GROK_1.operation_of("layers.01.moe.output", DENSE).name == "dense.output"
    assert GROK_1.input_taps("layers.01.moe.output", DENSE) == ("layers.01.dense.hidden",)
    assert GROK_1.operation_of("layers.01.moe.output", UNEQUAL).name == "moe.output"


@pytest.mark.parametrize("name", PRESETS)
def test_the_operations_of_a_preset_read_all_of_its_weights_and_no_others(name: str) -> None:
    preset = make_preset(name)
    stored = {re.sub(r"\.(weight|scales)$", "", key) for key in preset.weights}
    read = {key for tap in tap_names(preset.config) for key in GROK_1.weight_names(tap, preset.config)}
    assert read == stored


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: str(operation.name))
def test_an_operation_names_its_section_and_at_every_point_the_published_choice_first(operation: object) -> None:
    assert isinstance(operation, type(OPERATIONS[0]))
    assert re.fullmatch(r"§[45](\.\d)?", operation.section)
    assert max(Counter(point.name for point in operation.points).values(), default=1) == 1
    for point in operation.points:
        assert point.choices[point.published] == ""
        assert all(words for choice, words in point.choices.items() if choice != point.published)


def test_what_decides_experts_has_no_point_at_which_a_port_may_round_otherwise() -> None:
    for name in ("router.logits", "router.probabilities", "moe.expert_index", "moe.expert_gate"):
        assert GROK_1.operation_of(f"layers.00.{name}", UNEQUAL).points == ()


def test_cached_keys_are_the_rotated_ones_and_values_are_not_rotated() -> None:
    assert GROK_1.input_taps("layers.01.kv.keys", UNEQUAL) == (
        "previous:layers.01.kv.keys",
        "layers.01.attention.key_rotated",
    )
    assert GROK_1.input_taps("layers.01.kv.values", UNEQUAL) == (
        "previous:layers.01.kv.values",
        "layers.01.attention.value",
    )
    assert split_tap(GROK_1.input_taps("layers.01.attention.logits", UNEQUAL)[1])[1] == "kv.keys"


HARNESS = Path(__file__).resolve().parents[3] / "harness"

TELL = ("contract/grok_1.py", "graph/grok_1.py", "faults/")
"""Where names and constants of Grok-1 are told: the two tables of the model, and the faults of its operations."""

OF_OTHER_THINGS = {
    ("commands/glossary.py", WORDS["tap"]): "an example of a name",
    ("contract/candidate.py", "logits"): "a form in which logits are shown",
    ("contract/taps.py", "logits"): "the one place that names the tap in which every language model ends",
    ("contract/template.py", "logits"): "a tap map to be filled in, which its reader copies",
    ("diagnosis/probe_power.py", "embedding"): "what a form of showing shows",
    ("diagnosis/probe_power.py", "final_norm"): "what a form of showing shows",
    ("diagnosis/probe_power.py", "layers.*.router.logits"): "what a form of showing shows",
    ("report/agreement.py", "logits"): "a field of the JSON report",
    ("running/forward_only.py", "logits"): "the attribute of what a transformers model returns",
    ("running/forward_only.py", "output"): "the name that a tap map has for what a module returns",
    ("running/info.py", "logits"): "a field of info.json",
}
"""Words that are also taps of Grok-1, by file, and what they mean there."""

TAPS = {name for row in OPERATIONS for name in (row.name, row.tap)}
PATHS = (stored.LAYER.split("_{")[0], *stored.OF_THE_MODEL, *stored.OF_A_LAYER)
PART = "|".join({part for path in PATHS for part in path.split("/")})
DOTTED = re.compile(rf"(?<!\w)({'|'.join(re.escape(tap) for tap in TAPS if '.' in tap)})(?!\w)")
PATH = re.compile(rf"(?<!\w)({PART})/|/({PART})(?![^\W_])")
FIGURES = {
    stored.PUBLISHED.embedding_multiplier_scale, stored.PUBLISHED.output_multiplier_scale,
    stored.PUBLISHED.model.attn_output_multiplier, stored.PUBLISHED.vocab_size, stored.PUBLISHED.model.emb_size,
    stored.EPSILON,
}  # fmt: skip
CONSTANTS = {"EPSILON", "ROPE_BASE", "LOGIT_CAP"}


def literals(tree: ast.AST) -> Iterator[str | float]:
    """Yield the strings and numbers of a module that are no docstrings."""
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documents and isinstance(node.value, str | int | float):
            yield node.value


def spelled(text: str) -> list[str | float]:
    """Return what a module spells of Grok-1: taps, paths of weights, figures; or a constant defined again."""
    tree = ast.parse(text)
    found = [
        value
        for value in literals(tree)
        if (value in TAPS or DOTTED.search(value) or PATH.search(value) if isinstance(value, str) else value in FIGURES)
    ]
    stores = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return [*found, *(name for name in stores if name in CONSTANTS)]


def test_nothing_but_its_tables_and_faults_spells_a_name_or_a_constant_of_grok_1() -> None:
    found = {
        (name, value)
        for path in sorted(HARNESS.rglob("*.py"))
        if not (name := str(path.relative_to(HARNESS))).startswith(TELL)
        for value in spelled(path.read_text())
    }
    assert found == set(OF_OTHER_THINGS)


@pytest.mark.parametrize(
    "line",
    [
        'tap = "moe.expert_gate"', 'key = f"call0/layers.00.router.logits"', 'x = taps["embedding"]',
        'name.endswith("router/w")', 'w = weights[f"{below}rms_norm_2/scale"]', '"/moe/" in name',
        'x = "transformer/decoder_layer_0"', "scale = 78.38367176906169", "EPSILON = 1e-6", "y = x + 1e-5",
    ],
)  # fmt: skip
def test_a_line_that_knows_grok_1_is_found(line: str) -> None:
    assert spelled(line) != []
    assert spelled(f'def f():\n    """Say {line.replace(chr(34), "")}."""') == []
