"""The commands, one module each: `add_options(parser)` and `execute(options) -> exit status`.

A module is imported only when its command is given, so that the command line starts at once. Adding a command is a row
of `COMMANDS` and its module.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

PASS, NONCONFORMING, BROKEN = 0, 1, 2
"""Exit statuses: pass; a candidate does not conform, is missing or crashed; wrong usage or a broken fixture."""

EXIT_STATUS = """exit status:
  0  pass
  1  a candidate does not conform, is missing, unsupported or crashed; what is compared differs
  2  wrong usage, or a broken fixture"""


@dataclass(frozen=True)
class Command:
    """What a command does, in half a sentence, and an example of its arguments."""

    purpose: str
    example: str


def seed(text: str) -> int:
    """Parse a seed; raises ArgumentTypeError unless it is a whole number of 0 or more."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: give a whole number of 0 or more")
    return int(text)


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "judge candidates, by default all built-in ones", "--candidate torch_eager --case 'unequal/*' --json run.json"
    ),
    "properties": Command(
        "check laws that hold for every model, on drawn ones, without a golden", "--candidate torch_eager --draws 8"
    ),
    "judge": Command("judge an answer folder that was written elsewhere", "jobs/unequal.float32 answers --quiet"),
    "merge": Command("judge the shards of a run as one", "shard1 shard2 shard3 --junit run.xml"),
    "new-candidate": Command("write an adapter for an engine, to fill in", "my_port"),
    "check-weights": Command(
        "compare the weights that a candidate holds with the stored ones", "--candidate my_port.py"
    ),
    "write-jobs": Command("write job folders for a program that runs elsewhere", "run1 --case '*.bfloat16'"),
    "report": Command("write a page from the JSON report of a run", "run.json --html run.html"),
    "compare": Command(
        "compare any two tap files",
        "golden/v1/cases/ties/prefill/exact_ties.float32/taps.safetensors taps.safetensors --roundings 4",
    ),
    "diff": Command("tell which operations moved between two golden sets or two runs", "old.json new.json"),
    "list": Command("list cases, taps, candidates, faults or presets", "cases 'unequal/*'"),
    "explain": Command("explain a fault, an operation, a verdict, a case or a word", "gelu_erf"),
    "design-probes": Command(
        "search for probes that show more faults in the logits alone",
        "probe_moe/prefill/rows.bfloat16 --faults gelu_erf router_tf32 --trials 20",
    ),
    "export": Command("write a preset as the checkpoint of an engine", "probe_moe moe.gguf --format gguf"),
    "capture": Command("write golden fixtures with the canonical JAX model", "--out golden/v1"),
    "check-large": Command(
        "judge a large capture layer by layer, and tell how far it lies from another", "capture --checkpoint DIR"
    ),
    "check-golden": Command("verify every file, tensor and digest of a golden set", "golden/v1"),
}
"""Every command by its name; `check-golden` is the module `check_golden`."""
