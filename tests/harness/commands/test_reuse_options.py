"""Whether verdicts are taken over, and what that does not go with."""

from __future__ import annotations

import argparse

import pytest

from grok_conformance.harness.commands import run
from grok_conformance.harness.commands.reuse_options import refuse_with_reuse
from grok_conformance.harness.formats.files import FileError


def options_of(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run.add_options(parser)
    return parser.parse_args(words)


def test_every_verdict_is_of_its_own_run_unless_told_otherwise() -> None:
    assert (options_of().reuse, options_of().fresh) == (False, False)
    with pytest.raises(SystemExit):
        options_of("--reuse", "--fresh")


@pytest.mark.parametrize("words", [["--operation", "moe.*"], ["--layer", "0"], ["--dump", "d"], ["--baseline", "b"]])
@pytest.mark.parametrize("option", ["--reuse", "--fresh"])
def test_what_needs_answers_or_a_part_is_refused(words: list[str], option: str) -> None:
    refuse_with_reuse(options_of(*words))
    with pytest.raises(FileError, match=f"^{words[0]} needs answers of its own, and {option} keeps whole verdicts"):
        refuse_with_reuse(options_of(*words, option))


@pytest.mark.parametrize("words", [["--case", "ties/*"], ["--strict"], ["--seed", "1"], ["--json", "run.json"]])
def test_the_rest_goes_with_it(words: list[str]) -> None:
    refuse_with_reuse(options_of(*words, "--reuse"))
