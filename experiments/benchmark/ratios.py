"""Ratios of times that were taken in turn."""

from collections.abc import Mapping

import numpy as np

Seconds = Mapping[str, list[float]]


def ratio(seconds: Seconds, name: str, over: str) -> float:
    """Returns how many times as long one function takes as another: the median over all turns.

    Both functions of a turn meet the same load of the machine, so it cancels out.
    """
    return round(float(np.median(np.divide(seconds[name], seconds[over]))), 3)


def median(values: list[float]) -> float:
    """Returns the median, to four digits."""
    return float(f"{np.median(values):.4g}")


def medians(seconds: Seconds) -> dict[str, float]:
    """Returns the median seconds of each function."""
    return {name: median(values) for name, values in seconds.items()}
