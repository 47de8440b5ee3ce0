"""A new user with a stopwatch: from nothing to the first verdict on a port of one's own (`nox -s new_user`).

Once from a fresh clone, by the commands of the README; once from an empty repository, by the built wheel alone. Every
step tells its seconds. What is not committed yet is not in the clone.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.new_user.stopwatch import ROOT, Stopwatch, readme_command

FIVE_MINUTES = 300

BROKEN_TORCH_PORT = """
from torch.nn import functional

from grok_conformance.candidates.torch_eager import INFO, load, operations

operations.gelu = functional.gelu  # by erf, not by tanh
"""

PORT = """
from grok_conformance.candidates.numpy_float64 import INFO, load as load_right

def load(config, weights):
    name = "transformer/decoder_layer_0/rms_norm_2/scale"
    return load_right(config, {**weights, name: 1 + weights[name]} if WRONG else weights)
"""


def tell_total(stopwatch: Stopwatch) -> None:
    """Print the seconds of all steps; five minutes is what a new user is promised."""
    stopwatch.tell("in all\n", stopwatch.seconds)
    assert stopwatch.seconds < FIVE_MINUTES


def test_a_fresh_clone_finds_the_fault_in_a_port_of_one_s_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopwatch = Stopwatch(tmp_path, capsys)
    stopwatch.run(["git", "clone", "--quiet", str(ROOT), "clone"])
    stopwatch.folder = tmp_path / "clone"
    (stopwatch.folder / "my_port.py").write_text(BROKEN_TORCH_PORT)
    stopwatch.run(readme_command("python -m pip install nox"))
    command = readme_command("nox -s conformance -- --candidate path/to/my_port.py")
    words = stopwatch.run([word.replace("path/to/", "") for word in command], status=1).words
    assert re.search(r"my_port\.py: moe\.expert_hidden: fail", words), words
    assert "gelu_erf" in words, words
    tell_total(stopwatch)


def test_an_empty_repository_judges_its_port_by_the_wheel_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    stopwatch = Stopwatch(repository, capsys)
    stopwatch.run(["git", "init", "--quiet"])
    stopwatch.run(["python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)])
    (wheel,) = tmp_path.glob("*.whl")
    stopwatch.run(["python", "-m", "pip", "install", "--quiet", str(wheel), "pytest"])
    packages = "import sysconfig, os; print(*os.listdir(sysconfig.get_path('purelib')))"
    owned = [name for name in stopwatch.run(["python", "-c", packages]).words.split() if name.startswith("grok")]
    assert sorted(owned) == ["grok_conformance", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"]
    assert not {"harness", "reference", "candidates", "golden"} & set(
        stopwatch.run(["python", "-c", packages]).words.split()
    )
    (repository / "harness").mkdir()  # the port has one of its own
    (repository / "harness" / "__init__.py").write_text("raise SystemExit('the harness of the port')\n")
    (repository / "test_port.py").write_text("def test_of_the_port():\n    pass\n")
    assert "1 passed" in stopwatch.run(["python", "-m", "pytest"]).words
    commands = (["grok-conformance"], ["python", "-m", "grok_conformance"])
    assert len({stopwatch.run([*command, "--version"]).words for command in commands}) == 1
    (repository / "my_port.py").write_text(PORT.replace("WRONG", "False"))
    (repository / "my_wrong_port.py").write_text(PORT.replace("WRONG", "True"))
    words = stopwatch.run(["pytest", "--conformance-candidate", "my_port"]).words
    assert re.search(r"= \d+ passed in", words), words
    words = stopwatch.run(["pytest", "--conformance-candidate", "my_wrong_port"], status=1).words
    failed = set(re.findall(r"^FAILED conformance/my_wrong_port::(\w+\.\w+\[\w+\])", words, re.MULTILINE))
    assert failed == {"moe.norm[float32]", "moe.norm[bfloat16]"}, words
    words = stopwatch.run(["python", "-m", "pip", "list"]).words
    assert not re.search(r"^(jax|torch|dm-haiku) ", words, re.MULTILINE), words
    tell_total(stopwatch)
