"""Functions as libraries and kernels approximate them: polynomials, rationals, tables, Newton steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.fault_detection.honest.attention import HIDDEN, KEPT, cap_by, online, softmax_by
from tests.fault_detection.honest.functions import gelu_by, inner
from tests.fault_detection.honest.norms import EPSILON, NORMS
from tests.fault_detection.honest.products import BF16
from tests.fault_detection.honest.way import Way

LOG2_E = math.log2(math.e)
LEAST = -87.0
"""Below it an exponential is 0 here."""


def horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Return a float32 polynomial, its highest coefficient first."""
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def tanh_rational(x: Tensor) -> Tensor:
    """Eigen's and XLA's tanh: a quotient of polynomials of degrees 13 and 6, within some units, flat beyond 7.9."""
    x = x.clamp(-7.90531110763549805, 7.90531110763549805)
    square = x * x
    above = x * horner(square, (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11,
                                5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04,
                                4.89352455891786e-03))  # fmt: skip
    below = horner(square, (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03))
    return above / below


def exp_polynomial(x: Tensor) -> Tensor:
    """exp by 2^n times a polynomial of degree 6 around 0, the rest found in two steps: ggml, MLAS, Cephes."""
    seen, x = x > LEAST, x.clamp_min(LEAST)
    whole = torch.round(x * LOG2_E)
    rest = x - whole * 0.693359375 + whole * 2.12194440e-4
    series = horner(rest, tuple(1 / math.factorial(n) for n in range(6, -1, -1)))
    return torch.where(seen, torch.ldexp(series, whole.int()), 0.0)


def exp2_cubic(x: Tensor) -> Tensor:
    """exp2 by a cubic on [0, 1), within 1e-4: what FlashAttention 4 computes beside the hardware's."""
    y = x.clamp_min(LEAST) * LOG2_E
    whole = torch.floor(y)
    made = torch.ldexp(horner(y - whole, (0.07790716, 0.22623319, 0.6957771, 0.99992783)), whole.int())
    return torch.where(x > LEAST, made, 0.0)


def exp_by_bits(x: Tensor) -> Tensor:
    """exp by writing a line into the exponent's bits (Schraudolph 1999): within 3 %."""
    bits = x.clamp_min(LEAST).double() * (2**23 * LOG2_E) + (127 * 2**23 - 366393)
    return torch.where(x > LEAST, bits.to(torch.int32).view(torch.float32), 0.0)


def inverse_root(mean: Tensor, num_steps: int) -> Tensor:
    """1/√ from a 12-bit estimate (rsqrtps errs by 1.5 · 2^-12 at most) and so many Newton steps."""
    estimate = (1 / mean.sqrt()) * (1 + 1.5 * 2.0**-12 * torch.cos(mean * 1e3))
    for _ in range(num_steps):
        estimate = estimate * (1.5 - 0.5 * mean * estimate * estimate)
    return estimate


def norm_by_newton(num_steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
        wide = x.float()
        mean = wide.square().mean(-1, keepdim=True) + EPSILON
        return (wide * inverse_root(mean, num_steps) * scale).to(x.dtype)

    return rms_norm


def gelu_complement(x: Tensor) -> Tensor:
    return x - x / (1 + torch.exp(2 * inner(x)))


def gelu_rational(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + tanh_rational(inner(x)))


def softmax_reciprocal(masked: Tensor, dtype: torch.dtype) -> Tensor:
    p = torch.exp(masked - masked.amax(-1, keepdim=True))
    return (p * (1 / p.sum(-1, keepdim=True))).to(dtype)


def router_reciprocal(logits: Tensor) -> Tensor:
    p = torch.exp2((logits - logits.amax(-1, keepdim=True)) * LOG2_E)
    return p * (1 / p.sum(-1, keepdim=True))


def rotate_by(cos_sin: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a rotation by cos and sin [b, t, h/2] that are worked out for positions and a number of pairs."""

    def rotate(x: Tensor, positions: Tensor) -> Tensor:
        cos, sin = (each[:, :, None] for each in cos_sin(positions, x.shape[-1] // 2))
        first, second = x.float().chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)

    return rotate


def recurrent_phase(positions: Tensor, num_pairs: int) -> tuple[Tensor, Tensor]:
    """Multiply the phase by one factor from pair to pair, in float32: ggml's rope."""
    factor, phase, phases = torch.tensor(10000.0 ** (-1 / num_pairs)), positions.float(), []
    for _ in range(num_pairs):
        phases.append(phase)
        phase = phase * factor
    stacked = torch.stack(phases, -1)
    return torch.cos(stacked), torch.sin(stacked)


def half_phase(positions: Tensor, num_pairs: int) -> tuple[Tensor, Tensor]:
    """Work the phase out in float16."""
    phase = (positions[..., None].half() * (10000.0 ** (-torch.arange(num_pairs) / num_pairs)).half()).float()
    return torch.cos(phase), torch.sin(phase)


WAYS = (
    Way(id="gelu_tanh_rational", engines="XLA, Eigen", does="tanh of gelu as a quotient of polynomials",
        operations=gelu_by(gelu_rational)),
    Way(id="gelu_complement", engines="ONNX Runtime", does="gelu as x - x / (1 + exp(2y))",
        operations=gelu_by(gelu_complement)),
    Way(id="cap_tanh_rational", engines="XLA, Eigen", does="tanh of the cap as a quotient of polynomials",
        operations={"cap_logits": cap_by(tanh_rational)}),
    Way(id="softmax_exp_polynomial", engines="ggml, MLAS", does="softmax by a polynomial exponential",
        operations={"attention_weights": softmax_by(exp_polynomial)}),
    Way(id="softmax_reciprocal", engines="TensorRT-LLM", does="softmax times the reciprocal of its sum",
        operations={"attention_weights": softmax_reciprocal}),
    Way(id="flash_exp2_cubic", engines="FlashAttention 4", does="exp2 by a cubic within 1e-4, tiles of 16", dtypes=BF16,
        hides=HIDDEN, operations={**KEPT, **online(16, exponential=exp2_cubic)}, plan=("attention.heads",),
        untold=True),
    Way(id="router_reciprocal", engines="vLLM topk_softmax", does="router softmax by exp2, times a reciprocal",
        operations={"router_probabilities": router_reciprocal}),
    Way(id="norm_newton", engines="oneDNN, XNNPACK", does="rsqrtps and one Newton step",
        operations={"rms_norm": norm_by_newton(1)}, plan=NORMS, untold=True),
    Way(id="rope_recurrence", engines="llama.cpp", does="phases multiplied by one factor from pair to pair",
        operations={"rotate": rotate_by(recurrent_phase)}),
    Way(id="norm_rsqrtps", mark="wrong", engines="a hand-written kernel", does="rsqrtps without a Newton step",
        operations={"rms_norm": norm_by_newton(0)}, fault="norm_root_12_bits"),
    Way(id="softmax_exp_by_bits", mark="wrong", engines="a fast-math kernel", does="exp by its bits, within 3 %",
        operations={"attention_weights": softmax_by(exp_by_bits)}, fault="softmax_exp_approximate"),
    Way(id="rope_phase_f16", mark="wrong", engines="a float16 port", does="phases worked out in float16",
        operations={"rotate": rotate_by(half_phase)}, fault="rope_position_float16"),
)  # fmt: skip
