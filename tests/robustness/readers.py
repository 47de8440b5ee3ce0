"""Everything that reads a file which another person may have written: what it reads, and the command that does.

Adding a reader is a row of `READERS`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import numpy as np

from grok_conformance.harness.__main__ import main, refused
from grok_conformance.harness.commands import baselines, capturing_large, narrow_options
from grok_conformance.harness.formats.files import FileError, write_json
from grok_conformance.harness.judging.baseline import append_history, write_baseline
from grok_conformance.harness.judging.regression import compare_runs
from grok_conformance.harness.judging.reused import EarlierRun
from grok_conformance.harness.judging.told import told_of
from grok_conformance.harness.judging.waivers import read_waivers
from grok_conformance.harness.large import canonical, capture, lock
from grok_conformance.harness.report.files import report_of, write_report_json
from grok_conformance.harness.running import endpoint
from grok_conformance.harness.running.completions import Endpoint, EndpointError
from grok_conformance.harness.running.jobs import JobCase, write_job
from grok_conformance.harness.sessions.kept_verdicts import read_kept, read_verdict, why_not, write_kept
from grok_conformance.reference import checkpoint
from grok_conformance.reference.checkpoint.__main__ import main as checkpoint_main
from tests.harness import tiny_job
from tests.harness.honest_port import golden, golden_case, golden_taps
from tests.harness.judging.kept_runs import OLD, history_of, taking
from tests.harness.large import tiny_capture
from tests.harness.report.verdicts import CRASHED, FAILING, PASSING, verdict
from tests.harness.tiny_golden import write_tiny
from tests.reference.checkpoint.tiny_checkpoints import DENSE, random_params
from tests.robustness.resigning import sign

CAPTURED = ("**/*.json", "**/*.safetensors")
"""The files of a large capture."""

Command = Callable[[Sequence[str]], int]

CASE = "square_stress/prefill/saturated_cap.bfloat16"
"""The smallest case that is judged."""


@dataclass(frozen=True)
class Reader:
    """A command over a folder of sound files: `words` holds `{}` for the folder, `files` are globs of what is changed.

    `sign` is given the folder after a change, and makes digests hold again; `share` is that of all trials it is given.
    """

    write: Callable[[Path], None]
    command: Command
    words: tuple[str, ...]
    files: tuple[str, ...] = ("**/*",)
    sign: Callable[[Path], None] = lambda _folder: None
    share: float = 1.0

    def run(self, folder: Path) -> int:
        """Run the command on a folder."""
        return self.command([word.format(folder) for word in self.words])


def refusing(read: Callable[[Path], object]) -> Command:
    """Return a function that reads a file as a command: what it refuses is a line, and status 2."""

    def command(words: Sequence[str]) -> int:
        try:
            read(Path(words[0]))
        except (FileError, EndpointError) as error:
            return refused(str(error))
        return 0

    return command


def write_report(folder: Path) -> None:
    write_report_json(folder / "run.json", report_of([verdict(PASSING), verdict(FAILING, CRASHED, name="b")], golden()))


def write_reports(folder: Path) -> None:
    for name in ("old", "new"):
        write_report_json(folder / f"{name}.json", report_of([verdict(PASSING)], golden()))


def write_baselines(folder: Path) -> None:
    write_baseline(folder, OLD)
    for line in history_of(1.0, 1.1, 0.9):
        append_history(folder, OLD.candidate, line)


def read_baselines(folder: Path) -> None:
    earlier = baselines.earlier_runs(folder, [OLD.candidate], update=False)
    for old, history in earlier.values():
        compared = compare_runs(old or OLD, taking(1.5), history, "2026-01-01")
        json.dumps(asdict(compared), allow_nan=False)


def write_capture(folder: Path) -> None:
    with mock.patch.object(canonical, "run", tiny_capture.run):
        capture.capture(folder, tiny_capture.make_plan(), folder)


def write_two_captures(folder: Path) -> None:
    write_capture(folder / "one")
    shutil.copytree(folder / "one", folder / "two")


def sign_capture(folder: Path) -> None:
    """Make the digests of a large capture hold, those of tensors aside: they are what a record says."""
    for path in folder.glob("**/manifest.json"):
        try:
            data = json.loads(path.read_text())
            data["plan"] = hashlib.sha256((path.parent / "plan.json").read_bytes()).hexdigest()
            for stage in data["stages"]:
                data["stages"][stage] = hashlib.sha256((path.parent / f"{stage}.json").read_bytes()).hexdigest()
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue  # what was changed is the manifest itself
        path.write_text(json.dumps(data))


def write_waivers(folder: Path) -> None:
    common = 'candidate = "port"\ncase = "*"\nreason = "r"\nreference = "https://x"\nexpires = "2099-01-01"\n'
    rows = (
        f'[[deviation]]\n{common}tap = "moe.expert_gate"\nfault = "gates_renormalised"\n',
        f'[[unsupported]]\n{common}says = "no *"\n',
    )
    (folder / "waivers.toml").write_text("\n".join(rows))


def find_locked(path: Path) -> None:
    with mock.patch.dict(os.environ, {lock.FOLDER_VARIABLE: str(path.parent)}):
        lock.find("tiny", path)


def write_lock(folder: Path) -> None:
    (folder / "tiny").mkdir()
    write_capture(folder / "tiny")
    lock.add("tiny", folder / "tiny", "kept nowhere", folder / "lock.json")


def write_prompt(folder: Path) -> None:
    write_json(folder / "prompt.json", [[5, 7, 9], [3, 4, 5]])


def plan_prompt(path: Path) -> None:
    options = {"prompt": path, "decode": 1, "layers": None, "rows": None, "config": "tiny", "form": "rows", "seed": 0}
    capturing_large.make_plan(argparse.Namespace(**options), tiny_capture.CONFIG, "0" * 64)


def write_last_failed(folder: Path) -> None:
    failed = {"port": {CASE: ["moe.norm"], "other": []}, "b": {CASE: []}}
    write_json(folder / "last.json", {"layers": [1], "failed": failed})


def read_last_failed(path: Path) -> None:
    options = argparse.Namespace(candidate=None, operation=[], layer=[])
    narrow_options.narrow_to_last_failed(options, narrow_options.last_failed(path))
    assert all(isinstance(each, str) for each in [*options.candidate, *options.operation])


def write_kept_verdict(folder: Path) -> None:
    run = EarlierRun("2026-11-28T14:03:59+00:00", 123, "d" * 64)
    write_kept(folder / "port.verdict", told_of(verdict(PASSING)).found, run, {"an option": "b"}, {})


def sign_kept_verdict(folder: Path) -> None:
    """Make the digest of a kept verdict hold, where its first line can be read at all."""
    path = folder / "port.verdict"
    head, _, body = path.read_bytes().removesuffix(b"\n").partition(b"\n")
    try:
        told = {**json.loads(head), "sha256": hashlib.sha256(body).hexdigest()}
    except (ValueError, TypeError, RecursionError):
        return
    path.write_bytes(json.dumps(told).encode() + b"\n" + body)


def read_kept_verdict(path: Path) -> None:
    kept = read_kept(path)
    assert kept is not None
    why_not(kept[0], {"an option": "b"}, 123, datetime.now(UTC))
    json.dumps(report_of([read_verdict(path, *kept)], golden()), allow_nan=False)


def write_served(folder: Path) -> None:
    rows = [{"id": 3, "logprob": -1.5}, {"id": 4, "logprob": -2.5}]
    write_json(folder / "llama.json", {"choices": [{"logprobs": {"content": [{"top_logprobs": rows}]}}]})
    vllm = {"choices": [{"logprobs": {"top_logprobs": [{"token_id:3": -1.0, "token_id:4": -2.0}]}}]}
    write_json(folder / "vllm.json", vllm)
    write_json(folder / "sglang.json", {"meta_info": {"output_top_logprobs": [[[-0.5, 3, None], [-0.9, 4, None]]]}})


def read_served(folder: Path) -> None:
    """Take what is in the files for what a server says."""
    tokens = np.array([[1]], np.int32)
    case = JobCase("served", "served", "served", ("prefill",), preload=False, taps=("logits",))
    inputs = {"call0/tokens": tokens, "call0/lengths": np.array([1], np.int32)}
    for path in sorted(folder.glob("*.json")):
        with (
            mock.patch("urllib.request.urlopen", lambda *_a, p=path, **_k: p.open("rb")),
            mock.patch("time.sleep"),
        ):
            asked = Endpoint("http://127.0.0.1:1", "m", 7, native=path.stem == "sglang")
            endpoint.ask_calls(asked, tiny_job.CONFIG, case, inputs, 1)


def write_tap_files(folder: Path) -> None:
    source = golden().directory / "cases" / CASE / "taps.safetensors"
    for name in ("one", "two"):
        shutil.copyfile(source, folder / f"{name}.safetensors")


def write_judged(folder: Path) -> None:
    """Write the job of a case and the golden answer to it."""
    preset, case = golden_case(CASE)
    (row,) = write_job(folder / "job", golden().manifest.suite, preset, (case,)).cases
    out = folder / "out" / row.folder
    out.mkdir(parents=True)
    shutil.copyfile(golden().directory / "cases" / CASE / "taps.safetensors", out / "taps.safetensors")
    write_json(folder / "out" / "info.json", {"name": "port", "version": "1", "taps": ["*"]})
    write_json(out / "result.json", {"status": "answered", "seconds": 0.5})


def write_dumps(folder: Path) -> None:
    """Write a job and what an engine dumped for it in all formats."""
    preset, case = golden_case(CASE)
    (row,) = write_job(folder / "job", golden().manifest.suite, preset, (case,)).cases
    out = folder / "out" / row.folder
    out.mkdir(parents=True)
    logits = golden_taps(CASE)["call0/logits"]
    np.savez_compressed(out / "call0.npz", logits=logits.reshape(-1, logits.shape[-1]).astype(np.float32))
    (folder / "port_map.py").write_text(
        "from grok_conformance.harness.contract import CandidateInfo\n"
        "from grok_conformance.harness.contract.tap_map import TapSource\n"
        'INFO = CandidateInfo(name="dumped", version="1")\n'
        'TAP_MAP = (TapSource("logits", engine="logits", axes="(b t) v"),)\n'
    )


def write_checkpoint(folder: Path) -> None:
    checkpoint.save(folder, DENSE, random_params(DENSE))


def write_set(folder: Path) -> None:
    write_tiny(folder / "v1")


def write_two_sets(folder: Path) -> None:
    for name in ("old", "new"):
        write_tiny(folder / name)


READERS: Mapping[str, Reader] = {
    "report": Reader(write_report, main, ("report", "{}/run.json", "--html", "{}/page.html"), ("run.json",)),
    "diff of reports": Reader(write_reports, main, ("diff", "{}/old.json", "{}/new.json"), share=2.0),
    "baseline and history": Reader(write_baselines, refusing(read_baselines), ("{}",), ("*/*.json*",), share=3.0),
    "large capture": Reader(write_capture, main, ("check-large", "{}"), CAPTURED),
    "large capture, signed again": Reader(
        write_capture, main, ("check-large", "{}"), ("*.json",), sign_capture, share=2.0
    ),
    "two large captures": Reader(
        write_two_captures, main, ("check-large", "{0}/one", "--against", "{0}/two"), CAPTURED, sign_capture, share=0.2
    ),
    "waivers": Reader(write_waivers, refusing(read_waivers), ("{}/waivers.toml",), share=3.0),
    "lock": Reader(
        write_lock, refusing(find_locked), ("{}/lock.json",), ("lock.json",), share=2.0
    ),
    "prompt": Reader(write_prompt, refusing(plan_prompt), ("{}/prompt.json",), share=3.0),
    "last failed": Reader(write_last_failed, refusing(read_last_failed), ("{}/last.json",), share=3.0),
    "kept verdict": Reader(
        write_kept_verdict, refusing(read_kept_verdict), ("{}/port.verdict",), sign=sign_kept_verdict, share=2.0
    ),
    "served answer": Reader(write_served, refusing(read_served), ("{}",), share=3.0),
    "compared taps": Reader(write_tap_files, main, ("compare", "{}/one.safetensors", "{}/two.safetensors")),
    "answer": Reader(write_judged, main, ("judge", "{}/job", "{}/out", "--quiet"), ("out/**/*",), share=0.1),
    "job": Reader(write_judged, main, ("judge", "{}/job", "{}/out", "--quiet"), ("job/**/*",), share=0.05),
    "dump": Reader(
        write_dumps, main,
        ("judge", "{}/job", "{}/out", "--format", "npz", "--map", "{}/port_map.py", "--quiet"),
        ("out/**/*",), share=0.5,
    ),
    "inspected checkpoint": Reader(
        write_checkpoint, checkpoint_main, ("inspect", "{}", "--verify"), share=0.5,
    ),
    "listed cases": Reader(write_set, main, ("list", "cases", "--golden", "{}/v1"), ("**/*.json",)),
    "listed presets": Reader(write_set, main, ("list", "presets", "--golden", "{}/v1"), ("**/*.json",)),
    "two golden sets": Reader(
        write_two_sets, main, ("diff", "{}/old", "{}/new"), ("new/**/*",),
        lambda folder: sign(folder / "new"), share=0.2,
    ),
}  # fmt: skip
