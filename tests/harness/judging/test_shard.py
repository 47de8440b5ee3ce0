"""A share of a run, as it is asked for."""

from __future__ import annotations

import argparse

import pytest

from grok_conformance.harness.commands.run import shard
from grok_conformance.harness.judging.shard import Shard


def test_a_shard_is_typed_as_it_is_told() -> None:
    assert shard("2/3") == Shard(2, 3)
    assert str(Shard(2, 3)) == "2/3"


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/", "a/b", "-1/2", "1/2/3"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not I/N, such as 1/3"):
        shard(text)
