"""Programs that misbehave in the middle one of three cases: each gets its documented verdict, and the run goes on.

The program answers with the golden values, except where a row of the table makes it do something else.
"""

from __future__ import annotations

import functools
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.groups import Group, read_groups, run_size
from grok_conformance.harness.judging.judge import judge_candidate
from grok_conformance.harness.judging.reruns import with_reruns
from grok_conformance.harness.judging.verdict import CaseVerdict
from grok_conformance.harness.judging.whole_run import HonestRuns
from grok_conformance.harness.running.answers import read_answer
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.jobs import write_job
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.running.runner import run_job

MIB = 2**20
LIMITS = Limits(silent_seconds=2.0, memory_bytes=200 * MIB, num_processes=20, file_bytes=64 * MIB)
BAD = "padded_batch"

PROGRAM = """#!{python} -IS
import ctypes, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

golden = Path("{golden}")
job_dir, out_dir = map(Path, sys.argv[1:])
job = json.loads((job_dir / "job.json").read_text())

def write_info(**changes):
    info = {{"name": "program", "version": "1", "taps": ["*"]}} | changes
    (out_dir / "info.json").write_text(json.dumps(info))

def copy(case, source, name="taps"):
    shutil.copyfile(golden / source / "taps.safetensors", out_dir / case["folder"] / f"{{name}}.safetensors")

def finish(case, **changes):
    (out_dir / case["folder"] / "result.json").write_text(json.dumps({{"status": "answered"}} | changes))

def edit(case, name, change):
    path = out_dir / case["folder"] / "taps.safetensors"
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:start]), bytearray(raw[start:])
    change(header, data, *header[name]["data_offsets"])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)

write_info()
for case in job["cases"]:
    folder = out_dir / case["folder"]
    if "{bad}" in case["id"]:
{body}
    else:
        copy(case, case["id"])
        finish(case)
"""

COPIED = "copy(case, case['id'])\n"
ANSWERED = COPIED + "finish(case)\n"
ROUTER = "call0/layers.00.router.logits"


@dataclass(frozen=True)
class Row:
    """What the program does in the middle case, and the verdict on that case."""

    body: str
    status: str
    reason: str


def edited(statement: str, name: str = ROUTER) -> str:
    """Return a body that copies the golden answer and changes its header, or data between begin and end."""
    change = f"def change(header, data, begin, end):\n    {statement}\n"
    return f"{change}{COPIED}edit(case, {name!r}, change)\nfinish(case)\n"


ROWS: Mapping[str, Row] = {
    # how a program ends
    "segfault": Row("ctypes.string_at(0)", "error", "ended by signal 11, Segmentation fault"),
    "abort": Row("os.abort()", "error", "ended by signal 6, Aborted"),
    "killed": Row("os.kill(os.getpid(), 9)", "error", "ended by signal 9, Killed"),
    "exit_1_without_reason": Row("os._exit(1)", "error", "the program ended with status 1: no word on stderr"),
    "exit_3_with_a_word": Row("print('no licence', file=sys.stderr)\nsys.exit(3)", "error", "status 3: no licence"),
    "refusal": Row("sys.exit('unsupported: no padding')", "unsupported", "no padding"),
    "nothing_written": Row("continue", "missing", "the program ended with status 0 and wrote no result"),
    # limits
    "hang": Row("time.sleep(600)", "error", "no answer within 2 seconds"),
    "stopped": Row("os.kill(os.getpid(), signal.SIGSTOP)", "error", "no answer within 2 seconds"),
    "deaf_to_signals": Row(
        "for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)\ntime.sleep(600)",
        "error", "no answer within 2 seconds",
    ),
    "memory": Row(
        "kept = []\nwhile len(kept) < 40:\n    kept.append(bytearray(b'x') * 2**24)\n    time.sleep(0.02)",
        "error", "MiB of memory, allowed are 200",
    ),
    "many_processes": Row(
        "for _ in range(60): subprocess.Popen(['sleep', '600'])\ntime.sleep(600)",
        "error", "ran more than 20 processes at once",
    ),
    "flood_of_output": Row(
        "for _ in range(300): sys.stdout.write('x' * 2**16); sys.stderr.write('y' * 2**16)\n" + ANSWERED, "pass", "",
    ),
    "endless_output": Row("while True: print('x' * 1000)", "error", "no answer within 2 seconds"),
    "huge_file": Row(
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "with (folder / 'taps.safetensors').open('wb') as file:\n    for _ in range(100): file.write(bytes(2**20))",
        "error", "ended by signal 25, File size limit exceeded",
    ),
    "background_child": Row("subprocess.Popen(['sleep', '600'])\n" + ANSWERED, "pass", ""),
    "daemon": Row("subprocess.Popen(['sleep', '600'], start_new_session=True)\n" + ANSWERED, "pass", ""),
    # files that are no answer
    "answered_without_taps": Row("finish(case)", "error", "taps.safetensors was not written although"),
    "partial_answer": Row(
        "folder.joinpath('taps.safetensors').write_bytes(b'half')\nos._exit(0)",
        "missing", "the program ended with status 0 and wrote no result",
    ),
    "garbage_result": Row("(folder / 'result.json').write_bytes(bytes(range(256)))", "error", "not valid JSON"),
    "huge_result": Row(COPIED + "finish(case, reason='x' * 5_000_000)", "error", "larger than 4194304 bytes"),
    "deep_result": Row("(folder / 'result.json').write_text('[' * 100_000)", "error", "nested too deeply"),
    "result_is_a_folder": Row("(folder / 'result.json').mkdir()", "error", "not a regular file"),
    "result_is_a_pipe": Row("os.mkfifo(folder / 'result.json')", "error", "not a regular file"),
    "taps_link_outside": Row(
        "os.symlink(golden / case['id'] / 'taps.safetensors', folder / 'taps.safetensors')\nfinish(case)",
        "error", "a link; answers must be plain files",
    ),
    "folder_links_outside": Row(
        "folder.rmdir()\nos.symlink('/tmp', folder)\nos._exit(3)", "error", "a link; answers must be plain files",
    ),
    "answers_removed": Row("shutil.rmtree(out_dir)\nos._exit(0)", "missing", "wrote no result"),
    "next_folder_removed": Row(
        "(out_dir / job['cases'][-1]['folder']).rmdir()\nos._exit(3)", "error", "ended with status 3",
    ),
    "folder_barred": Row("folder.chmod(0)\nout_dir.chmod(0)\nos._exit(3)", "error", "ended with status 3"),
    "record_forged": Row(
        "(out_dir / 'run.json').mkdir()\nos._exit(3)", "error", "the program ended with status 3: no word on stderr",
    ),
    # tensor files that are none
    "truncated": Row(
        COPIED + "os.truncate(folder / 'taps.safetensors', 5000)\nfinish(case)", "error", "truncated or no tensor file",
    ),
    "sparse": Row(
        COPIED + "os.truncate(folder / 'taps.safetensors', 2**25)\nfinish(case)", "error", "truncated or overlong",
    ),
    "overlapping_offsets": Row(
        edited(f"header['{ROUTER}']['data_offsets'] = [0, end - begin]"), "error", "begins at byte 0 of the data",
    ),
    "negative_offsets": Row(
        edited(f"header['{ROUTER}']['data_offsets'] = [-4, end]"), "error", "must be integers from 0 up",
    ),
    "unknown_dtype": Row(edited(f"header['{ROUTER}']['dtype'] = 'F8'"), "error", "dtype 'F8' is unknown"),
    "huge_shape": Row(edited(f"header['{ROUTER}']['shape'] = [2**40, 2**40]"), "error", "larger than an array can be"),
    # values that are no values
    "nan": Row(edited("data[begin:begin + 4] = bytes([0, 0, 192, 127])"), "fail", "1 of 50 values are not finite"),
    "infinity": Row(edited("data[begin:begin + 4] = bytes([0, 0, 128, 127])"), "fail", "1 of 50 values are not finite"),
    "wrong_shape": Row(edited(f"header['{ROUTER}']['shape'].reverse()"), "fail", f"{ROUTER[6:]}: shape [5, 6, 2]"),
    "wrong_dtype": Row(edited(f"header['{ROUTER}']['dtype'] = 'I32'"), "fail", f"{ROUTER[6:]}: dtype int32"),
    "tap_left_out": Row(
        edited(f"header['call0/something'] = header.pop('{ROUTER}')"),
        "missing", f"{ROUTER[6:]}: missing: declared but not returned",
    ),
    "another_case": Row("copy(case, job['cases'][0]['id'])\nfinish(case)", "fail", "embedding: "),
    "extra_files": Row(ANSWERED + "(folder / 'notes').write_text('x')\n(out_dir / 'core').write_text('x')", "pass", ""),
    "extra_tensors": Row(
        edited("header['call9/logits'] = {'dtype': 'F32', 'shape': [1], 'data_offsets': [len(data), len(data) + 4]}\n"
        "    data.extend(bytes(4))"), "pass", "",
    ),
    "repeat_without_its_values": Row(
        COPIED + "finish(case, repeat={'call0/logits': 'f' * 64})", "missing", "run a second time: ",
    ),
    "seconds_beyond_time": Row(COPIED + "finish(case, seconds=1e300)", "error", "seconds must be a number from 0 to"),
    "bad_untapped_run": Row(
        COPIED + "copy(case, job['cases'][0]['id'], 'untapped')\nfinish(case)", "fail", "run with only its logits",
    ),
}  # fmt: skip


HONEST_RUNS: HonestRuns = {}


@functools.cache
def group() -> Group:
    """Return three cases of which the middle one is misbehaved in."""
    (found,) = read_groups(open_golden(GOLDEN_DIR / "v1"), "unequal/prefill/*.float32")
    assert [BAD in case.id for case in found.cases] == [False, True, False]
    return found


def run(body: str, folder: Path) -> list[CaseVerdict]:
    """Run a program that does `body` in the middle case, and return the verdicts on the three cases."""
    program = folder / "program"
    text = textwrap.indent(body, "        ")
    program.write_text(PROGRAM.format(python=sys.executable, golden=GOLDEN_DIR / "v1" / "cases", bad=BAD, body=text))
    program.chmod(0o755)
    job = write_job(folder / "job", "1.0.0", group().preset, group().cases)
    record = run_job(find_candidate(str(program)), folder / "job", folder / "out", LIMITS)
    answers = read_answer(folder / "out", job, record.unanswered)
    first = judge_candidate([group()], [answers], run_size([group()]), HONEST_RUNS)
    (judged,) = with_reruns([group()], [answers], first, run_size([group()]), HONEST_RUNS)
    return list(judged.verdicts)


def test_the_program_passes_where_it_does_not_misbehave(tmp_path: Path) -> None:
    assert [verdict.status for verdict in run(ANSWERED, tmp_path)] == ["pass"] * 3


LOSES_ALL = {"nothing_written", "partial_answer", "refusal", "answers_removed"}
"""Programs that end as if they were done or refused: what they leave is not asked of them again."""


@pytest.mark.parametrize("name", ROWS)
def test_a_misbehaving_program_gets_its_verdict_and_the_run_goes_on(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    first, middle, last = run(row.body, tmp_path)
    assert (middle.status, row.reason in middle.reason) == (row.status, True), middle.reason
    if name not in LOSES_ALL:
        assert (first.status, last.status) == ("pass", "pass")
