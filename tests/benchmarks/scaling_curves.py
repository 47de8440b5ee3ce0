"""Measured curves over extents, and the power law that fits one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """The seconds of what was `measured` at every extent of an axis, from the least to the largest."""

    axis: str
    measured: str
    extents: tuple[int, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class PowerLaw:
    """Seconds that grow as an extent to the power of `exponent`, with the standard error of the fit."""

    exponent: float
    standard_error: float

    def __str__(self) -> str:
        """Return both figures."""
        return f"{self.exponent:.2f} ± {self.standard_error:.2f}"


def power_law(curve: Curve) -> PowerLaw:
    """Fit a line to the logarithms by least squares; raises ValueError for fewer than three points."""
    if len(curve.extents) < 3:
        raise ValueError(f"{curve.measured} over {curve.axis}: a slope with an error needs three points")
    x, y = np.log(curve.extents), np.log(curve.seconds)
    across = x - x.mean()
    slope = float(across @ y / (across @ across))
    left = y - y.mean() - slope * across
    return PowerLaw(slope, math.sqrt(float(left @ left) / (len(x) - 2) / float(across @ across)))


def last_exponent(curve: Curve) -> float:
    """Return the exponent from the last extent but one to the largest."""
    (x0, x1), (y0, y1) = curve.extents[-2:], curve.seconds[-2:]
    return math.log(y1 / y0) / math.log(x1 / x0)
