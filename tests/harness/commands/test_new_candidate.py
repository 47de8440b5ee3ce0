"""The adapter of `new-candidate` runs, fails clearly at each missing piece, and passes when all are filled in."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main

CASE = "unequal/prefill/single_token.float32"

PIECES = {
    "build_engine": "from grok_conformance.candidates import numpy_float64; return numpy_float64.load(config, weights)",
    "loaded_weights": "return dict(self.engine.weights.stored)",
    "clear_cache": "self.fresh = True",
    "run": (
        "taps = [row.tap for row in TAP_MAP]; call = self.engine.prefill if self.fresh else self.engine.extend; "
        "self.fresh = False; return call(tokens, lengths, taps)"
    ),
}
"""What the pieces of an adapter hold for an engine that is the oracle, in the order in which they are missed."""


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["new-candidate", "some_port"]) == 0
    return tmp_path / "some_port.py"


def fill_in(adapter: Path, piece: str) -> None:
    lines = adapter.read_text().splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.strip().startswith(f'raise NotImplementedError("{piece}: '))
    lines[place] = lines[place].partition("raise")[0] + PIECES[piece]
    adapter.write_text("\n".join(lines))


def judge(adapter: Path, case: str = CASE) -> int:
    return main(["run", "--candidate", adapter.name, "--case", case])


def test_each_missing_piece_is_named_in_turn_and_the_filled_in_adapter_passes(
    adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for piece in PIECES:
        assert judge(adapter) == 1
        assert f"error: NotImplementedError: {piece}: " in capsys.readouterr().out
        fill_in(adapter, piece)
    assert judge(adapter) == 0
    words = capsys.readouterr().out
    assert "some_port.py 0: pass (logits)" in words
    assert "level logits; level routes would add router.logits, router.probabilities, moe.expert_index" in words


def test_the_filled_in_adapter_decodes_and_extends_and_does_not_preload(
    adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for piece in PIECES:
        fill_in(adapter, piece)
    assert judge(adapter, "unequal/[cd]*/*_[cl]*[hs].float32") == 0  # two chunks, unequal lengths
    assert judge(adapter, "long/*.float32") == 1
    assert "unsupported: the model has no preload()" in capsys.readouterr().out


def test_the_weights_are_checked_as_the_tutorial_says(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_in(adapter, "build_engine")
    fill_in(adapter, "loaded_weights")
    assert main(["check-weights", "--candidate", "some_port.py", "--case", CASE]) == 0
    assert "are as stored" in capsys.readouterr().out


def test_the_tutorial_bears_the_name_of_the_port_and_the_words_of_the_template_are_gone(adapter: Path) -> None:
    text = adapter.read_text()
    assert text.startswith('"""some_port: ')
    assert "my_port" not in text


def test_a_file_of_that_name_stays_as_it_is(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter.write_text("mine")
    assert main(["new-candidate", "some_port"]) == 2
    assert adapter.read_text() == "mine"
    assert capsys.readouterr().err == "some_port.py: exists already, and stays as it is: give another name\n"


@pytest.mark.parametrize("name", ["a-b", "class", "../x", "", "1"])
def test_a_name_that_is_no_module_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-candidate", name]) == 2
    assert "not a name of a Python module" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
