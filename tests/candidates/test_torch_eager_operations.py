from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


def assert_rounded_once(observed: Tensor, exact: Tensor, magnitudes: Tensor) -> None:
    """The error is half a bf16 unit in the last place, and beyond it a few float32 units of the sum of magnitudes."""
    half_unit = 2.0 ** (torch.floor(torch.log2(exact.abs())) - 8)
    excess = (observed.double() - exact).abs() - half_unit
    assert (excess <= 4 * 2.0**-24 * magnitudes).all()


@pytest.mark.parametrize("shape", [(1, 1, 64), (3, 1, 24), (2, 7, 24), (1, 16, 344), (1, 1, 4096), (2, 16, 4096)])
@pytest.mark.parametrize("num_columns", [1, 40])
def test_bfloat16_products_are_summed_in_float32_and_rounded_once(shape: tuple[int, ...], num_columns: int) -> None:
    x, weight = normal(*shape), normal(shape[-1], num_columns)
    exact, magnitudes = x.double() @ weight.double(), x.double().abs() @ weight.double().abs()
    assert_rounded_once(operations.linear(x, weight), exact, magnitudes)
    assert_rounded_once(operations.expert_linear(x[0], weight), exact[0], magnitudes[0])


@pytest.mark.parametrize(("num_tokens", "num_slots"), [(1, 19), (7, 19), (5, 48), (1, 2048), (16, 2048)])
def test_bfloat16_attention_is_summed_in_float32_and_rounded_once(num_tokens: int, num_slots: int) -> None:
    query, cache = normal(2, num_tokens, 6, 8), normal(2, num_slots, 3, 8)
    spread = cache.double().repeat_interleave(2, dim=2)  # [b, s, q, h]

    logits = operations.attention_logits(query, cache, 1.0).flatten(1, 2)  # [b, q, t, s]
    exact, magnitudes = (
        torch.einsum("btqh,bsqh->bqts", *pair)
        for pair in ((query.double(), spread), (query.double().abs(), spread.abs()))
    )
    assert torch.equal(logits, logits.bfloat16().float())
    assert_rounded_once(logits, exact, magnitudes)

    weights = normal(2, 3, 2, num_tokens, num_slots).abs()
    heads = operations.attention_heads(weights, cache)
    exact, magnitudes = (
        torch.einsum("bqts,bsqh->btqh", weights.double().flatten(1, 2), values) for values in (spread, spread.abs())
    )
    assert_rounded_once(heads, exact, magnitudes)


def test_the_rounding_check_notices_partial_sums_in_bfloat16() -> None:
    x, weight = normal(16, 344), normal(344, 40)
    halves = x[:, :172] @ weight[:172] + x[:, 172:] @ weight[172:]
    exact, magnitudes = x.double() @ weight.double(), x.double().abs() @ weight.double().abs()
    with pytest.raises(AssertionError):
        assert_rounded_once(halves, exact, magnitudes)


def test_bfloat16_multiplies_by_the_rounded_constants() -> None:
    table, tokens = normal(9, 4), torch.tensor([[2, 3, 4]])
    embedded = operations.embed(table, tokens, 78.38367176906169)
    assert torch.equal(embedded, (table[tokens].float() * 78.5).bfloat16())
    logits = operations.unembed(table, table, 0.5773502691896257)
    assert torch.equal(logits, ((table @ table.T).float() * 0.578125).bfloat16())


def test_an_expert_computes_in_the_wider_dtype_of_its_operands() -> None:
    x, weight = normal(3, 24), normal(24, 16)
    assert operations.expert_linear(x, weight).dtype == torch.bfloat16
    wide = operations.expert_linear(x, weight.float() / 3)
    assert torch.equal(wide, x.float() @ (weight.float() / 3))
    assert torch.equal(operations.expert_linear(x.float() / 3, weight), (x.float() / 3) @ weight.float())


def test_gates_are_rounded_to_bfloat16_and_the_sum_once() -> None:
    outputs = normal(2, 3, 2, 8).float() / 3
    first, second = torch.tensor([0.7, 0.2]).bfloat16().float()
    total = outputs[..., 0, :] * first + outputs[..., 1, :] * second
    gate = torch.tensor([0.7, 0.2]).expand(2, 3, 2)
    assert torch.equal(operations.combine_experts(outputs, gate, torch.bfloat16), total.bfloat16())


def test_the_rotary_embedding_turns_pairs_half_a_head_apart() -> None:
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(1, 3, 1, 4)  # pairs (0, 2) and (1, 3)
    angle = torch.tensor([0.0, 1.0, 300.0])
    slow = angle * 10_000**-0.5
    expected = torch.stack((angle.cos(), -slow.sin(), angle.sin(), slow.cos()), dim=-1)[None, :, None]
    torch.testing.assert_close(operations.rotate(x, torch.tensor([[0, 1, 300]])), expected, rtol=0, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=3, max_size=9))
def test_top_k_breaks_ties_to_the_lowest_expert(scores: list[int]) -> None:
    index, gate = operations.top_k(torch.tensor(scores).float(), 3)
    expected = sorted(range(len(scores)), key=lambda expert: (-scores[expert], expert))[:3]
    assert index.tolist() == expected
    assert gate.tolist() == [scores[expert] for expert in expected]
