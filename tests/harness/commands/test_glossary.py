from __future__ import annotations

import re

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands.glossary import LEVELS, WORDS, all_words, as_known, meaning_of, plain_form
from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.judging.verdict import MEANINGS

ARCHITECTURE = GOLDEN_DIR.parent / "ARCHITECTURE.md"
GLOSSARY = GOLDEN_DIR.parent / "docs" / "glossary.md"


def test_the_glossary_is_the_table_of_the_architecture() -> None:
    section = ARCHITECTURE.read_text().partition("## Words")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE))
    assert {word: meaning for word, meaning in rows.items() if word not in ("word", "---")} == WORDS


@pytest.mark.parametrize(("title", "table"), [("Verdicts", MEANINGS), ("Levels", LEVELS), ("Words", WORDS)])
def test_the_site_has_a_page_of_every_word_verdict_and_level(title: str, table: dict[str, str]) -> None:
    section = GLOSSARY.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)[1:]
    assert dict(rows) == table


def test_a_plain_form_is_in_small_letters_and_the_singular() -> None:
    assert plain_form(" Known-Deviations ") == plain_form("known_deviation")
    assert plain_form("classes") == plain_form("class")
    assert plain_form("histories") == plain_form("history")
    assert plain_form("ties") == plain_form("tie")
    assert as_known("Fences", ["fence"]) == "fence"
    assert as_known("fen", ["fence"]) == "fen"


@pytest.mark.parametrize("word", all_words())
def test_every_word_is_explained(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", word]) == 0
    assert word in capsys.readouterr().out
    assert meaning_of(word)


def test_whatever_stands_before_a_line_of_an_explanation_is_explained() -> None:
    source = (GOLDEN_DIR.parent / "harness" / "report" / "explanation.py").read_text()
    labels = {label.strip() for label in re.findall(r'"  ([a-z][a-z ]{8}) ', source)}
    assert {"worst at", "in common", "kept", "contrast", "cause"} <= labels
    assert {label for label in labels if not meaning_of(label)} - set(MEANINGS) == set()


@pytest.mark.parametrize("words", [("exact", "expected", "observed"), ("seen", "cannot see"), ("shown", "hidden")])
def test_words_for_different_things_have_a_sentence_each(words: tuple[str, ...]) -> None:
    assert len({meaning_of(word) for word in words}) == len(words)
    assert not [word for word in words if ";" in meaning_of(word).replace("; operations around", "")]


@pytest.mark.parametrize("word", ["wrong", "gain", "bias", "coefficient", "standard errors", "problem", "note"])
def test_the_words_of_figures_and_cells_are_explained(word: str) -> None:
    assert meaning_of(word)
