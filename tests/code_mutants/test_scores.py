"""The committed scores are those of the modules as they are now."""

from __future__ import annotations

import json

import pytest

from tests.code_mutants.__main__ import FOLDER, ROOT, TARGETS
from tests.code_mutants.mutations import mutants

SCORES = json.loads((FOLDER / "scores.json").read_text())


def test_every_module_has_its_scores() -> None:
    assert sorted(SCORES) == sorted(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_survivors_stand_where_the_scores_say_so_and_mutants_are_as_many(target: str) -> None:
    source = (ROOT / "harness" / f"{target}.py").read_text()
    lines = [line.strip() for line in source.splitlines()]
    moved = [each for each in SCORES[target]["survivors"] if lines[each["line"] - 1 : each["line"]] != [each["code"]]]
    assert not moved, f"the scores are of another {target}.py: nox -s mutants -- {target}"
    assert len(list(mutants(source))) == SCORES[target]["num_mutants"]
