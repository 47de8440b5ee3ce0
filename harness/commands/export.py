"""`python -m grok_conformance export`: a preset as the checkpoint that an engine loads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grok_conformance.harness.commands import PASS
from grok_conformance.harness.contract.taps import GOLDEN


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("preset", metavar="PRESET", help="a golden preset or a probe, as probe_moe")
    parser.add_argument("out", type=Path, metavar="PATH", help="a new folder, or a new file for GGUF")
    parser.add_argument("--format", choices=("xai", "hf", "gguf"), required=True, help="of the checkpoint")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "q8_0"), default="bfloat16",
                        help="of the matrices, in hf and gguf (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--golden", type=Path, default=GOLDEN, metavar="DIR", help="the golden set (default: golden/v1)"
    )


def execute(options: argparse.Namespace) -> int:
    """Write the checkpoint."""
    from grok_conformance.harness.cases.probes import PROBES, make_probe
    from grok_conformance.harness.golden.reading import open_golden, read_preset
    from grok_conformance.harness.sessions.export import export

    preset = (
        make_probe(options.preset)
        if options.preset in PROBES
        else read_preset(open_golden(options.golden), options.preset)
    )
    export(preset, options.format, options.precision, options.out)
    sys.stdout.write(f"{options.out}\n")
    return PASS
