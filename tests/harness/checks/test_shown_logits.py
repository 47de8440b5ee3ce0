"""Logits shown in part are judged as what they are: an honest port passes in every form, a wrong one does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.shown_logits import lay_out
from grok_conformance.harness.contract import ALL_LOGITS, Array, CandidateInfo, LogitForm
from grok_conformance.harness.faults import FAULTS, mutant
from grok_conformance.harness.measure.comparison import Comparison
from tests.harness.checks.logit_forms import FORMS, logits_of, shown
from tests.harness.honest_port import NUM_ELEMENTS, exact_weights, golden_case, honest_taps

CASES = [
    f"{name}.{dtype}"
    for name in ("dense/decode/dense_block", "square/decode/unequal_lengths")
    for dtype in ("float32", "bfloat16")
]
WRONG = "stress/prefill/saturated_cap.float32"


def checked(case_id: str, taps: Mapping[str, Array], form: LogitForm) -> list[Comparison]:
    preset, case = golden_case(case_id)
    info = CandidateInfo(name="port", version="1", taps=("logits",), logits=form)
    exhibit = exhibit_of(preset, case, info, taps, exact_weights(preset.name, case.fprop_dtype))
    return check_case(exhibit, num_elements=NUM_ELEMENTS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case_id", CASES)
def test_an_honest_port_passes_in_every_form(case_id: str, form: str) -> None:
    taps = honest_taps(case_id, 3)
    found = checked(case_id, logits_of(case_id, taps, FORMS[form]), FORMS[form])
    assert [comparison.problem for comparison in found] == [""] * len(found)
    assert all(comparison.passed for comparison in found)
    assert sum(comparison.num_elements for comparison in found) > 0


@pytest.mark.parametrize("form", [name for name in FORMS if "greedy" not in name])
def test_a_fault_that_the_logits_show_fails_in_every_form_that_has_numbers(form: str) -> None:
    taps = honest_taps(WRONG, 3, evaluator=mutant(FAULTS["attention_cap_missing"]))
    (found,) = checked(WRONG, logits_of(WRONG, taps, FORMS[form]), FORMS[form])
    assert not found.passed
    assert found.tail > 100


def changed(form: LogitForm, change: Callable[[Array], Array]) -> Comparison:
    taps = logits_of(WRONG, honest_taps(WRONG, 3), form)
    (found,) = checked(WRONG, {key: change(np.array(x)) for key, x in taps.items()}, form)
    return found


def test_a_more_probable_token_may_not_be_left_out() -> None:
    def second_instead_of_first(x: Array) -> Array:
        x[0, 1, x[0, 1].argmax()] = -np.inf
        x[0, 1, 7] = -50.0
        return x

    found = changed(FORMS["top 5"], second_instead_of_first)
    assert not found.passed
    assert found.index[:2] == (0, 1)


def test_a_greedy_token_that_is_not_the_most_probable_fails() -> None:
    def other(tokens: Array) -> Array:
        tokens[1, 0] = (tokens[1, 0] + 1) % 101
        return tokens

    found = changed(FORMS["greedy tokens"], other)
    assert not found.passed
    assert found.index[:2] == (1, 0)
    assert "is left out though more probable than" in found.note


def test_fewer_tokens_than_declared_are_a_problem() -> None:
    def fewer(x: Array) -> Array:
        x[1, 2] = np.where(x[1, 2] == x[1, 2].max(), x[1, 2], np.nan)
        return x

    assert changed(FORMS["top 5"], fewer).problem == ("names 1 token at [1, 2], expected 5 of top 5 log probabilities")


@pytest.mark.parametrize(
    ("form", "change", "problem"),
    [
        ("last position", lambda x: x[:1], "shape [1, 1, 101], expected [2, 1, 101] of all logits, last position"),
        ("greedy tokens", lambda x: x[..., None], "shape [2, 7, 1], expected [2, 7] of greedy tokens"),
        ("greedy tokens", lambda x: x.astype(np.float32), "dtype float32, expected an integer dtype of greedy tokens"),
        ("log probabilities", lambda x: x.astype(np.float16), "dtype float16 is narrower than float32"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_as_its_form_is_a_problem(
    form: str, change: Callable[[Array], Array], problem: str
) -> None:
    assert changed(FORMS[form], change).problem == problem


def test_nothing_but_what_is_shown_is_compared() -> None:
    found = changed(FORMS["last position"], lambda x: x)
    whole = changed(ALL_LOGITS, lambda x: x)
    assert (found.num_elements, whole.num_elements) == (2 * 101, 11 * 101)
    assert changed(replace(ALL_LOGITS), lambda x: x).passed


def test_where_the_last_position_is_declared_the_others_may_hold_anything() -> None:
    case_id, form = CASES[0], FORMS["last position"]
    preset, case = golden_case(case_id)
    full = np.full((*case.calls[0].tokens.shape, preset.config.vocab_size), np.nan, np.float32)
    rows, last = np.arange(len(full)), case.calls[0].lengths - 1
    full[rows, last] = 1.0
    asked = replace(case, form=form)
    assert np.array_equal(lay_out(full, asked, 0, full.shape[-1]).values[rows, last], full[rows, last])
    assert not lay_out(full, asked, 0, full.shape[-1]).problem
    full[rows, last] = np.nan
    assert np.isnan(lay_out(full, asked, 0, full.shape[-1]).values[rows, last]).all()


@pytest.mark.parametrize("form", ["last position", "last log probabilities", "last greedy token"])
def test_a_row_without_a_new_token_has_no_last_position(form: str) -> None:
    preset, case = golden_case(CASES[0])
    call = replace(case.calls[0], lengths=np.where(np.arange(len(case.calls[0].tokens)) == 0, 0, case.calls[0].lengths))
    empty = replace(case, calls=(call,), form=FORMS[form])
    x = shown(
        np.zeros((*call.tokens.shape, preset.config.vocab_size), np.float32), np.maximum(call.lengths, 1), FORMS[form]
    )
    laid_out = lay_out(x, empty, 0, preset.config.vocab_size)
    assert not laid_out.problem
    assert not laid_out.shown[0].any()
