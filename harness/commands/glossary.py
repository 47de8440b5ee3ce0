"""The words that reports, commands and documents use, and what they mean; ARCHITECTURE.md has the same table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from grok_conformance.harness.contract import LOGITS

WORDS: Mapping[str, str] = {
    "point": (
        "a value inside an operation that a port may keep otherwise than published: a constant, a product, partial sums"
    ),
    "rounding plan": (
        "the choice that a port makes at each point of an operation; identified over all data, or over small "
        "calls and over larger ones, named, never a wider fence"
    ),
    "answer": "the folder with what a candidate gave to a job",
    "baseline": "a candidate's earlier run, kept in a folder by `--baseline`, with which later ones are compared",
    "bias": (
        "what all errors of a tap have in common as an offset, in units of its honest rounding; `in common` tells it"
    ),
    "bulk": "the root mean square of all errors of a tap, in units of its own rounding: how far it strays as a whole",
    "candidate": "an adapter between an engine and the harness; a port under test",
    "cannot see": "the known faults that a run would find with a chance of less than one half",
    "carried": "an edge's reading: the consumer used the producer's unrounded value, which the tap does not show",
    "case": "a preset, inputs for one or more calls, and what is compared",
    "certificate, exercised": "which sizes, borders and orders of calls a run asked for, and which not",
    "change": "what to change in the port, of the likely fault",
    "class of faults": "faults that no data of a case can tell apart; the diagnosis names the class",
    "coefficient": (
        "of a diagnosis: how much of what the fault does the values show, 1 for the right one and 0 for none"
    ),
    "concurrency": (
        "what a failure hangs on: it comes where a server has several requests at once, and not where it has the "
        "same ones one at a time"
    ),
    "contrast": "in how many of the cases that show an operation it fails, and what only those have in common",
    "diagnosis, likely": (
        "the known fault that the failing values bear out, with how much of them it explains; or what they are "
        "right for"
    ),
    "drawn": "made from a seed and not stored; `--seed` repeats it",
    "end to end": (
        "the check of the whole run from the tokens, along the port's own choice of experts: its errors are held "
        "to those of the oracle rerun with modelled noise"
    ),
    "evidence": "what a candidate showed in one case: its usable taps, and what is wrong with the others",
    "exact": "the float64 oracle's value, from the port's own inputs where it shows them",
    "exhibit": "one answered case as all checks are given it: preset, case, evidence, exact weights, ways",
    "expected": "the golden value, which stored cases have",
    "expert slot": "where a token stands among those of its expert in one call; a padded one counts pads too",
    "fault": "a row of the table of what ports really got wrong",
    "fence": "how far one element may honestly stray from exact; part of the noise model, never widened for a port",
    "flip": "a token that the port sends to other experts than the exact scores would; excused only near a tie",
    "follows": "that an earlier operation shows the same fault, so that one change should mend both",
    "gain": "what all errors of a tap have in common as a factor: every value is off by the same share of itself",
    "golden": "stored values that the canonical model gave, known by their digests",
    "hangs on, cause": (
        "what sets a run of a case that fails apart from one that passes: tapping, history, randomness, memory or "
        "concurrency"
    ),
    "hidden": "of a tap: the candidate does not give it; operations around hidden taps are checked as one segment",
    "history": (
        "what a failure hangs on: what the process was asked before; a fresh one that is asked the same repeats it"
    ),
    "honest, honest rounding": (
        "what a port may err that computes right: the roundings of its dtypes, and sums in any order"
    ),
    "in common, systematic": (
        "what all errors of a tap share, such as a factor or an offset, too small to show in any one of them"
    ),
    "job": "the folder with what a candidate is asked",
    "kept": (
        "that a layout differs and nothing else: the logits agree end to end, so that the port computes the same "
        "function"
    ),
    "known deviation": "what an engine is known to do otherwise, and may: a waiver says so",
    "known to be unsupported": "a case that the candidate may decline and does: it does not count",
    "ladder, rung": "drawn models in which one size stands at a border of tiles or blocks; `run --ladder`",
    "law": "what must hold for every model and any weights, so that no golden is needed",
    "left open": (
        "of a case: every compared token hangs on a hidden choice of experts, and most other cases are decided; "
        "it does not count"
    ),
    "level": "how much a candidate shows: logits, routes, layers or caches; a pass names it",
    "mark": "what a known fault does to all values together, found where taps are hidden and no single value shows it",
    "measured / allowed, ratio": (
        "the largest of what is measured of a tap, as a share of what is allowed: beyond 1 it fails"
    ),
    "memory": (
        "what a failure hangs on: the port gives the golden values of a stored case, and wrong ones for other tokens"
    ),
    "mutant": "an implementation with one fault put in on purpose",
    "narrowed": "of a run: restricted to some operations or layers, so that its verdict says nothing of the rest",
    "note": "what else was seen at a tap, such as values on the grid of a narrower dtype; it fails nothing by itself",
    "null": "an impostor, such as a port that returns noise, which must never pass",
    "observed": "the candidate's value",
    "operation, row": "one step of the model: a tap made from other taps and weights by a float64 function",
    "oracle": "the graph in float64, written from the specification and not from `reference/`",
    "power": "the chance that a run sees a fault, known before it begins",
    "preset": "a configuration and its weights",
    "probe": "a small model drawn so that the logits alone show what an engine does; `--case 'probe_*'`",
    "problem": "what is wrong with a tap without a ratio: its shape, values that are not finite, a choice of experts",
    "published quirk, quirks": (
        "something odd that the published model does with pads inside a prompt, or decoded, which no engine is "
        "used for; a port that does otherwise in the rows that hold it is told so, and fails only where "
        "`--require NAME:quirks` asks for it"
    ),
    "randomness": (
        "what a failure hangs on: nothing that is known; a fresh process that is asked the same gives other values"
    ),
    "reading": (
        "what a consumer really used of an input: the tap as shown (rounded), carried, computed again in float32, or "
        "unknown (recorded)"
    ),
    "redrawn": "of a drawn case: a stored one with other tokens",
    "repeatable": "of a candidate: its further runs gave the same bits; otherwise they are judged as the first one is",
    "reproduce": "the command that shows a failure again, and nothing else",
    "rerun, further run": (
        "the same calls of a case once more, in a way that must not matter: at once, with less tapped, after all others"
    ),
    "resembles": "the nearest known fault to failing values that no known fault explains",
    "reused": (
        "of a verdict: that of an earlier run, at most 12 hours old, on what that one drew: nothing that it depends on "
        "has changed since"
    ),
    "reweighted": "of a drawn case: a stored one with other weights, and other tokens too",
    "rounds elsewhere": "of an operation: right, in a rounding plan other than the published one",
    "seen": "of a known fault: a run would find it, with a chance of one half at least",
    "segment": "operations around hidden taps, which are checked as one",
    "shown": "of a tap: the candidate gives it",
    "slack": "how uncertain the scores are by which a choice of experts is judged: within it a tie may fall either way",
    "standard errors": (
        "how many times its own uncertainty it is that errors have in common; chance alone stays below what is allowed"
    ),
    "sweep": "a drawn model and a few requests to it, which cross many borders at once; `--case 'sweep_*'`",
    "tail": "the one error of a tap that is farthest out, as a share of its fence",
    "tap": "a named value inside the model, such as `layers.03.router.logits`",
    "tapping": "what a failure hangs on: it comes with all taps recorded or with fewer, and not with the others",
    "tie, near-tie": "scores of experts that are equal, or nearer to one another than honest rounding",
    "trigger": "the circumstances in which a fault shows: a long context, padding, a second call, a full cache",
    "waiver": "the file that accepts known deviations, each exactly as it is, with a reason and a date",
    "way, plan": (
        "how a port computes an operation: its alternative and readings, one for all data of a compute dtype and "
        "form of the weights, or for small calls and for larger ones, always reported"
    ),
    "where": "what the places have in common at which values are wrong",
    "worst at": "the place of the one value that is farthest beyond its fence, by the indices of the tap's axes",
    "wrong": "in the place of a ratio: no fence can be put to what is shown, such as another shape; `problem` says why",
    "wrong at": "at which operations values are beyond their fences, where no known fault is likely",
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


def plain_form(name: str) -> str:
    """Return a name in small letters, with spaces for hyphens and underscores, and every word in the singular."""
    return " ".join(map(singular, re.split(r"[\s_-]+", name.strip().lower())))


def singular(word: str) -> str:
    """Return what the singular and the plural of a word have in common; other words may lose a letter as well."""
    for ending, other in (("sses", "ss"), ("ss", "ss"), ("ies", "i"), ("ie", "i"), ("y", "i"), ("s", "")):
        if word.endswith(ending):
            return word.removesuffix(ending) + other
    return word


def as_known(name: str, known: Iterable[str]) -> str:
    """Return the known name that a name spells otherwise, the name itself where none does."""
    known = list(known)
    spelt = {plain_form(other): other for other in reversed(known)}
    return name if name in known else spelt.get(plain_form(name), name)
