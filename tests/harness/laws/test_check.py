"""Laws are checked: a broken one is found on a small draw, an honest port keeps them, silence is no pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.laws.check import Finding, check_properties, held_to_bits, predicted
from grok_conformance.harness.laws.draws import Draw
from grok_conformance.harness.laws.laws import LAWS, unchanged
from grok_conformance.harness.running.registry import find_candidate

BITWISE = next(law for law in LAWS if law.bitwise)
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


@pytest.mark.parametrize(
    ("repeats", "bitwise", "status"), [(True, False, "fail"), (False, False, "pass"), (True, True, "pass")]
)
def test_every_bit_is_asked_only_of_a_port_that_repeats_itself(status: str, *, repeats: bool, bitwise: bool) -> None:
    found = held_to_bits(Finding(BITWISE, DRAW, "pass", bitwise=bitwise), repeats=repeats)
    assert found.status == status


def test_what_a_law_predicts_is_permuted_scaled_and_renamed() -> None:
    experiment = replace(
        unchanged(DRAW), order={"e": np.array([1, 0]), "d": np.array([2, 0, 1, 3])}, factors={"moe.norm": 2.0}
    )
    x = np.arange(4.0).reshape(1, 1, 4)
    assert predicted("moe.norm", x, experiment).tolist() == [[[4.0, 0.0, 2.0, 6.0]]]
    assert predicted("moe.expert_index", np.array([[[0, 1]]]), experiment).tolist() == [[[1.0, 0.0]]]
