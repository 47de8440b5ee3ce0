"""What `python -m grok_conformance run` does: judge candidates, compare with their earlier runs, report."""

from __future__ import annotations

import argparse
import importlib
import pdb  # noqa: T100 - what --pdb enters
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from grok_conformance.harness.commands import NONCONFORMING
from grok_conformance.harness.commands.baselines import compare_with_baselines, earlier_runs
from grok_conformance.harness.commands.narrow_options import (
    is_in_process,
    is_narrow,
    last_failed,
    narrow_to_last_failed,
    refuse_together,
    remember_failed,
)
from grok_conformance.harness.commands.reuse import Programs, begin, doubt, keep, programs_in, taken_over
from grok_conformance.harness.commands.run import add_options
from grok_conformance.harness.commands.watching import limited
from grok_conformance.harness.formats.files import FileError, check_folder
from grok_conformance.harness.formats.scratch import scratch_folder
from grok_conformance.harness.golden.reading import Golden, open_golden
from grok_conformance.harness.judging.baseline import Record, record_of
from grok_conformance.harness.judging.groups import Group, any_seed
from grok_conformance.harness.judging.known_deviations import known_deviations, with_outdated
from grok_conformance.harness.judging.narrowing import Narrow, narrow_to
from grok_conformance.harness.judging.selection import asked_groups, asked_rungs, only_cases
from grok_conformance.harness.judging.summary import refuse
from grok_conformance.harness.judging.verdict import PASSING, CandidateVerdict
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.report.progress import progress_bar
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.in_process import adapter_of
from grok_conformance.harness.running.own_frames import own_traceback
from grok_conformance.harness.running.registry import (
    Candidate,
    UnknownCandidateError,
    absences,
    default_names,
    find_candidate,
    served,
)
from grok_conformance.harness.sessions import asking, run
from grok_conformance.harness.sessions.dumping import CaseEvidence, dump_operations, how_to_load
from grok_conformance.harness.sessions.shards import keep_shard, places_of

REPORTING = "grok_conformance.harness.commands.conclusion"
"""What draws tables and pages takes long to import, which is done while the candidates answer."""

STARTING_SECONDS = 0.3
"""By then the first candidates have been started, which the import would hold up."""


def judge_candidates(options: argparse.Namespace) -> int:
    """Judge candidates over the golden cases, or by the laws of every model, and return the exit status."""
    if options.properties:
        return check_the_laws(options)
    if options.update_baseline and options.baseline is None:
        raise FileError("--update-baseline needs --baseline DIR: the folder where the baseline is kept")
    refuse_together(options)
    for folder in filter(None, (options.baseline, options.dump)):
        check_folder(folder)
    golden = open_golden(options.golden)
    cases = narrow_to_last_failed(options, last_failed()) if options.last_failed else None
    wanted = options.candidate or (() if options.endpoint else default_names())
    names = list(dict.fromkeys([*wanted, *(name for name, _ in options.require if name != options.model)]))
    absent = absences(names)
    candidates = [find_candidate(name) for name in names if name not in absent]
    if options.endpoint:
        candidates.append(served(options.endpoint, options.model, options.top_logprobs))
    earlier = earlier_runs(options.baseline, [each.name for each in candidates], update=options.update_baseline)
    keeping = begin(options)
    seed = any_seed() if options.seed is None else options.seed
    groups, narrow = groups_of(golden, options, cases, seed)
    waivers = known_deviations(options.waivers, golden)
    whole = groups
    if options.shard is not None:
        groups = tuple(whole[place] for place in places_of(whole, options.shard))
    reused = taken_over(keeping, [each.name for each in candidates], options)
    left = tuple(each for each in candidates if each.name not in reused)
    asked = Asked(left, groups, golden.manifest.suite, narrow, tuple(waivers))
    answered = answers_to(asked, golden, options)
    if answered is None:
        doubt(each.name for each in left)
        return NONCONFORMING
    if options.shard is not None:
        keep_shard(options.keep, options.shard, whole, [candidate.name for candidate in candidates])
    judged = iter(answered.verdicts)
    verdicts = [reused[each.name] if each.name in reused else next(judged) for each in candidates]
    up_to_date = [with_outdated(verdict, waivers, golden) for verdict in verdicts]
    keep(keeping, up_to_date, answered.programs, seed, options)
    remember_failed(((verdict.name, failed_cases(verdict)) for verdict in verdicts), options.layer)
    regressions = compare_with_baselines(options.baseline, answered.records, earlier, update=options.update_baseline)
    refused = [refuse(name, groups, reason) for name, reason in absent.items()]
    asked_for = {*(options.candidate or ()), *(name for name, _ in options.require)}
    optional = [name for name in absent if name not in asked_for]
    from grok_conformance.harness.commands.conclusion import conclude

    return conclude([*verdicts, *refused], golden, options, options.require, optional, regressions, waivers)


def check_the_laws(options: argparse.Namespace) -> int:
    """Check candidates by the laws of every model, and return the exit status."""
    from grok_conformance.harness.commands import properties
    from grok_conformance.harness.laws.check import NUM_DRAWS
    from grok_conformance.harness.laws.draws import drawn
    from grok_conformance.harness.laws.laws import LAWS

    refuse_unused(options)
    return properties.check(options.candidate, LAWS, drawn(NUM_DRAWS))


@dataclass(frozen=True)
class Asked:
    """What is run: candidates over groups of the golden suite, narrowed or whole, with their known deviations."""

    candidates: tuple[Candidate, ...]
    groups: tuple[Group, ...]
    suite: str
    narrow: Narrow
    waivers: tuple[Waiver, ...]


@dataclass(frozen=True)
class Answered:
    """The verdicts, what is compared with baselines, and the programs that ran, where verdicts are kept."""

    verdicts: Sequence[CandidateVerdict] = ()
    records: Sequence[Record] = ()
    programs: Programs = field(default_factory=dict)


def answers_to(asked: Asked, golden: Golden, options: argparse.Namespace) -> Answered | None:
    """Run candidates where they are to be run, and judge them; None where one raised in this process."""
    if not asked.candidates:
        return Answered()
    if is_in_process(options):
        return in_this_process(asked, options)
    if in_fork(options, asked.candidates):
        with limited(options.time_limit) as advance:
            return in_this_process(asked, options, advance)
    return in_processes(asked, golden, options)


def in_processes(asked: Asked, golden: Golden, options: argparse.Namespace) -> Answered:
    """Run every candidate in child processes and judge it; dump what is asked for while its answers are there.

    Each verdict but the last, which the report follows at once, is told on standard error as soon as it is known.
    """
    if options.keep is not None and options.keep.exists():
        raise FileError(f"{options.keep}: exists already: give a new folder")
    kept = options.keep is not None  # then all answer one set of jobs
    candidates = [replace(each, compiles=each.compiles and not kept) for each in asked.candidates]
    num_cases = sum(len(group.cases) for each in candidates for group in asking.groups_for(each, asked.groups))
    verdicts: list[CandidateVerdict] = []
    records: list[Record] = []
    programs: dict[str, Mapping[str, str]] = {}
    threading.Timer(STARTING_SECONDS, importlib.import_module, [REPORTING]).start()
    with scratch_folder() as scratch, progress_bar(num_cases, shown=options.detail != "quiet") as advance:
        judged = run.run_candidates(
            candidates,
            asked.groups,
            asked.suite,
            options.keep or scratch,
            Limits(silent_seconds=options.time_limit),
            advance,
            asked.waivers,
            asked.narrow,
        )
        for each in judged:
            verdicts.append(each.verdict)
            records += [record_of(each.verdict, each.folder, asked.suite)] if options.baseline else []
            programs[each.verdict.name] = programs_in(each.folder) if options.reuse or options.fresh else {}
            dump(each.verdict, each.evidence, each.num_elements, options)
            if options.detail != "quiet" and len(verdicts) < len(asked.candidates):
                from grok_conformance.harness.report.terminal import verdict_line

                sys.stderr.write(f"{verdict_line(with_outdated(each.verdict, asked.waivers, golden)).plain}\n")
    return Answered(verdicts, records, programs)


def in_fork(options: argparse.Namespace, candidates: Sequence[Candidate]) -> bool:
    """Return whether this process is a fork for a watched file, in which one Python candidate may as well run."""
    asked = options.watch is not None and is_narrow(options) and options.keep is None
    return asked and sys.platform == "linux" and [each.serves_many for each in candidates] == [True]


def in_this_process(
    asked: Asked, options: argparse.Namespace, on_progress: run.Progress = lambda _name, _case: None
) -> Answered | None:
    """Run Python candidates here and judge them; None where one raised, which its traceback tells."""
    from grok_conformance.harness.sessions.in_process import judge_adapter

    verdicts = []
    for candidate in asked.candidates:
        try:
            report = judge_adapter(
                adapter_of(candidate.name), asked.groups, asked.narrow,
                waivers=asked.waivers, exit_first=options.exitfirst, on_progress=on_progress,
            )  # fmt: skip
        except (FileError, UnknownCandidateError):
            raise
        except Exception as error:  # noqa: BLE001 - the candidate's own, shown where it was raised
            sys.stderr.write(own_traceback(error))
            if options.pdb:
                pdb.post_mortem(error.__traceback__)
            return None
        dump(report.verdict, report.evidence, report.num_elements, options)
        verdicts.append(report.verdict)
    return Answered(verdicts)


def dump(verdict: CandidateVerdict, evidence: CaseEvidence, num_elements: int, options: argparse.Namespace) -> None:
    """Write the tensors that are asked for and tell how they are loaded."""
    if options.dump is None:
        return
    folder = options.dump / re.sub(r"[^A-Za-z0-9_.-]+", "_", verdict.name)
    written = dump_operations(verdict, evidence, num_elements, folder, passing=bool(options.operation))
    sys.stdout.write(f"{how_to_load(written)}\n" if written else f"{verdict.name}: no operation to dump\n")


def failed_cases(verdict: CandidateVerdict) -> dict[str, list[str]]:
    """Return the operations at fault in every case that did not pass, none where it failed otherwise."""
    return {
        case.case: sorted({c.operation for c in case.comparisons if not c.passed})
        for case in verdict.cases
        if case.status not in PASSING and not case.waived
    }


def groups_of(
    golden: Golden, options: argparse.Namespace, cases: frozenset[str] | None, seed: int
) -> tuple[tuple[Group, ...], Narrow]:
    """Return what is judged, golden cases and drawn ones or the ladder, and what it is narrowed to."""
    if options.ladder:
        groups = asked_rungs(seed, options.case)
        return groups, narrow_to(options.operation, options.layer, groups)
    # A server has one model, whose weights are not drawn again; a narrowed run is to be quick.
    quick = bool(options.operation or options.layer or is_in_process(options)) and options.seed is None
    drawing = options.endpoint is None and not quick
    groups = asked_groups(golden, options.case, options.dtype, seed=seed, drawing=drawing)
    groups = only_cases(groups, cases)
    return groups, narrow_to(options.operation, options.layer, groups)


def refuse_unused(options: argparse.Namespace) -> None:
    """Raise FileError for an option, other than its default, of which the laws make no use."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    for name, default in vars(parser.parse_args([])).items():
        if name not in ("candidate", "properties") and getattr(options, name) != default:
            option = options.detail if name == "detail" else name.replace("_", "-")
            raise FileError(f"--{option}: the laws make no use of it: leave it out, or --properties")
