"""Answers from dumps: what an engine wrote in its own format becomes an answer folder, by a tap map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.contract import Array, CandidateInfo
from grok_conformance.harness.contract.tap_map import TapSource, map_taps
from grok_conformance.harness.formats.dumps import READERS
from grok_conformance.harness.formats.files import FileError, write_json
from grok_conformance.harness.formats.tensors import open_tensors, write_tensors
from grok_conformance.harness.running.jobs import read_config, read_job
from grok_conformance.harness.running.python_runner import import_candidate


def answers_from_dumps(job_dir: Path, dump_dir: Path, kind: str, adapter: Path, out_dir: Path) -> None:
    """Write the answers to a job from dumps, one folder per case under the names of the job's folders.

    `adapter` is a Python file with INFO and TAP_MAP. Raises FileError for what is not there or does not fit.
    """
    info, tap_map = read_adapter(adapter)
    job = read_job(job_dir)
    config = read_config(job_dir)
    out_dir.mkdir(parents=True)
    write_json(out_dir / "info.json", asdict(info))
    for case in job.cases:
        inputs = open_tensors(job_dir / case.inputs)
        taps: dict[str, Array] = {}
        for call in range(len(case.calls)):
            dump = READERS[kind](dump_dir / case.folder, f"call{call}")
            tokens = np.array(inputs[tap_key(call, "tokens")])
            try:
                made = map_taps(tap_map, config, tokens, case.taps, dump)
            except ValueError as error:
                raise FileError(f"{dump_dir / case.folder}: call{call}: {error}") from None
            taps |= {tap_key(call, tap): np.ascontiguousarray(x) for tap, x in made.items()}
        (out_dir / case.folder).mkdir()
        write_tensors(out_dir / case.folder / "taps.safetensors", taps)
        write_json(out_dir / case.folder / "result.json", {"status": "answered"})


def read_adapter(path: Path) -> tuple[CandidateInfo, Sequence[TapSource]]:
    """Return INFO and TAP_MAP of a Python file; raises FileError."""
    try:
        module = import_candidate(str(path))
        info, tap_map = module.INFO, module.TAP_MAP
    except (AttributeError, ImportError, OSError, SyntaxError, ValueError) as error:
        raise FileError(f"{path}: must have INFO = CandidateInfo(…) and TAP_MAP ({error})") from None
    return info, tap_map
