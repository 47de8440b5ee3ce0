"""Candidates that harm what is around them: a program for each, what it does, and the verdict that it gets.

A program answers one case with the golden values, except where its row makes it do something else. Adding one is a row.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAM = """#!{python} -IS
import ctypes, fcntl, json, os, shutil, signal, socket, struct, subprocess, sys, time
from pathlib import Path

golden, neighbour = Path("{golden}"), Path("{neighbour}")
job_dir, out_dir = map(Path, sys.argv[1:])
(case,) = json.loads((job_dir / "job.json").read_text())["cases"]
folder = out_dir / case["folder"]
taps = folder / "taps.safetensors"

def info(**changes):
    text = json.dumps({{"name": "program", "version": "1", "taps": ["*"]}} | changes)
    (out_dir / "info.json").write_text(text)

def finish(**changes):
    (folder / "result.json").write_text(json.dumps({{"status": "answered"}} | changes))

def answer(**changes):
    shutil.copyfile(golden / "cases" / case["id"] / "taps.safetensors", taps)
    finish(**changes)

def tensors(change):
    raw = (golden / "cases" / case["id"] / "taps.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:start]), bytearray(raw[start:])
    change(header, data)
    text = json.dumps(header).encode()
    taps.write_bytes(len(text).to_bytes(8, "little") + text + data)
    finish()

def aside(path):
    path.rename(neighbour.parent / "moved-away")

info()
{body}
"""

GOOD = "time.sleep(0.3)\nanswer()"
"""What the good candidate does, while the other one does harm."""

ROUTER = "call0/layers.00.router.logits"


@dataclass(frozen=True)
class Hostile:
    """What a program does, its status, and what the reason must say."""

    body: str
    status: str
    reason: str = ""


def program(folder: Path, name: str, body: str, golden: Path) -> Path:
    """Write a program that does `body`, and return its path."""
    path = folder / name
    names = {"python": sys.executable, "golden": golden, "neighbour": folder / "neighbour.txt"}
    path.write_text(PROGRAM.format(body=body, **names))
    path.chmod(0o755)
    return path


def in_background(body: str) -> str:
    """Return a body that does something in a process that leaves session and environment, after the answer."""
    return (
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
        "    os.chdir('/')\n    for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)\n"
        f"{textwrap.indent(body, '    ')}\n    os._exit(0)\nanswer()"
    )


def changed(statement: str) -> str:
    """Return a body that answers with another header or other data."""
    return f"def change(header, data):\n    {statement}\ntensors(change)"


FOLDERS: Mapping[str, Hostile] = {
    "nested_folders": Hostile("answer()\nos.chdir(out_dir)\nfor _ in 'd' * 3000: os.mkdir(_); os.chdir(_)", "pass"),
    "many_files": Hostile("answer()\nfor i in range(3000): (out_dir / str(i)).touch()", "pass"),
    "parent_replaced_by_a_link": Hostile(
        "aside(out_dir.parent)\nos.symlink(neighbour.parent / 'elsewhere', out_dir.parent)", "error", "a link",
    ),
    "parent_replaced_by_a_file": Hostile("aside(out_dir.parent)\nout_dir.parent.write_text('x')", "error"),
    "parent_removed": Hostile("shutil.rmtree(out_dir.parent)", "missing", "wrote no result"),
    "answers_replaced_by_a_file": Hostile("shutil.rmtree(out_dir)\nout_dir.write_text('x')", "missing"),
    "answers_replaced_by_a_link": Hostile(
        "shutil.rmtree(out_dir)\nout_dir.symlink_to(neighbour.parent / 'elsewhere')", "missing",
    ),
    "answers_barred": Hostile("answer()\nfolder.chmod(0)\nout_dir.chmod(0)\nout_dir.parent.chmod(0)", "pass"),
    "immutable_files": Hostile(
        "answer()\nfor path in (taps, folder):\n    number = os.open(path, os.O_RDONLY)\n"
        "    try: fcntl.ioctl(number, 0x40086602, struct.pack('l', 16))\n    except OSError: pass",
        "error", "Operation not permitted",
    ),
    "record_is_a_folder": Hostile("(out_dir / 'run.json').mkdir()\nanswer()", "pass"),
    "record_is_a_link": Hostile("(out_dir / 'run.json').symlink_to(neighbour)\nanswer()", "pass"),
    "record_is_a_pipe": Hostile("os.mkfifo(out_dir / 'run.json')\nanswer()", "pass"),
    "log_replaced_by_a_link": Hostile(
        "log = out_dir / 'stdout.txt'\nlog.unlink()\nlog.symlink_to(neighbour)\nprint('x')\nanswer()", "pass",
    ),
    "job_deleted": Hostile("answer()\nshutil.rmtree(job_dir)", "pass"),
    "job_rewritten": Hostile(
        "answer()\nfor path in job_dir.rglob('*'):\n    if path.is_file(): path.write_bytes(b'{{}}')", "pass",
    ),
    "job_replaced_by_a_link": Hostile("answer()\nshutil.rmtree(job_dir)\njob_dir.symlink_to(neighbour.parent)", "pass"),
    "disk_filled": Hostile(
        "for i in range(10**6):\n    with open(folder / str(i), 'wb') as file: file.write(bytes(2**22))\n"
        "    time.sleep(0.02)", "error", "wrote more than 48 MiB",
    ),
    "file_too_large": Hostile(
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\nwith taps.open('wb') as file:\n"
        "    file.truncate(10**12)", "error", "File size limit exceeded",
    ),
    "golden_removed": Hostile("answer()\nshutil.rmtree(golden / 'cases')", "pass"),
    "golden_cut_short": Hostile(
        "answer()\nfor path in golden.rglob('*.safetensors'): os.truncate(path, 100)", "pass",
    ),
}  # fmt: skip
"""What they do to folders and files."""

ANSWERS: Mapping[str, Hostile] = {
    "pipe": Hostile("os.mkfifo(taps)\nfinish()", "error", "not a regular file"),
    "device": Hostile(
        "try: os.mknod(taps, 0o20666, os.makedev(1, 5))\nexcept OSError: os.mkfifo(taps)\nfinish()",
        "error", "not a regular file",
    ),
    "socket": Hostile(
        "os.chdir(folder)\nsocket.socket(socket.AF_UNIX).bind('taps.safetensors')\nfinish()", "error", "not a regular",
    ),
    "link_to_zeros": Hostile("taps.symlink_to('/dev/zero')\nfinish()", "error", "a link"),
    "link_to_itself": Hostile("(folder / 'result.json').symlink_to('result.json')", "error", "a link"),
    "folders_in_a_circle": Hostile("folder.rmdir()\nfolder.symlink_to(folder)", "error", "a link"),
    "sparse": Hostile(
        "answer()\nos.truncate(taps, 2**34)", "error", "truncated or overlong",
    ),
    "sparse_and_described": Hostile(
        changed("header['huge'] = {{'dtype': 'I8', 'shape': [2**33], 'data_offsets': [len(data), len(data) + 2**33]}}")
        + "\nos.truncate(taps, taps.stat().st_size + 2**33)", "pass",
    ),
    "huge_header": Hostile("taps.write_bytes((2**24).to_bytes(8, 'little') + b'[' * 2**24)\nfinish()", "error"),
    "lying_dtype": Hostile(changed(f"header['{ROUTER}']['dtype'] = 'I32'"), "fail", "dtype int32"),
    "turned_shape": Hostile(changed(f"header['{ROUTER}']['shape'].reverse()"), "fail", "shape ["),
    "absurd_shape": Hostile(changed(f"header['{ROUTER}']['shape'] = [10**30]"), "error"),
    "empty_name": Hostile(changed(f"header[''] = header.pop('{ROUTER}')"), "missing", "declared but not returned"),
    "control_characters_in_a_name": Hostile(
        changed("header['\\\\x1b[2J\\\\n::error::'] = "
                "{{'dtype': 'I8', 'shape': [0], 'data_offsets': [len(data), len(data)]}}"), "pass",
    ),
    "not_a_number": Hostile(changed("data[:] = bytes([255] * len(data))"), "fail", "not finite"),
    "unicode_in_a_name": Hostile("info(name='p\\u202eört \\ud83d\\ude00')\nanswer()", "pass"),
    "annotation_in_a_name": Hostile("info(name='x\\\\n::error::owned\\\\x1b[2J')\nanswer()", "pass"),
    "half_a_character_in_a_name": Hostile("info(name='\\ud800')\nanswer()", "error", "surrogates not allowed"),
    "annotation_in_a_reason": Hostile("finish(status='error', reason='\\\\n::error::\\\\x1b[2J')", "error", "error"),
    "giant_reason": Hostile("finish(status='error', reason='x' * 3_000_000)", "error", "xxx"),
    "many_globs": Hostile("info(taps=['*' * 50] * 2000)\nanswer()", "error", "globs of taps"),
    "deep_description": Hostile(
        "(out_dir / 'info.json').write_text('[' * 10**5)\nanswer()", "error", "nested too deeply",
    ),
    "absurd_form": Hostile("info(logits={{'kind': 'log_probabilities', 'top': 10**30}})\nanswer()", "error", "digits"),
    "infinite_seconds": Hostile(
        "answer()\n(folder / 'result.json').write_text('{{\"status\": \"answered\", \"seconds\": 1e999}}')",
        "error", "larger than a number can be",
    ),
    "negative_seconds": Hostile("answer(seconds=-1)", "error", "seconds must be"),
}  # fmt: skip
"""What they answer."""

PROCESSES: Mapping[str, Hostile] = {
    "status_after_the_answer": Hostile("answer()\nos._exit(255)", "pass"),
    "killed_after_the_answer": Hostile("answer()\nos.kill(os.getpid(), 9)", "pass"),
    "no_answer": Hostile("os._exit(0)", "missing", "wrote no result"),
    "closes_its_outputs": Hostile("os.close(1)\nos.close(2)\nanswer()", "pass"),
    "closes_its_outputs_and_hangs": Hostile("os.close(1)\nos.close(2)\ntime.sleep(600)", "error", "no answer within"),
    "giant_output": Hostile("for _ in range(500): os.write(1, bytes(2**16))\nanswer()", "pass"),
    "escapes_on_stderr": Hostile(
        "os.write(2, b'\\\\x1b[2J\\\\xff::error::\\\\x00')\nos._exit(3)", "error", "ended with status 3",
    ),
    "child_outlives": Hostile("subprocess.Popen(['sleep', '654'])\nanswer()", "pass"),
    "daemon_outlives": Hostile(in_background("os.execve('/bin/sleep', ['sleep', '654'], {{}})"), "pass"),
    "daemon_cuts_the_answer_short": Hostile(
        in_background("time.sleep(6)\nwhile True:\n    try: os.truncate(taps, 100)\n    except OSError: pass"),
        "pass",
    ),
    "many_processes": Hostile(
        "for _ in range(40): subprocess.Popen(['sleep', '654'])\ntime.sleep(600)", "error", "more than 20 processes",
    ),
    "terminates_its_parent": Hostile("os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(600)", "error"),
    "kills_its_parent": Hostile("os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(600)", "error"),
    "stops_its_parent": Hostile("os.kill(os.getppid(), signal.SIGSTOP)\ntime.sleep(600)", "error", "no answer within"),
    "stops_itself": Hostile("os.kill(os.getpid(), signal.SIGSTOP)", "error", "no answer within"),
    "signals_its_group": Hostile("os.killpg(0, signal.SIGTERM)\ntime.sleep(600)", "error"),
    "deaf": Hostile(
        "for number in (1, 2, 3, 15): signal.signal(number, signal.SIG_IGN)\ntime.sleep(600)", "error", "no answer",
    ),
    "takes_memory": Hostile(
        "kept = [bytearray(b'x') * 2**24 for _ in range(40)]\ntime.sleep(600)", "error", "MiB of memory",
    ),
    "works_elsewhere": Hostile(
        "answer()\nhere = out_dir / 'here'\nhere.mkdir()\nos.chdir(here)\nhere.rmdir()", "pass",
    ),
    "crashes": Hostile("ctypes.string_at(0)", "error", "Segmentation fault"),
    "opens_many_files": Hostile(
        "kept = []\ntry:\n    while len(kept) < 10**5: kept.append(os.open('/dev/null', 0))\n"
        "except OSError: pass\nfor each in kept[:64]: os.close(each)\nanswer()", "pass",
    ),
}  # fmt: skip
"""What they do to processes."""

HOSTILE: Mapping[str, Hostile] = {**FOLDERS, **ANSWERS, **PROCESSES}
