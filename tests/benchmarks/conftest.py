"""Gathers what the harness costs, from the tests that measure it, into one table: `--write` keeps it in RESULTS.md."""

from __future__ import annotations

import pytest

from tests.benchmarks.gates import cost_rows
from tests.benchmarks.results import markdown, record


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that the throughput has too."""
    parser.addoption("--write", action="store_true", help="write what the harness costs into RESULTS.md")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show every figure, of gates that are red too; nothing where none was measured."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    if rows := cost_rows(reports):
        table = markdown([("cost", "measured", "limit"), *rows])
        record("costs of the harness", table, write=config.getoption("--write", default=False))
