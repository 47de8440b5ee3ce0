"""A coefficient with a standard error that holds where noise is unequal, or shared by the values of a token."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.diagnosis.fit import fit, tokens_of


def test_the_standard_error_is_robust_against_unequal_noise() -> None:
    random = np.random.default_rng(0)
    d = random.standard_normal(400)
    fits = [fit(d + d * random.standard_normal(400), d) for _ in range(400)]  # noise grows with d
    spread = float(np.std([x.coefficient for x in fits]))
    assert np.mean([x.standard_error for x in fits]) == pytest.approx(spread, rel=0.1)


def test_the_standard_error_counts_tokens_whose_values_share_their_noise() -> None:
    random = np.random.default_rng(0)
    d, tokens = random.standard_normal(40), np.repeat(np.arange(40), 25)
    fits = [
        fit((d + 0.3 * d * random.standard_normal(40))[tokens], d[tokens], tokens) for _ in range(400)
    ]  # noise of a whole token
    spread = np.std([each.coefficient for each in fits])
    assert np.mean([each.standard_error for each in fits]) == pytest.approx(spread, rel=0.15)
    alone = [fit((d + 0.3 * d * random.standard_normal(40))[tokens], d[tokens]) for _ in range(100)]
    assert np.mean([each.standard_error for each in alone]) < spread / 4


def test_values_of_one_token_or_slot_belong_together() -> None:
    mask = np.array([[[True, False], [True, True]], [[False, False], [True, True]]])
    assert tokens_of(mask, ("b", "t", "d")).tolist() == [0, 1, 1, 3, 3]
    assert tokens_of(mask, ("b", "q", "t")).tolist() == [0, 0, 1, 2, 3]


def test_a_coefficient_is_told_by_as_many_tokens_as_weigh_alike() -> None:
    d, tokens = np.ones(40), np.repeat(np.arange(4), 10)
    assert fit(d, d, tokens).num_tokens == pytest.approx(4)
    heavy = np.where(tokens == 0, 100.0, d)
    assert fit(heavy, heavy, tokens).num_tokens == pytest.approx(1, rel=0.01)
    assert np.isinf(fit(d, d).num_tokens)
