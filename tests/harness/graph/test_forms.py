"""Logits shown as log-probabilities: an honest float32 log-softmax is within its fence, another is not."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import LogitForm
from grok_conformance.harness.graph.forms import as_shown, log_probabilities, log_softmax
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.measure.noise import fence_of, tail_factor

LOGITS = np.random.default_rng(0).standard_normal((2, 3, 50)) * 4


def test_probabilities_add_up_to_1_and_a_common_shift_changes_nothing() -> None:
    np.testing.assert_allclose(np.exp(log_softmax(LOGITS)).sum(-1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(log_softmax(LOGITS + 100), log_softmax(LOGITS), atol=1e-12)


@pytest.mark.parametrize(("temperature", "within"), [(1.0, True), (1.001, False)])
def test_a_float32_log_softmax_is_honest_and_that_of_another_temperature_is_not(
    temperature: float, *, within: bool
) -> None:
    exact = log_probabilities(Exact(LOGITS), "float32")
    x = (LOGITS / temperature).astype(np.float32)
    shifted = x - x.max(-1, keepdims=True)
    observed = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float32))
    assert observed.dtype == np.float32
    error = np.abs(observed - exact.value) / fence_of(exact, "float32", tail_factor(LOGITS.size)).allowed
    assert bool(error.max() <= 1) is within


def test_only_logits_are_shown_in_another_form() -> None:
    form = LogitForm(kind="log_probabilities")
    scope = Scope(UNEQUAL, np.ones((1, 1)), np.zeros(1), np.ones((1, 1, 1), bool), 0.0, form)
    exact = Exact(LOGITS)
    assert as_shown("final_norm", exact, scope) is exact
    np.testing.assert_array_equal(as_shown("logits", exact, scope).value, log_softmax(LOGITS))
