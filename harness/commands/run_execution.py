"""What `python -m grok_conformance run` does: judge candidates, compare with their earlier runs, report."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from grok_conformance.harness.commands import properties
from grok_conformance.harness.commands.conclusion import conclude
from grok_conformance.harness.commands.run import add_options
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.baseline import (
    History,
    Record,
    Regression,
    append_history,
    compare_runs,
    read_baseline,
    read_history,
    record_of,
    write_baseline,
)
from grok_conformance.harness.judging.groups import any_seed, read_groups, with_drawn
from grok_conformance.harness.judging.known_deviations import known_deviations
from grok_conformance.harness.judging.summary import refuse
from grok_conformance.harness.laws.check import NUM_DRAWS
from grok_conformance.harness.laws.draws import drawn
from grok_conformance.harness.laws.laws import LAWS
from grok_conformance.harness.report.progress import progress_bar
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.registry import absences, default_names, find_candidate, served
from grok_conformance.harness.sessions import run

T = TypeVar("T")

Earlier = tuple[Record | None, History]
"""A candidate's baseline, None where its first run becomes it, and the history of its runs."""


def judge_candidates(options: argparse.Namespace) -> int:
    """Judge candidates over the golden cases, or by the laws of every model, and return the exit status."""
    if options.properties:
        refuse_unused(options)
        return properties.check(options.candidate, LAWS, drawn(NUM_DRAWS))
    if options.update_baseline and options.baseline is None:
        raise FileError("--update-baseline needs --baseline DIR: the folder where the baseline is kept")
    golden = open_golden(options.golden)
    asked = options.candidate or (() if options.endpoint else default_names())
    names = list(dict.fromkeys([*asked, *(name for name, _ in options.require if name != options.model)]))
    absent = absences(names)
    candidates = [find_candidate(name) for name in names if name not in absent]
    if options.endpoint:
        candidates.append(served(options.endpoint, options.model, options.top_logprobs))
    earlier = earlier_runs(options.baseline, [each.name for each in candidates], update=options.update_baseline)
    groups = read_groups(golden, options.case)
    if options.endpoint is None:  # a server has one model, whose weights are not drawn again
        groups = with_drawn(groups, any_seed() if options.seed is None else options.seed)
    waivers = known_deviations(options.waivers, golden)
    num_cases = sum(len(group.cases) for group in groups) * len(candidates)
    if options.keep is not None and options.keep.exists():
        raise FileError(f"{options.keep}: exists already: give a new folder")
    with tempfile.TemporaryDirectory() as scratch, progress_bar(num_cases, shown=options.detail != "quiet") as advance:
        judgements = run.run_candidates(
            candidates,
            groups,
            golden.manifest.suite,
            options.keep or Path(scratch),
            Limits(silent_seconds=options.time_limit),
            advance,
            waivers,
        )
        records = [
            record_of(each.verdict, each.folder, golden.manifest.suite) for each in judgements if options.baseline
        ]
    regressions = compare_with_baselines(options.baseline, records, earlier, update=options.update_baseline)
    refused = [refuse(name, groups, reason) for name, reason in absent.items()]
    required = dict(options.require)
    asked_for = {*(options.candidate or ()), *required}
    optional = [name for name in absent if name not in asked_for]
    verdicts = [*(judgement.verdict for judgement in judgements), *refused]
    return conclude(verdicts, golden, options, required, optional, regressions, waivers)


def refuse_unused(options: argparse.Namespace) -> None:
    """Raise FileError for an option, other than its default, of which the laws make no use."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    for name, default in vars(parser.parse_args([])).items():
        if name not in ("candidate", "properties") and getattr(options, name) != default:
            option = options.detail if name == "detail" else name.replace("_", "-")
            raise FileError(f"--{option}: the laws make no use of it: leave it out, or --properties")


def earlier_runs(directory: Path | None, names: Sequence[str], *, update: bool) -> dict[str, Earlier]:
    """Read what is kept of candidates' earlier runs, before they run again; nothing without a folder.

    Raises FileError for a candidate without a baseline and for what cannot be read, unless this run is to replace it.
    """
    if directory is None:
        return {}

    def kept(read: Callable[[Path, str], T], name: str, otherwise: T) -> T:
        try:
            return read(directory, name)
        except FileError:
            if not update:
                raise
            return otherwise

    return {name: (kept(read_baseline, name, None), kept(read_history, name, ())) for name in names}


def compare_with_baselines(
    directory: Path | None, records: Sequence[Record], earlier: Mapping[str, Earlier], *, update: bool
) -> dict[str, Regression]:
    """Compare runs with the baselines of their candidates, and make them the baselines if asked to."""
    if directory is None:
        return {}
    regressions = {}
    for record in records:
        old, history = earlier[record.candidate]
        date = datetime.now(UTC).isoformat(timespec="seconds")
        regressions[record.candidate] = compared = compare_runs(old or record, record, history, date)
        append_history(directory, record.candidate, compared.history[-1], afresh=update)
        if update:
            write_baseline(directory, record)
    return regressions
