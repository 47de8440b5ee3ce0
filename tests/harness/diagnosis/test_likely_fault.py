from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.diagnosis.likely_fault import Diagnosis, describe


def test_a_diagnosis_reads_as_one_line() -> None:
    found = Diagnosis(("gelu_erf",), "gelu_erf", 0.99, 0.02, 0.98, 12.0, "silu_for_gelu")
    assert describe(found) == (
        "likely gelu_erf, coefficient 0.99 ± 0.02, explains 98.0%, more than a million to 1 before silu_for_gelu"
    )
    assert "1,000 to 1" in describe(replace(found, log10_ratio=3.0))


def test_a_fault_of_some_values_is_said_to_be_one() -> None:
    found = Diagnosis(("gelu_erf",), "gelu_erf", 1.0, 0.02, 0.98, 12.0, "silu_for_gelu", partly=True)
    assert describe(found).startswith("likely gelu_erf, in part of the values, coefficient 1 ")


def test_a_fault_that_fits_and_hardly_shows_is_faint() -> None:
    faint = Diagnosis((), "gelu_erf", 1.2, 0.2, 0.01, 3.0, "no fault", left_over=0.9)
    assert faint.is_faint
    assert not replace(faint, faults=("gelu_erf",)).is_faint
    assert not replace(faint, standard_error=0.01).is_faint
    assert not replace(faint, log10_ratio=1.0).is_faint
    assert not replace(faint, left_over=1.1).is_faint
