"""The table of generic transformations: what values may be that no known fault explains, and what to change then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from grok_conformance.harness.diagnosis import consequences, elementwise, other_weights, recomputed, relocated
from grok_conformance.harness.diagnosis.hypothesis import Hypothesis, Trial


@dataclass(frozen=True)
class Transformation:
    """One row: the hypotheses that it has about a failing tap, and a sentence that says what to change.

    One that `follows` tells that nothing is wrong here but what an operation before shows; one that `recomputes`
    applies the operation again for every hypothesis.
    """

    hypotheses: Callable[[Trial], Iterator[Hypothesis]]
    remedy: str
    follows: bool = False
    recomputes: bool = False


KEEP_OPERANDS = "do not round before the operation: keep its operands' dtype"

TRANSFORMATIONS: tuple[Transformation, ...] = (
    Transformation(
        consequences.from_right_inputs,
        "fix that operation first, or show it where its value is really used: this one follows from it",
        follows=True,
        recomputes=True,
    ),
    Transformation(elementwise.simple, "look for values that are never written, or for a sign or a function too many"),
    Transformation(
        elementwise.scaled, "look for that factor: a multiplier that is missing, applied twice or another's"
    ),
    Transformation(
        relocated.of_an_earlier_call, "write the buffer again in every call, and read it after it is written"
    ),
    Transformation(relocated.of_another_layer, "look for the index of the layer: another layer's buffer is shown"),
    Transformation(relocated.of_another_tap, "apply the operation to what is shown, or show the value after it"),
    Transformation(relocated.along_an_axis, "look for the index or the stride along that axis"),
    Transformation(relocated.exchanged_axes, "transpose the two axes back: their sizes agree, so that no shape tells"),
    Transformation(
        recomputed.from_other_inputs, "wire the operation to the input that the specification names", recomputes=True
    ),
    Transformation(
        recomputed.from_changed_inputs, "look at how that input is indexed or signed where it is read", recomputes=True
    ),
    Transformation(
        other_weights.with_weights_of_another_layer,
        "look for the index of the layer where weights are read",
        recomputes=True,
    ),
    Transformation(
        other_weights.with_weights_of_another_operation,
        "read the weights of this operation, not the other's",
        recomputes=True,
    ),
    Transformation(
        other_weights.with_changed_weights,
        "look at how that weight is laid out where it is loaded or read",
        recomputes=True,
    ),
    Transformation(
        other_weights.with_changed_scales, "look at how groups of rows are matched with their scales", recomputes=True
    ),
    Transformation(
        other_weights.with_another_expert, "look at which expert's weights are gathered for a token", recomputes=True
    ),
    Transformation(
        recomputed.without_some_experts,
        "look for tokens that an expert has no room for, or that are lost",
        recomputes=True,
    ),
    Transformation(
        recomputed.at_another_step, "look at the positions, steps and masks that the call is given", recomputes=True
    ),
    Transformation(
        elementwise.rounded_once_more, "leave that rounding out: keep the dtype that the specification names"
    ),
    Transformation(recomputed.from_rounded_operands, KEEP_OPERANDS, recomputes=True),
    Transformation(elementwise.added, "look for a term that is added once too often, or left out"),
    Transformation(elementwise.clipped, "look for a range that is too narrow: a dtype, a clamp, a table"),
    Transformation(elementwise.of_the_right_value, "compare the function and its constants: the operands are right"),
    Transformation(
        elementwise.of_the_argument,
        "compare the function and its constants: the operands are right",
        recomputes=True,
    ),
    Transformation(elementwise.scaled_along, "look for a normalisation or scale that belongs to these places"),
)
"""In the order in which they are told where the data does not tell them apart: the plainer ones first."""
