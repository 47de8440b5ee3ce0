"""Judges the further runs of every case: those that gave other values, by the same checks as the first run.

A case that passes in one run and fails in another hangs on something that must not matter. It is named as far as it is
proven: `tapping` where it fails with all taps or with fewer and not with the others, `history` where the same requests
in a fresh process give the same values, `randomness` where they give others; `concurrency` where a server fails only
while it has several.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.cases.reruns import RERUNS, Rerun
from grok_conformance.harness.contract import select_taps
from grok_conformance.harness.formats.tensors import digest
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.judge import Judged, Known, judge_candidate
from grok_conformance.harness.judging.verdict import PASSING, CaseVerdict, RunVerdict, Status, worst_status
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.judging.whole_run import HonestRuns
from grok_conformance.harness.running.answers import Answer, unrepeated

UNPROVEN = "history or randomness"

CONCURRENCY = "concurrency"

BY_SERVER = frozenset(rerun.name for rerun in RERUNS if rerun.by_server)

FIRST = "first"

WHOLE = frozenset(rerun.name for rerun in RERUNS if rerun.is_whole)

Answers = Sequence[Mapping[str, Answer]]
"""Answers by case id, for each of some groups."""


def with_reruns(
    groups: Sequence[Group],
    answers: Answers,
    judged: Sequence[Judged],
    num_elements: int,
    honest_runs: HonestRuns,
    waivers: Sequence[Waiver] = (),
) -> list[Judged]:
    """Add to the verdict on every case those on its further runs; a case whose first run failed keeps its reason.

    They are taken to compute in the ways of the first runs. What fails in these is looked into, for other ways and for
    faults, until one of them is found to be wrong: a candidate that forgets nothing is so in all that follow.
    """
    ways = {(group.preset.name, group.fprop_dtype): one.ways for group, one in zip(groups, judged, strict=True)}

    def judge(some: Sequence[Group], given: Answers, searched: Collection[str]) -> list[Judged]:
        return judge_candidate(some, given, num_elements, honest_runs, waivers, known=Known(ways, searched))

    passed = {verdict.case for each in judged for verdict in each.verdicts if verdict.status in PASSING}
    told = {
        verdict.case: compared(case, answer[case.id], verdict.status)
        for group, answer, each in zip(groups, answers, judged, strict=True)
        for case, verdict in zip(group.cases, each.verdicts, strict=True)
    }
    found: dict[str, list[RunVerdict]] = {}
    for rerun in RERUNS:
        wrong = any(each.status not in PASSING for runs in found.values() for each in runs)
        for case, verdict in judge_rerun(rerun, groups, told, judge, () if wrong else passed).items():
            found.setdefault(case, []).append(verdict)
    return [
        replace(each, verdicts=tuple(with_found(verdict, found.get(verdict.case, ())) for verdict in each.verdicts))
        for each in judged
    ]


def judge_rerun(
    rerun: Rerun,
    groups: Sequence[Group],
    told: Mapping[str, Mapping[str, RunVerdict | Answer]],
    judge: Callable[[Sequence[Group], Answers, Collection[str]], list[Judged]],
    searched: Collection[str],
) -> dict[str, RunVerdict]:
    """Return the verdicts on one rerun of every case that was answered and has it, by case id.

    `told` is what the runs of every case are `compared` to be; `judge` judges those that differ from the first run, and
    looks into what fails in the cases `searched`.
    """
    found: dict[str, RunVerdict] = {}
    differing: list[tuple[Group, dict[str, Answer]]] = []
    for group in groups:
        own = {case.id: told[case.id][rerun.name] for case in group.cases if rerun.name in told[case.id]}
        found |= {case: each for case, each in own.items() if isinstance(each, RunVerdict)}
        again = {case: each for case, each in own.items() if isinstance(each, Answer)}
        if again:
            differing.append((of_cases(group, again), again))
    if not differing:
        return found
    some, given = zip(*differing, strict=True)
    results = judge(some, given, searched)
    return found | {
        verdict.case: run_verdict(rerun, verdict, result) for result in results for verdict in result.verdicts
    }


def of_cases(group: Group, case_ids: Collection[str]) -> Group:
    """Return a group with some of its cases."""
    return replace(group, cases=tuple(case for case in group.cases if case.id in case_ids))


def compared(case: Case, answer: Answer, first: Status) -> dict[str, RunVerdict | Answer]:
    """Return for each further run of a case the verdict if it gave the same bits or none, or its answer to be judged.

    `first` is the status of the first run, which the same bits share.
    """
    digests: dict[str, str] = {}  # of the first run, which each of them is held against
    some = [rerun for rerun in RERUNS if rerun.name in answer.reruns]
    return {rerun.name: compared_run(rerun, case, answer, first, digests) for rerun in some}


def compared_run(
    rerun: Rerun, case: Case, answer: Answer, first: Status, digests: dict[str, str]
) -> RunVerdict | Answer:
    """Return as much of one further run; `digests` are those of the first that are known, and are added to."""
    given = answer.reruns[rerun.name]
    if given.status != "answered":
        return RunVerdict(name=rerun.name, status=given.status, reason=given.reason, bitwise=False)
    asked = rerun.taps_by_call(len(case.calls))
    keys = [key for key in answer.taps if rerun.is_whole or select_taps([key.partition("/")[2]], asked[call_of(key)])]
    other = unrepeated(answer, rerun.name, keys, digests)
    if not other:
        return RunVerdict(name=rerun.name, status=first, reason="", bitwise=True)
    if not given.taps:
        told = f"{other[0]} has another digest, and {rerun.name}.safetensors does not hold its values"
        return RunVerdict(name=rerun.name, status="missing", reason=told, bitwise=False)
    return replace(answer, taps=given.taps, reruns={}, asked=None if rerun.is_whole else asked)


def call_of(key: str) -> int:
    """Return the call of a stored tap, `call3/logits`."""
    return int(key.partition("/")[0].removeprefix("call"))


def run_verdict(rerun: Rerun, verdict: CaseVerdict, judged: Judged) -> RunVerdict:
    """Return what the verdict on a case says of a rerun, with the faults that explain it."""
    at_fault = {c.operation for c in verdict.comparisons if not c.passed}
    faults = {
        fault: operation
        for operation, diagnosis in judged.diagnoses.items()
        if operation in at_fault
        for fault in diagnosis.faults
    }
    likely = "".join(f"; likely {fault} at {operation}" for fault, operation in faults.items())
    reason = f"{verdict.reason}{likely}" if verdict.status not in PASSING else ""
    return RunVerdict(name=rerun.name, status=verdict.status, reason=reason, bitwise=False)


def with_found(verdict: CaseVerdict, found: Sequence[RunVerdict]) -> CaseVerdict:
    """Return the verdict on a case with those on its further runs; it is as bad as the worst of all."""
    if not found:
        return verdict
    first = RunVerdict(name=FIRST, status=verdict.status, reason=verdict.reason, bitwise=True)
    repeats = [each.bitwise for each in found if each.name in WHOLE]
    verdict = replace(verdict, runs=(first, *found), repeatable=all(repeats) if repeats else None)
    status = worst_status(each.status for each in found)
    if verdict.status not in PASSING or status in PASSING:
        return verdict
    worst = next(each for each in found if each.status == status)
    sentence = next(rerun.sentence for rerun in RERUNS if rerun.name == worst.name)
    return replace(verdict, status=status, reason=f"{sentence}: {worst.reason}")


def failing_apart(verdict: CaseVerdict) -> set[str]:
    """Return the names of the runs of a case that failed where another one passed."""
    failed = {each.name for each in verdict.runs if each.status not in PASSING}
    return failed if any(each.status in PASSING for each in verdict.runs) else set()


def need_replay(judged: Sequence[Judged]) -> bool:
    """Return whether some case passes in one run and fails in another, so that its cause is to be found."""
    verdicts = [verdict for each in judged for verdict in each.verdicts]
    return any(failing_apart(verdict) and not hangs_on_concurrency(verdict) for verdict in verdicts)


def hangs_on_concurrency(verdict: CaseVerdict) -> bool:
    """Return whether a server fails where it has several requests at a time, and gave the same bits one at a time."""
    alone = [run.bitwise for run in verdict.runs if run.name in WHOLE - BY_SERVER]
    failed = failing_apart(verdict)
    return bool(failed) and failed <= BY_SERVER and bool(alone) and all(alone)


def hangs_on_taps(verdict: CaseVerdict) -> bool:
    """Return whether all runs of a case with every tap go one way; where they fail, others do not."""
    failed, whole = failing_apart(verdict), {run.name for run in verdict.runs} & {FIRST, *WHOLE}
    return not failed & whole or whole <= failed


def with_causes(judged: Sequence[Judged], answers: Answers, replayed: Answers | None) -> list[Judged]:
    """Name the cause wherever a case passes in one run and fails in another.

    `replayed` are the answers of a fresh process to the same jobs as `answers`, None where there are none.
    """
    verdicts = [verdict for each in judged for verdict in each.verdicts]
    only_tapping = all(map(hangs_on_taps, verdicts))
    same = {case: run_digests(answer) for each in answers for case, answer in each.items()}
    again = {case: run_digests(answer) for each in replayed or () for case, answer in each.items()}

    def caused(verdict: CaseVerdict) -> CaseVerdict:
        if not failing_apart(verdict):
            return verdict
        if hangs_on_concurrency(verdict):
            cause = CONCURRENCY
        elif replayed is None:
            cause = "tapping" if only_tapping else UNPROVEN
        elif again.get(verdict.case) != same[verdict.case]:
            cause = "randomness"
        else:
            cause = "tapping" if only_tapping else "history"
        where = "run with every tap: " if cause == "tapping" and FIRST in failing_apart(verdict) else ""
        return replace(verdict, cause=cause, reason=f"{cause}: {where}{verdict.reason}")

    return [replace(each, verdicts=tuple(map(caused, each.verdicts))) for each in judged]


def run_digests(answer: Answer) -> dict[tuple[str, str], str | None]:
    """Return the sha256 of every tap of every run of a case, by the run's name and the tap's key."""
    found: dict[tuple[str, str], str | None] = {(FIRST, key): digest(x) for key, x in answer.taps.items()}
    for name, given in answer.reruns.items():
        found |= {(name, key): given.digest_of(key) for key in {*given.digests, *given.taps}}
    return found
