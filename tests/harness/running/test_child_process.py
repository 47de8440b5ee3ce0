"""What a child is given, and that nothing of it outlives whoever started it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.running.child_process import (
    MAX_LOG_BYTES,
    PASSED_ON,
    TAIL_BYTES,
    Exit,
    Limits,
    run_child,
)
from grok_conformance.harness.running.keeper import SESSION_NICENESS

WAIT = "import time; time.sleep(600)"

STARTER = """
import sys
from pathlib import Path
from grok_conformance.harness.running.child_process import Limits, run_child

folder = Path(sys.argv[1])
code = f"import os, time; open({str(folder / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
    run_child([sys.executable, "-c", code], (out, err), Limits(), lambda: False)
"""


def run(tmp_path: Path, code: str, niceness: int = 0) -> tuple[Exit, str]:
    limits = Limits(silent_seconds=30, niceness=niceness)
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        end = run_child([sys.executable, "-c", code], (out, err), limits, lambda: False)
    return end, (tmp_path / "out").read_text()


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_gets_no_token_of_the_ci_and_what_sets_up_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_TOKEN", "GITHUB_ENV", "AWS_SECRET_ACCESS_KEY", "OMP_NUM_THREADS", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, "1")
    _, shown = run(tmp_path, "import os; print(' '.join(sorted(os.environ)))")
    names = shown.split()
    assert {"PATH", "OMP_NUM_THREADS", "JAX_PLATFORMS", "PYTHONPATH"} <= {*names}
    assert not [name for name in names if name.startswith(("GITHUB", "AWS"))]


@pytest.mark.parametrize(
    ("name", "given", "chosen"), [("OMP_WAIT_POLICY", "PASSIVE", "ACTIVE"), ("OPENBLAS_THREAD_TIMEOUT", "4", "26")]
)
def test_threads_of_a_child_do_not_spin_unless_the_user_says_so(
    name: str, given: str, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows = f"import os; print(os.environ['{name}'])"
    monkeypatch.delenv(name, raising=False)
    assert run(tmp_path, shows)[1].strip() == given
    monkeypatch.setenv(name, chosen)
    assert run(tmp_path, shows)[1].strip() == chosen


def test_a_child_gives_way_within_its_session_and_with_it(tmp_path: Path) -> None:
    shows = "import os; print(os.nice(0))"
    own, given = (int(run(tmp_path, shows, niceness)[1]) for niceness in (0, 7))
    assert given == own + 7
    if SESSION_NICENESS.exists():
        assert run(tmp_path, f"print(open('{SESSION_NICENESS}').read())", 7)[1].split()[-1] == "7"


@pytest.mark.parametrize(
    ("name", "passed"), [("PATH", True), ("PYTHON_MY_SWITCH", True), ("XLA_FLAGS", True), ("MY_PATH", False)]
)
def test_names_are_matched_whole(name: str, *, passed: bool) -> None:
    assert bool(PASSED_ON.fullmatch(name)) == passed


def test_a_program_that_cannot_be_executed_is_told_with_its_reason(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err, pytest.raises(FileError) as caught:
        run_child([str(tmp_path / "absent")], (out, err), Limits(), lambda: False)
    assert str(caught.value) == f"{tmp_path / 'absent'}: cannot be started: No such file or directory"


@pytest.mark.skipif(sys.platform != "linux", reason="the death of a parent is a signal on Linux alone")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_child_ends_with_the_harness_however_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)])  # noqa: S603 - this interpreter
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(pid.read_text())
    assert alive(child)
    os.kill(starter.pid, number)
    starter.wait()
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def run_within(
    program: str, limits: Limits | None = None, progressed: Callable[[], bool] = lambda: False
) -> tuple[Exit, bytes, bytes]:
    out, err = io.BytesIO(), io.BytesIO()
    end = run_child([sys.executable, "-c", program], (out, err), limits or Limits(), progressed)
    return end, out.getvalue(), err.getvalue()


def test_status_and_both_outputs_are_kept() -> None:
    end, out, err = run_within("import sys; print('one'); sys.stderr.write('two'); sys.exit(3)")
    assert (end.status, end.broke, out, err, end.stderr_tail) == (3, None, b"one\n", b"two", "two")


def test_a_signal_is_a_negative_status() -> None:
    assert run_within("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")[0].status == -15


def test_one_that_is_silent_for_too_long_is_ended_and_one_that_gets_on_is_not() -> None:
    limits = Limits(silent_seconds=1.0)
    assert run_within("import time; time.sleep(60)", limits)[0].broke == "time"
    assert run_within("import time; time.sleep(3)", limits, lambda: True)[0].broke is None


def test_one_that_takes_too_much_memory_is_ended() -> None:
    end, _, _ = run_within("import time; x = b'1' * 300_000_000; time.sleep(60)", Limits(memory_bytes=200_000_000))
    assert end.broke == "memory"
    assert end.peak_bytes > 200_000_000


def test_a_log_ends_where_it_is_full_and_the_tail_is_the_last_that_was_said() -> None:
    end, _, err = run_within(f"import sys; sys.stderr.write('x' * {2 * MAX_LOG_BYTES}); sys.stderr.write('the end')")
    assert len(err) == MAX_LOG_BYTES
    assert end.stderr_tail.endswith("the end")
    assert len(end.stderr_tail) == TAIL_BYTES


def test_a_grandchild_that_left_the_session_is_not_left_behind() -> None:
    program = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); print(child.pid)"
    )
    _, out, _ = run_within(program)
    stat = Path("/proc") / out.decode().strip() / "stat"
    deadline = time.monotonic() + 5
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":  # a zombie is dead
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


def test_a_command_that_cannot_be_started_is_one_line() -> None:
    with pytest.raises(FileError, match="no/such/program: cannot be started: No such file"):
        run_child(["no/such/program"], (io.BytesIO(), io.BytesIO()), Limits(), lambda: False)
