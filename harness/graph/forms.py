"""The forms in which logits may be shown (`contract.LogitForm`): what is exact in them, and how far it may stray."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.contract import LOGITS, Array
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.row import Exact, Scope


def log_softmax(x: Array) -> Array:
    """Return the logarithms of the probabilities, float64, over the last axis."""
    shifted = x - x.max(-1, keepdims=True)
    logarithms: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logarithms


def as_shown(tap: str, exact: Exact, scope: Scope) -> Exact:
    """Return an operation's result as the candidate shows it: another form is possible for the logits alone."""
    if tap != LOGITS or scope.form.kind != "log_probabilities":
        return exact
    return log_probabilities(exact, scope.config.fprop_dtype)


def log_probabilities(logits: Exact, recorded: str) -> Exact:
    """Return the log-softmax of logits [b, t, v], worked out in float32 from logits kept in a dtype.

    An error of the logits moves its own entry, and through the sum all entries by the mean that the probabilities
    weigh. What log-softmax itself adds is that of the subtraction, the exponentials, the sum and the logarithm.
    """
    value = log_softmax(logits.value)
    probabilities = np.exp(value)

    def carried(error: Array | float) -> Array:
        each = np.broadcast_to(np.asarray(error, np.float64), value.shape)
        common: Array = np.sqrt(np.sum(np.square(probabilities * each), -1, keepdims=True))
        return each + common

    shift = np.abs(logits.value - value)  # of the logarithm of the sum
    own = np.abs(logits.value) + shift + np.abs(value) + 4 + np.sqrt(value.shape[-1] / 3)
    kept = UNIT_ROUNDOFF[recorded] / UNIT_ROUNDOFF["float32"] * np.abs(logits.value)  # the logits' own rounding
    return Exact(
        value,
        bound=carried(logits.bound) + carried(kept) + own,
        spread=carried(logits.spread),
        jump=carried(logits.jump),
        inherited=carried(logits.inherited),
    )
