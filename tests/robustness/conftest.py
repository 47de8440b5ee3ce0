from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

NUM_TRIALS, NUM_TRIALS_THOROUGH = 300, 6000

TRIED: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which a share of the trials is run."""
    parser.addoption("--trials", type=int, help="corrupted golden sets to try")


@pytest.fixture(scope="session")
def num_trials(request: pytest.FixtureRequest) -> int:
    """How many corruptions of a golden set are tried, and sets signed again; of jobs and the like a quarter each."""
    if (asked := request.config.getoption("--trials", default=None)) is not None:
        return int(asked)
    return NUM_TRIALS_THOROUGH if request.config.getoption("--thorough") else NUM_TRIALS


@pytest.fixture(scope="session")
def tried() -> Counter[str]:
    """What was tried how often, for the summary."""
    return TRIED


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand a worker's counts to the process that shows the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tried"] = dict(TRIED)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node: Any) -> None:
    TRIED.update(getattr(node, "workeroutput", {}).get("tried", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TRIED:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(TRIED.items()))
        terminalreporter.write_line(f"{TRIED.total():,} corrupted inputs and attacks: {kinds}")
