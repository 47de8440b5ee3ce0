"""Agreement of routing and logits over all cases, and the growth of errors, from the report alone."""

from __future__ import annotations

from typing import Any

from grok_conformance.harness.measure.histogram import EDGES
from grok_conformance.harness.report.agreement import by_position, growth, phases, routing

NUM_BINS = len(EDGES) + 1


def token(kind: str, position: int, divergence: float, *, top_1: bool = True) -> dict[str, Any]:
    return {"kind": kind, "position": position, "kl_divergence": divergence, "expected_kl": "nan", "top_1": top_1}


def row(**changes: Any) -> dict[str, Any]:
    case = {"case": "unequal/prefill/x.float32", "flips": [], "margins": [], "logits": [], "drifts": []}
    return {"cases": [{**case, **changes}]}


def test_flips_are_excused_up_to_what_is_allowed() -> None:
    margins = [{"layer": 0, "histogram": [2, *[0] * (NUM_BINS - 2), 3]}]
    flips = [{"layer": 0, "gap": gap, "allowed": 0.2} for gap in (0.1, 0.2, 0.3)]
    (layer,) = routing(row(margins=margins, flips=flips))
    assert (layer.num_tokens, layer.num_close, layer.excused, layer.unexcused) == (5, 2, 2, 1)


def test_logits_agree_by_kind_of_call() -> None:
    tokens = [token("prefill", 0, 0.5), token("prefill", 1, 0.1, top_1=False), token("decode", 2, 0.2)]
    decode, prefill = phases(row(logits=tokens))
    assert (decode.kind, prefill.kind) == ("decode", "prefill")
    assert by_position(row(logits=tokens)) == {"float32": {"prefill": {"0": 0.5, "1": 0.1}, "decode": {"2": 0.2}}}


def test_errors_grow_along_the_residual_stream_of_the_first_call() -> None:
    errors = {"observed_error": 0.1, "honest_error": 0.2, "expected_error": 0.3}
    taps = ("embedding", "layers.00.attention.residual", "layers.00.moe.norm", "layers.00.output")
    drifts = [{"tap": tap, "call": call, **errors} for tap in taps for call in (0, 1)]
    (found,) = growth(row(drifts=drifts))
    assert list(found.taps) == [taps[0], taps[1], taps[3]]
    assert list(found.observed) == [0.1] * 3
