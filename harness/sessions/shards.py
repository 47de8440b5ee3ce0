"""A run in shards, on as many machines: each runs some of the jobs, and all answers are judged together afterwards.

A shard has whole jobs, so that every model meets the requests that it would meet in one run. What is judged over all
data (fences, ways, what all taps err in common) is judged when all is there: shards add up to the whole exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from grok_conformance.harness.formats.files import FileError, read_json, write_json
from grok_conformance.harness.golden.reading import Golden
from grok_conformance.harness.judging.groups import Group, run_size
from grok_conformance.harness.judging.shard import Shard
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.sessions.asking import answer_folders
from grok_conformance.harness.sessions.run import job_names, judge_pairs

FORMAT = 1
FILE = "shard.json"


@dataclass(frozen=True)
class Kept:
    """What a shard's folder holds: `jobs` are names by their place in the whole run, of `num_jobs` in all.

    `cases` are those of the whole run; `candidates` the folders of their answers, by name.
    """

    number: int
    count: int
    num_jobs: int
    jobs: Mapping[str, str]
    cases: Sequence[str]
    candidates: Mapping[str, str]
    format: int = FORMAT


def places_of(groups: Sequence[Group], shard: Shard) -> tuple[int, ...]:
    """Return the places of a shard's groups: the largest first, each to the shard that has least so far.

    Raises FileError where there are fewer groups than shards.
    """
    if shard.count > len(groups):
        raise FileError(f"--shard {shard}: there are {len(groups)} jobs, and each shard needs one: use fewer")
    sizes = [run_size([group]) for group in groups]
    loads = [0] * shard.count
    places: list[list[int]] = [[] for _ in loads]
    for place in sorted(range(len(groups)), key=lambda each: -sizes[each]):
        least = loads.index(min(loads))
        loads[least] += sizes[place]
        places[least].append(place)
    return tuple(sorted(places[shard.number - 1]))


def keep_shard(folder: Path, shard: Shard, groups: Sequence[Group], candidates: Sequence[str]) -> None:
    """Write what a shard's folder holds, beside the jobs and answers kept there; `groups` are those of the run."""
    places = places_of(groups, shard)
    names = job_names([groups[place] for place in places])
    kept = Kept(
        shard.number,
        shard.count,
        len(groups),
        {str(place): name for place, name in zip(places, names, strict=True)},
        [case.id for group in groups for case in group.cases],
        {name: path.name for name, path in answer_folders(folder, candidates).items()},
    )
    write_json(folder / FILE, asdict(kept))


def read_shard(folder: Path) -> Kept:
    """Read what a shard's folder holds; raises FileError for another folder."""
    if not (folder / FILE).is_file():
        raise FileError(f"{folder}: not a shard: write it with `run --shard I/N --keep {folder}`")
    data = read_json(folder / FILE)
    try:
        kept = Kept(**data)
    except TypeError:
        raise FileError(f"{folder / FILE}: not a shard: write it with `run --shard I/N --keep {folder}`") from None
    if kept.format != FORMAT:
        raise FileError(f"{folder / FILE}: format {kept.format!a} is not {FORMAT}: run the shard again")
    return kept


def judge_shards(golden: Golden, folders: Sequence[Path], waivers: Sequence[Waiver] = ()) -> list[CandidateVerdict]:
    """Judge the answers of all shards of a run together, as one run would have been.

    What a case hangs on is told as of answers written elsewhere: nothing is run again. Raises FileError unless the
    folders are all the shards of one run.
    """
    shards = {folder: read_shard(folder) for folder in folders}
    check_complete(shards)
    first = next(iter(shards.values()))
    jobs = sorted((int(place), folder, name) for folder, kept in shards.items() for place, name in kept.jobs.items())

    def answers(folder: Path, candidate: str) -> Path:
        return folder / "answers" / shards[folder].candidates[candidate]

    return [
        judge_pairs(
            golden, [(folder / "jobs" / job, answers(folder, name) / job) for _, folder, job in jobs], name, waivers
        )
        for name in first.candidates
    ]


def check_complete(shards: Mapping[Path, Kept]) -> None:
    """Raise FileError unless these are all the shards of one run, each once."""
    (first_folder, first), *others = shards.items()
    for folder, kept in others:
        if (kept.count, kept.cases, set(kept.candidates)) != (first.count, first.cases, set(first.candidates)):
            raise FileError(
                f"{folder}: of another run than {first_folder}: give all shards the same candidates, cases and --seed"
            )
    numbers = [kept.number for kept in shards.values()]
    if twice := {number for number in numbers if numbers.count(number) > 1}:
        raise FileError(f"shard {min(twice)}/{first.count} is given twice: give each once")
    if missing := sorted(set(range(1, first.count + 1)) - set(numbers)):
        raise FileError(f"shard {missing[0]}/{first.count} is missing: run it with --shard {missing[0]}/{first.count}")
