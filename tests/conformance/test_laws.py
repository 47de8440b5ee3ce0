"""Laws of any candidate: honest ports keep them, every law is seen broken, and what breaks it is small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from grok_conformance.candidates.torch_eager import operations
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.laws.check import check_draws, check_properties
from grok_conformance.harness.laws.draws import SMALLEST, Draw, drawn, fitted, parse_draw, smaller
from grok_conformance.harness.laws.laws import LAWS
from grok_conformance.harness.running.registry import Candidate
from tests.conformance.lawless_ports import KILLS, TORCH, in_process

LAW = {law.name: law for law in LAWS}
ORACLE = Candidate("numpy_float64", ("grok_conformance.candidates.numpy_float64",))
BREAKABLE = Draw(
    scales_dtype="float32", num_kv_heads=3, heads_per_kv_head=2, key_size=4, emb_size=9, num_experts=5,
    num_selected_experts=2, num_groups=4, batch_size=2, num_tokens=4,
)  # fmt: skip


@pytest.mark.parametrize("candidate", [TORCH, ORACLE], ids=lambda candidate: candidate.name)
def test_honest_ports_keep_every_law(candidate: Candidate) -> None:
    for result in check_properties(candidate, draws=drawn(1), runs=in_process):
        assert result.passed, result
        assert result.held == result.num_draws > 0


def test_every_law_has_a_fault_that_breaks_it() -> None:
    assert set(KILLS) == set(LAW)


@pytest.mark.parametrize("name", KILLS)
def test_the_law_is_broken_by_its_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(name, monkeypatch)
    (finding,) = check_draws(TORCH, [LAW[name]], [BREAKABLE], in_process)
    assert finding.status == "fail"
    assert finding.where


def put_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for (owner, attribute), replacement in KILLS[name][1].items():
        monkeypatch.setattr(owner, attribute, replacement)


def test_a_counterexample_is_as_small_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in("causality", monkeypatch)
    (result,) = check_properties(TORCH, laws=[LAW["causality"]], draws=[BREAKABLE], runs=in_process)
    assert not result.passed
    assert result.worst.draw.num_tokens <= 3
    assert replace(result.worst.draw, num_tokens=2) == replace(SMALLEST, num_experts=1)


@pytest.mark.parametrize("draw", [BREAKABLE, SMALLEST, *drawn(8)])
def test_a_draw_is_reproduced_by_its_text_and_smaller_ones_can_be_models(draw: Draw) -> None:
    assert parse_draw(str(draw)) == draw
    assert all(fitted(each) == each != draw for each in smaller(draw))


@pytest.mark.parametrize("text", ["depth=3", "seed=x", "num_experts=2 num_selected_experts=3", "key_size=3", "seed"])
def test_a_text_that_is_no_draw_is_named(text: str) -> None:
    with pytest.raises(FileError, match="--draw"):
        parse_draw(text)


def test_a_law_in_which_nothing_rounds_is_held_to_every_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = operations.rms_norm
    monkeypatch.setattr(operations, "rms_norm", lambda x, scale: norm(x, scale) + 3e-7)
    (_, finding) = check_draws(TORCH, [LAW["determinism"], LAW["doubling"]], [BREAKABLE], in_process)
    assert finding.status == "fail"
    assert 0 < finding.ratio < 1


def test_a_port_that_does_not_repeat_itself_is_held_to_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    embed, random = operations.embed, torch.Generator().manual_seed(0)

    def noisy(*given: Any) -> Any:
        embedded = embed(*given)
        return embedded * (1 + 2e-7 * torch.rand(embedded.shape, generator=random))

    monkeypatch.setattr(operations, "embed", noisy)
    determinism, doubling = check_draws(TORCH, [LAW["determinism"], LAW["doubling"]], [BREAKABLE], in_process)
    assert (determinism.status, doubling.status) == ("pass", "pass")
    assert not determinism.bitwise
    (alone,) = check_draws(TORCH, [LAW["doubling"]], [BREAKABLE], in_process)
    assert alone.status == "pass"
