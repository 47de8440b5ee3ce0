#!/usr/bin/env python3
"""Grok-1's logits by Python's standard library alone: the second worked example of `harness/PROTOCOL.md`.

`logits.py JOB_DIR OUT_DIR` answers in float32 what it computes in Python's float64. Each row's tokens are run one after
the other, which equals running them at once where no pad stands between them (SPEC §4.4).
"""

from __future__ import annotations

import json
import math
import operator
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FORMAT = 1
CODES = {"F32": "f", "I32": "i", "I8": "b", "BF16": "H"}

Vector = Sequence[float]
Matrix = Sequence[Vector]
"""A matrix [k, n] as its n columns."""
Tensors = dict[str, tuple[list[int], Vector]]
"""Shape and values in C order, by name."""
Cache = list[tuple[Sequence[Vector], Sequence[Vector]]]
"""One row's cache in one layer: rotated keys and values [g, h] of every position so far."""


class Unsupported(Exception):  # noqa: N818 - an answer, not an error
    """What this program does not do."""


def read_tensors(path: Path) -> Tensors:
    """Read a safetensors file."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    tensors: Tensors = {}
    for name, entry in json.loads(raw[8:start]).items():
        begin, end = entry["data_offsets"]
        count = math.prod(entry["shape"])
        values = struct.unpack(f"<{count}{CODES[entry['dtype']]}", raw[start + begin : start + end])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            values = struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *(bits << 16 for bits in values)))
        tensors[name] = (entry["shape"], values)
    return tensors


def matrices(weights: Tensors, name: str) -> list[Matrix]:
    """Return the matrices of a weight [k, n] or [e, k, n]; row k has the scales of group k // (K / G) (SPEC §3)."""
    shape, values = weights[name] if name in weights else weights[f"{name}.weight"]
    num_rows, num_columns = shape[-2:]
    size = num_rows * num_columns
    if name not in weights:
        (*_, num_groups, _), scales = weights[f"{name}.scales"]
        rows_per_group = num_rows // num_groups
        values = [x * scales[i // (rows_per_group * num_columns) * num_columns + i % num_columns]
                  for i, x in enumerate(values)]  # fmt: skip
    return [[values[e + j : e + size : num_columns] for j in range(num_columns)] for e in range(0, len(values), size)]


def dot(x: Vector, y: Vector) -> float:
    """Return the sum of products."""
    return float(sum(map(operator.mul, x, y)))


def multiply(x: Vector, matrix: Matrix) -> list[float]:
    """Return x [k] times a matrix [k, n]."""
    return [dot(x, column) for column in matrix]


def rms_norm(x: Vector, scale: Vector) -> list[float]:
    """Divide by the root mean square and multiply by the scale (SPEC §4)."""
    inverse = 1 / math.sqrt(dot(x, x) / len(x) + 1e-5)
    return [value * inverse * factor for value, factor in zip(x, scale, strict=True)]


def softmax(x: Vector) -> list[float]:
    """Return the exponentials, divided by their sum."""
    largest = max(x)
    exponentials = [math.exp(value - largest) for value in x]
    total = sum(exponentials)
    return [value / total for value in exponentials]


def rotate(head: Vector, position: int) -> list[float]:
    """Rotate the two halves of a head by its position's phases (SPEC §4.4)."""
    half = len(head) // 2
    phases = [position * 10000 ** (-j / half) for j in range(half)]
    first = [head[j] * math.cos(p) - head[half + j] * math.sin(p) for j, p in enumerate(phases)]
    second = [head[half + j] * math.cos(p) + head[j] * math.sin(p) for j, p in enumerate(phases)]
    return first + second


def gelu(x: float) -> float:
    """Return the tanh form of gelu (SPEC §4.6)."""
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Model:
    """Configuration and weights; `config` is the decoder's part of config.json."""

    def __init__(self, job_dir: Path) -> None:
        """Read both from a job folder."""
        self.whole = json.loads((job_dir / "config.json").read_text())
        self.config = self.whole["model"]
        if self.whole["fprop_dtype"] != "float32":
            raise Unsupported(f"fprop_dtype {self.whole['fprop_dtype']}; it runs float32")
        self.weights = read_tensors(job_dir / "weights.safetensors")
        (num_tokens, width), table = self.weights["language_model/in_out_embed/embeddings"]
        self.table = [table[i * width : (i + 1) * width] for i in range(num_tokens)]
        names = {name.removesuffix(".weight") for name in self.weights if not name.endswith((".scales", "embeddings"))}
        self.matrices = {name: matrices(self.weights, name) for name in names if name.endswith("/w")}
        self.scales = {name: self.weights[name][1] for name in names if name.endswith("/scale")}

    def heads(self, x: Vector, name: str) -> list[Vector]:
        """Project x [d] and split the result into heads [.., h]."""
        projected, width = multiply(x, self.matrices[name][0]), self.config["key_size"]
        return [projected[i : i + width] for i in range(0, len(projected), width)]

    def attention(self, path: str, x: Vector, cache: Cache) -> list[float]:
        """Append this position to a layer's cache, and attend to all of it (SPEC §4.4)."""
        position, multiplier = len(cache), float(self.config["attn_output_multiplier"])
        rotated = [rotate(head, position) for head in self.heads(x, f"{path}/key/w")]
        cache.append((rotated, self.heads(x, f"{path}/value/w")))
        group = self.config["num_q_heads"] // self.config["num_kv_heads"]
        attended: list[float] = []
        for j, head in enumerate(self.heads(x, f"{path}/query/w")):
            query = rotate(head, position)
            weights = softmax([30 * math.tanh(dot(query, keys[j // group]) * multiplier / 30) for keys, _ in cache])
            attended += [dot(weights, x) for x in zip(*(values[j // group] for _, values in cache), strict=True)]
        return multiply(attended, self.matrices[f"{path}/linear/w"][0])

    def feed_forward(self, path: str, x: Vector) -> list[float]:
        """Return the gated sum of the most probable experts, the lowest index first among equals (SPEC §4.6)."""
        if f"{path}/router/w" not in self.matrices:
            return self.expert(path, 0, x)
        gates = softmax(multiply(x, self.matrices[f"{path}/router/w"][0]))
        chosen = sorted(range(len(gates)), key=lambda e: -gates[e])[: self.config["num_selected_experts"]]
        outputs = [[gates[e] * y for y in self.expert(f"{path}/moe", e, x)] for e in chosen]
        return [sum(terms) for terms in zip(*outputs, strict=True)]

    def expert(self, path: str, e: int, x: Vector) -> list[float]:
        """Return linear_1 of gelu(linear(x)) times linear_v(x)."""
        activation, up = (multiply(x, self.matrices[f"{path}/{name}/w"][e]) for name in ("linear", "linear_v"))
        hidden = [gelu(a) * u for a, u in zip(activation, up, strict=True)]
        return multiply(hidden, self.matrices[f"{path}/linear_1/w"][e])

    def logits(self, row: Sequence[Cache], token: int) -> list[float]:
        """Run one more token of a row: logits [v] (SPEC §4)."""
        x = [float(self.whole["embedding_multiplier_scale"]) * value for value in self.table[token]]
        for layer in range(self.config["num_layers"]):
            path = f"transformer/decoder_layer_{layer}"
            norms = [self.scales[f"{path}/rms_norm{suffix}/scale"] for suffix in ("", "_1", "_2", "_3")]
            update = self.attention(f"{path}/multi_head_attention", rms_norm(x, norms[0]), row[layer])
            x = list(map(operator.add, x, rms_norm(update, norms[1])))
            update = self.feed_forward(path, rms_norm(x, norms[2]))
            x = list(map(operator.add, x, rms_norm(update, norms[3])))
        hidden = rms_norm(x, self.scales["language_model/rms_norm/scale"])
        return [float(self.whole["output_multiplier_scale"]) * dot(hidden, column) for column in self.table]


def rows_of(model: Model, case: dict[str, Any], inputs: Tensors) -> list[list[Cache]]:
    """Return the rows before the first call: empty, or the filled slots of the preloaded cache (SPEC §5)."""
    layers = range(model.config["num_layers"])
    if not case["preload"]:
        return [[[] for _ in layers] for _ in inputs["call0/lengths"][1]]
    (_, num_rows, num_slots, num_heads, width), _ = inputs["preload/keys"]  # [layer, b, s, g, h]

    def heads(name: str, layer: int, row: int, slot: int) -> list[Vector]:
        start = ((layer * num_rows + row) * num_slots + slot) * num_heads * width
        return [inputs[name][1][i : i + width] for i in range(start, start + num_heads * width, width)]

    def filled(layer: int, row: int, step: float) -> Cache:
        places = [(layer, row, slot) for slot in range(int(step))]
        return [(heads("preload/keys", *place), heads("preload/values", *place)) for place in places]

    steps = inputs["preload/steps"][1]
    return [[filled(layer, row, step) for layer in layers] for row, step in enumerate(steps)]


def answer(model: Model, case: dict[str, Any], inputs: Tensors) -> dict[str, tuple[list[int], list[float]]]:
    """Return the logits of every call; those of padding are zeros, for nothing is compared there."""
    answers = {}
    rows = rows_of(model, case, inputs)
    for index in range(len(case["calls"])):
        (num_rows, num_tokens), tokens = inputs[f"call{index}/tokens"]
        for row, step in enumerate(inputs.get(f"call{index}/steps", ([], []))[1]):
            for layer in rows[row]:
                del layer[int(step) :]
        logits: list[float] = []
        for row, length in enumerate(inputs[f"call{index}/lengths"][1]):
            for token in tokens[row * num_tokens : row * num_tokens + int(length)]:
                if token <= model.whole["pad_token"]:
                    raise Unsupported("a pad inside the prompt")
                logits += model.logits(rows[row], int(token))
            logits += [0.0] * (num_tokens - int(length)) * len(model.table)
        answers[f"call{index}/logits"] = ([num_rows, num_tokens, len(model.table)], logits)
    return answers


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that takes its name once it is complete."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.rename(path)


def write_tensors(path: Path, tensors: dict[str, tuple[list[int], list[float]]]) -> None:
    """Write float32 tensors as a safetensors file."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        encoded = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(encoded)]}
        data += encoded
    text = json.dumps(header).encode()
    write_whole(path, len(text).to_bytes(8, "little") + text + data)


def main(job_dir: Path, out_dir: Path) -> None:
    """Answer every case of a job in its order."""
    job = json.loads((job_dir / "job.json").read_text())
    if job["format"] != FORMAT:
        raise Unsupported(f"job format {job['format']}; it reads {FORMAT}")
    (out_dir / "info.json").write_text(json.dumps({"name": "plain_python", "version": "1", "taps": ["logits"]}))
    model = Model(job_dir)
    for case in job["cases"]:
        folder = out_dir / case["folder"]
        try:
            write_tensors(folder / "taps.safetensors", answer(model, case, read_tensors(job_dir / case["inputs"])))
            result = {"status": "answered"}
        except Unsupported as reason:
            result = {"status": "unsupported", "reason": str(reason)}
        write_whole(folder / "result.json", json.dumps(result).encode())


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except Unsupported as reason:
        sys.exit(f"unsupported: {reason}")
