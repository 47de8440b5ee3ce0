"""The forms in which a port may show its logits, and what one that computed them gives in each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from grok_conformance.harness.contract import ALL_LOGITS, Array, LogitForm
from tests.harness.honest_port import golden_case

FORMS = {
    "all logits": ALL_LOGITS,
    "last position": LogitForm(positions="last"),
    "log probabilities": LogitForm(kind="log_probabilities"),
    "last log probabilities": LogitForm(kind="log_probabilities", positions="last"),
    "top 5": LogitForm(kind="log_probabilities", top=5),
    "more than there are": LogitForm(kind="log_probabilities", top=500),
    "greedy tokens": LogitForm(kind="tokens"),
    "last greedy token": LogitForm(kind="tokens", positions="last"),
}


def shown(logits: Array, lengths: Array, form: LogitForm) -> Array:
    """Return what a port that computed these logits gives in a form."""
    x = logits.astype(np.float32)
    if form.kind != "logits":
        x -= x.max(-1, keepdims=True)
        x = (x - np.log(np.exp(x).sum(-1, keepdims=True), dtype=np.float32)).astype(np.float32)
    if form.positions == "last":
        x = x[np.arange(len(x)), lengths - 1][:, None]
    if form.kind == "tokens":
        return x.argmax(-1).astype(np.int32)
    if form.top is not None and form.top < x.shape[-1]:
        x = np.where(x >= np.sort(x, -1)[..., -form.top, None], x, np.float32(-np.inf))
    return x if form.kind != "logits" else x.astype(logits.dtype)


def logits_of(case_id: str, taps: Mapping[str, Array], form: LogitForm) -> dict[str, Array]:
    _, case = golden_case(case_id)
    return {f"call{i}/logits": shown(taps[f"call{i}/logits"], call.lengths, form) for i, call in enumerate(case.calls)}
