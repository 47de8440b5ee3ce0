"""What a judge is given of a candidate, and the judgement on all of it: the first run of every case and the others.

It is data, so that the part of each compute dtype can be judged by a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grok_conformance.harness.judging.agreement import Agree, in_agreement
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.judge import Judged
from grok_conformance.harness.judging.narrowing import Narrow, judge_as_asked
from grok_conformance.harness.judging.reruns import with_reruns
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.judging.whole_run import HonestRuns
from grok_conformance.harness.running.answers import Answer


@dataclass(frozen=True)
class Submission:
    """Groups of cases, a candidate's answers to each of them, by case id, and how these are to be judged.

    `num_elements` is the size of the whole run, which sets λ; `narrow` what it is narrowed to; `waivers` are the known
    deviations of the candidate.
    """

    groups: tuple[Group, ...]
    answers: tuple[Mapping[str, Answer], ...]
    num_elements: int
    narrow: Narrow = Narrow()  # noqa: RUF009 - frozen
    waivers: tuple[Waiver, ...] = ()

    @property
    def fprop_dtypes(self) -> tuple[str, ...]:
        """The compute dtypes of its groups, in their order."""
        return tuple(dict.fromkeys(group.fprop_dtype for group in self.groups))

    def in_dtype(self, fprop_dtype: str) -> Submission:
        """Return the part of one compute dtype."""
        pairs = [pair for pair in zip(self.groups, self.answers, strict=True) if pair[0].fprop_dtype == fprop_dtype]
        groups, answers = zip(*pairs, strict=True)
        return replace(self, groups=groups, answers=answers)


def judge_submission(submission: Submission, honest_runs: HonestRuns, agree: Agree = in_agreement) -> list[Judged]:
    """Judge what a candidate submitted, group by group; a narrowed run has no further runs."""
    groups, answers, size = submission.groups, submission.answers, submission.num_elements
    narrow, known = submission.narrow, submission.waivers
    judged = judge_as_asked(groups, answers, size, honest_runs, narrow, known, agree)
    return judged if narrow else with_reruns(groups, answers, judged, size, honest_runs, known)


def together(submission: Submission, parts: Mapping[str, Sequence[Judged]]) -> list[Judged]:
    """Return the judgement on every group, in their order, from those on the parts of each compute dtype."""
    left = {dtype: iter(judged) for dtype, judged in parts.items()}
    return [next(left[group.fprop_dtype]) for group in submission.groups]
