"""The options that narrow a run to what its author is at work on, and how it is then run."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grok_conformance.harness.formats.files import FileError, read_json, write_json

CACHE = Path(".grok_conformance_cache")
LAST_FAILED = CACHE / "last_failed.json"
"""What failed in the last run here: see `LastFailed`."""

Failed = dict[str, dict[str, list[str]]]
"""Candidates, their cases that failed, and in each the operations that did, none where it failed otherwise."""


@dataclass(frozen=True)
class LastFailed:
    """What failed in a run, and the layers that it was narrowed to, none for all."""

    failed: Failed
    layers: list[int]


def add_narrow_options(parser: argparse.ArgumentParser) -> None:
    """Add what narrows a run, and what runs it in this process."""
    narrow = parser.add_argument_group("narrowing", "what is left out is not judged, and the verdict says so")
    narrow.add_argument(
        "--case", action="append", default=[], metavar="GLOB", help="only the cases that match; repeatable"
    )
    narrow.add_argument("--dtype", default="*", choices=("*", "float32", "bfloat16"), help="only one compute dtype")
    narrow.add_argument(
        "--operation", action="append", default=[], metavar="GLOB", help="only these operations, locally; repeatable"
    )
    narrow.add_argument(
        "--layer", action="append", default=[], type=int, metavar="N", help="only these layers, locally; repeatable"
    )
    narrow.add_argument("--last-failed", action="store_true", help="only what failed in the last run in this folder")
    loop = parser.add_argument_group("looking closer")
    loop.add_argument(
        "--dump", type=Path, metavar="DIR", help="write the tensors of operations that fail, or that --operation names"
    )
    loop.add_argument(
        "--in-process", action="store_true", help="run a Python candidate in this process: breakpoint() and prints work"
    )
    loop.add_argument("--exitfirst", action="store_true", help="stop at the first case that fails; --in-process")
    loop.add_argument("--pdb", action="store_true", help="enter the debugger where the candidate raises; --in-process")
    loop.add_argument("--watch", type=Path, metavar="FILE", help="run again whenever this file changes")


def is_in_process(options: argparse.Namespace) -> bool:
    """Return whether the candidate is run in this process."""
    return bool(options.in_process or options.exitfirst or options.pdb)


def is_narrow(options: argparse.Namespace) -> bool:
    """Return whether anything but the end to end check of whole cases is asked for."""
    return bool(options.operation or options.layer)


def refuse_together(options: argparse.Namespace) -> None:
    """Raise FileError for options that contradict one another."""
    narrow = "--operation" if options.operation else "--layer" if options.layer else ""
    for other, given in (("--require", options.require), ("--baseline", options.baseline)):
        if narrow and given:
            raise FileError(f"{other} asks for a whole run, and {narrow} narrows it: leave one out")
        if options.exitfirst and given:
            raise FileError(f"{other} asks for a whole run, and --exitfirst cuts it short: leave one out")
    if options.shard is not None:
        refuse_with_shard(options)
    if is_in_process(options) and not options.candidate:
        raise FileError(
            "--in-process, --exitfirst and --pdb need --candidate NAME: engines do not share a process well"
        )
    if is_in_process(options) and options.keep:
        raise FileError("--keep keeps job and answer folders, and in this process there are none: leave one out")
    if options.watch is not None and not options.watch.is_file():
        raise FileError(f"--watch {options.watch}: no such file")


def refuse_with_shard(options: argparse.Namespace) -> None:
    """Raise FileError for what a shard of a run cannot tell, or lacks to be merged."""
    whole = {
        "--require": options.require,
        "--baseline": options.baseline,
        "--operation": options.operation,
        "--layer": options.layer,
        "--dump": options.dump,
        "--in-process": is_in_process(options),
    }
    if asked := [name for name, given in whole.items() if given]:
        raise FileError(f"{asked[0]} does not go with --shard, which has a part of the run: ask it of the whole")
    if options.keep is None or options.seed is None:
        raise FileError("--shard needs --keep DIR, which `merge` reads, and --seed N, the same for all shards")


def last_failed(path: Path = LAST_FAILED) -> LastFailed:
    """Return what failed in the last run; raises FileError where there was none, or nothing failed."""
    if not path.is_file():
        raise FileError(f"--last-failed: {path} does not exist: no run in this folder has failed yet")
    try:
        match read_json(path):
            case {"failed": failed, "layers": [*layers]} if is_failed(failed) and all(type(n) is int for n in layers):
                found = LastFailed(failed, layers)
            case _:
                raise FileError(f"{path}: not what an earlier run left")
    except FileError as error:
        raise FileError(f"{error}: remove it") from None
    if not found.failed:
        raise FileError("--last-failed: nothing failed in the last run: leave it out")
    return found


def is_failed(found: object) -> bool:
    """Whether parsed JSON says by candidate and case which operations failed."""

    def by_name(value: object) -> list[object] | None:
        return list(value.values()) if isinstance(value, dict) else None

    rows = by_name(found)
    cases = [None] if rows is None else [by_name(row) for row in rows]
    return all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for each in cases
        for names in ([None] if each is None else each)
    )


def narrow_to_last_failed(options: argparse.Namespace, last: LastFailed) -> frozenset[str]:
    """Set the candidates and operations that failed and the layers, unless others are given, and return the cases.

    Cases that failed otherwise than at an operation are judged whole.
    """
    if options.candidate is None:
        options.candidate = list(last.failed)
    rows = [cases for name, cases in last.failed.items() if name in options.candidate]
    if not rows:
        raise FileError(f"--last-failed: {', '.join(options.candidate)} did not fail in the last run: leave it out")
    operations = [names for cases in rows for names in cases.values()]
    if not options.operation and all(operations):
        options.operation = sorted(set().union(*operations))
    options.layer = options.layer or last.layers
    return frozenset(case for cases in rows for case in cases)


def remember_failed(
    failed: Iterable[tuple[str, dict[str, list[str]]]], layers: list[int], path: Path = LAST_FAILED
) -> None:
    """Keep what failed in some layers; where nothing did and nothing is kept, nothing is written."""
    found = {name: cases for name, cases in failed if cases}
    if found or path.is_file():
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"layers": layers, "failed": found})
