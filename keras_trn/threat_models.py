"""Threat models: what an attacker knows, and thus which function the attack differentiates."""

from collections.abc import Callable
from typing import Self

import keras
import tensorflow as tf

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.expectation import mean_logits
from keras_trn.gradient_maps import EstimatedLabel
from keras_trn.gradient_maps import GradientMap
from keras_trn.graphs import GraphCache
from keras_trn.graphs import SharedGraph
from keras_trn.graphs import compile_function
from keras_trn.input_validation import check_count
from keras_trn.input_validation import with_known_shape
from keras_trn.logits import logits_function
from keras_trn.map_derivative import MapDerivative
from keras_trn.random_states import with_fixed_randomness
from keras_trn.restored_classifier import RestoredClassifier
from keras_trn.types import Classifier
from keras_trn.types import Config


class ThreatModel:
    """Describes what the attacker knows; the base class of all threat models.

    The terms follow Carlini et al., "On Evaluating Adversarial Robustness", arXiv 1902.06705.

    Args:
        labels: `"true"` for an attacker who knows the true labels, the usual setting for robust
            accuracy. `"predicted"` for an attacker who uses the classes that the attacked
            function predicts, so perturbations do not encode the true label.

    Raises:
        ValueError: If `labels` is neither of the two.

    Example:
        ```python
        protected = keras_trn.ProtectedClassifier(classifier)

        target = keras_trn.threat_models.WhiteboxFull().target(protected)
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.1)
        adversarial = attack(target, images, labels)
        ```
    """

    name = ""
    # Adaptive attackers craft new images for each defence; others craft them once for all.
    is_adaptive = False
    # Whether each call of the defence draws the same random numbers, which the attacker knows.
    fixes_randomness = False
    # What a defence needs for the threat model to apply to it; for error messages.
    needs = "another defence"

    def __init__(self, labels: str = "true") -> None:
        if labels not in ("true", "predicted"):
            raise ValueError(f"labels must be 'true' or 'predicted', received {labels!r}.")
        self.labels = labels

    def target(self, defence: keras.Model) -> Classifier:
        """Returns the function from images to logits that the attacker attacks."""
        raise NotImplementedError(f"{type(self).__name__} does not define `target`.")

    def applies_to(self, defence: keras.Model) -> bool:
        """Tells whether the threat model differs from a simpler one for a defence."""
        return True

    def unsupported_reason(self, defence: keras.Model) -> str | None:
        """Tells why it cannot run in full, without a full stop; `None` if it can."""
        return None

    def supports(self, attack: Attack) -> bool:
        """Tells whether this attacker can run the attack."""
        return not attack.gradient_free

    def get_config(self) -> Config:
        """Returns the settings that identify the threat model."""
        return {"name": self.name, "labels": self.labels}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Makes a threat model from the result of `get_config`."""
        return cls(**{name: value for name, value in config.items() if name != "name"})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(labels={self.labels!r})"


class _Adaptive(ThreatModel):
    """Describes an attacker who runs the defence."""

    is_adaptive = True

    def __init__(self, labels: str = "true", samples: int = 1) -> None:
        super().__init__(labels)
        self.samples = check_count("samples", samples)
        self._graphs = GraphCache()

    def applies_to(self, defence: keras.Model) -> bool:
        # An attacker cannot run a defence that needs the true labels.
        return not getattr(defence, "needs_labels", False)

    def target(self, defence: keras.Model) -> Classifier:
        # TensorFlow traces attacks once per function, so an unchanged defence keeps its function.
        return self._graphs.remember(
            ("target", self.samples), defence, lambda: self._make_target(defence)
        )

    def _make_target(self, defence: keras.Model) -> Classifier:
        logits = self._logits(defence)
        if self.samples > 1:
            logits = mean_logits(logits_function(logits), self.samples)
        elif not isinstance(defence, RestoredClassifier):
            return logits
        # Each attack has its own graph, and tracing a defence takes seconds.
        return SharedGraph(logits_function(logits))

    def _logits(self, defence: keras.Model) -> Classifier:
        """Returns the function that the attacker attacks, for one run of the defence."""
        raise NotImplementedError

    def get_config(self) -> Config:
        return {**super().get_config(), "samples": self.samples}


@keras.saving.register_keras_serializable(package="keras_trn")
class Oblivious(ThreatModel):
    """Attacks the bare classifier, without any knowledge of the defence.

    This is the easiest setting for a restoration, and the usual one in the literature. If you
    report it, report the worst case too.

    Args:
        labels: As in `ThreatModel`.

    Example:
        ```python
        protected = keras_trn.ProtectedClassifier(classifier)
        assert keras_trn.threat_models.Oblivious().target(protected) is classifier
        ```
    """

    name = "oblivious"

    def target(self, defence: keras.Model) -> Classifier:
        return defence.classifier if isinstance(defence, RestoredClassifier) else defence


class Transfer(ThreatModel):
    """Attacks another model, without any knowledge of the classifier or the defence.

    Args:
        classifier: The attacker's independently trained surrogate; it may include a restoration.
        labels: As in `ThreatModel`.
        name: The name in tables, to distinguish several surrogates.

    Raises:
        ValueError: If `classifier` is not a Keras model.

    Example:
        ```python
        surrogate = keras.models.clone_model(classifier)
        transfer = keras_trn.threat_models.Transfer(surrogate)
        assert transfer.target(classifier) is surrogate
        ```
    """

    name = "transfer"

    def __init__(
        self, classifier: keras.Model, labels: str = "true", name: str = "transfer"
    ) -> None:
        super().__init__(labels)
        self.name = name
        if not isinstance(classifier, keras.Model):
            raise ValueError(
                "transfer needs the Keras model that the attacker has instead of the defended one: "
                f"`Transfer(another_classifier)`; received {classifier!r}."
            )
        self.classifier = classifier

    def target(self, defence: keras.Model) -> Classifier:
        return self.classifier


@keras.saving.register_keras_serializable(package="keras_trn")
class TransferFromEstimator(_Adaptive):
    """Attacks the first restoration of `EstimatedLabel`, followed by the classifier.

    This adaptive transfer attack crafts images on a part of the defence, which is often easier,
    and evaluates them on the whole. Croce et al., "Evaluating the Adversarial Robustness of
    Adaptive Test-time Defenses", arXiv 2202.13711, broke published defences this way.

    It applies to a `ProtectedClassifier` with the gradient map `EstimatedLabel`. For the transfer
    from the classifier alone, use `Oblivious`.

    Args:
        labels: As in `ThreatModel`.
        samples: As in `BPDA`.

    Example:
        ```python
        threat_model = keras_trn.threat_models.TransferFromEstimator()
        protected = keras_trn.ProtectedClassifier(classifier)
        assert threat_model.target(protected)(images).shape == (8, 10)
        ```
    """

    name = "transfer_from_estimator"
    needs = "the gradient map `EstimatedLabel`"

    def applies_to(self, defence: keras.Model) -> bool:
        gradient_map = getattr(defence, "gradient_map", None)
        return super().applies_to(defence) and isinstance(gradient_map, EstimatedLabel)

    def _logits(self, defence: keras.Model) -> Classifier:
        classify = logits_function(defence.classifier)
        return lambda images: classify(defence.gradient_map.restore_first(images))


@keras.saving.register_keras_serializable(package="keras_trn")
class TransferWithoutMap(_Adaptive):
    """Attacks the restorer with a gradient map of zeros, followed by the classifier.

    This is an adaptive transfer attack, like `TransferFromEstimator`. Its gradient is of first
    order, and a gradient map cannot mask it. It applies to a `ProtectedClassifier` with a
    gradient map. `WhiteboxStopgrad` uses the real map instead, as a constant.

    Args:
        labels: As in `ThreatModel`.
        samples: As in `BPDA`.

    Example:
        ```python
        threat_model = keras_trn.threat_models.TransferWithoutMap()
        assert threat_model.applies_to(keras_trn.ProtectedClassifier(classifier))
        assert not threat_model.applies_to(classifier)
        ```
    """

    name = "transfer_without_map"
    needs = "a gradient map other than `TrueLabel`"

    def applies_to(self, defence: keras.Model) -> bool:
        gradient_map = getattr(defence, "gradient_map", None)
        return super().applies_to(defence) and isinstance(gradient_map, GradientMap)

    def _logits(self, defence: keras.Model) -> Classifier:
        classify = logits_function(defence.classifier)
        channels = defence.gradient_map.map_channels(defence.image_shape[-1], defence.num_classes)

        def logits(images: tf.Tensor) -> tf.Tensor:
            images = with_known_shape(images, defence.image_shape)
            zeros = tf.tile(tf.zeros_like(images[..., :1]), [1, 1, 1, channels])
            return classify(defence.restorer(images, gradient_maps=zeros))

        return logits


@keras.saving.register_keras_serializable(package="keras_trn")
class BPDA(_Adaptive):
    """Runs the restoration, and differentiates it as if it were the identity.

    This backward pass differentiable approximation (BPDA, Athalye et al., arXiv 1802.00420) breaks
    restorations with a useless gradient, such as rounding or JPEG compression.

    Args:
        labels: As in `ThreatModel`.
        samples: Number of runs of a random defence per gradient. With more than 1, the attacker
            differentiates the mean logits (expectation over transformation, Athalye et al.).

    Example:
        ```python
        rounded = keras_trn.baselines.BitDepthReduction(classifier, bits=2)
        target = keras_trn.threat_models.BPDA().target(rounded)
        assert keras.ops.all(target(images) == rounded(images))
        ```
    """

    name = "bpda"
    needs = "a restoration, such as `ProtectedClassifier`"

    def applies_to(self, defence: keras.Model) -> bool:
        return super().applies_to(defence) and isinstance(defence, RestoredClassifier)

    def _logits(self, defence: keras.Model) -> Classifier:
        classify = logits_function(defence.classifier)

        def logits(images: tf.Tensor) -> tf.Tensor:
            restored = tf.stop_gradient(defence.restore_batch(images))
            return classify(restored + (images - tf.stop_gradient(images)))

        return logits


@keras.saving.register_keras_serializable(package="keras_trn")
class WhiteboxStopgrad(_Adaptive):
    """Differentiates everything except the path through the gradient map.

    A careless attack on a defence with gradient maps does this. Reports show it to make the
    difference from `WhiteboxFull` clear.

    Args:
        labels: As in `ThreatModel`.
        samples: As in `BPDA`.

    Example:
        ```python
        threat_model = keras_trn.threat_models.WhiteboxStopgrad()
        assert threat_model.applies_to(keras_trn.ProtectedClassifier(classifier))
        assert not threat_model.applies_to(classifier)
        ```
    """

    name = "whitebox_stopgrad"
    needs = "a gradient map other than `TrueLabel`"

    def applies_to(self, defence: keras.Model) -> bool:
        has_gradient_map = getattr(defence, "gradient_map", None) is not None
        return super().applies_to(defence) and has_gradient_map

    def _logits(self, defence: keras.Model) -> Classifier:
        classify = logits_function(defence.classifier)
        return lambda images: classify(defence.restore_batch(images, constant_maps=True))


@keras.saving.register_keras_serializable(package="keras_trn")
class WhiteboxFull(_Adaptive):
    """Differentiates everything, including the gradient map.

    This attacker knows everything. The gradient of a gradient map is a second derivative of the
    classifier. The threat model does not apply to a restoration that declares itself
    non-differentiable (`is_differentiable = False`). Attacks would find nothing there, which would
    look like robustness. For the same reason, `target` refuses a gradient map that TensorFlow
    cannot differentiate.

    Args:
        labels: As in `ThreatModel`.
        samples: As in `BPDA`.

    Example:
        ```python
        protected = keras_trn.ProtectedClassifier(classifier)
        target = keras_trn.threat_models.WhiteboxFull().target(protected)
        assert keras.ops.all(target(images) == protected(images))
        ```
    """

    name = "whitebox_full"
    needs = "a differentiable defence without `TrueLabel`"

    def applies_to(self, defence: keras.Model) -> bool:
        return super().applies_to(defence) and getattr(defence, "is_differentiable", True)

    def map_derivative(self, defence: keras.Model) -> MapDerivative | None:
        """Returns the derivative of the gradient map; `None` without a usable map."""
        has_map = getattr(defence, "gradient_map", None) is not None
        if not has_map or not self.applies_to(defence):
            return None
        return self._graphs.remember("map derivative", defence, lambda: MapDerivative(defence))

    def unsupported_reason(self, defence: keras.Model) -> str | None:
        derivative = self.map_derivative(defence)
        if derivative is None:
            return None
        return self._graphs.remember("unsupported", defence, derivative.unsupported_reason)

    def _make_target(self, defence: keras.Model) -> Classifier:
        reason = self.unsupported_reason(defence)
        if reason is not None:
            raise ValueError(
                f"`{self.name}` cannot be run on this defence, because {reason}. Use `bpda` and "
                "`whitebox_stopgrad`, or remove the operation from the classifier."
            )
        return super()._make_target(defence)

    def _logits(self, defence: keras.Model) -> Classifier:
        return defence


@keras.saving.register_keras_serializable(package="keras_trn")
class FixedRandomness(WhiteboxFull):
    """Knows the random numbers of a random defence, which are the same in each call.

    It shows how much of the robustness is due to chance alone, because known numbers make the
    defence deterministic. The evaluation uses the same numbers, which differ between the places
    in the batch. The attacker differentiates like `WhiteboxFull`, or like `BPDA` if the
    restoration is not differentiable.

    The numbers must come from a `keras.random.SeedGenerator` that a layer of the defence holds as
    an attribute, as Keras' own layers do. By default, `keras_trn.evaluate` runs this threat model
    on every random defence. It reports the threat model as not run if the defence draws other
    random numbers.

    Args:
        labels: As in `ThreatModel`.

    Example:
        ```python
        threat_model = keras_trn.threat_models.FixedRandomness()
        target = threat_model.target(classifier)
        assert keras.ops.all(target(images) == target(images))
        ```
    """

    name = "fixed_randomness"
    needs = "a defence without `TrueLabel`"
    fixes_randomness = True

    def __init__(self, labels: str = "true") -> None:
        super().__init__(labels)

    def get_config(self) -> Config:
        # One run is enough, so it has no samples.
        return ThreatModel.get_config(self)

    def applies_to(self, defence: keras.Model) -> bool:
        return bool(self._attackers(defence))

    def _attackers(self, defence: keras.Model) -> list[_Adaptive]:
        """Returns the attackers who can differentiate a defence, the strongest one first."""
        return [one for one in (WhiteboxFull(), BPDA()) if one.applies_to(defence)]

    def _logits(self, defence: keras.Model) -> Classifier:
        logits = logits_function(self._attackers(defence)[0]._logits(defence))
        # Eager gradients would run the model again, with other random numbers.
        return compile_function(with_fixed_randomness(defence, logits))


@keras.saving.register_keras_serializable(package="keras_trn")
class Blackbox(_Adaptive):
    """Queries the defence's logits, without gradients.

    It supports only attacks without gradients, such as `Square` and `SPSA`.

    Args:
        labels: As in `ThreatModel`.
        samples: As in `BPDA`.

    Example:
        ```python
        blackbox = keras_trn.threat_models.Blackbox()
        assert not blackbox.supports(keras_trn.attacks.FastGradientMethod(epsilon=0.1))
        assert blackbox.supports(keras_trn.attacks.Square(epsilon=0.1))
        ```
    """

    name = "blackbox"
    needs = "a defence without `TrueLabel`"

    def supports(self, attack: Attack) -> bool:
        return attack.gradient_free

    def _logits(self, defence: keras.Model) -> Classifier:
        classify = logits_function(defence)
        return lambda images: tf.stop_gradient(classify(images))


_BY_NAME: dict[str, Callable[..., ThreatModel]] = {
    threat_model.name: threat_model
    for threat_model in (
        Oblivious,
        Transfer,
        TransferFromEstimator,
        TransferWithoutMap,
        BPDA,
        WhiteboxStopgrad,
        WhiteboxFull,
        FixedRandomness,
        Blackbox,
    )
}


def get(threat_model: str | ThreatModel) -> ThreatModel:
    """Returns a threat model by name; a `ThreatModel` stays the same.

    Args:
        threat_model: A `ThreatModel`, or one of `"oblivious"`, `"transfer_from_estimator"`,
            `"transfer_without_map"`, `"bpda"`, `"whitebox_stopgrad"`, `"whitebox_full"`,
            `"fixed_randomness"` and `"blackbox"`.

    Returns:
        The `ThreatModel`.

    Raises:
        ValueError: If there is no such threat model, or it is `"transfer"`, which needs a model.

    Example:
        ```python
        assert keras_trn.threat_models.get("bpda").name == "bpda"
        ```
    """
    if isinstance(threat_model, ThreatModel):
        return threat_model
    if threat_model == Transfer.name:
        raise ValueError(
            "The threat model 'transfer' needs the attacker's surrogate: "
            "`keras_trn.threat_models.Transfer(another_classifier)`."
        )
    if not isinstance(threat_model, str) or threat_model not in _BY_NAME:
        names = ", ".join(map(repr, _BY_NAME))
        raise ValueError(f"Unknown threat model {threat_model!r}; there are {names}.")
    return _BY_NAME[threat_model]()
