"""What the page shows, as plain data."""

from __future__ import annotations

from grok_conformance.harness.report.files import report_of
from grok_conformance.harness.report.view import candidate_view
from tests.harness.honest_port import golden
from tests.harness.report.pages import BROKEN, data_of, page
from tests.harness.report.verdicts import CASE


def test_colours_beyond_the_fence_are_for_what_does_not_pass() -> None:
    view = candidate_view(report_of([BROKEN], golden())["candidates"][0])
    assert {cell.status for cell in view.cells.values() if cell.shade > 2} == {"fail"}
    assert {cell.status for cell in view.cells.values() if cell.shade <= 2} == {"pass"}


def test_every_case_is_read_for_its_dtype() -> None:
    assert {cell["dtype"] for cell in data_of(page(BROKEN))["candidates"][0]["cells"]} == {CASE.rpartition(".")[2]}
