"""The plugin as the repository of a port meets it: a folder with an adapter, and pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grok_conformance.harness.contract import GOLDEN_DIR

ADAPTER = """
from grok_conformance.candidates.numpy_float64 import INFO, load as load_right

def load(config, weights):
    name = "transformer/decoder_layer_0/rms_norm_2/scale"
    return load_right(config, {**weights, name: 1 + weights[name]} if {wrong} else weights)
"""
CASES = ("--conformance-case", "stress/*.float32")


def run_pytest(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run pytest with no plugin but ours in a folder; return the exit status and what it printed."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(GOLDEN_DIR.parent)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "grok_conformance.harness.pytest_plugin",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    ran = subprocess.run(  # noqa: S603 - pytest
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, wrong in (("my_port", False), ("wrong_port", True)):
        (tmp_path / f"{name}.py").write_text(ADAPTER.replace("{wrong}", str(wrong)))
    return tmp_path


def test_a_port_that_conforms_has_a_passing_test_per_case_and_operation(folder: Path) -> None:
    status, words = run_pytest(folder, "--conformance-candidate", "my_port", "-v", *CASES)
    assert status == 0, words
    assert "conformance/my_port::stress/prefill/saturated_cap.float32 PASSED" in words
    assert "conformance/my_port::router.logits[float32] PASSED" in words
    assert "30 passed" in words


def test_a_fault_fails_the_case_and_its_operation_with_the_harness_s_explanation(folder: Path) -> None:
    status, words = run_pytest(folder, "--conformance-candidate", "wrong_port.py", *CASES)
    assert status == 1
    failed = re.findall(r"^FAILED conformance/wrong_port\.py::(\S+)", words, re.MULTILINE)
    assert failed == ["stress/prefill/saturated_cap.float32", "moe.norm[float32]"]
    assert re.search(r"observed  \S+, exact \S+, expected \S+", words)
    assert "Traceback" not in words


def test_what_is_listed_is_counted_as_collected(folder: Path) -> None:
    options = ("--conformance-candidate", "my_port", *CASES)
    status, words = run_pytest(folder, "--collect-only", "-q", *options)
    assert (status, "30 tests collected" in words) == (0, True), words
    status, words = run_pytest(folder, "--collect-only", "-q", "-k", "router", *options)
    assert (status, "2/30 tests collected (28 deselected)" in words) == (0, True), words


def test_tests_of_a_candidate_are_selected_like_others(folder: Path) -> None:
    status, words = run_pytest(folder, "--conformance-candidate", "my_port", "-k", "router", *CASES)
    assert status == 0
    assert "2 passed, 28 deselected" in words
    assert "conformance: my_port runs once, as far as 2 tests need, when the first of them begins" in words


COUNTING = """
from grok_conformance.candidates.numpy_float64 import INFO, load as load_right

def load(config, weights):
    with open({log!r}, "a") as file:
        file.write(f"{{config.fprop_dtype}}\\n")
    return load_right(config, weights)
"""


def loads(folder: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Run pytest on a port that tells of every model it loads; return the status, the words, and the dtypes loaded."""
    log = folder / "loads"
    log.write_text("")
    (folder / "counting_port.py").write_text(COUNTING.format(log=str(log)))
    status, words = run_pytest(folder, *arguments)
    return status, words, log.read_text().split()


def test_what_is_not_selected_is_not_run(folder: Path) -> None:
    options = ("--conformance-candidate", "counting_port", "--conformance-case", "stress/*")
    status, words, loaded = loads(folder, *options, "-k", "saturated_cap.float32")
    assert (status, loaded, "1 passed" in words) == (0, ["float32"], True), words
    status, words, loaded = loads(folder, *options, "-k", "moe.norm and bfloat16")
    assert (status, loaded, "1 passed" in words) == (0, ["bfloat16"], True), words


def test_a_node_id_is_run_as_it_was_printed_and_alone(folder: Path) -> None:
    (folder / "test_own.py").write_text("def test_own():\n    raise AssertionError\n")
    node = "conformance/wrong_port.py::moe.norm[float32]"
    status, words = run_pytest(folder, node, "--conformance-case", "stress/*.float32")
    assert (status, "1 failed" in words, f"FAILED {node}" in words) == (1, True, True), words
    status, words = run_pytest(folder, "conformance/my_port::moe.nrom[float32]")
    assert (status, "no such test" in words) == (4, True), words


def test_workers_do_not_repeat_the_work(folder: Path) -> None:
    options = ("--conformance-candidate", "counting_port", *CASES)
    status, words, loaded = loads(folder, "-p", "xdist", "-n", "2", *options)
    assert (status, loaded, "30 passed" in words) == (0, ["float32"], True), words


def test_what_is_always_judged_stands_in_the_configuration(folder: Path) -> None:
    (folder / "pytest.ini").write_text(
        "[pytest]\nconformance_candidate = my_port\nconformance_case = stress/*.float32\n"
    )
    status, words = run_pytest(folder, "-k", "router")
    assert (status, "2 passed, 28 deselected" in words) == (0, True), words


def test_the_configuration_of_the_recipes_is_taken(folder: Path) -> None:
    recipes = (GOLDEN_DIR.parent / "docs" / "recipes.md").read_text()
    (table,) = re.findall(r"```toml\n(\[tool\.pytest\]\n.*?)```", recipes, re.DOTALL)
    (folder / "pyproject.toml").write_text(
        re.sub("conformance_waivers.*\n", "", table).replace("my_port.py", "my_port")
    )
    status, words = run_pytest(folder, "-k", "single_token.float32")
    assert (status, "1 passed" in words) == (0, True), words


def test_several_patterns_ask_for_the_cases_of_all(folder: Path) -> None:
    case = ("--conformance-case", "unequal/prefill/single_token.float32")
    status, words = run_pytest(folder, "--conformance-candidate", "my_port", *CASES, *case, "-k", "prefill")
    assert (status, "2 passed" in words) == (0, True), words
    (folder / "pytest.ini").write_text(f"[pytest]\nconformance_case = {CASES[1]} {case[1]}\n")
    status, words = run_pytest(folder, "--conformance-candidate", "my_port", "-k", "prefill")
    assert (status, "2 passed" in words) == (0, True), words


def test_what_a_candidate_does_not_show_is_skipped_and_its_case_passes(folder: Path) -> None:
    path = folder / "my_port.py"
    path.write_text(path.read_text() + "from dataclasses import replace\nINFO = replace(INFO, taps=('logits',))\n")
    status, words = run_pytest(folder, "--conformance-candidate", "my_port", *CASES)
    assert status == 0
    assert "2 passed, 28 skipped" in words


WAIVER = """
[[deviation]]
candidate = "wrong_port.py"
case = "stress/*.float32"
tap = "moe.norm"
fault = "{fault}"
reason = "as it was trained"
reference = "https://example.org/1"
expires = "2999-01-01"
"""


def run_with_waiver(folder: Path, fault: str, candidate: str = "wrong_port.py") -> tuple[int, str]:
    path = folder / "waivers.toml"
    path.write_text(WAIVER.replace("{fault}", fault).replace("wrong_port.py", candidate))
    return run_pytest(folder, "--conformance-candidate", candidate, "--conformance-waivers", str(path), *CASES)


def test_a_known_deviation_passes_and_only_the_one_that_is_named(folder: Path) -> None:
    status, words = run_with_waiver(folder, "norm_scale_plus_one")
    assert (status, "31 passed" in words) == (0, True), words
    status, words = run_with_waiver(folder, "norm_eps_1e6")
    assert (status, "FAILED conformance/wrong_port.py::moe.norm[float32]" in words) == (1, True), words


def test_a_waiver_that_is_no_longer_needed_fails_a_test_of_its_own(folder: Path) -> None:
    status, words = run_with_waiver(folder, "norm_scale_plus_one", "my_port")
    assert (status, "1 failed, 30 passed" in words) == (1, True), words
    assert "moe.norm: norm_scale_plus_one (stress/*.float32): no longer needed; remove it" in words


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--conformance-candidate", "my_prt"), "no candidate 'my_prt'"),
        (("--conformance-candidate", "my_port", "--conformance-case", "strees/*"), "no case 'strees/*'"),
        (("--conformance-candidate", "my_port", "--conformance-seed", "-3"), "'-3' is no seed"),
        (("--conformance-candidate", "my_port", "--conformance-waivers", "none.toml"), "none.toml"),
    ],
)
def test_a_wrong_name_is_one_line_and_status_4(folder: Path, arguments: tuple[str, ...], complaint: str) -> None:
    status, words = run_pytest(folder, *arguments)
    assert status == 4
    assert complaint in words
    assert "Traceback" not in words


def test_without_the_option_nothing_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import sys\n\ndef test_own():\n"
        "    assert not {'numpy', 'grok_conformance.harness.contract', 'rich', 'jax', 'torch'} & set(sys.modules)\n"
    )
    status, words = run_pytest(tmp_path)
    assert (status, "1 passed" in words) == (0, True), words


def test_judging_imports_no_engine(tmp_path: Path) -> None:
    script = (
        "import sys; from grok_conformance.harness import pytest_checks; "
        "from grok_conformance.harness.commands import judge, run; "
        "own = {'grok_conformance.reference', 'grok_conformance.candidates'}; "
        "sys.exit(bool({'jax', 'torch', 'haiku', *own} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(GOLDEN_DIR.parent)}
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=False)  # noqa: S603
    assert ran.returncode == 0


def test_sweeps_are_drawn_alike_in_all_workers_and_a_failure_says_how_to_repeat_it(folder: Path) -> None:
    options = ("-p", "xdist", "-n", "2", "--conformance-case", "sweep_deep/*", "-k", "sweep_deep or moe.norm")
    status, words = run_pytest(folder, *options, "--conformance-candidate", "my_port")
    assert (status, "3 passed" in words) == (0, True), words  # in both dtypes, and the operation
    status, words = run_pytest(folder, *options, "--conformance-candidate", "wrong_port", "--conformance-seed", "7")
    assert (status, "3 failed" in words, "drawn     by seed 7, as sweep_deep/" in words) == (1, True, True), words
