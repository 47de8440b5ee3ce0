"""The local check at full size: `python -m tests.conformance.large_local --checkpoint DIR`.

Captures the first two layers by rows, and judges every operation in them; then captures them again with a fault in one
expert of the second layer (the scales of its last matrix are the next expert's), which must be found there and nowhere
else. Prints what was found and the peak resident size; exit status 0 if the first passes and the fault is found.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from grok_conformance.harness.commands.capturing_large import choose_rows, draw_prompt
from grok_conformance.harness.commands.check_large import describe
from grok_conformance.harness.contract import LanguageModelConfig
from grok_conformance.harness.large import canonical
from grok_conformance.harness.large.capture import capture
from grok_conformance.harness.large.check import Sample, check_stage
from grok_conformance.harness.large.plan import Plan, make_calls
from grok_conformance.harness.large.store import read_stage
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.reference.experts import ExpertWeights
from grok_conformance.reference.streaming import Stream
from tests.benchmarks.results import say

NUM_LAYERS = 2
FAULTY_LAYER = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both checks."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.large_local", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="the checkpoint")
    parser.add_argument("--config", default="grok-1", metavar="NAME", help="its configuration (default: grok-1)")
    options = parser.parse_args(arguments)
    plan = plan_of(options.config, options.checkpoint)
    with tempfile.TemporaryDirectory(prefix="large-local-") as name:
        honest, faulty = Path(name) / "honest", Path(name) / "faulty"
        capture(honest, plan, options.checkpoint)
        passed = [c.tap for c in report("honest", honest, plan, options.checkpoint) if not c.passed] == []
        expert = busiest_expert(honest)
        with wrong_scales(expert):
            capture(faulty, plan, options.checkpoint)
        title = f"scales of expert {expert} wrong in layer {FAULTY_LAYER}"
        failed = [c for c in report(title, faulty, plan, options.checkpoint) if not c.passed]
    found = [(c.tap, c.note) for c in failed] == [(f"layers.{FAULTY_LAYER:02d}.moe.expert_output", f"expert {expert}")]
    say(f"peak resident size {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    say(f"honest: {'pass' if passed else 'FAIL'}; fault: {'found where it is' if found else 'NOT found where it is'}")
    return 0 if passed and found else 1


def plan_of(name: str, checkpoint: Path) -> Plan:
    """Return a capture of the first layers of a preset by rows, of the default prompt."""
    return plan_of_layers(name, canonical.preset_config(name), checkpoint, NUM_LAYERS)


def plan_of_layers(name: str, config: LanguageModelConfig, checkpoint: Path, num_layers: int) -> Plan:
    """Return a capture of the first layers of a model by rows, of the default prompt."""
    tokens = draw_prompt(config)
    return Plan(
        name=name,
        config=replace(config, sequence_len=tokens.shape[1]),
        weights=canonical.checkpoint_digest(checkpoint),
        num_layers=num_layers,
        calls=make_calls(tokens, 0),
        form="rows",
        rows=choose_rows(None, tokens.shape[1]),
        seed=0,
    )


def report(title: str, folder: Path, plan: Plan, checkpoint: Path) -> list[Comparison]:
    """Judge the captured layers, and say what was found."""
    stored = canonical.CheckpointWeights(checkpoint, plan.config)
    stages = [stage for stage in plan.stages if stage.startswith("layers.")]
    found = [c for stage in stages for c in check_stage(folder, plan, stage, stored, Sample())]
    say(f"{title}: {len(found)} taps of {len(stages)} layers, rows {list(plan.rows)}")
    for line in describe(found):
        say(f"  {line}")
    return found


def busiest_expert(folder: Path) -> int:
    """Return the expert that most of the kept positions choose in the faulty layer."""
    stage = f"layers.{FAULTY_LAYER:02d}"
    index = read_stage(folder, stage)[f"call0/{stage}.moe.expert_index"]  # [b, t, c]
    return int(np.bincount(index[:, choose_rows(None, index.shape[1])].reshape(-1)).argmax())


@contextmanager
def wrong_scales(expert: int) -> Iterator[None]:
    """Let one expert of the faulty layer be read with the scales of the next one's linear_1."""
    pieces_of = Stream.expert

    def pieces(stream: Stream, layer: int, e: int) -> ExpertWeights:
        found = pieces_of(stream, layer, e)
        if (layer, e) != (FAULTY_LAYER, expert):
            return found
        other = pieces_of(stream, layer, (e + 1) % stream.config.model.num_experts)
        mixed = [
            piece._replace(regions=[piece.regions[0], *of_other.regions[1:]])
            for piece, of_other in zip(found.linear_1, other.linear_1, strict=True)
        ]
        return found._replace(linear_1=mixed)

    with mock.patch.object(Stream, "expert", pieces):
        yield


if __name__ == "__main__":
    sys.exit(main())
