"""The template of an adapter: a module that declares itself and says at each missing piece what to do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from grok_conformance.harness.contract import CandidateInfo, template

SOURCE = Path(template.__file__).read_text()


def test_it_declares_itself_and_its_taps_as_any_candidate_does() -> None:
    assert isinstance(template.INFO, CandidateInfo)
    assert template.INFO.taps == ("logits",)
    assert callable(template.load)


def test_it_imports_the_contract_and_no_more_of_the_harness() -> None:
    imports = [node.module or "" for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ImportFrom)]
    own = [name for name in imports if name.startswith("grok_conformance")]
    assert own
    assert all(name.startswith("grok_conformance.harness.contract") for name in own)


def test_every_missing_piece_is_named_where_it_is_missed() -> None:
    tree = ast.parse(SOURCE)
    pieces = [
        node.exc.args[0] for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    texts = [str(piece.value) for piece in pieces if isinstance(piece, ast.Constant)]
    assert len(texts) >= 4
    assert all(text.partition(":")[0].isidentifier() and text.partition(": ")[2] for text in texts), texts


def test_loading_it_as_it_is_says_what_comes_first() -> None:
    with pytest.raises(NotImplementedError, match="build_engine"):
        template.load(None, {})  # type: ignore[arg-type] # fails before it is looked at
