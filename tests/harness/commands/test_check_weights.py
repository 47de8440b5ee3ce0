"""`check-weights`: what a candidate holds is compared with what is stored before any forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main

LAYER = "transformer/decoder_layer_0"


NORM, ROUTER = f"{LAYER}/rms_norm/scale", f"{LAYER}/router/w"


ADAPTER = """
import numpy as np
from grok_conformance.candidates.numpy_float64 import INFO, load as load_right

def load(config, weights):
    model = load_right(config, weights)
    model.loaded_weights = lambda: {**weights, NORM: FACTOR * weights[NORM]}
    return model

NORM = "transformer/decoder_layer_0/rms_norm/scale"
"""


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tmp_path / "adapter.py"


def check_weights_of(adapter: Path) -> int:
    return main(["check-weights", "--candidate", str(adapter), "--case", "stress/*.float32"])


def test_check_weights_passes_what_is_as_stored(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter.write_text(ADAPTER.replace("FACTOR", "1"))
    assert check_weights_of(adapter) == 0
    assert capsys.readouterr().out.endswith(": 21 tensors of 1 model are as stored\n")


def test_check_weights_needs_no_forward_pass_to_work(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter.write_text(ADAPTER.replace("FACTOR", "2").replace("return model", "del model.weights\n    return model"))
    assert check_weights_of(adapter) == 1
    assert f"stress: loaded/{NORM}: 40 of 40 values differ, most at [" in capsys.readouterr().out


def test_check_weights_of_a_candidate_that_shows_none_fails(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter.write_text("from grok_conformance.candidates.numpy_float64 import INFO, load\n")
    assert check_weights_of(adapter) == 1
    assert "shows no weights of 1 of 1 model: give the model loaded_weights()" in capsys.readouterr().out
    adapter.write_text(
        "from grok_conformance.candidates.numpy_float64 import INFO\n"
        "def load(config, weights): raise OSError('no device')"
    )
    assert check_weights_of(adapter) == 1
    assert "error: OSError: no device" in capsys.readouterr().out


def test_a_run_fails_on_its_weights_and_says_so_first(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter.write_text(ADAPTER.replace("FACTOR", "2"))
    assert main(["run", "--candidate", str(adapter), "--case", "stress/*.float32"]) == 1
    assert capsys.readouterr().out.startswith(f"{adapter}: weights: stress: loaded/{NORM}: 40 of 40 values differ")
