from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.contract import LOGITS, tap_names
from tests.benchmarks.judging_memory import own_peak_bytes
from tests.benchmarks.scaling import curves_of, exponents, memory
from tests.benchmarks.scaling_curves import Curve, last_exponent, power_law
from tests.benchmarks.scaling_plot import draw
from tests.benchmarks.scaling_sizes import AXES, BASE, case_of, extent, preset_of


def curve(*seconds: float, measured: str = "judging", axis: str = "tokens") -> Curve:
    return Curve(axis, measured, tuple(32 << i for i in range(len(seconds))), seconds)


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 2.0])
def test_a_power_law_is_found_with_no_error(exponent: float) -> None:
    fit = power_law(curve(*(0.01 * (32 << i) ** exponent for i in range(4))))
    assert fit.exponent == pytest.approx(exponent, abs=1e-9)
    assert fit.standard_error == pytest.approx(0.0, abs=1e-7)


def test_the_standard_error_is_that_of_least_squares() -> None:
    x, y = np.log([32, 64, 128, 256]), np.array([0.0, 0.9, 1.1, 2.3])
    _, covariance = np.polyfit(x, y, 1, cov=True)
    fit = power_law(curve(*np.exp(y)))
    assert fit.standard_error == pytest.approx(math.sqrt(covariance[0, 0]))


def test_noise_is_seen_in_the_standard_error_and_not_in_the_exponent() -> None:
    random = np.random.default_rng(0)
    noise = np.exp(0.1 * random.standard_normal((400, 4)))
    fits = [power_law(curve(*(np.array([1.0, 2.0, 4.0, 8.0]) * each))) for each in noise]
    assert np.mean([fit.exponent for fit in fits]) == pytest.approx(1.0, abs=0.01)
    spread = np.std([fit.exponent for fit in fits])
    assert np.sqrt(np.mean([fit.standard_error**2 for fit in fits])) == pytest.approx(spread, rel=0.15)


def test_two_points_have_no_slope_with_an_error() -> None:
    with pytest.raises(ValueError, match="judging over tokens: a slope with an error needs three points"):
        power_law(curve(1.0, 2.0))


def test_the_last_doubling_tells_where_a_cost_is_going() -> None:
    assert last_exponent(curve(1.0, 1.0, 1.0, 4.0)) == pytest.approx(2.0)


@pytest.mark.parametrize("axis", AXES)
def test_one_thing_grows_at_least_by_doublings_and_all_else_stays(axis: str) -> None:
    sizes = AXES[axis]
    extents = [extent(axis, size) for size in sizes]
    assert len(extents) >= 4
    assert all(1.7 < more / less < 2.3 for less, more in itertools.pairwise(extents))
    name = "every" if axis == "taps" else axis
    assert {replace(size, **{name: getattr(BASE, name)}) for size in sizes} == {BASE}


def test_shown_taps_are_taps_of_the_model_in_its_order_the_logits_last() -> None:
    for size in AXES["taps"]:
        names = tap_names(size.config)
        assert [name for name in names if name in size.taps] == list(size.taps)
        assert size.taps[-1] == LOGITS
        assert len(size.taps) < len(names)
    assert BASE.taps == tap_names(BASE.config)


def test_equal_cases_have_names_of_their_own_and_fit_the_model() -> None:
    assert case_of(BASE, 1).id != case_of(BASE, 2).id
    assert case_of(BASE).calls[0].tokens.shape == (1, BASE.tokens)
    assert preset_of(BASE).config.sequence_len == BASE.tokens


def test_every_curve_has_the_seconds_of_its_own_sizes() -> None:
    seconds = {size: {"capture": extent(axis, size) / 100} for axis, sizes in AXES.items() for size in sizes}
    seconds[BASE] = {"capture": 1.0}
    (tokens,) = (each for each in curves_of(seconds) if each.axis == "tokens")
    assert dict(zip(tokens.extents, tokens.seconds, strict=True)) == {32: 0.32, 64: 1.0, 128: 1.28, 256: 2.56}


def test_the_table_has_the_exponent_with_its_error() -> None:
    assert "| tokens | 32 | 256 | judging | 1.000 – 8.000 | 1.00 ± 0.00 | 1.00 |" in exponents(
        [curve(1.0, 2.0, 4.0, 8.0)]
    )


def test_the_memory_of_a_case_is_told_beside_its_answer() -> None:
    text = memory({2: 90_000_000, 4: 103_000_000, 8: 107_000_000}, 3_500_000)
    assert "| 4 | 103 |" in text
    assert "From 4 to 8 cases one more takes 1.00 MB, its verdict" in text
    assert "has 3.50 MB" in text


def test_the_peak_is_that_of_this_program_and_keeps_what_was_freed() -> None:
    before = own_peak_bytes()
    np.ones(2 * before, np.uint8).sum()
    assert 2 * before < own_peak_bytes() < 4 * before


def test_the_plot_is_a_document_with_every_point_and_exponent_of_every_chart() -> None:
    axes, names = ("tokens", "layers", "width"), ("judging", "capture", "local check")
    curves = [curve(1.0, 2.0, 4.0, 8.0, axis=axis, measured=name) for axis in axes for name in names]
    root = ET.fromstring(draw(curves))  # noqa: S314 - what was just drawn
    drawn = [each for each in root.iter() if each.tag.endswith("circle")]
    assert len(drawn) == 4 * len(curves)
    words = [each.text or "" for each in root.iter() if each.tag.endswith("text")]
    assert "width: judging 1.00, capture 1.00, local check 1.00" in words
