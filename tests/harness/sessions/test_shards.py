"""Shards of a run: each has its share of the jobs, and together they are the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.formats.files import FileError, read_json, write_json
from grok_conformance.harness.judging.groups import read_groups, with_drawn
from grok_conformance.harness.judging.shard import Shard
from grok_conformance.harness.judging.told import conformance_digest
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.sessions.run import run_candidates
from grok_conformance.harness.sessions.shards import judge_shards, keep_shard, places_of
from tests.harness.honest_port import golden
from tests.harness.wrong_port import SOURCE

GROUPS = with_drawn(read_groups(golden(), "ties/*"), 3)
ALONE = Shard(1, 1)


def run(folder: Path, shard: Shard, name: str) -> CandidateVerdict:
    """Run one shard of a candidate as the command does, and return the verdict on it."""
    groups = [GROUPS[place] for place in places_of(GROUPS, shard)]
    (judged,) = run_candidates([find_candidate(name)], groups, golden().manifest.suite, folder, Limits())
    keep_shard(folder, shard, GROUPS, [name])
    return judged.verdict


@pytest.mark.parametrize("source", ["", SOURCE], ids=["honest", "wrong"])
def test_shards_add_up_to_the_whole_exactly(source: str, tmp_path: Path) -> None:
    name = "numpy_float64"
    if source:
        (tmp_path / "port.py").write_text(source)
        name = str(tmp_path / "port.py")
    whole = run(tmp_path / "whole", ALONE, name)
    shards = [Shard(number, 2) for number in (1, 2)]
    parts = [run(tmp_path / f"shard{shard.number}", shard, name) for shard in shards]
    (merged,) = judge_shards(golden(), [tmp_path / "shard2", tmp_path / "shard1"])
    assert sum(len(part.cases) for part in parts) == len(whole.cases)
    assert whole.passed is not bool(source)
    assert conformance_digest(merged) == conformance_digest(whole)


@pytest.fixture
def kept(tmp_path: Path) -> list[Path]:
    """Return the folders of two shards, as far as is read before anything is judged."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders, start=1):
        folder.mkdir()
        keep_shard(folder, Shard(number, 2), GROUPS, ["port"])
    return folders


def test_every_job_is_in_one_shard(kept: list[Path]) -> None:
    del kept
    shards = [places_of(GROUPS, Shard(number, 3)) for number in (1, 2, 3)]
    assert sorted(place for places in shards for place in places) == list(range(len(GROUPS)))
    assert all(shards)
    with pytest.raises(FileError, match=r"--shard 1/99: there are 4 jobs, and each shard needs one: use fewer"):
        places_of(GROUPS, Shard(1, 99))


def test_shards_that_are_not_all_of_one_run_are_refused(kept: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"shard 2/2 is missing: run it with --shard 2/2"):
        judge_shards(golden(), kept[:1])
    other = tmp_path / "other"
    other.mkdir()
    write_json(other / "shard.json", read_json(kept[0] / "shard.json"))
    with pytest.raises(FileError, match=r"shard 1/2 is given twice"):
        judge_shards(golden(), [kept[0], other])
    write_json(other / "shard.json", {**read_json(kept[1] / "shard.json"), "cases": []})
    with pytest.raises(FileError, match=r"other: of another run than"):
        judge_shards(golden(), [kept[0], other])


def test_a_folder_that_is_no_shard_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "shard.json", {"number": 1})
    with pytest.raises(FileError, match=r"shard\.json: not a shard: write it with `run --shard I/N --keep"):
        judge_shards(golden(), [tmp_path])
