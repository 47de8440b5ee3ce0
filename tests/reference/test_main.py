"""`python -m grok_conformance.reference`: options, help, and mistakes in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grok_conformance.reference import __main__ as command
from grok_conformance.reference import demo
from grok_conformance.reference.config import PRESETS
from tests.reference.slot_models import CONFIG

TINY = replace(CONFIG, eos_token=CONFIG.vocab_size, model=replace(CONFIG.model, num_layers=1))
"""One layer, and an end-of-sequence token that is never drawn."""


def test_mesh_2_4_samples_on_8_virtual_devices_from_a_synthetic_model_and_says_so() -> None:
    options = ["--mesh", "2,4", "--token-ids", "5,6", "--token-ids", "9,10", "--max-tokens", "3"]
    child = subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-W", "error", "-m", "grok_conformance.reference", *options],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert [len(line.split(",")) for line in child.stdout.splitlines()] == [3, 3]
    assert "sampling from a synthetic model of random weights, config small" in child.stderr
    assert re.search(r"^6 tokens in \d+\.\d\d s: \d+\.\d tokens/s$", child.stderr, re.MULTILINE)


def test_help_names_every_configuration_and_imports_no_engine() -> None:
    assert tuple(PRESETS) == command.CONFIGS
    watch = "import sys\nfrom grok_conformance.reference.__main__ import main\n"
    watch += "try:\n main(['--help'])\nexcept SystemExit: pass\nassert not {'jax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", watch], cwd=Path(__file__).parents[2], check=True)  # noqa: S603 - ours


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PRESETS", {"small": TINY, "grok-1": TINY})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--mesh 2", "argument --mesh: '2' is no mesh: give the data and the model shards, such as 2,4"),
        ("--mesh 0,2", "argument --mesh: '0,2' is no mesh"),
        ("--token-ids 1,x", "argument --token-ids: '1,x' is no list of integers such as 1,2,3"),
        ("--token-ids 7 --token-ids 8,48", "token id 48 at row 1, position 1 is outside the vocabulary"),
        ("--slots 0", "argument --slots: '0' is no number from 1 on"),
        ("--max-tokens 0", "max_len 0: ask for at least one token"),
        ("--temperature -1", "temperature -1.0: give 0 (greedy)"),
        ("--top-p 2", "nucleus_p 2.0: give a probability from 0 to 1"),
        ("--seed -1", "rng_seed -1: give an integer from 0"),
        ("--prompt hello", "--prompt needs --tokenizer PATH; or give --token-ids"),
        ("--prompt a --token-ids 1", "argument --token-ids: not allowed with argument --prompt"),
        ("--config huge", "argument --config: invalid choice: 'huge'"),
        ("--mesh 1,3", "mesh (1, 3) "),
        ("--checkpoint nowhere", "nowhere: no checkpoint here; expected the files tensor00000_000"),
        ("--unheard-of", "unrecognized arguments: --unheard-of"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_a_mistake_is_one_line_and_status_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "provide_devices", lambda _: None)
    assert status_of(arguments.split()) == 2
    captured = capsys.readouterr()
    errors = [
        line for line in captured.err.splitlines() if not line.startswith(("no checkpoint", "sampling", "loading"))
    ]
    assert len(errors) == 1
    assert message in errors[0]
    assert captured.out == ""


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (None, "--prompt needs sentencepiece: python -m pip install sentencepiece; or give --token-ids"),
        (OSError, "t.model: not a sentencepiece model"),
        (RuntimeError, "t.model: not a sentencepiece model"),
        (5, "t.model: 5 pieces, but the model has 384 tokens; give the one that came with the weights"),
    ],
)
def test_a_tokenizer_that_cannot_be_loaded_is_one_line_and_status_2(
    processor: Any, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(model_file: str) -> Any:
        if isinstance(processor, int):
            return SimpleNamespace(vocab_size=lambda: processor)
        raise processor(model_file)

    module = None if processor is None else SimpleNamespace(SentencePieceProcessor=load)
    monkeypatch.setitem(sys.modules, "sentencepiece", module)
    assert status_of(["--prompt", "a", "--tokenizer", "t.model"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(message)


def status_of(arguments: list[str]) -> int | str | None:
    try:
        return command.main(arguments)
    except SystemExit as exit_:
        return exit_.code


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", " --xla_force_host_platform_device_count=8"),
        ("--xla_foo=1", "--xla_foo=1 --xla_force_host_platform_device_count=8"),
        ("--xla_force_host_platform_device_count=2", "--xla_force_host_platform_device_count=2"),
    ],
)
def test_virtual_devices_are_added_to_xla_flags_unless_they_are_set(
    flags: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    demo.provide_devices(8)
    assert os.environ["XLA_FLAGS"] == expected
