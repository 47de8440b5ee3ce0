"""Where in the data an operation fails, in one line: a small search over what its failing values have in common.

A place is told only if it holds nearly all failing values. It holds nearly no others, or it is said that not all of it
fails, and then it is a small part of the data; where there is none, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.diagnosis.features import features_of
from grok_conformance.harness.diagnosis.shown_tap import ShownTap

MISSED = 0.005
"""Share of the failing values that a place may leave out."""

PURE = 0.9
"""Share of a place's values, or of its tokens, that must fail."""

DENSE = 0.25
"""Share of a place's values that must fail where it is told by its tokens."""

LARGEST_LIST = 4
"""Values of a feature that are listed one by one."""

MAX_FEATURES = 3
"""A place is told by no more features than these."""

CHANCE = 1e-3
"""How likely so many failing values may share a feature by chance, for it to be told."""

LARGEST_PART = 0.5
"""Share of the values that a place of which not all fails may be, to be worth telling."""

NEAR = 3.0
"""Deviations within which a value is taken to be right: it counts against a place."""

LEAST_GAIN = 1e-3
"""By how much a feature must make a place purer to be told."""

NEARLY = 0.98
"""Share of the largest gain by which a feature is as good, and a plainer one is told."""

MAX_ELEMENTS = 200_000
"""Values of one tap that are looked at; of those that are right every n-th."""


@dataclass(frozen=True)
class Place:
    """Where values fail: in words, and by feature which of its values; `partly` where not all of it fails."""

    words: str = ""
    features: dict[str, tuple[int, ...]] = field(default_factory=dict)
    partly: bool = False


@dataclass(frozen=True)
class Pooled:
    """The compared elements of some taps: whether each fails or is right, its weight, its token, its features [n].

    A feature that some tap does not have is -1 there.
    """

    wrong: Array
    right: Array
    weight: Array
    token: Array
    features: dict[str, Array]
    nouns: dict[str, str]
    words: dict[str, tuple[str, ...]]
    tokenwise: frozenset[str]


def place_of(taps: Sequence[ShownTap]) -> Place:
    """Return where some taps of one operation fail; an empty place where they fail throughout, or nothing is clear."""
    pooled = pool(taps)
    if not pooled.wrong.any():
        return Place()
    return search(pooled)


def inside(shown: ShownTap, place: Place) -> Array:
    """Return which elements of a tap lie in a place, bool of its shape; none where it lacks a feature."""
    found = np.ones(shown.observed.shape, bool)
    features = {feature.name: feature.values for feature in features_of(shown)}
    for name, kept in place.features.items():
        found &= np.isin(features[name], kept) if name in features else False
    return found


def pool(taps: Sequence[ShownTap]) -> Pooled:
    """Gather the compared elements of some taps; zeros that are right tell nothing, a fault may leave them so."""
    parts: dict[str, list[Array]] = {"wrong": [], "right": [], "weight": [], "token": []}
    found: list[dict[str, Array]] = []
    nouns: dict[str, str] = {}
    words: dict[str, tuple[str, ...]] = {}
    tokenwise: set[str] = set()
    num_tokens = 0
    for shown in taps:
        silent = (shown.exact == 0) & (shown.observed == 0)
        used = np.flatnonzero(shown.compared & ~silent)
        wrong = shown.wrong.ravel()[used]
        step = max(1, len(used) // MAX_ELEMENTS)
        kept = wrong | (np.arange(len(used)) % step == 0)
        used, wrong = used[kept], wrong[kept]
        error = np.abs(shown.observed.ravel()[used] - shown.exact.ravel()[used])
        parts["wrong"].append(wrong)
        parts["right"].append(error <= NEAR * shown.deviation.ravel()[used])
        parts["weight"].append(np.where(wrong, 1.0, float(step)))
        token = tokens_of(shown)
        parts["token"].append(np.broadcast_to(token, shown.observed.shape).ravel()[used] + num_tokens)
        num_tokens += int(token.max(initial=0)) + 1
        own = {}
        for feature in features_of(shown):
            own[feature.name] = np.broadcast_to(feature.values, shown.observed.shape).ravel()[used]
            nouns[feature.name], words[feature.name] = feature.noun, feature.words
            if feature.tokenwise:
                tokenwise.add(feature.name)
        found.append(own)
    sizes = [len(x) for x in parts["wrong"]]
    features = {
        name: np.concatenate([own.get(name, np.full(size, -1)) for own, size in zip(found, sizes, strict=True)])
        for name in nouns
    }
    joined = {name: np.concatenate(each) if each else np.zeros(0) for name, each in parts.items()}
    return Pooled(
        joined["wrong"].astype(bool), joined["right"].astype(bool), joined["weight"], joined["token"].astype(np.int64),
        features, nouns, words, frozenset(tokenwise),
    )  # fmt: skip


def tokens_of(shown: ShownTap) -> Array:
    """Return which token, or slot of a cache, an element belongs to: integers that broadcast to the tap's shape."""
    letters = [axis for axis in shown.axes if axis in ("b", "t") or (axis == "s" and "t" not in shown.axes)]
    sizes = [shown.observed.shape[shown.axes.index(axis)] for axis in letters]
    numbers = np.arange(int(np.prod(sizes))).reshape(sizes)
    return numbers.reshape([sizes[letters.index(axis)] if axis in letters else 1 for axis in shown.axes])


@dataclass(frozen=True)
class Narrowing:
    """A feature by which a place may be narrowed: the values that fail, in words, and how much purer it becomes."""

    name: str
    kept: tuple[int, ...]
    phrase: str
    gain: float


def narrowings(pooled: Pooled, inside: Array, chosen: dict[str, tuple[int, ...]]) -> Iterator[Narrowing]:
    """Yield every feature by which a place may be narrowed further."""
    before = purity(pooled, inside)
    for name, values in pooled.features.items():
        if name in chosen or told_already(name, chosen):
            continue
        kept = values_of(values[inside], pooled.wrong[inside], pooled.weight[inside])
        if phrase := phrase_of(pooled, name, kept, values):
            yield Narrowing(name, kept, phrase, purity(pooled, inside & among(values, kept)) - before)


def search(pooled: Pooled) -> Place:
    """Narrow the place by one feature after another, the one first that leaves out most of what is right."""
    inside = np.ones(len(pooled.wrong), bool)
    chosen: dict[str, tuple[int, ...]] = {}
    told: list[str] = []
    while len(chosen) < MAX_FEATURES and not holds(pooled, inside, chosen):
        steps = [each for each in narrowings(pooled, inside, chosen) if each.gain > LEAST_GAIN]
        if not steps:
            break
        most = max(each.gain for each in steps)
        best = min((each for each in steps if each.gain >= NEARLY * most), key=lambda each: len(each.kept) > 1)
        inside = inside & among(pooled.features[best.name], best.kept)
        chosen[best.name] = best.kept
        told.append(best.phrase)
    if chosen and holds(pooled, inside, chosen):
        return Place("only " + ", ".join(told), chosen)
    part = float(pooled.weight[inside].sum() / pooled.weight.sum())
    return Place(f"only {', '.join(told)}, but not all of it", chosen, partly=True) if part <= LARGEST_PART else Place()


def told_already(name: str, chosen: dict[str, tuple[int, ...]]) -> bool:
    """Return whether a feature is another view of an axis by which the place is told."""
    return any(name.rpartition(" ")[2] == other.rpartition(" ")[2] for other in chosen)


def purity(pooled: Pooled, inside: Array) -> float:
    """Return the share of the values of a place that fail, those that are neither right nor failing left out."""
    wrong = float(pooled.weight[inside & pooled.wrong].sum())
    right = float(pooled.weight[inside & pooled.right].sum())
    return wrong / (wrong + right) if wrong + right else 0.0


def holds(pooled: Pooled, inside: Array, chosen: dict[str, tuple[int, ...]]) -> bool:
    """Return whether a place holds little but what fails.

    Of a place told by tokens alone it is enough that nearly all its tokens fail, each in a good part of its values.
    """
    pure = purity(pooled, inside)
    if pure >= PURE or not chosen:
        return pure >= PURE
    if pure < DENSE or not set(chosen) <= pooled.tokenwise:
        return False
    tokens = np.unique(pooled.token[inside])
    wrong = np.unique(pooled.token[inside & pooled.wrong])
    return len(wrong) >= PURE * len(tokens)


def values_of(values: Array, wrong: Array, weight: Array) -> tuple[int, ...]:
    """Return the values of a feature at which something fails, the few stray ones left out."""
    counts = np.bincount(values[wrong] + 1, weights=weight[wrong])  # the first is that of -1
    order = np.argsort(counts)
    stray = order[np.cumsum(counts[order]) <= MISSED * counts.sum()]
    counts[stray] = 0
    return tuple(int(x) - 1 for x in np.flatnonzero(counts))


def among(values: Array, kept: tuple[int, ...]) -> Array:
    """Return which values are among some, bool [n]; a table, since there are many elements and few values."""
    table = np.zeros(int(values.max(initial=0)) + 2, bool)
    table[np.array(kept) + 1] = True
    return np.asarray(table[values + 1])


def phrase_of(pooled: Pooled, name: str, kept: tuple[int, ...], values: Array) -> str:
    """Return some values of a feature in words, an empty string where they are no place: all of them, or no pattern."""
    every = (np.flatnonzero(np.bincount(values + 1)) - 1).tolist()
    if len(kept) == len(every) or -1 in kept:
        return ""
    share = float(pooled.weight[among(values, kept)].sum() / pooled.weight.sum())
    if share ** int(min(pooled.wrong.sum(), 1000)) > CHANCE:
        return ""
    if pooled.words[name]:
        return " and ".join(pooled.words[name][value] for value in kept)
    return count_words(pooled.nouns[name], kept, every)


def count_words(noun: str, kept: tuple[int, ...], every: list[int]) -> str:
    """Return some of all values of something countable in words, an empty string where they follow no pattern."""
    first, last = kept[0], kept[-1]
    span = [x for x in every if first <= x <= last]
    head, _, tail = noun.partition(" of ") if " of " in noun else noun.partition(" with ")
    joint = " of " if " of " in noun else " with "
    if len(kept) == 1:
        text = f"{first}"
    elif list(kept) == span:
        text = f"{first} or more" if last == every[-1] and tail else f"{last} or fewer" if tail else f"{first}–{last}"
        text = f"{first}–{last}" if tail and first != every[0] and last != every[-1] else text
    elif len(kept) <= LARGEST_LIST:
        text = ", ".join(map(str, kept[:-1])) + f" and {last}"
    elif steady(kept, every):
        text = f"{first}, {kept[1]}, … {last}"
    else:
        return ""
    if tail:
        return f"{head}{joint}{text} {tail if text != '1' else tail.removesuffix('s')}"
    return f"{noun}{'s' if len(kept) > 1 else ''} {text}"


def steady(kept: tuple[int, ...], every: list[int]) -> bool:
    """Return whether values are all that there are at equal distances."""
    step = kept[1] - kept[0]
    return list(kept) == [x for x in every if x >= kept[0] and (x - kept[0]) % step == 0]
