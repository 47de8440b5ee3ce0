"""The GitHub Action: its last step, run in a repository that holds nothing but a port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.harness.wrong_port import CASE, SOURCE

ROOT = Path(__file__).resolve().parent.parent


def script_of_the_last_step() -> str:
    """Return the lines of the action's last `run: |`."""
    return textwrap.dedent((ROOT / "action.yml").read_text().rpartition("run: |\n")[2])


def test_its_step_leaves_junit_a_page_a_summary_and_annotations_of_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "my_port.py").write_text(SOURCE)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": str(ROOT),
        "CANDIDATE": "my_port.py",
        "ARGUMENTS": f"--case '{CASE}' --operation moe.norm",
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    command = ["bash", "-e", "-o", "pipefail", "-c", script_of_the_last_step()]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert ran.returncode == 1, ran.stderr
    assert re.search(r"^::error file=my_port\.py,line=1,title=my_port\.py%3A moe\.norm::", ran.stdout, re.MULTILINE)
    assert ET.parse(tmp_path / "conformance.xml").findall(".//failure")  # noqa: S314 - written by this test
    assert "norm_scale_plus_one" in (tmp_path / "summary.md").read_text()
    assert {path.name for path in tmp_path.glob("conformance.*")} == {
        f"conformance.{x}" for x in ("xml", "json", "html")
    }


def test_a_workflow_to_copy_runs_in_a_repository_of_nothing_but_a_port() -> None:
    page = (ROOT / "docs" / "continuous-integration.md").read_text()
    workflows = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(workflows) == len(("one machine", "shards"))
    for workflow in workflows:
        assert "\non: [push, pull_request]\n" in workflow
        assert "cache: pip" not in workflow  # it wants a file of requirements
        assert not re.search(r"pip install .*(--editable|grok-conformance$)", workflow.partition("#")[0], re.MULTILINE)
        assert "upload-artifact" in workflow.rpartition("conformance.html")[2] + workflow.rpartition("- uses:")[2]
