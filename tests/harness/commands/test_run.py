"""`run`: its options, and what stands for NAME:LEVEL."""

from __future__ import annotations

import argparse

import pytest

from grok_conformance.harness.commands import run
from grok_conformance.harness.contract import LEVELS


@pytest.mark.parametrize("level", LEVELS)
def test_a_required_level_follows_the_last_colon(level: str) -> None:
    assert run.required_level(f"folder/my:port.py:{level}") == ("folder/my:port.py", level)


@pytest.mark.parametrize("text", ["", ":logits", "port", "port:", "port:all", "port:Logits"])
def test_what_names_no_level_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not NAME:LEVEL with a level of logits, routes"):
        run.required_level(text)


def test_nothing_but_the_built_in_candidates_and_all_cases_unless_told_otherwise() -> None:
    parser = argparse.ArgumentParser()
    run.add_options(parser)
    options = parser.parse_args([])
    assert (options.candidate, options.case, options.require, options.properties) == (None, [], [], False)
    assert parser.parse_args(["--candidate", "a", "--candidate", "b"]).candidate == ["a", "b"]
    assert parser.parse_args(["--case", "a", "--case", "b"]).case == ["a", "b"]


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "0", "-1", "1e7", "soon"])
def test_a_limit_of_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no number of seconds above 0 and at most"):
        run.seconds(text)
