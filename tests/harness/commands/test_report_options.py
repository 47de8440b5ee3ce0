"""The options of reports, alike in every command that ends in a verdict."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from grok_conformance.harness.commands.report_options import add_report_options
from grok_conformance.harness.contract.taps import GOLDEN


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_report_options(parser)
    return parser.parse_args(words)


def test_the_golden_set_is_the_one_that_comes_along_and_nothing_is_written_unasked() -> None:
    options = parsed()
    assert (options.golden / "manifest.json").is_file()
    assert options.golden == GOLDEN
    assert (options.json, options.html, options.junit, options.waivers) == (None, None, None, None)
    assert options.detail == "normal"


@pytest.mark.parametrize("detail", ["quiet", "verbose"])
def test_there_is_one_level_of_detail(detail: str) -> None:
    assert parsed(f"--{detail}").detail == detail
    with pytest.raises(SystemExit):
        parsed("--quiet", "--verbose")


def test_files_are_paths() -> None:
    assert parsed("--json", "a/b.json").json == Path("a/b.json")
