from __future__ import annotations

from collections import Counter

import pytest

NUM_TRIALS, NUM_TRIALS_THOROUGH = 300, 6000

TRIED: Counter[str] = Counter()


@pytest.fixture(scope="session")
def num_trials(request: pytest.FixtureRequest) -> int:
    """How many corruptions of a golden set are tried; of jobs, answers and checkpoints a quarter each."""
    return NUM_TRIALS_THOROUGH if request.config.getoption("--thorough") else NUM_TRIALS


@pytest.fixture(scope="session")
def tried() -> Counter[str]:
    """What was tried how often, for the summary."""
    return TRIED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TRIED:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(TRIED.items()))
        terminalreporter.write_line(f"{TRIED.total():,} corrupted inputs and attacks: {kinds}")
