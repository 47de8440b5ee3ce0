"""Rows that an engine runs one by one, without padding, are the rows of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.contract import DTYPES, Array, Unsupported
from grok_conformance.harness.contract.rows import RowByRow

TOKENS, LENGTHS = np.array([[3, 4, 5], [6, 0, 0]], np.int32), np.array([3, 1], np.int32)


class Session:
    """Gives its tokens times 10 as `final_norm`, and all it has seen as the keys of its cache."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def prefill(self, tokens: Array, lengths: Array, taps: tuple[str, ...]) -> dict[str, Array]:
        del taps
        assert tokens.shape == (1, lengths[0])
        self.seen += tokens[0].tolist()
        keys = np.array(self.seen, np.float32)[None, :, None, None]
        hidden = (10 * tokens[..., None]).astype(DTYPES["bfloat16"])
        return {"final_norm": hidden, "layers.00.kv.keys": keys, "logits": hidden[:, -1:]}

    def decode(self, tokens: Array, taps: tuple[str, ...]) -> dict[str, Array]:
        return self.prefill(tokens, np.ones(1, np.int32), taps)


class Preloading(Session):
    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        assert keys.shape == values.shape == (2, 1, 5, 1, 1)
        self.seen = keys[0, 0, : steps[0], 0, 0].tolist()


def test_every_row_is_asked_for_its_real_tokens_and_laid_on_the_axes_of_the_batch() -> None:
    made = RowByRow(Session).prefill(TOKENS, LENGTHS, ("*",))
    assert made["final_norm"][..., 0].astype(int).tolist() == [[30, 40, 50], [60, 0, 0]]
    assert made["final_norm"].dtype == DTYPES["bfloat16"]
    assert made["layers.00.kv.keys"][..., 0, 0].tolist() == [[3, 4, 5], [6, 0, 0]]


def test_logits_of_the_last_position_stay_one() -> None:
    assert RowByRow(Session).prefill(TOKENS, LENGTHS, ("*",))["logits"][..., 0].astype(int).tolist() == [[50], [60]]


def test_every_row_has_its_own_history() -> None:
    model = RowByRow(Session)
    model.prefill(TOKENS, LENGTHS, ("*",))
    made = model.decode(np.array([[7], [8]], np.int32), ("*",))
    assert made["layers.00.kv.keys"][..., 0, 0].tolist() == [[3, 4, 5, 7], [6, 8, 0, 0]]
    model.prefill(TOKENS, LENGTHS, ("*",))
    assert [session.seen for session in model.sessions] == [[3, 4, 5], [6]]


def test_a_cache_is_handed_out_by_rows() -> None:
    model = RowByRow(Preloading)
    cache = np.arange(2 * 2 * 5, dtype=np.float32).reshape(2, 2, 5, 1, 1)
    model.preload(cache, cache, np.array([2, 4], np.int32))
    assert [session.seen for session in model.sessions] == [[0, 1], [5, 6, 7, 8]]


def test_what_a_session_cannot_is_unsupported() -> None:
    model = RowByRow(Session)
    with pytest.raises(Unsupported, match="no preload"):
        model.preload(np.zeros((2, 1, 5, 1, 1)), np.zeros((2, 1, 5, 1, 1)), np.ones(1, np.int32))
    model.prefill(TOKENS, LENGTHS, ("*",))
    with pytest.raises(Unsupported, match="no extend"):
        model.extend(TOKENS, LENGTHS, ("*",))
    with pytest.raises(Unsupported, match="a row without a new token"):
        model.extend(TOKENS, LENGTHS * 0, ("*",))
