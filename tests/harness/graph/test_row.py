"""What a row of the graph says of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.graph.row import Exact, Operation, Scope


def nothing(**_: object) -> Exact:
    return Exact(np.zeros(1))


def test_an_operation_makes_the_tap_of_its_name_unless_it_says_another() -> None:
    row = Operation(name="dense.output", section="4.6", function=nothing)
    assert row.tap == "dense.output"
    assert replace(row, makes="moe.output").tap == "moe.output"


def test_an_operation_has_no_point_unless_it_names_one() -> None:
    row = Operation(name="a", section="", function=nothing)
    assert (row.points, row.through, row.stored_as) == ((), None, "")


def test_a_scope_rounds_where_the_compute_dtype_is_narrow() -> None:
    scope = Scope(UNEQUAL, np.ones((1, 1)), np.zeros(1), np.ones((1, 1, 1), bool), 0.0)
    assert replace(scope, config=replace(UNEQUAL, fprop_dtype="bfloat16")).rounds
    assert not replace(scope, config=replace(UNEQUAL, fprop_dtype="float32")).rounds


def test_what_is_exact_and_says_no_more_may_not_err() -> None:
    exact = Exact(np.ones(3))
    assert (exact.bound, exact.spread, exact.jump, exact.inherited) == (0.0, 0.0, 0.0, 0.0)
