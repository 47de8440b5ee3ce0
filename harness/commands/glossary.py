"""The words that reports, commands and documents use, and what they mean; ARCHITECTURE.md has the same table."""

from __future__ import annotations

from collections.abc import Mapping

from grok_conformance.harness.contract import LOGITS

WORDS: Mapping[str, str] = {
    "point": (
        "a value inside an operation that a port may keep otherwise than published: a constant, a product, partial sums"
    ),
    "rounding plan": (
        "the choice that a port makes at each point of an operation; "
        "identified over all data, or over small calls and over larger ones, named, never a wider fence"
    ),
    "candidate": "an adapter between an engine and the harness; a port under test",
    "carried": "an edge's reading: the consumer used the producer's unrounded value, which the tap does not show",
    "case": "a preset, inputs for one or more calls, and what is compared",
    "class of faults": "faults that no data of a case can tell apart; the diagnosis names the class",
    "evidence": "what a candidate showed in one case: its usable taps, and what is wrong with the others",
    "exact, expected, observed": "the float64 oracle's value; the golden value; the candidate's value",
    "exhibit": "one answered case as all checks are given it: preset, case, evidence, exact weights, ways",
    "fault": "a row of the table of what ports really got wrong",
    "fence": ("how far one element may honestly stray from exact; part of the noise model, never widened for a port"),
    "flip": ("a token that the port sends to other experts than the exact scores would; excused only near a tie"),
    "golden": "stored values that the canonical model gave, known by their digests",
    "job, answer": "the folder with what a candidate is asked; the folder with what it gave",
    "known deviation, waiver": (
        "what an engine is known to do otherwise; the file that accepts exactly that, with a reason and a date"
    ),
    "law": "what must hold for every model and any weights, so that no golden is needed",
    "level": "how much a candidate shows: logits, routes, layers or caches; a pass names it",
    "mutant": "an implementation with one fault put in on purpose",
    "null": "an impostor, such as a port that returns noise, which must never pass",
    "operation, row": "one step of the model: a tap made from other taps and weights by a float64 function",
    "oracle": "the graph in float64, written from the specification and not from `reference/`",
    "power": "the chance that a run sees a fault, known before it begins",
    "preset": "a configuration and its weights",
    "published quirk": (
        "something odd that the published model does with pads inside a prompt, or decoded, which no engine is used "
        "for; a port that does otherwise in the rows that hold it is told so, and fails only where "
        "`--require NAME:quirks` asks for it"
    ),
    "reading": ("what a consumer really used of an input: the tap as shown (rounded), carried, or unknown (recorded)"),
    "shown, hidden": (
        "a tap that a candidate gives, or does not; operations around hidden taps are checked as one segment"
    ),
    "slack": (
        "how uncertain the scores are by which a choice of experts is judged: within it a tie may fall either way"
    ),
    "tap": "a named value inside the model, such as `layers.03.router.logits`",
    "trigger": "the circumstances in which a fault shows: a long context, padding, a second call, a full cache",
    "way, plan": (
        "how a port computes an operation: its alternative and readings, one for all data of a compute dtype and form "
        "of the weights, or for small calls and for larger ones, always reported"
    ),
}
"""Every word, or several that are told together, and its meaning."""

LEVELS: Mapping[str, str] = {
    LOGITS: "the logits are shown; what is wrong before them is seen there, and seldom found",
    "routes": "the router's logits, probabilities and choice are shown as well, which tell a near-tie from a fault",
    "layers": "every operation of every layer is shown, so that a fault is found where it is",
    "caches": "the key and value caches are shown as well",
}
"""What a candidate shows at each level, that of all lower levels included."""


def meaning_of(word: str) -> str:
    """Return what a word means, an empty string for one that is not in the glossary."""
    return next((meaning for words, meaning in WORDS.items() if word in words.split(", ")), "")


def all_words() -> list[str]:
    """Return every single word of the glossary."""
    return [word for words in WORDS for word in words.split(", ")]
