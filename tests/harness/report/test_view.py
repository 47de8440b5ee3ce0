"""What the page shows, as plain data."""

from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.report.files import report_of
from grok_conformance.harness.report.view import Cell, Column, candidate_view, columns_of
from tests.harness.honest_port import golden
from tests.harness.report.pages import BROKEN, data_of, page
from tests.harness.report.verdicts import CASE

BROKEN_ROW = report_of([BROKEN], golden())["candidates"][0]


def test_colours_beyond_the_fence_are_for_what_does_not_pass() -> None:
    view = candidate_view(report_of([BROKEN], golden())["candidates"][0])
    assert {cell.status for cell in view.cells.values() if cell.shade > 2} == {"fail"}
    assert {cell.status for cell in view.cells.values() if cell.shade <= 2} == {"pass"}


def test_every_case_is_read_for_its_dtype() -> None:
    assert {cell["dtype"] for cell in data_of(page(BROKEN))["candidates"][0]["cells"]} == {CASE.rpartition(".")[2]}


def cell(layer: str, status: str = "pass") -> Cell:
    (found,) = (each for each in candidate_view(BROKEN_ROW).cells.values() if each.operation == "attention.key")
    return replace(found, layer=layer, status=status)


def test_adjacent_layers_in_which_everything_passes_are_one_column() -> None:
    cells = [cell(""), *(cell(str(layer), "fail" if layer == 3 else "pass") for layer in range(12))]
    assert [column.label for column in columns_of(cells)] == ["model", "0–2", "3", "4–11"]


def test_a_folded_column_shows_the_worst_of_its_layers() -> None:
    view = candidate_view(BROKEN_ROW)
    cells = {
        ("logits", str(i), "float32"): replace(cell(str(i)), ratio=ratio) for i, ratio in enumerate((0.1, 0.9, 0.2))
    }
    worst = replace(view, cells=cells).worst("logits", Column(("0", "1", "2")), "float32")
    assert worst is not None
    assert worst.layer == "1"
