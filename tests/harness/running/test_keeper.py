from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grok_conformance.harness.running.child_process import Limits, run_child
from grok_conformance.harness.running.keeper import descendants

ESCAPES = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        code = "import os, time; open({path!r}, 'w').write(str(os.getpid())); time.sleep(600)"
        for number in (0, 1, 2): os.close(number)
        os.execve(sys.executable, [sys.executable, "-ISc", code], {{}})
    os._exit(0)
while not (os.path.exists({path!r}) and os.path.getsize({path!r})): time.sleep(0.05)
{ending}
"""


def ends(pid: int) -> bool:
    """Return whether a process is no more, or no more than a zombie, within some seconds."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are handed to a keeper on Linux alone")
@pytest.mark.parametrize(
    ("ending", "status"), [("", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("time.sleep(600)", None)]
)
def test_nothing_outlives_a_command_not_even_in_a_session_of_its_own_without_environment(
    ending: str, status: int | None, tmp_path: Path
) -> None:
    path = str(tmp_path / "pid")
    program = ESCAPES.format(path=path, ending=ending)
    limits = Limits(silent_seconds=60 if status is not None else 8)
    found = run_child([sys.executable, "-ISc", program], (io.BytesIO(), io.BytesIO()), limits, lambda: False)
    assert ends(int(Path(path).read_text()))
    assert found.broke == ("time" if status is None else None)
    assert status is None or found.status == status


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_descendants_are_found_through_generations() -> None:
    nested = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-ISc', 'import time; time.sleep(60)'])"
    with subprocess.Popen([sys.executable, "-ISc", nested]) as process:  # noqa: S603 - this interpreter
        deadline = time.monotonic() + 30
        while not (below := descendants(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(below) == 1
        assert {process.pid, *below} <= set(descendants(os.getpid()))
        for pid in (*below, process.pid):
            os.kill(pid, 9)
