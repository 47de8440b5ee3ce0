"""The demo: `python -m grok_conformance.reference` samples from Grok-1, or from a small synthetic model (SPEC §6).

Answers go to standard output, one per request; progress and tokens per second to standard error. Exit status 0, or 2
with one line that says what was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

CONFIGS = ("grok-1", "bench", "small")
"""The names of `reference.config.PRESETS`, which takes JAX and a second to import: `--help` needs neither."""

MAX_SLOTS = 4

NUM_GROUPS = 8
"""As in the published checkpoint."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the requests of the command line and return the exit status."""
    options = parser().parse_args(arguments)
    from grok_conformance.reference.demo import answer  # noqa: PLC0415 - see CONFIGS

    return answer(options)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = OneLineParser(prog="python -m grok_conformance.reference", description=__doc__.partition("\n")[0])
    top.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="a checkpoint as published: ckpt-0 or its parent (default: checkpoint/ckpt-0 if it exists)",
    )
    top.add_argument(
        "--config", choices=CONFIGS, help="its sizes (default: grok-1), or those of a synthetic model (default: small)"
    )
    top.add_argument(
        "--quantize",
        type=positive,
        nargs="?",
        const=NUM_GROUPS,
        metavar="G",
        help="load float weights as 8-bit ones with G groups of scales where the rows are sharded (default: %(const)s)",
    )
    prompts = top.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="needs --tokenizer; may be repeated")
    prompts.add_argument("--token-ids", action="append", type=integers, metavar="I,J", help="a prompt; may be repeated")
    top.add_argument("--tokenizer", type=Path, metavar="PATH", help="a sentencepiece model")
    top.add_argument(
        "--max-tokens", type=int, default=100, metavar="N", help="at most, per answer (default: %(default)s)"
    )
    top.add_argument("--temperature", type=float, default=0.01, metavar="T", help="0 is greedy (default: %(default)s)")
    top.add_argument("--top-p", type=float, default=1.0, metavar="P", help="the nucleus (default: %(default)s)")
    top.add_argument("--seed", type=int, default=42, metavar="N", help="of every request (default: %(default)s)")
    top.add_argument(
        "--slots", type=positive, metavar="N", help=f"requests at a time (default: all, up to {MAX_SLOTS})"
    )
    top.set_defaults(max_slots=MAX_SLOTS)
    top.add_argument("--mesh", type=mesh_shape, metavar="DATA,MODEL", help="shards; of virtual devices on a CPU")
    return top


def integers(text: str) -> list[int]:
    """Parse integers between commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of integers such as 1,2,3") from error


def positive(text: str) -> int:
    """Parse a number of things."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def mesh_shape(text: str) -> tuple[int, int]:
    """Parse the shape of a mesh."""
    shape = integers(text)
    if len(shape) != len(("data", "model")) or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no mesh: give the data and the model shards, such as 2,4")
    return shape[0], shape[1]


if __name__ == "__main__":
    sys.exit(main())
