"""`python -m grok_conformance design-probes`: search for recipes of probes that show more faults."""

from __future__ import annotations

import argparse
import sys

from grok_conformance.harness.commands import PASS, seed
from grok_conformance.harness.formats.files import FileError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("case", metavar="CASE", help="the case of a probe, as probe_moe/prefill/rows.bfloat16")
    parser.add_argument("--faults", nargs="+", required=True, metavar="FAULT", help="the faults that it is to show")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="recipes to try (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the changes that are tried")


def execute(options: argparse.Namespace) -> int:
    """Print every trial with its score, and the best one; the recipe in use is the first."""
    from grok_conformance.harness.cases.probes import probe_cases
    from grok_conformance.harness.diagnosis.probe_design import search
    from grok_conformance.harness.faults import FAULTS
    from grok_conformance.harness.formats.suggestions import unknown

    cases = list(probe_cases(options.case))
    if len(cases) != 1:
        raise FileError(f"{options.case}: name one case of a probe with its dtype, as probe_moe/prefill/rows.bfloat16")
    for name in options.faults:
        if name not in FAULTS:
            raise FileError(unknown("fault", name, FAULTS))
    faults = {name: FAULTS[name] for name in options.faults}
    best, recipe = search(
        cases[0].preset, cases[0], faults, options.trials, options.seed,
        lambda score, tried: print(f"{score:.3f} {tried}", flush=True),  # noqa: T201 - a trial takes seconds
    )  # fmt: skip
    sys.stdout.write(f"best: {best:.3f} of at most 3\n{recipe}\n")
    return PASS
