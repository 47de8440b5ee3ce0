"""Progress writes nothing but on a terminal."""

from __future__ import annotations

import pytest

from grok_conformance.harness.report.progress import progress_bar
from tests.harness.report.verdicts import (
    CASE,
    OTHER,
)


def test_progress_takes_every_case_and_writes_nothing_but_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(2) as advance:
        advance("port", CASE)
        advance("port", OTHER)
    assert capsys.readouterr() == ("", "")
