"""Compares the derivative of a gradient map with finite differences."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_trn.graphs import compile_function
from keras_trn.logits import logits_function
from keras_trn.map_derivative import MapDerivative
from keras_trn.threat_models import ThreatModel
from keras_trn.types import ArrayLike

# A few images and directions are enough, because each pair gives its own slope.
PROBED_IMAGES = 8
_DIRECTIONS = 3
# Long steps cross the kinks of ReLU, and rounding dominates short ones. The first length suits
# most classifiers.
_STEPS = (1e-4, 3e-5, 1e-5, 3e-4, 1e-3, 3e-3, 1e-2)
# In a hundred measurements, correct derivatives missed at most 0.13 of a slope, and hidden ones
# at least 0.35.
_MAX_MISSED = 0.2
# The search for a step length ends once the derivative misses no more than this.
_AGREEMENT = 0.1
# Errors from kinks and rounding change with the step length by more than this share of the slope.
_SETTLED = 0.2
# The rounding error along one direction, for a map with a root mean square of 1.
_ROUNDING = 1e-6
# An attacker cannot use a map that changes more slowly than this.
_SMALLEST_SLOPE = 1e-3

# Runs a measurement, or returns its stored result.
Remember = Callable[[Callable[[], dict[str, Any]]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class MapSlopes:
    """Holds the median slope of a gradient map, by finite differences and by its derivative."""

    # The share that the derivative misses; `None` if finite differences do not converge.
    missed: float | None
    numerical: float
    automatic: float

    @property
    def is_complete(self) -> bool:
        """Tells whether the derivative is complete, as far as finite differences show."""
        return self.missed is None or self.missed <= _MAX_MISSED

    def __str__(self) -> str:
        return (
            f"the gradient map changes at a rate of {self.numerical:.3g} by finite differences, "
            f"and of {self.automatic:.3g} by automatic differentiation"
        )


def unsupported_reason(
    threat_model: ThreatModel,
    defence: keras.Model,
    images: ArrayLike,
    remember: Remember | None = None,
) -> str | None:
    """Tells why a threat model cannot run in full, without a full stop; `None` if it can.

    TensorFlow may be unable to differentiate a gradient map, or may miss most of its slope. Only
    a measurement on a few images reveals the latter; `remember` may return a stored one.
    """
    slopes = measure_once(threat_model, defence, images, remember)
    if slopes is None or slopes.is_complete:
        return threat_model.unsupported_reason(defence)
    return f"an operation of its classifier hides the gradient of its gradient ({slopes})"


def measure_once(
    threat_model: ThreatModel,
    defence: keras.Model,
    images: ArrayLike,
    remember: Remember | None = None,
) -> MapSlopes | None:
    """Returns the slopes of the map that a threat model differentiates; `None` without one."""
    derivative = getattr(threat_model, "map_derivative", lambda defence: None)(defence)
    if derivative is None or threat_model.unsupported_reason(defence) is not None:
        return None
    if derivative.measured is None:

        def measure() -> dict[str, Any]:
            return dataclasses.asdict(measure_slopes(defence, derivative, images))

        derivative.measured = MapSlopes(**(remember(measure) if remember else measure()))
    return derivative.measured


def measure_slopes(defence: keras.Model, derivative: MapDerivative, images: ArrayLike) -> MapSlopes:
    """Measures the slopes of a gradient map by finite differences and by its derivative.

    It moves images along gradients of random combinations of the logits, and projects the map on
    others. Attackers move images in these directions, and maps change fastest along them. It picks
    the step length at which both methods agree best, because short steps cross few kinks of ReLU.
    If they never agree, it blames the derivative only if finite differences agree with each other.
    """
    generator = np.random.default_rng(0)
    probed = _without_equal_pixels(images[:PROBED_IMAGES], generator)
    logits = logits_function(defence.classifier)
    vjp = compile_function(lambda images, direction: logits.with_vjp(images)[1](direction))

    def random_gradients() -> np.ndarray:
        directions = generator.normal(size=(len(probed), defence.num_classes))
        return _normalized(vjp(probed, directions.astype("float32")).numpy())

    probes = [
        _Probe(derivative, probed, random_gradients(), random_gradients())
        for _ in range(_DIRECTIONS)
    ]
    parts = [_slopes(probes, part) for part in range(len(probes[0].derivatives))]
    return max(parts, key=lambda slopes: -1.0 if slopes.missed is None else slopes.missed)


class _Probe:
    """Measures the slopes of each part of the map along one direction per image."""

    def __init__(
        self,
        derivative: MapDerivative,
        images: np.ndarray,
        direction: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        self._maps, self._images, self._direction = derivative.maps, images, direction
        self._weights = _for_each_part(weights, self._maps(images).shape[-1])
        self.derivatives = [derivative.vjp(images, weights).numpy() for weights in self._weights]
        self._differences: dict[float, tuple[np.ndarray, np.ndarray]] = {}

    def compare(self, part: int, step: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numerical and the automatic slope of a part for each image."""
        if step not in self._differences:
            ahead, back = (self._images + sign * step * self._direction for sign in (1, -1))
            # The step after rounding, which changes the direction of short steps a lot.
            moved = ahead.astype("float64") - back
            change = self._maps(ahead).numpy().astype("float64") - self._maps(back).numpy()
            self._differences[step] = (moved, change)
        moved, change = self._differences[step]
        numerical = np.sum(self._weights[part] * change, axis=(1, 2, 3)) / (2 * step)
        automatic = np.sum(self.derivatives[part] * moved, axis=(1, 2, 3)) / (2 * step)
        return numerical, automatic


def _slopes(probes: list[_Probe], part: int) -> MapSlopes:
    """Returns the slopes of a part at the step length at which both methods agree best."""
    found, differences = [], {}
    for step in _STEPS:
        pairs = [probe.compare(part, step) for probe in probes]
        numerical, automatic = (np.concatenate(slopes) for slopes in zip(*pairs, strict=True))
        medians = [float(np.median(np.abs(slopes))) for slopes in (numerical, automatic)]
        if max(medians) > _SMALLEST_SLOPE + _ROUNDING / step:
            differences[step] = (numerical - automatic) / max(medians)
            missed = float(np.median(np.abs(differences[step])))
            found.append(MapSlopes(missed, *medians))
            if missed <= _AGREEMENT:
                return found[-1]
    if not found:
        return MapSlopes(0.0, 0.0, 0.0)
    best = min(found, key=lambda slopes: slopes.missed or 0.0)
    is_known = best.is_complete or _have_settled(differences)
    return best if is_known else dataclasses.replace(best, missed=None)


def _have_settled(differences: dict[float, np.ndarray]) -> bool:
    """Tells whether two neighbouring step lengths give the same result."""
    neighbours = itertools.pairwise(sorted(differences))
    changes = [np.abs(differences[long] - differences[short]) for short, long in neighbours]
    return any(np.median(change) <= _SETTLED for change in changes)


def _without_equal_pixels(images: ArrayLike, generator: np.random.Generator) -> np.ndarray:
    """Adds noise, because maxima over the many equal pixels of real images have kinks."""
    images = np.asarray(images, "float32")
    noise = generator.uniform(-0.05, 0.05, images.shape)
    return (0.1 + 0.8 * images + noise).astype("float32")


def _normalized(gradients: np.ndarray) -> np.ndarray:
    """Scales the gradient of each image to length 1; a gradient of zero stays zero."""
    gradients = gradients.astype("float64")
    length = np.sqrt(np.sum(gradients**2, axis=(1, 2, 3), keepdims=True))
    return (gradients / np.where(length == 0, 1.0, length)).astype("float32")


def _for_each_part(weights: np.ndarray, channels: int) -> list[np.ndarray]:
    """Returns weights for each part of the map; a part has as many channels as the image."""
    size, parts = weights.shape[-1], []
    for start in range(0, channels, size):
        weights_of_part: Any = np.zeros((*weights.shape[:-1], channels), "float32")
        part = weights_of_part[..., start : start + size]
        part[...] = weights[..., : part.shape[-1]]
        parts.append(weights_of_part)
    return parts
