from __future__ import annotations

import pickle
import pickletools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from grok_conformance.reference import GROK_1
from grok_conformance.reference.checkpoint.encoding import encode
from grok_conformance.reference.checkpoint.layout import in_file_order
from grok_conformance.reference.parameters import TrainingState, parameter_shapes

PUBLISHED_BYTES = {  # SPEC §8
    "language_model/in_out_embed": 3_221_225_637,
    "language_model/rms_norm": 24_727,
    "moe/linear": 1_611_137_347,
    "moe/linear_v": 1_611_137_347,
    "moe/linear_1": 1_611_399_491,
    "multi_head_attention/linear": 37_847_359,
    "multi_head_attention/query": 37_761_334,
    "multi_head_attention/key": 6_293_814,
    "multi_head_attention/value": 6_293_814,
    "router": 196_770,
    "rms_norm": 24_727,
    "rms_norm_1": 24_727,
    "rms_norm_2": 24_727,
    "rms_norm_3": 24_727,
}
PUBLISHED_TOTAL_BYTES = 318_239_886_140

LEAVES = {
    "norm": (np.arange(48, dtype=np.float32), None),
    "one byte of elements": (np.ones((1, 1), np.int8), None),
    "bfloat16": (np.ones((3, 5), ml_dtypes.bfloat16), None),
    "large": (np.ones((300, 256), np.float32), None),
    "quantised": (np.ones((3, 5), np.int8), np.ones((1, 5), ml_dtypes.bfloat16)),
    "quantised, large weight": (np.ones((3, 300, 256), np.int8), np.ones((3, 4, 256), np.float32)),
    "quantised, large scales too": (np.ones((2, 70_000), np.int8), np.ones((2, 70_000), ml_dtypes.bfloat16)),
}


@dataclass
class Published:
    """The class that the published pickles name."""

    weight: Any
    scales: Any


Published.__qualname__ = Published.__name__ = "QuantizedWeight8bit"
Published.__module__ = "__main__"


@pytest.fixture(autouse=True)
def _published_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "QuantizedWeight8bit", Published, raising=False)


def encoded(weight: Any, scales: Any) -> bytes:
    return b"".join(bytes(piece) for piece in encode(weight, scales))


def opcodes(data: bytes) -> list[tuple[str, object]]:
    found = ((opcode.name, argument) for opcode, argument, _ in pickletools.genops(data))
    return [item for item in found if item[0] != "FRAME"]


@pytest.mark.parametrize("name", LEAVES)
def test_encode_writes_the_opcodes_of_the_standard_pickler(name: str) -> None:
    weight, scales = LEAVES[name]
    standard = pickle.dumps(weight if scales is None else Published(weight, scales), protocol=4)
    published = [
        (opcode, "numpy.core.multiarray" if argument == "numpy._core.multiarray" else argument)
        for opcode, argument in opcodes(standard)
    ]
    assert opcodes(encoded(weight, scales)) == published


@pytest.mark.parametrize("name", LEAVES)
def test_the_standard_unpickler_reads_what_encode_writes(name: str) -> None:
    weight, scales = LEAVES[name]
    found = pickle.loads(encoded(weight, scales))  # noqa: S301 - our own bytes
    if scales is None:
        found = Published(found, None)
    for array, expected in ((found.weight, weight), (found.scales, scales)):
        np.testing.assert_array_equal(array, expected, strict=True)


def test_encoded_leaves_of_grok_1_have_the_published_file_sizes() -> None:
    roles = {module: re.sub(r"transformer/decoder_layer_\d+/", "", module) for module in parameter_shapes(GROK_1)}
    shapes = {roles[module]: leaf for module, _, leaf in in_file_order(TrainingState(parameter_shapes(GROK_1)))}
    num_bytes = {role: sum(memoryview(piece).nbytes for piece in untouched(leaf)) for role, leaf in shapes.items()}
    assert num_bytes == PUBLISHED_BYTES
    assert sum(num_bytes[role] for role in roles.values()) == PUBLISHED_TOTAL_BYTES


def untouched(leaf: Any) -> Iterator[bytes | memoryview]:
    """Encode arrays of these shapes whose memory is reserved but, where large, never taken."""
    weight, *scales = (np.empty(array.shape, array.dtype) for array in jax.tree.leaves(leaf))
    return encode(weight, scales[0] if scales else None)
