"""A tiny job for the tests of the runner: three cases, and adapters that misbehave in the middle one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import Cache, Call, CallKind, Case, Preset
from grok_conformance.harness.running.jobs import Job, write_job
from tests.small_configurations import small

FIRST, MIDDLE, LAST = "tiny/prefill/first", "tiny/prefill/middle", "tiny/prefill/last"
MIDDLE_TOKEN = 66

CONFIG = small(
    vocab_size=101, sequence_len=5, fprop_dtype="bfloat16", emb_size=6, widening_factor=2, key_size=2, num_q_heads=4,
    num_kv_heads=2, num_layers=1, num_experts=3,
)  # fmt: skip
PRESET = Preset("tiny", CONFIG, {"language_model/rms_norm/scale": np.ones(6, np.float32)})

ADAPTER = """
import ctypes, os, sys, time
import numpy as np
from grok_conformance.harness.contract import CandidateInfo, Unsupported

INFO = CandidateInfo(name="fake", version="1.0", taps=("logits", "layers.*.kv.*"))

def load(config, weights):
    {at_load}
    return Model()

class Model:
    def prefill(self, tokens, lengths, taps):
        if tokens[0, 0] == 66:
            {in_middle_case}
        return {{tap: np.full((*tokens.shape, 3), tokens.sum(), np.float32) for tap in taps}}

    def decode(self, tokens, taps):
        return self.prefill(tokens, np.ones(len(tokens)), taps)
"""


def write_adapter(folder: Path, *, at_load: str = "pass", in_middle_case: str = "pass") -> Path:
    """Write an adapter that runs a statement when it is loaded and one in the middle case; return its path."""
    path = folder / "adapter.py"
    path.write_text(ADAPTER.format(at_load=at_load, in_middle_case=in_middle_case))
    return path


def call(kind: CallKind, tokens: list[int]) -> Call:
    """Return a call with one row of tokens."""
    return Call(kind, np.array([tokens], np.int32), np.array([len(tokens)], np.int32))


def case(case_id: str, *calls: Call) -> Case:
    """Return a bfloat16 case of the tiny preset."""
    return Case(id=case_id, preset="tiny", fprop_dtype="bfloat16", why="a test", origin="a test", calls=calls)


def cache() -> Cache:
    """Return a cache of the tiny model with two visible slots."""
    keys = np.arange(20, dtype=np.float32).reshape(1, 1, 5, 2, 2)  # [layer, b, s, g, h]
    return Cache(keys, -keys, np.array([2], np.int32))


def preloaded(case_id: str, *calls: Call) -> Case:
    """Return a case that starts from a cache."""
    return replace(case(case_id, *calls), preload=cache())


def write_three_cases(folder: Path) -> Job:
    """Write a job of three cases that want the logits and the keys; the middle one begins with token 66."""
    cases = [
        case(FIRST, call("prefill", [1, 2])),
        case(MIDDLE, call("prefill", [MIDDLE_TOKEN, 2])),
        case(LAST, call("prefill", [3, 4]), call("decode", [5])),
    ]
    return write_job(folder, "1.0.0", PRESET, cases, ("logits", "layers.*.kv.keys"))
