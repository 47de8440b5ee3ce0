"""`python -m grok_conformance check-large`: judges a large capture layer by layer, in bounded memory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from grok_conformance.harness.commands import NONCONFORMING, PASS, seed
from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.large import lock, store
from grok_conformance.harness.large.check import Sample, check_stage, select_stages
from grok_conformance.harness.large.distance import BLIND, Distance, distances
from grok_conformance.harness.large.plan import Plan, read_plan
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.words import number_of
from grok_conformance.harness.report.progress import progress_bar


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="what `capture --checkpoint` wrote, or a port alike")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="its weights: recompute every operation")
    parser.add_argument("--layers", metavar="I,J,…", help="only these layers (default: every stage)")
    parser.add_argument(
        "--fraction", type=float, default=Sample.fraction, help="of the experts' and logits' channels (default: 1/16)"
    )
    parser.add_argument("--seed", type=seed, default=Sample.seed, help="of that sample (default: 0)")
    parser.add_argument("--against", metavar="DIR", help="a golden capture, or its name in golden/large.lock.json")


def execute(options: argparse.Namespace) -> int:
    """Verify a capture's digests, judge it, and compare it with another; print a line for every operation."""
    if (options.folder / MANIFEST).exists():
        store.read_manifest(options.folder)
    plan = read_plan(options.folder)
    layers = None if options.layers is None else [int(word) for word in options.layers.split(",")]
    stages = select_stages(plan, layers)
    passed = True
    if options.checkpoint is not None:
        passed = judge(options, plan, stages)
    if options.against is not None:
        compare(options.folder, plan, lock.find(options.against), stages)
    if options.checkpoint is None and options.against is None:
        for stage in stages:
            store.read_stage(options.folder, stage)
        sys.stdout.write(f"{options.folder}: every tensor of {number_of(len(stages), 'stages')} has its digest\n")
    return PASS if passed else NONCONFORMING


def judge(options: argparse.Namespace, plan: Plan, stages: tuple[str, ...]) -> bool:
    """Judge stages operation by operation and tell what was found; return whether all of them pass."""
    from grok_conformance.harness.large.canonical import CheckpointWeights, checkpoint_digest

    if checkpoint_digest(options.checkpoint) != plan.weights:
        raise FileError(f"{options.checkpoint}: not the weights that {options.folder} was captured with")
    stored, sample = CheckpointWeights(options.checkpoint, plan.config), Sample(options.fraction, options.seed)
    found: list[Comparison] = []
    with progress_bar(len(stages)) as advance:
        for stage in stages:
            found += check_stage(options.folder, plan, stage, stored, sample)
            advance("judged", stage)
    sys.stdout.writelines(f"{line}\n" for line in describe(found))
    rate = f"a sample of {sample.fraction:.4g} of the experts' and logits' channels, seed {sample.seed}"
    num_failed = sum(not comparison.passed for comparison in found)
    sys.stdout.write(f"{number_of(len(found), 'taps')}, {num_failed} beyond their fences; {rate}\n")
    return not num_failed


def describe(found: list[Comparison]) -> Iterator[str]:
    """Yield the worst comparison of every operation, then every tap that fails."""
    operations = dict.fromkeys(comparison.operation for comparison in found)
    for operation in operations:
        worst = max((c for c in found if c.operation == operation), key=lambda c: c.ratio)
        yield f"{operation:26} {'pass' if worst.passed else 'FAIL'}  measured / allowed {worst.ratio:.3g}"
    for c in found:
        if not c.passed:
            what = c.problem or f"{c.ratio:.3g} times the fence at {list(c.index)}"
            values = "" if c.problem else f": observed {c.observed:.9g}, exact {c.exact:.9g}"
            yield f"call {c.call}, {c.tap}: {what}{values}{', ' if c.note else ''}{c.note}"


def compare(folder: Path, plan: Plan, golden: Path, stages: tuple[str, ...]) -> None:
    """Tell how far a capture lies from a golden one, operation by operation at the worst layer."""
    found: dict[str, Distance] = {}
    for stage in stages:
        for distance in distances((folder, plan), (golden, read_plan(golden)), stage):
            operation = split_tap(distance.tap)[1]
            if operation not in found or distance.relative > found[operation].relative:
                found[operation] = distance
    for line in other_platform(folder, golden):
        sys.stdout.write(f"different platform: {line}\n")
    sys.stdout.write(f"largest relative distance of a token from {golden} ({plan.form}: {BLIND[plan.form]})\n")
    for operation, d in found.items():
        place = f"call {d.call}, {d.tap} {list(d.index)}"
        sys.stdout.write(f"{operation:26} {d.relative:9.3g}  norms {d.norm:9.3g}  {place}\n")


def other_platform(folder: Path, golden: Path) -> list[str]:
    """Return what differs in the platforms and toolchains of two captures; nothing where one is not complete."""
    if not all((path / MANIFEST).exists() for path in (folder, golden)):
        return []
    ours, theirs = (store.read_manifest(path)["provenance"] for path in (folder, golden))
    return [
        f"{key} {ours[part].get(key, 'none')}, golden {theirs[part].get(key, 'none')}"
        for part in ("platform", "toolchain")
        for key in sorted({**ours[part], **theirs[part]})
        if ours[part].get(key) != theirs[part].get(key)
    ]
