"""What `measure` and `evaluate` are asked for, checked before anything is computed."""

import numpy as np

from keras_trn import threat_models as known_threat_models
from keras_trn.attacks import Attack
from keras_trn.attacks import Mixture
from keras_trn.checked_model import CheckedModel
from keras_trn.classifier_interface import describe_classifier


def checked_attacks(attacks):
    """Checks attacks before anything is computed.

    Args:
        attacks: List of attacks, or one attack.

    Returns:
        A list of attacks.

    Raises:
        ValueError: If one of them is no attack, or has no single epsilon.
        TypeError: If one of them does not tell all of its settings.
    """
    attacks = [attacks] if isinstance(attacks, Attack) else list(attacks)
    for attack in attacks:
        if not isinstance(attack, Attack):
            raise ValueError(
                "attacks must be attacks of `keras_trn.attacks`, such as "
                f"`ProjectedGradientDescent(epsilon=8 / 255)`; received {attack!r}."
            )
        if isinstance(attack, Mixture):
            raise ValueError(
                "A mixture gives each image another attack, and its accuracy is that of none of "
                f"them. List its attacks instead: `attacks={attack.attacks!r}`."
            )
        if isinstance(attack.epsilon, tuple):
            raise ValueError(
                f"{attack.name} draws its epsilon from {attack.epsilon}, and a result needs one "
                "epsilon that it is for. Use `attack.with_largest_epsilon()`."
            )
        # Fails where `get_config` does not tell all that a result depends on.
        attack.with_seed(attack.seed)
    return attacks


def checked_epsilons(epsilons, attacks):
    """Checks the further epsilons of the first attack.

    Args:
        epsilons: Numbers, or one number; Python's or NumPy's.
        attacks: List of attacks.

    Returns:
        A list of Python numbers.

    Raises:
        ValueError: If one of them is no epsilon, or there is no attack to run at it.
    """
    epsilons = np.ravel(np.asarray(epsilons)).tolist()
    if epsilons and not attacks:
        raise ValueError(
            f"There is no attack to run at the epsilons {epsilons}: add one to `attacks`."
        )
    return [attacks[0].check_epsilon(epsilon) for epsilon in epsilons]


def as_threat_models(threat_models):
    """Returns threat models that may be given by their names, or one alone.

    Args:
        threat_models: List of `keras_trn.threat_models`, or their names, or one of them.

    Returns:
        A list of `keras_trn.threat_models.ThreatModel`.

    Raises:
        ValueError: If there is no such threat model.
    """
    is_one = isinstance(threat_models, (str, known_threat_models.ThreatModel))
    several = [threat_models] if is_one else threat_models
    return [known_threat_models.get(threat_model) for threat_model in several]


def check_image_shape(attacks, image_shape):
    """Checks that every attack can attack images of a shape.

    Args:
        attacks: List of attacks.
        image_shape: The `(height, width, channels)` of the images.

    Raises:
        ValueError: If one cannot.
    """
    for attack in attacks:
        attack.check_image_shape(image_shape)


def describe(model):
    """Finds out what images a model takes, and how many classes it knows.

    Args:
        model: A Keras model from images to logits.

    Returns:
        The image shape `(height, width, channels)`, and the number of classes.

    Raises:
        ValueError: If it is no such model.
    """
    # A model of another class may mean something else by these names.
    if isinstance(model, CheckedModel):
        return model.image_shape, model.num_classes
    return describe_classifier(model)


def describe_all(defences):
    """Finds out what images all defences take, and how many classes they know.

    Args:
        defences: Dictionary of Keras models, the bare classifier first.

    Returns:
        The image shape `(height, width, channels)`, and the number of classes.

    Raises:
        ValueError: If there is no defence, or they do not agree.
    """
    if not defences:
        raise ValueError("There is nothing to measure: `defences` is empty.")
    descriptions = {name: describe(defence) for name, defence in defences.items()}
    first = next(iter(descriptions.values()))
    for name, description in descriptions.items():
        if description != first:
            raise ValueError(
                f"The defence {name!r} takes other images or knows other classes: {description}, "
                f"and the first defence {first}."
            )
    return first
