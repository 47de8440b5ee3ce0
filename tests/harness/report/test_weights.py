"""Weights that are not as stored, told once for the same mistake."""

from __future__ import annotations

from grok_conformance.harness.checks.loaded_weights import NO_SUCH, WeightProblem
from grok_conformance.harness.report.weights import grouped

LIKELY = "transposed: its last two axes are exchanged"


def problem(layer: int, preset: str = "stress", likely: str = LIKELY) -> WeightProblem:
    tensor, told = f"loaded/transformer/decoder_layer_{layer}/router/w", f"{layer + 3} of 40 values differ, most"
    return WeightProblem(preset=preset, tensor=tensor, problem=told, likely=likely)


def test_the_same_mistake_in_several_layers_and_models_is_one_line() -> None:
    (line,) = grouped([problem(0), problem(1), problem(0, "ties")])
    assert line == (
        "stress: loaded/transformer/decoder_layer_0/router/w: 3 of 40 values differ, most; "
        f"likely {LIKELY}; the same in 2 more: layers 0, 1; presets stress, ties"
    )


def test_other_mistakes_and_other_tensors_have_lines_of_their_own() -> None:
    other = WeightProblem(preset="stress", tensor="loaded/language_model/rms_norm/scale", problem="shape [1]")
    assert len(grouped([problem(0), problem(1, likely="rounded to bfloat16"), other])) == 3


def test_without_a_known_mistake_figures_do_not_tell_two_apart() -> None:
    (line,) = grouped([problem(0, likely=""), problem(7, likely="")])
    assert line.endswith("; the same in 1 more: layers 0, 7")


def test_what_stands_before_every_name_is_one_line() -> None:
    likely = "'model.' before the stored name: leave it out"
    names = [f"loaded/model.transformer/decoder_layer_{layer}/{name}" for layer in (0, 1) for name in ("a/w", "b/w")]
    problems = [WeightProblem(preset="ties", tensor=name, problem=NO_SUCH, likely=likely) for name in names]
    (line,) = grouped(problems)
    assert line == f"ties: {names[0]}: {NO_SUCH}; likely {likely}; the same in 3 more: layers 0, 1"
