"""Laws are checked: a broken one is found on a small draw, an honest port keeps them, silence is no pass."""

from __future__ import annotations

from grok_conformance.harness.laws.check import check_properties
from grok_conformance.harness.laws.draws import Draw
from grok_conformance.harness.laws.laws import LAWS
from grok_conformance.harness.running.registry import find_candidate

CAUSALITY = next(law for law in LAWS if law.name == "causality")


DRAW = Draw(seed=1, num_tokens=3, batch_size=2)


def test_an_honest_port_keeps_a_law() -> None:
    seen: list[tuple[str, str]] = []
    (result,) = check_properties(
        find_candidate("numpy_float64"),
        laws=[CAUSALITY],
        draws=[DRAW],
        on_progress=lambda name, draw: seen.append((name, draw)),
    )
    assert result.passed
    assert (result.num_draws, result.held) == (1, 1)
    assert seen == [("numpy_float64", str(DRAW))]


def test_a_port_that_gives_no_answer_does_not_pass() -> None:
    (result,) = check_properties(
        find_candidate("numpy_float64"), laws=[CAUSALITY], draws=[DRAW], runs=lambda _candidate, _pairs: None
    )
    assert not result.passed
    assert result.num_draws <= 1
    assert result.held == 0
