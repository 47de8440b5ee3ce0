from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from grok_conformance.candidates.torch_eager import model as eager
from grok_conformance.candidates.torch_eager import operations
from tests.candidates.tiny_models import MODELS, ints, random_tokens, random_weights
from tests.candidates.tiny_models import load as load_eager

for module in ("onnxruntime", "onnxscript"):
    pytest.importorskip(module, reason="needs the extra onnx")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TOKENS, LENGTHS = random_tokens(2, 5), ints(5, 3)


@pytest.fixture
def onnx(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The candidate; what its `load` puts into the torch port is taken out again."""
    monkeypatch.setattr(eager, "run_experts", eager.run_experts)
    monkeypatch.setattr(operations, "top_k", operations.top_k)
    from grok_conformance.candidates import onnx_runtime  # noqa: PLC0415 - beside the other engines only where it is installed

    return onnx_runtime


@pytest.mark.parametrize("name", ["4 groups", "dense"])
def test_the_exported_graph_gives_the_values_of_the_torch_port(onnx: ModuleType, name: str) -> None:
    config, num_groups, scales_dtype = MODELS[name]
    wanted = ("logits", "layers.01.output", "layers.00.kv.keys")
    expected_model = load_eager(name)
    expected = [getattr(expected_model, call)(TOKENS, LENGTHS, wanted) for call in ("prefill", "extend")]
    model = onnx.load(config, random_weights(config, num_groups, scales_dtype))
    for call, values in zip(("prefill", "extend"), expected, strict=True):
        observed = getattr(model, call)(TOKENS, LENGTHS, wanted)
        for tap in wanted:
            rows = 3 if "kv" not in tap else 5
            assert np.allclose(observed[tap][:, :rows], values[tap][:, :rows], rtol=1e-5, atol=1e-6), tap


def test_one_graph_serves_every_call_of_a_shape(onnx: ModuleType) -> None:
    config, num_groups, scales_dtype = MODELS["1 group"]
    model = onnx.load(config, random_weights(config, num_groups, scales_dtype))
    for _ in range(2):
        model.prefill(TOKENS, LENGTHS, ("logits",))
    assert len(model.sessions) == 1


def test_the_stored_weights_are_arguments_of_the_graph_which_could_not_keep_constants_as_int8(onnx: ModuleType) -> None:
    config, num_groups, scales_dtype = MODELS["4 groups"]
    weights = random_weights(config, num_groups, scales_dtype)
    model = onnx.load(config, weights)
    model.prefill(TOKENS, LENGTHS, ("logits",))
    (session,) = model.sessions.values()
    num_int8 = sum(array.dtype == np.int8 for array in weights.values())
    assert num_int8 > 0
    assert sum(argument.type == "tensor(int8)" for argument in session.get_inputs()) == num_int8


def test_decoding_before_a_prefill_is_refused(onnx: ModuleType) -> None:
    config, num_groups, scales_dtype = MODELS["1 group"]
    with pytest.raises(ValueError, match="call prefill or preload first"):
        onnx.load(config, random_weights(config, num_groups, scales_dtype)).decode(ints(1)[:, None], ("logits",))
