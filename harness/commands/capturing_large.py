"""`python -m grok_conformance capture --config NAME --checkpoint DIR`: fixtures of a model larger than memory."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grok_conformance.harness.commands import PASS, seed
from grok_conformance.harness.contract import Array, LanguageModelConfig
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.formats.files import FileError, read_json
from grok_conformance.harness.large.plan import Plan, make_calls
from grok_conformance.harness.large.sketch import splitmix64
from grok_conformance.harness.measure.words import number_of

if TYPE_CHECKING:
    from grok_conformance.harness.large.capture import Estimate

NUM_TOKENS = 64
NUM_ROWS = 4
PROMPT_SEED = 1

WORD = 2.0**64

MAX_TOKENS = 2**31
"""Token ids are below: they are kept as int32."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a large capture."""
    large = parser.add_argument_group("a model of full size, streamed from its checkpoint")
    large.add_argument("--config", metavar="NAME", help="the preset, such as grok-1")
    large.add_argument("--checkpoint", type=Path, metavar="DIR", help="the published checkpoint, to be streamed")
    large.add_argument("--prompt", type=Path, metavar="FILE", help="JSON: rows of token ids (default: 64 seeded ids)")
    large.add_argument("--decode", type=int, default=0, metavar="N", help="decode the last N tokens one by one")
    large.add_argument(
        "--form", choices=("full", "rows", "sketch"), default="rows", help="what is kept of large taps (default: rows)"
    )
    large.add_argument("--rows", metavar="I,J,…", help="positions that the form rows keeps (default: 4, evenly spread)")
    large.add_argument("--seed", type=seed, default=0, help="of the sketch (default: 0)")
    large.add_argument("--layers", type=int, metavar="N", help="run only the first N layers, and no logits")
    large.add_argument("--dry-run", action="store_true", help="print bytes, memory, disk and time; write nothing")
    large.add_argument("--coordinator", metavar="HOST:PORT", help="where several processes meet")
    large.add_argument("--process-id", type=int, default=0, metavar="I", help="which of them this is, from 0 on")
    large.add_argument("--processes", type=int, default=1, metavar="N", help="how many they are")


def execute(options: argparse.Namespace) -> int:
    """Capture a large model, or say what it would take."""
    # Imported here: the canonical model needs JAX, which the command line does not.
    from grok_conformance.harness.large import canonical, capture
    from grok_conformance.harness.report.progress import progress_bar

    if options.config is None:
        raise FileError("--checkpoint needs --config NAME, such as grok-1")
    if options.out == GOLDEN:
        raise FileError(f"--checkpoint needs --out DIR: {GOLDEN} holds the small golden set")
    processes = None
    if options.coordinator is not None:
        processes = canonical.Processes(options.coordinator, options.process_id, options.processes)
        canonical.join(processes)
    config = canonical.preset_config(options.config)
    plan = make_plan(options, config, canonical.checkpoint_digest(options.checkpoint))
    if options.dry_run:
        sys.stdout.write(describe(capture.estimate(options.out, plan, options.checkpoint)))
        return PASS
    with progress_bar(len(plan.stages)) as advance:
        sha256 = capture.capture(
            options.out,
            plan,
            options.checkpoint,
            processes=processes,
            on_progress=lambda stage: advance(options.config, stage),
        )
    if sha256:
        sys.stdout.write(
            f"{options.out}: {number_of(len(plan.stages), 'stages')}, form {plan.form}, manifest sha256 {sha256}\n"
        )
    return PASS


def make_plan(options: argparse.Namespace, config: LanguageModelConfig, weights: str) -> Plan:
    """Return what the options ask for; raises FileError."""
    tokens = read_prompt(options.prompt) if options.prompt else draw_prompt(config)
    calls = make_calls(tokens, options.decode)
    num_layers = config.model.num_layers if options.layers is None else options.layers
    if not 0 < num_layers <= config.model.num_layers:
        raise FileError(f"--layers {num_layers}: there are 1 to {config.model.num_layers}")
    return Plan(
        name=options.config,
        config=replace(config, sequence_len=tokens.shape[1]),
        weights=weights,
        num_layers=num_layers,
        calls=calls,
        form=options.form,
        rows=choose_rows(options.rows, calls[0].tokens.shape[1]),
        seed=options.seed,
    )


def choose_rows(text: str | None, num_tokens: int) -> tuple[int, ...]:
    """Return the positions named, or a few spread evenly from the first to the last; raises FileError."""
    if text is None:
        return tuple(np.unique(np.linspace(0, num_tokens - 1, NUM_ROWS).astype(int)).tolist())
    try:
        rows = tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError:
        raise FileError(f"--rows {text!a}: give positions such as 0,21,42") from None
    if rows[0] < 0 or rows[-1] >= num_tokens:
        raise FileError(f"--rows {text!a}: the positions of the first call are 0 to {num_tokens - 1}")
    return rows


def draw_prompt(config: LanguageModelConfig) -> Array:
    """Return one row of seeded token ids int32 [1, t], none of them a pad."""
    first = config.pad_token + 1
    words = splitmix64(PROMPT_SEED, 0, NUM_TOKENS)
    ids: Array = (first + (words / WORD * (config.vocab_size - first)).astype(np.int32)).astype(np.int32)
    return ids[None]


def read_prompt(path: Path) -> Array:
    """Return the rows of token ids in a JSON file, int32 [b, t]; raises FileError."""
    rows = read_json(path)
    if not is_prompt(rows):
        raise FileError(f"{path}: give rows of token ids of equal length, such as [[5, 7, 9]]")
    return np.array(rows, np.int32)


def is_prompt(rows: object) -> bool:
    """Whether parsed JSON is a list of rows of integers, as many in each."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        return False
    return len({len(row) for row in rows}) == 1 and all(
        type(token) is int and 0 <= token < MAX_TOKENS for row in rows for token in row
    )


def describe(estimate: Estimate) -> str:
    """Return an estimate in words."""
    sizes = (estimate.read_bytes, estimate.written_bytes, estimate.free_bytes, estimate.memory_bytes)
    read, write, free, memory = (f"{num_bytes / 1e9:.2f} GB" for num_bytes in sizes)
    return (
        f"reads {read} of weights, writes {write} ({free} are free), holds {memory} of weights in memory, "
        f"takes at least {estimate.seconds / 60:.1f} minutes at the speed at which the disk gave a sample\n"
    )
