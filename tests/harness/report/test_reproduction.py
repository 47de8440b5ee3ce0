from __future__ import annotations

import pytest

from grok_conformance.harness.cases.drawn import redraw
from grok_conformance.harness.report.reproduction import command_typed, reproduce
from grok_conformance.harness.running import SERVED
from tests.harness.honest_port import golden_case

NOX = {"NOX_CURRENT_SESSION": "conformance"}
MODULE = "/somewhere/grok_conformance/__main__.py"


@pytest.mark.parametrize(
    ("words", "environment", "command"),
    [
        ([MODULE, "run"], {}, "python -m grok_conformance run --candidate my_port.py --case 'a/*' --operation logits"),
        (["/b/grok-conformance"], {}, "grok-conformance run --candidate my_port.py --case 'a/*' --operation logits"),
        ([MODULE, "run"], NOX, "nox -s conformance -- --candidate my_port.py --case 'a/*' --operation logits"),
        (["/bin/pytest", "-q"], {}, "pytest --conformance-candidate my_port.py --conformance-case 'a/*'"),
        (["/x/pytest/__main__.py"], NOX, "pytest --conformance-candidate my_port.py --conformance-case 'a/*'"),
        (["/bin/grok-conformance", "judge", "jobs", "my out"], {}, "grok-conformance judge jobs 'my out' --case 'a/*'"),
        (["/b/grok-conformance", "judge", "--case", "b", "j", "o"], {}, "grok-conformance judge j o --case 'a/*'"),
        (["/bin/ipykernel_launcher.py"], {}, "grok_conformance.judge('my_port.py', 'a/*', operations='logits')"),
        ([], {}, "grok_conformance.judge('my_port.py', 'a/*', operations='logits')"),
    ],
)  # fmt: skip
def test_a_command_is_told_as_it_is_typed_where_the_run_was_started(
    words: list[str], environment: dict[str, str], command: str
) -> None:
    assert reproduce("my_port.py", "a/*", "logits", words=words, environment=environment) == command


URL = "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--endpoint", URL, "--model", "my_port.py"], f"--endpoint {URL} --model my_port.py"),
        ([f"--endpoint={URL}", "--top-logprobs", "20", "--model=my_port.py"],
         f"--endpoint {URL} --model my_port.py --top-logprobs 20"),
        (["--endpoint", URL, "--model", "other", "--candidate", "my_port.py"], "--candidate my_port.py"),
    ],
)  # fmt: skip
def test_a_server_is_named_by_its_address_and_other_candidates_are_not(words: list[str], named: str) -> None:
    command = reproduce("my_port.py", "a/*", words=[MODULE, "run", *words], environment={})
    assert command == f"python -m grok_conformance run {named} --case 'a/*'"


def test_a_server_without_a_model_is_named_by_its_address_alone() -> None:
    command = reproduce(SERVED, "a/*", words=[MODULE, "run", "--endpoint", URL], environment={})
    assert command == f"python -m grok_conformance run --endpoint {URL} --case 'a/*'"


def test_a_drawn_case_is_told_by_the_stored_one_and_its_seed() -> None:
    preset, case = golden_case("unequal/prefill/padded_batch.float32")
    command = reproduce("my_port.py", redraw(case, preset.config, 41).id, words=[MODULE, "run"], environment={})
    assert command.endswith("--case unequal/prefill/padded_batch.float32 --seed 41")


def test_a_rung_of_the_ladder_is_shown_again_by_its_seed_and_the_ladder() -> None:
    command = reproduce("port", "ladder_width_17/ladder/drawn~redrawn-7.float32", words=[MODULE, "run"], environment={})
    assert command.endswith("--case ladder_width_17/ladder/drawn.float32 --seed 7 --ladder")


def test_layers_and_the_golden_set_stay_as_they_were_given() -> None:
    words = [MODULE, "run", "--layer", "1", "--layer=2", "--golden", "my set", "--candidate", "port"]
    command = reproduce("port", "a/*", "moe.norm", words=words, environment={})
    told = "--case 'a/*' --operation moe.norm --layer 1 --layer 2 --golden 'my set'"
    assert command == f"python -m grok_conformance run --candidate port {told}"


def test_cases_that_hang_on_one_another_are_run_again_with_what_the_run_drew() -> None:
    command = reproduce("port", "a/*", seed=7, words=[MODULE, "run"], environment={})
    assert command == "python -m grok_conformance run --candidate port --case 'a/*' --seed 7"
    command = reproduce("port", "a/*", seed=7, words=["/bin/pytest"], environment={})
    assert command == "pytest --conformance-candidate port --conformance-case 'a/*' --conformance-seed 7"


def test_in_pytest_a_drawn_case_is_asked_for_by_its_own_id() -> None:
    command = reproduce("port", "a/b/c~redrawn-7.float32", words=["/bin/pytest"], environment={})
    assert command == "pytest --conformance-candidate port --conformance-case 'a/b/c~redrawn-7.float32'"


@pytest.mark.parametrize(
    ("words", "environment", "command"),
    [
        ([MODULE, "run", "--case", "a/*"], {}, "python -m grok_conformance run --case 'a/*'"),
        ([MODULE, "run", "--case", "a/*"], NOX, "nox -s conformance -- --case 'a/*'"),
        (["/b/grok-conformance", "judge", "jobs", "out"], NOX, "grok-conformance judge jobs out"),
        (["/b/pytest", "--conformance-candidate", "port"], {}, "pytest --conformance-candidate port"),
        (["/bin/ipykernel_launcher.py", "-f", "x"], {}, ""),
    ],
)
def test_the_command_of_a_run_is_told_as_it_was_typed(
    words: list[str], environment: dict[str, str], command: str
) -> None:
    assert command_typed(words, environment) == command
