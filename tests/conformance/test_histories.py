"""Ports that are right in the first run of a stored case and wrong elsewhere: each fails, with what it hangs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.judging.groups import read_groups, with_drawn
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.sessions.run import run_candidates
from tests.harness.honest_port import golden

PORT = """
import os
import random
import numpy as np
from pathlib import Path
from grok_conformance.candidates import numpy_float64 as honest
from grok_conformance.harness.formats.tensors import open_tensors

INFO = honest.INFO
GOLDEN = Path({golden!r})

def load(config, weights):
    return Port(honest.load(config, weights), config)

class Port:
    def __init__(self, model, config):
        self.model, self.config, self.num_prefills, self.kept = model, config, 0, {{}}

    def decode(self, tokens, taps):
        return dict(self.model.decode(tokens, taps))

    def prefill(self, tokens, lengths, taps):
        self.num_prefills += 1
        given = dict(self.model.prefill(tokens, lengths, taps))
        {change}
        return given

    def stored(self, tokens):
        for path in sorted(GOLDEN.glob(f"cases/unequal/prefill/*.{{self.config.fprop_dtype}}/inputs.safetensors")):
            if np.array_equal(open_tensors(path)["call0/tokens"], tokens):
                return {{key[6:]: np.array(x) for key, x in open_tensors(path.with_name("taps.safetensors")).items()}}
        return {{}}
"""

PORTS = {
    "honest": ("pass", None),
    "every_second_request": ("if self.num_prefills % 2 == 0: given['logits'] = given['logits'] * 100", "history"),
    "stale_by_shape": ("given = self.kept.setdefault((tokens.shape, tuple(taps)), given)", "history"),
    "worn_out": ("assert self.num_prefills < 12, 'out of pages'", "history"),
    "wrong_fast_path": ("if len(taps) < 3 and taps: given['logits'] = given['logits'] * 1.01", "tapping"),
    "wrong_while_recorded": ("if len(taps) > 3: given['logits'] = given['logits'] * 1.01", "tapping"),
    "wrong_without_any_tap": ("if not taps: self.model.prefill(tokens[:, ::-1], lengths, taps)", "tapping"),
    "a_race": (
        "if (x := random.SystemRandom().random()) < 0.3: given['logits'] = given['logits'] * (1.01 + x)",
        "randomness",
    ),
    "stored_goldens": ("given = self.stored(tokens) or {tap: x * 0 for tap, x in given.items()}", "memory"),
}


def judged(name: str, tmp_path: Path) -> CandidateVerdict:
    adapter = tmp_path / f"{name}.py"
    adapter.write_text(PORT.format(golden=str(GOLDEN_DIR / "v1"), change=PORTS[name][0]))
    groups = with_drawn(read_groups(golden(), "unequal/prefill/*.float32"), seed=3)
    (found,) = run_candidates([find_candidate(str(adapter))], groups, "1", tmp_path / "run", Limits())
    return found.verdict


@pytest.mark.parametrize("name", PORTS)
def test_a_port_that_is_right_only_the_first_time_fails_with_what_it_hangs_on(name: str, tmp_path: Path) -> None:
    verdict = judged(name, tmp_path)
    causes = {case.cause for case in verdict.cases} - {""}
    assert causes == ({PORTS[name][1]} - {None})
    assert verdict.passed == (name == "honest"), [(case.case, case.reason) for case in verdict.cases]
