"""Taps: named values inside the model, shown without changing it. Their contract is golden/schema/taps.json."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

import jax

from grok_conformance.reference.config import LanguageModelConfig

_ATTENTION = (
    "attention.norm",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.query_rotated",
    "attention.key_rotated",
    "kv.keys",
    "kv.values",
    "attention.logits",
    "attention.weights",
    "attention.heads",
    "attention.output",
    "attention.output_norm",
    "attention.residual",
)
_EXPERTS = (
    "router.logits",
    "router.probabilities",
    "moe.expert_index",
    "moe.expert_gate",
    "moe.expert_activation",
    "moe.expert_up",
    "moe.expert_hidden",
    "moe.expert_output",
)
_DENSE = ("dense.activation", "dense.up", "dense.hidden")


def tap_names(config: LanguageModelConfig) -> tuple[str, ...]:
    """Return every tap of a configuration, in the order in which the forward pass makes them."""
    block = _DENSE if config.model.dense else _EXPERTS
    in_layer = (*_ATTENTION, "moe.norm", *block, "moe.output", "moe.output_norm", "output")
    layers = (f"{_layer(i)}.{name}" for i in range(config.model.num_layers) for name in in_layer)
    return ("embedding", *layers, "final_norm", "logits")


def select_taps(config: LanguageModelConfig, patterns: Collection[str] | None) -> tuple[str, ...]:
    """Return the taps that match any of the glob patterns, in their order; None selects all.

    Raises ValueError naming a pattern that no tap of the configuration matches.
    """
    names = tap_names(config)
    if patterns is None:
        return names
    known, matched = frozenset(names), set[str]()
    for pattern in patterns:
        found = [pattern] if pattern in known else fnmatch.filter(names, pattern)
        if not found:
            raise ValueError(f"no tap matches {pattern!r}: names look like 'logits' and '{_layer(0)}.{_ATTENTION[0]}'")
        matched.update(found)
    return tuple(name for name in names if name in matched)


T = TypeVar("T")

_WANTED: ContextVar[frozenset[str]] = ContextVar("wanted", default=frozenset())
_COLLECTED: ContextVar[dict[str, jax.Array]] = ContextVar("collected")
_PREFIX: ContextVar[str] = ContextVar("prefix", default="")


@contextmanager
def _set(variable: ContextVar[T], value: T) -> Iterator[T]:
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


@contextmanager
def collect_taps(wanted: Collection[str]) -> Iterator[dict[str, jax.Array]]:
    """Collect the wanted taps of what is traced inside; the dictionary that this context gives fills up by name."""
    with _set(_WANTED, frozenset(wanted)), _set(_COLLECTED, {}) as collected:
        yield collected


def layer_taps(layer: int) -> AbstractContextManager[str]:
    """Name the taps of what is traced inside after a layer."""
    return _set(_PREFIX, f"{_layer(layer)}.")


def wanted(name: str) -> bool:
    """Whether a tap, named without its layer, is collected here."""
    return _PREFIX.get() + name in _WANTED.get()


def tap(name: str, value: jax.Array) -> jax.Array:
    """Return the value, and collect it if it is wanted; the name goes without its layer."""
    if wanted(name):
        _COLLECTED.get()[_PREFIX.get() + name] = value
    return value


def _layer(index: int) -> str:
    return f"layers.{index:02d}"
