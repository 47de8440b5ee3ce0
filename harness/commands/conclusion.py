"""What the commands that end in a verdict have in common: waivers, reports, exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

from grok_conformance.harness.commands import NONCONFORMING, PASS
from grok_conformance.harness.contract import LEVELS
from grok_conformance.harness.golden.reading import Golden
from grok_conformance.harness.judging.known_deviations import with_outdated
from grok_conformance.harness.judging.regression import Regression, describe
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.judging.waivers import (
    Waiver,
)
from grok_conformance.harness.report import files, github, terminal
from grok_conformance.harness.report.html import write_html

QUIRKS = "quirks"
"""What `--require` asks for besides levels: that the published quirks are reproduced."""


def conclude(
    verdicts: Sequence[CandidateVerdict],
    golden: Golden,
    options: argparse.Namespace,
    required: Sequence[tuple[str, str]] = (),
    optional: Collection[str] = (),
    regressions: Mapping[str, Regression] | None = None,
    waivers: Sequence[Waiver] = (),
) -> int:
    """Show a run, write its reports, and return the exit status, for which the optional candidates do not count.

    `required` gives the least level of candidates, or that they reproduce the published quirks. Of the `waivers`, those
    that have expired or gone fail their candidate.
    """
    verdicts = [with_outdated(verdict, waivers, golden) for verdict in verdicts]
    with github.commands_off(os.environ):
        terminal.show(terminal.wide_console(), verdicts, options.detail)
    sys.stdout.writelines(f"{line}\n" for line in github.report_to_github(verdicts, os.environ))
    regressions = regressions or {}
    for name, regression in regressions.items():
        sys.stdout.writelines(f"{name}: {line}\n" for line in describe(regression))
    if options.json is not None or options.html is not None:
        report = files.report_of(verdicts, golden, {name: asdict(each) for name, each in regressions.items()})
        for path, write in ((options.json, files.write_report_json), (options.html, write_html)):
            if path is not None:
                write(path, report)
    if options.junit is not None:
        files.write_junit(options.junit, verdicts)
    low = [f"{v.name}: {short}" for v in verdicts for name, what in required if name == v.name
           if (short := short_of(v, what))]  # fmt: skip
    sys.stderr.writelines(f"{line}\n" for line in low)
    counted = [verdict for verdict in verdicts if verdict.name not in optional]
    elsewhere = [verdict.name for verdict in counted if options.strict and verdict.passed and not verdict.as_published]
    for name in elsewhere:
        sys.stderr.write(f"{name}: rounds elsewhere than published or quantises, which --strict does not accept\n")
    passed = not low and not elsewhere and counted and all(verdict.passed for verdict in counted)
    return PASS if passed and all(each.clean for each in regressions.values()) else NONCONFORMING


def short_of(verdict: CandidateVerdict, required: str) -> str:
    """Return in words by what a candidate falls short of a required level, or of the published quirks; or nothing."""
    if required == QUIRKS:
        missed = ", ".join(verdict.missed_quirks)
        return f"it does not reproduce the published quirks of {missed}" if missed else ""
    ranks = ("none", *LEVELS)
    low = ranks.index(verdict.level) < ranks.index(required)
    return f"its level is below the required {required}" if low else ""
