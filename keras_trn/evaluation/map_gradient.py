"""Measures whether the tape sees a gradient map move as it does."""

import dataclasses
import itertools

import numpy as np

from keras_trn.graphs import compile_function
from keras_trn.logits import logits_function

# Few images and directions are enough, as each pair of them gives a slope of its own.
PROBED_IMAGES = 8
_DIRECTIONS = 3
# Lengths of a step. Long steps meet the kinks of ReLU, short ones drown in float32's rounding. The
# first of them suits most classifiers, and is mostly the only one that is tried.
_STEPS = (1e-4, 3e-5, 1e-5, 3e-4, 1e-3, 3e-3, 1e-2)
# Share of a measured slope that the tape may miss. Of a hundred measurements of right gradients
# it missed at most 0.13, and of hidden ones at least 0.35.
_MOST_MISSED = 0.2
# Once the tape misses no more than this, other lengths of a step are not tried.
_AGREEMENT = 0.1
# Kinks and rounding change with the length of the step, by more than this share of the slope.
_SETTLED = 0.2
# What rounding makes of a map that has a root mean square of 1, looked at in one direction.
_ROUNDING = 1e-6
# A map that moves more slowly stands still for an attacker.
_SMALLEST_SLOPE = 1e-3


@dataclasses.dataclass(frozen=True)
class MapMotion:
    """How fast a gradient map moves along some directions, measured in two ways.

    Args:
        missed: Share of the slopes that the tape misses; `None` where finite differences do
            not settle, so that nothing is known.
        measured: Slope by finite differences, the median over images and directions.
        differentiated: The same by the tape.
    """

    missed: float | None
    measured: float
    differentiated: float

    @property
    def is_seen(self):
        """Whether the tape sees the map move, as far as finite differences can tell."""
        return self.missed is None or self.missed <= _MOST_MISSED

    def __str__(self):
        return (
            f"the gradient map moves at a rate of {self.measured:.3g} by finite differences, and "
            f"of {self.differentiated:.3g} by the tape"
        )


def measure_map_motion(defence, map_slopes, images, seed=0):
    """Compares the slopes of a gradient map by the tape with finite differences.

    Where an operation of the classifier hides the gradient of its gradient, the map looks
    constant to whoever differentiates it, and `whitebox_full` does less than its name says.

    The images are moved along gradients of random combinations of the logits, and the map is
    looked at along others: where an attacker moves images, and where the map moves fastest.
    A classifier with ReLU has kinks, at which finite differences jump and the tape does not.
    The shorter the step, the fewer images meet one. So the median over images and directions
    is taken, for several lengths of a step, and the length counts at which both agree best.
    Where they agree at none, the tape is to blame only if finite differences agree with each
    other.

    Args:
        defence: A `RestoredClassifier` with a gradient map.
        map_slopes: Its `keras_trn.threat_models.MapSlopes`.
        images: Array of images of shape `(number, height, width, channels)` in [0, 1].
        seed: Whole number that fixes the directions.

    Returns:
        A `MapMotion`: of all parts of the map, that of which the tape misses most.
    """
    generator = np.random.default_rng(seed)
    images = _generic(images[:PROBED_IMAGES], generator)
    vjp = compile_function(_vjp(defence.classifier))

    def random_gradients():
        directions = generator.normal(size=(len(images), defence.num_classes))
        return _normalized(vjp(images, directions.astype("float32")).numpy())

    probes = [
        _Probe(map_slopes, images, random_gradients(), random_gradients())
        for _ in range(_DIRECTIONS)
    ]
    parts = [_motion(probes, part) for part in range(len(probes[0].slopes))]
    return max(parts, key=lambda motion: -1.0 if motion.missed is None else motion.missed)


def obstacle(threat_model, defence, images, remember=None):
    """Says why a threat model cannot be run in full on a defence.

    `whitebox_full` differentiates a gradient map. TensorFlow may not be able to, or may do it
    and miss most of how the map moves, which only a measurement tells.

    Args:
        threat_model: A `keras_trn.threat_models.ThreatModel` that applies to the defence.
        defence: A Keras model from images to logits.
        images: Array of images of shape `(number, height, width, channels)` in [0, 1].
        remember: Function that is given the measurement, a function without arguments, and
            returns its result, of now or of an earlier time.

    Returns:
        A sentence without its full stop; `None` if nothing is in the way.
    """
    reason = threat_model.obstacle(defence)
    slopes = getattr(threat_model, "map_slopes", lambda defence: None)(defence)
    if reason is not None or slopes is None:
        return reason

    def measure():
        return dataclasses.asdict(measure_map_motion(defence, slopes, images))

    motion = MapMotion(**(measure() if remember is None else remember(measure)))
    if motion.is_seen:
        return None
    return f"an operation of its classifier hides the gradient of its gradient ({motion})"


class _Probe:
    """One direction for each image, and the slopes of each part of the map along it."""

    def __init__(self, map_slopes, images, direction, weights):
        self._maps = map_slopes.maps
        self._images = images
        self._direction = direction
        self._weights = _of_each_part(weights, self._maps(images).shape[-1])
        self.slopes = [map_slopes.slopes(images, weights).numpy() for weights in self._weights]
        self._moves = {}

    def compare(self, part, step):
        """Measures the slope of a part of the map by finite differences, and by the tape.

        Args:
            part: Number of the part.
            step: Length of the step.

        Returns:
            Two arrays of shape `(number of images,)`.
        """
        if step not in self._moves:
            ahead, back = (self._images + sign * step * self._direction for sign in (1, -1))
            # What is left of the step after rounding; short ones lose much of their direction.
            moved = ahead.astype("float64") - back
            map_moved = self._maps(ahead).numpy().astype("float64") - self._maps(back).numpy()
            self._moves[step] = (moved, map_moved)
        moved, map_moved = self._moves[step]
        measured = np.sum(self._weights[part] * map_moved, axis=(1, 2, 3)) / (2 * step)
        differentiated = np.sum(self.slopes[part] * moved, axis=(1, 2, 3)) / (2 * step)
        return measured, differentiated


def _motion(probes, part):
    """How a part of the map moves, at the length of a step at which both ways agree best."""
    found, differences = [], {}
    for step in _STEPS:
        pairs = [probe.compare(part, step) for probe in probes]
        measured, differentiated = (np.concatenate(slopes) for slopes in zip(*pairs, strict=True))
        sizes = [float(np.median(np.abs(slopes))) for slopes in (measured, differentiated)]
        if max(sizes) > _SMALLEST_SLOPE + _ROUNDING / step:
            differences[step] = (measured - differentiated) / max(sizes)
            missed = float(np.median(np.abs(differences[step])))
            found.append(MapMotion(missed, *sizes))
            if missed <= _AGREEMENT:
                return found[-1]
    if not found:
        return MapMotion(0.0, 0.0, 0.0)
    best = min(found, key=lambda motion: motion.missed)
    is_known = best.is_seen or _have_settled(differences)
    return best if is_known else dataclasses.replace(best, missed=None)


def _have_settled(differences):
    """Whether two neighbouring lengths of a step tell the same of what the tape misses."""
    neighbours = itertools.pairwise(sorted(differences))
    changes = [np.abs(differences[long] - differences[short]) for short, long in neighbours]
    return any(np.median(change) <= _SETTLED for change in changes)


def _vjp(classifier):
    logits = logits_function(classifier)

    def gradient(images, direction):
        _, vjp = logits.with_vjp(images)
        return vjp(direction)

    return gradient


def _generic(images, generator):
    """Images without the many equal pixels of real ones, at which maxima have kinks."""
    images = np.asarray(images, "float32")
    noise = generator.uniform(-0.05, 0.05, images.shape)
    return (0.1 + 0.8 * images + noise).astype("float32")


def _normalized(gradients):
    """Gradients of length 1 for each image; one that vanishes stays zero."""
    gradients = gradients.astype("float64")
    length = np.sqrt(np.sum(gradients**2, axis=(1, 2, 3), keepdims=True))
    return (gradients / np.where(length == 0, 1.0, length)).astype("float32")


def _of_each_part(weights, channels):
    """Weights that look at one part of the map each, of as many channels as the image has."""
    size = weights.shape[-1]
    parts = []
    for start in range(0, channels, size):
        of_part = np.zeros((*weights.shape[:-1], channels), "float32")
        part = of_part[..., start : start + size]
        part[...] = weights[..., : part.shape[-1]]
        parts.append(of_part)
    return parts
