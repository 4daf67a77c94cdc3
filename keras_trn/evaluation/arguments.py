"""Checks the arguments of `measure` and `evaluate` before any computation."""

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_trn import threat_models as known_threat_models
from keras_trn.attacks import Attack
from keras_trn.attacks import Mixture
from keras_trn.attacks import ProjectedGradientDescent
from keras_trn.attacks import auto_attack
from keras_trn.checked_model import CheckedModel
from keras_trn.classifier_interface import describe_classifier
from keras_trn.threat_models import ThreatModel
from keras_trn.types import ArrayLike
from keras_trn.types import ImageShape

_TEXT = (str, bytes)


def checked_attacks(attacks: Attack | Iterable[Attack]) -> list[Attack]:
    """Returns one or several attacks as a list of attacks with one epsilon each."""
    attacks = _as_list(attacks, Attack)
    for attack in attacks:
        if not isinstance(attack, Attack):
            raise ValueError(
                "attacks must be attacks of `keras_trn.attacks`, such as "
                f"`ProjectedGradientDescent(epsilon=8 / 255)`; received {attack!r}."
            )
        if isinstance(attack, Mixture):
            raise ValueError(
                "A mixture attacks different images with different attacks, so its accuracy "
                f"describes none of them. List its attacks instead: `attacks={attack.attacks!r}`."
            )
        if not attack.stays_in_ball:
            raise ValueError(
                f"{attack.name} leaves the ball of its epsilon, so use it only for training. "
                "Evaluate with another attack, such as `ProjectedGradientDescent`."
            )
        if isinstance(attack.epsilon, tuple):
            raise ValueError(
                f"{attack.name} draws its epsilon from {attack.epsilon}, but every result needs a "
                "single epsilon. Use `attack.with_largest_epsilon()`."
            )
        # Raises `TypeError` if `get_config` lacks settings that results depend on.
        attack.with_seed(attack.seed)
    return attacks


def attacks_or_default(
    attacks: Attack | Iterable[Attack] | None, epsilon: float | None, norm: str
) -> list[Attack]:
    """Returns the attacks to evaluate with: the given ones, or the default ones for epsilon."""
    if attacks is None and epsilon is not None:
        attacks = [ProjectedGradientDescent(epsilon, norm), auto_attack("fast", epsilon, norm)]
        return checked_attacks(attacks)
    given = [] if attacks is None else checked_attacks(attacks)
    if not given:
        raise ValueError(
            "There are no attacks to evaluate a defence with. Pass `epsilon=8 / 255` for the "
            "default ones, or `attacks=[keras_trn.attacks.ProjectedGradientDescent(8 / 255)]`."
        )
    if epsilon is not None:
        raise ValueError(
            f"Received attacks and epsilon={epsilon}, which is for the default attacks. Give each "
            "attack its own epsilon, or leave out `attacks`."
        )
    return given


def checked_epsilons(epsilons: ArrayLike | float, attacks: list[Attack]) -> list[float]:
    """Returns the extra epsilons of the first attack as a list of Python numbers."""
    epsilons = np.ravel(np.asarray(epsilons)).tolist()
    if epsilons and not attacks:
        raise ValueError(
            f"There is no attack to run at the epsilons {epsilons}: add one to `attacks`."
        )
    return [attacks[0].check_epsilon(epsilon) for epsilon in epsilons]


def as_threat_models(
    threat_models: ThreatModel | str | Iterable[ThreatModel | str],
) -> list[ThreatModel]:
    """Returns one or several threat models, or their names, as a list of threat models."""
    named = _as_list(threat_models, (str, ThreatModel))
    return [known_threat_models.get(threat_model) for threat_model in named]


def _as_list(values: Any, single: type | tuple[type, ...]) -> list[Any]:
    """Returns several values as a list; anything else becomes a list of one."""
    is_single = isinstance(values, (*_TEXT, type)) or not isinstance(values, Iterable)
    return [values] if is_single or isinstance(values, single) else list(values)


def describe_all(defences: Mapping[str, keras.Model]) -> tuple[ImageShape, int]:
    """Returns the image shape and the number of classes that all defences must share."""
    if not isinstance(defences, Mapping) or not all(isinstance(name, str) for name in defences):
        raise ValueError(
            "Models to measure must be a dictionary from names to Keras models, such as "
            f"`{{'bare': classifier}}`; received {defences!r}."
        )
    if not defences:
        raise ValueError("There is nothing to measure: `defences` is empty.")
    descriptions = {name: _describe(defence) for name, defence in defences.items()}
    first = next(iter(descriptions.values()))
    for name, description in descriptions.items():
        if description != first:
            raise ValueError(
                f"The defence {name!r} takes other images or knows other classes: {description}, "
                f"but the first defence has {first}."
            )
    return first


def _describe(model: keras.Model) -> tuple[ImageShape, int]:
    # In another class of model, these attributes may have another meaning.
    if isinstance(model, CheckedModel):
        return model.image_shape, model.num_classes
    return describe_classifier(model)
