"""Measured / allowed in words, as every report and reason tells it."""

from __future__ import annotations

import math

MILLION = 1e6


def number_of(number: int, things: str) -> str:
    """Return a number with what it counts, given in the plural, in the singular where it is one."""
    return f"{number:,} {things.removesuffix('s') if number == 1 else things}"


def times(ratio: float) -> str:
    """Return measured / allowed as a person reads it: three digits, then thousands, then no digits at all."""
    if not math.isfinite(ratio):
        return "∞"
    if ratio >= MILLION:
        return "> million"
    if ratio >= 1000:  # noqa: PLR2004 - from here on two digits are enough
        return f"{float(f'{ratio:.2g}'):,.0f}"
    return f"{ratio:.3g}" if ratio >= 0.001 or not ratio else "< 0.001"  # noqa: PLR2004 - no exponents
