"""The torch port exported to ONNX and run by ONNX Runtime: float32 only, whose CPU kernels have no bf16 product.

One graph per shape of call, the weights among its arguments: as constants ONNX Runtime would dequantize them all while
it makes a session. A graph cannot group tokens by data, so every expert runs on every token, and the chosen ones are
gathered: the same numbers, with the waste of the published code.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import model as eager
from grok_conformance.candidates.torch_eager import operations
from grok_conformance.candidates.torch_eager.parameters import Params, check_config, load_params, to_torch
from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Weights, select_taps, tap_names

INFO = CandidateInfo(name="onnx_runtime", version=onnxruntime.__version__, fprop_dtypes=("float32",))


def run_every_expert(params: Params, path: str, x: Tensor, index: Tensor, num_experts: int) -> eager.ExpertValues:
    """Run every token of x [b, t, d] through every expert, and return the values [b, t, c, ..] of those in index."""
    every = [eager.expert(params, path, i, x) for i in range(num_experts)]

    def choose(values: tuple[Tensor, ...]) -> Tensor:
        stacked = torch.stack(values, dim=2)  # [b, t, e, ..]
        return torch.gather(stacked, 2, index[..., None].expand(*index.shape, stacked.shape[-1]))

    return eager.ExpertValues(*(choose(values) for values in zip(*every, strict=True)))


def top_k(probabilities: Tensor, num_selected_experts: int) -> tuple[Tensor, Tensor]:
    """Return the ids int64 [b, t, c] and gates of the most probable experts: ONNX's TopK gives ties to the lowest."""
    gate, index = torch.topk(probabilities, num_selected_experts, dim=-1)
    return index, gate


class Graph(torch.nn.Module):
    """One call of the model as a function of parameters, tokens, caches and steps, as an exporter wants it."""

    def __init__(self, config: LanguageModelConfig, names: tuple[str, ...]) -> None:
        """Keep the names of the taps that are returned after the caches."""
        super().__init__()
        self.config, self.names = config, names

    def forward(self, params: Params, tokens: Tensor, keys: Tensor, values: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """Return the new caches [layer, b, s, g, h], twice, and the taps; tokens int64 [b, t], step int64 [b]."""
        shown: dict[str, Tensor] = {}

        def tap(name: str, value: Tensor) -> Tensor:
            shown[name] = value.clone()  # an output of its own, even where one value has two names
            return value

        memory = tuple(eager.KVMemory(k, v, step) for k, v in zip(keys, values, strict=True))
        memory = eager.forward(self.config, params, tokens, memory, tap)
        caches = (torch.stack([cache.k for cache in memory]), torch.stack([cache.v for cache in memory]))
        return (*caches, *(shown[name] for name in self.names))


@dataclass
class Model:
    """The torch port's parameters, a session per shape and choice of taps, and the caches of the next call."""

    config: LanguageModelConfig
    params: Params
    sessions: dict[tuple[tuple[int, ...], tuple[str, ...]], Any] = field(default_factory=dict)
    caches: tuple[Array, Array] | None = None
    steps: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] from an empty cache."""
        size = self.config.axis_sizes
        shape = (self.config.model.num_layers, len(tokens), *(size[axis] for axis in "sgh"))
        self.preload(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(len(tokens)))
        return self.extend(tokens, lengths, taps)

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        """Start from caches [layer, b, s, g, h] at steps int32 [b]."""
        self.caches, self.steps = (keys, values), steps.astype(np.int64)

    def decode(self, tokens: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run one token per row, int32 [b, 1]."""
        return self.extend(tokens, np.ones(len(tokens), np.int32), taps)

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] at each row's step; steps grow by lengths int32 [b]."""
        if self.caches is None:
            raise ValueError("there is no cache to continue; call prefill or preload first")
        names = select_taps(tap_names(self.config), taps)
        inputs = (tokens.astype(np.int64), *self.caches, self.steps)
        if (tokens.shape, names) not in self.sessions:
            self.sessions[tokens.shape, names] = self._export(inputs, names)
        session = self.sessions[tokens.shape, names]
        given = (*(parameter.numpy() for parameter in self.params.values()), *inputs)
        feed = {argument.name: x for argument, x in zip(session.get_inputs(), given, strict=True)}
        keys, values, *shown = session.run(None, feed)
        self.caches, self.steps = (keys, values), self.steps + lengths
        return dict(zip(names, shown, strict=True))

    def _export(self, inputs: tuple[Array, ...], names: tuple[str, ...]) -> Any:
        arguments = (self.params, *map(to_torch, inputs))
        program = torch.onnx.export(Graph(self.config, names).eval(), arguments, dynamo=True, verbose=False)
        assert program is not None  # noqa: S101 - narrows the type: no file is written
        stored = program.model_proto.SerializeToString()
        return onnxruntime.InferenceSession(stored, providers=["CPUExecutionProvider"])


def load(config: LanguageModelConfig, weights: Weights) -> Model:
    """Return a model with the stored weights (SPEC §2); raises what `torch_eager` raises."""
    check_config(config)
    eager.run_experts = run_every_expert
    operations.top_k = top_k
    return Model(config, load_params(config, weights))
