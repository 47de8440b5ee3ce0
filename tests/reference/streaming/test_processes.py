"""Experts shared out among processes: each is computed by one, and none is lost."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from grok_conformance.reference.streaming.processes import gather_pairs, own_experts


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_expert_belongs_to_one_process(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: count)
    shares = []
    for index in range(count):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        shares.append(own_experts(range(8)))
    assert sorted(e for share in shares for e in share) == list(range(8))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_keeps_what_it_has() -> None:
    own = {"expert_output": np.arange(6.0).reshape(3, 2)}
    assert gather_pairs(np.array([2, 0, 1]), own) == own
