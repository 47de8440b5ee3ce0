from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.report.files import read_report, report_of, write_report_json
from grok_conformance.harness.sessions.capture import suite_groups
from grok_conformance.harness.sessions.differences import Move
from tests.gpu import streaming
from tests.gpu.conformance import failing
from tests.gpu.golden import FIRST, Captured, beyond, by_preset, figures_of, is_good, only
from tests.gpu.machine import others
from tests.gpu.steps import NOT_SHOWN
from tests.gpu.tf32 import is_in_effect, named, outcome
from tests.gpu.throughput import DTYPE, PORTS, merged
from tests.harness.honest_port import golden
from tests.harness.report.verdicts import FAILING, PASSING, verdict

SMALL, WIDE = ("torch", "16"), ("torch", "64")
JAX = ("JAX", "64")


def test_versions_other_than_meant_are_told() -> None:
    meant = {"jax": "0.1", "torch": "2.11"}
    assert others({"jax": "0.1.2", "torch": "2.11.0+cu130"}, meant) == []
    assert others({"jax": "0.11.2", "torch": "2.13.0"}, meant) == ["jax 0.11.2", "torch 2.13.0"]


def test_operations_that_fail_are_named() -> None:
    rows = [
        {"operation": "logits", "fprop_dtype": "float32", "status": "fail"},
        {"operation": "moe.output", "fprop_dtype": "float32", "status": "pass"},
    ]
    assert failing(rows) == ["logits"]


# TF32


@pytest.mark.parametrize(
    ("errors", "in_effect"),
    [
        ({SMALL: (1e-7, 1e-7), WIDE: (3e-4, 1e-7), JAX: (3e-4, 1e-7)}, True),
        ({SMALL: (1e-7, 1e-7), WIDE: (3e-4, 1e-7), JAX: (1e-7, 1e-7)}, False),  # in one engine only
        ({SMALL: (1e-7, 1e-7), WIDE: (3e-4, 3e-4), JAX: (3e-4, 1e-7)}, False),  # refusing it is of no effect
        ({WIDE: (1e-7, 1e-7), JAX: (1e-7, 1e-7)}, False),
    ],
)
def test_tf32_is_in_effect_only_where_both_engines_differ_by_it(
    errors: dict[tuple[str, str], tuple[float, float]], *, in_effect: bool
) -> None:
    assert is_in_effect(errors) == in_effect


def test_a_port_that_passes_fails_the_step_and_an_emulation_shows_nothing_of_a_gpu() -> None:
    assert outcome([True, False], in_effect=True)[0] == 1
    assert outcome([True, False], in_effect=False)[0] == 1
    assert outcome([True, True], in_effect=True)[0] == 0
    assert outcome([True, True], in_effect=False)[0] == NOT_SHOWN


def test_only_what_fails_is_named_and_only_by_what_the_harness_asserts() -> None:
    rows: list[dict[str, Any]] = [
        {"status": "fail", "diagnosis": {"faults": ["router_tf32"], "likeliest": "router_tf32"}},
        {"status": "fail", "diagnosis": {"faults": [], "likeliest": "attention_cap_50"}},
        {"status": "fail", "diagnosis": None},
        {"status": "pass", "diagnosis": {"faults": ["gelu_erf"], "likeliest": "gelu_erf"}},
    ]
    assert named(rows) == ["router_tf32"]


# The ceilings of streaming


@pytest.mark.parametrize("num_bytes", [1, 10, 11, 20, 25])
def test_a_copy_moves_as_many_bytes_as_it_is_held_for(num_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    monkeypatch.setattr(jax, "device_put", lambda x, **_: moved.append(x.nbytes))
    streaming.copy(np.ones(10, np.int8), num_bytes)
    assert sum(moved) == num_bytes


# Golden v1


def test_all_cases_are_captured_preset_by_preset_the_telling_ones_first() -> None:
    groups = suite_groups()
    parts = by_preset(groups)
    assert [name for name, _ in parts][: len(FIRST)] == list(FIRST)
    assert sorted(case.id for _, part in parts for group in part for case in group.cases) == sorted(
        case.id for group in groups for case in group.cases
    )


def test_a_part_of_the_set_is_compared_with_the_same_cases() -> None:
    old = open_golden(GOLDEN_DIR / "v1")
    some = {name: case for name, case in old.manifest.cases.items() if name.startswith("ties/")}
    new = replace(old, manifest=replace(old.manifest, cases=some))
    assert only(old, new).manifest.cases == some != {}
    assert only(new, old).manifest.cases == some


def test_what_moved_beyond_its_fences_is_named() -> None:
    moves = [Move("logits", "float32", "within fences", distance=0.5, where="here"),
             Move("moe.output", "float32", "beyond fences", distance=7.0, where="there")]  # fmt: skip
    assert beyond(moves) == "moe.output float32 (there)"
    figures = figures_of([Captured(2, tuple(moves), (), "jax 1 → 2")], 2)
    assert figures["operations, preset by preset"] == "1 within fences, 1 beyond fences"
    assert figures["farthest move / what two honest runs may differ by"] == "7, there"


MOVED = Captured(1, (Move("logits", "float32", "within fences"),))


@pytest.mark.parametrize(
    ("found", "good"),
    [
        ([MOVED, MOVED], True),
        ([MOVED], False),  # not all cases
        ([MOVED, replace(MOVED, problems=("case x has other inputs",))], False),
        ([MOVED, Captured(1, (Move("logits", "float32", "beyond fences"),))], False),
        ([MOVED, Captured(1, (Move("logits", "float32", "gone"),))], False),
    ],
)
def test_golden_is_good_only_whole_and_within_its_fences(found: list[Captured], *, good: bool) -> None:
    assert is_good(found, 2) == good


# Throughput


def test_only_candidates_that_conform_are_measured(tmp_path: Path) -> None:
    folder = tmp_path / "throughput"
    folder.mkdir()
    assert merged(folder) is None
    for port, cases in zip(PORTS, (FAILING, PASSING, PASSING), strict=True):
        (tmp_path / port).mkdir()
        write_report_json(tmp_path / port / f"{DTYPE}.json", report_of([replace(verdict(cases), name=port)], golden()))
    path = merged(folder)
    assert path is not None
    assert [each["name"] for each in read_report(path)["candidates"]] == list(PORTS[1:])
