"""Modules of one subject and functions of one step: how long they are, and how many parameters they take."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for top in ("candidates", "harness", "reference") for path in (ROOT / top).rglob("*.py"))

MAX_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 300, 60, 7

TABLES = {
    "harness/cases/suite.py": "the cases and the presets, a row each",
    "harness/cases/sweeps.py": "the sweeps and their requests, a row each",
    "harness/graph/grok_1.py": "the operations of Grok-1, a row each",
    "harness/faults/functions.py": "the faulty forms of functions, some five lines each",
}
"""Modules that are longer because they are tables."""

KEYWORDS = {
    "harness/graph/oracle.py: walk": "what may be otherwise in a walk, each by its keyword",
    "harness/graph/oracle.py: walk_call": "as of walk",
    "harness/sessions/in_process.py: judge": "what a user may ask of a verdict, each by its keyword",
    "harness/sessions/one_operation.py: check_operation": "what a user may ask of a verdict, each by its keyword",
    "harness/sessions/run.py: run_candidates": "what a run is made of",
    "reference/inference.py: apply": "the published keywords",
    "reference/inference.py: apply_with_taps": "the published keywords, and the taps",
    "reference/inference.py: forward": "the published keywords, compiled",
    "reference/steps.py: prefill": "what the compiled prefill needs, array by array",
}
"""Functions that take more parameters, and why."""


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


def num_parameters(function: ast.FunctionDef) -> int:
    """Return how many parameters a function takes, a method's own object apart."""
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def long_modules() -> dict[str, int]:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    return {name: length for name, length in lengths.items() if length > MAX_LINES}


def test_no_module_is_long_but_tables() -> None:
    assert {name: length for name, length in long_modules().items() if name not in TABLES} == {}


def test_what_is_said_to_be_a_long_table_is_long() -> None:
    assert set(TABLES) <= set(long_modules())


def test_no_function_is_long() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {each.name}": (each.end_lineno or 0) - each.lineno + 1
        for path in MODULES
        for each in functions(path)
    }
    assert {name: length for name, length in found.items() if length > MAX_FUNCTION_LINES} == {}


def test_no_function_takes_many_parameters_but_those_that_say_why() -> None:
    counts = {
        f"{path.relative_to(ROOT)}: {each.name}": num_parameters(each) for path in MODULES for each in functions(path)
    }
    assert {name for name, count in counts.items() if count > MAX_PARAMETERS} == set(KEYWORDS)
