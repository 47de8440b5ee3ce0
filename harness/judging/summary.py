"""The verdicts on a candidate's groups gathered into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from grok_conformance.harness.checks.loaded_weights import WeightProblem, check_partition_specs, check_weights
from grok_conformance.harness.contract import LEVELS, CandidateInfo
from grok_conformance.harness.diagnosis.power import Power, power_of_run
from grok_conformance.harness.diagnosis.probe_power import power_of_probes
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.judging.coverage import coverage
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.judge import Judged
from grok_conformance.harness.judging.level import level_of, missing_taps
from grok_conformance.harness.judging.twins import suspected
from grok_conformance.harness.judging.verdict import PASSING, CandidateVerdict, CaseVerdict, by_operation
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.running.answers import Answer, read_weights
from grok_conformance.harness.running.info import one_line


def judge_weights(groups: Sequence[Group], outs: Sequence[Path]) -> tuple[WeightProblem, ...]:
    """Compare the weights and the sharding that a candidate shows in its answer folders with the stored ones."""
    found: list[WeightProblem] = []
    for group, out in zip(groups, outs, strict=True):
        name, stored = group.preset.name, group.preset.weights
        try:
            shown, specs = read_weights(out)
            found += check_weights(name, replace(group.preset.config, fprop_dtype=group.fprop_dtype), stored, shown)
            found += [] if specs is None else check_partition_specs(name, stored, specs)
        except (FileError, OSError) as error:
            found.append(WeightProblem(preset=name, tensor=out.name, problem=one_line(str(error))))
    return tuple(found)


LEFT_OPEN = "most other cases are decided"
"""What excuses a case in which nothing could be compared: every token hangs on a choice of experts that is hidden."""


def without_open(cases: Sequence[CaseVerdict]) -> tuple[CaseVerdict, ...]:
    """Return verdicts of which those that stay open do not count, if they are fewer than those that pass.

    An honest port that shows little leaves a few of them open, in which routing is a matter of roundings.
    """
    still_open = [case for case in cases if case.status == "inconclusive"]
    if len(still_open) >= sum(case.status in PASSING for case in cases):
        return tuple(cases)
    return tuple(replace(case, waived=(LEFT_OPEN,)) if case in still_open else case for case in cases)


def summarise(
    name: str,
    groups: Sequence[Group],
    answers: Sequence[Mapping[str, Answer]],
    judged: Sequence[Judged],
    seconds: float,
    weights: tuple[WeightProblem, ...] = (),
    waivers: Sequence[Waiver] = (),
) -> CandidateVerdict:
    """Gather the verdicts on a candidate's groups into one; `waivers` are its known deviations."""
    cases = without_open(tuple(verdict for each in judged for verdict in each.verdicts))
    dtypes = {case.id: group.fprop_dtype for group in groups for case in group.cases}
    chosen = {
        (group.fprop_dtype, operation): words
        for group, each in zip(groups, judged, strict=True)
        for operation, words in each.words.items()
    }
    diagnoses = {
        (group.fprop_dtype, operation): diagnosis
        for group, each in zip(groups, judged, strict=True)
        for operation, diagnosis in each.diagnoses.items()
    }
    infos = [answer.info for each in answers for answer in each.values() if answer.info is not None]
    levels = [level_of(infos[0].taps, group.preset.config, group.graph) for group in groups] if infos else ["none"]
    level = min(levels, key=("none", *LEVELS).index)
    hidden = [missing_taps(infos[0].taps, group.preset.config, level, group.graph) for group in groups] if infos else []
    return CandidateVerdict(
        name=name,
        version=infos[0].version if infos else "",
        quantised=infos[0].quantised if infos else {},
        level=level,
        weights=weights,
        next_taps=tuple(dict.fromkeys(tap for taps in hidden for tap in taps)),
        cases=cases,
        operations=suspected(by_operation(cases, dtypes, chosen, diagnoses, groups[0].graph), groups[0].graph),
        seconds=seconds,
        coverage=coverage(groups, answers),
        powers=powers_of(infos[0], level, dtypes) if infos and level != "none" else (),
        waivers=tuple(each for each in waivers if any(each.name in case.waived for case in cases)),
    )


def powers_of(info: CandidateInfo, level: str, dtypes: Mapping[str, str]) -> tuple[Power, ...]:
    """Return what a run over cases, whose compute dtypes are given, can see: by golden cases, and by probes.

    Of a candidate that shows every operation it is not told of probes, which are for those that show less.
    """
    by_probes = power_of_probes(info, dtypes.items()) if level in LEVELS[: LEVELS.index("layers")] else ()
    return (*power_of_run(level, dtypes.items()), *by_probes)


def refuse(name: str, groups: Sequence[Group], reason: str) -> CandidateVerdict:
    """Return the verdict on a candidate that cannot be run here: unsupported in every case, for one reason."""
    cases = [CaseVerdict(case=case.id, status="unsupported", reason=reason) for group in groups for case in group.cases]
    return CandidateVerdict(name=name, version="", level="none", cases=tuple(cases), operations=(), seconds=0.0)
