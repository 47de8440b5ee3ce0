"""Wrong ways: statistics, probabilities and weights that the published model keeps in float32, in fewer digits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations
from tests.fault_detection.honest.norms import EPSILON
from tests.fault_detection.honest.products import bf16
from tests.fault_detection.honest.way import Way


def probabilities_rounded(logits: Tensor) -> Tensor:
    return bf16(torch.softmax(logits, -1))


def softmax_rounded(logits: Tensor) -> Tensor:
    raised = bf16(torch.exp(bf16(logits - logits.amax(-1, keepdim=True))))
    return bf16(raised / bf16(raised.sum(-1, keepdim=True)))


def route_by_half(x: Tensor, weight: Tensor) -> Tensor:
    return x.float() @ weight.half().float()


def norm_by_rounded_inverse(x: Tensor, scale: Tensor) -> Tensor:
    wide = x.float()
    return (wide * bf16(torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)) * scale).to(x.dtype)


def cap_rounded(logits: Tensor) -> Tensor:
    return bf16(operations.LOGIT_CAP * torch.tanh(logits / operations.LOGIT_CAP))


def wrong(name: str, does: str, operation: str, replacement: Callable[..., Tensor], fault: str) -> Way:
    """Return a wrong way that replaces one operation of the port."""
    return Way(id=name, mark="wrong", engines="a bf16 port", does=does, operations={operation: replacement},
               fault=fault)  # fmt: skip


WAYS = (
    wrong("router_probabilities_bf16", "the router's probabilities rounded", "router_probabilities",
          probabilities_rounded, "router_probabilities_bf16"),
    wrong("router_softmax_bf16", "every step of the router's softmax rounded", "router_probabilities",
          softmax_rounded, "router_softmax_bf16"),
    wrong("router_weight_float16", "router weights rounded to float16", "router_logits", route_by_half,
          "router_weight_float16"),
    wrong("norm_inverse_bf16", "the inverse root of norms rounded", "rms_norm", norm_by_rounded_inverse,
          "norm_inverse_bf16"),
    wrong("cap_bf16", "capped logits rounded", "cap_logits", cap_rounded, "attention_logits_bf16"),
)  # fmt: skip
