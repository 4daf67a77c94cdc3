"""What an attacker knows of a defence, and so what the attacker differentiates.

An attack says how to search for an adversarial image; a threat model says on
which function. Any attack can be combined with any threat model that admits it.
"""

import re

import keras
import tensorflow as tf

from keras_trn.graphs import GraphCache
from keras_trn.graphs import compile_function
from keras_trn.input_validation import check_count
from keras_trn.input_validation import with_known_shape
from keras_trn.logits import logits_function
from keras_trn.restored_classifier import RestoredClassifier
from keras_trn.second_derivatives import is_registered

# Operations whose gradient TensorFlow takes for constant, although it is not.
_TAKEN_FOR_CONSTANT = {
    "FakeQuantWithMinMaxArgsGradient",
    "FakeQuantWithMinMaxVarsGradient",
    "FakeQuantWithMinMaxVarsPerChannelGradient",
}
# Calls of other functions, and operations that only make room, need no derivative.
_NEEDS_NO_DERIVATIVE = {
    "EmptyTensorList",
    "NoOp",
    "PartitionedCall",
    "StatefulPartitionedCall",
    "TensorListReserve",
}
# Stands in for a height or a width that the classifier leaves open.
_ANY_SIDE = 32


class ThreatModel:
    """What the attacker knows; the base of all threat models.

    Source: the vocabulary follows Carlini et al., "On Evaluating Adversarial
    Robustness", arXiv 1902.06705.

    Args:
        labels: `"true"` for an attacker who knows the true labels, as robust
            accuracy is commonly measured; `"predicted"` for one who leads away
            from what the attacked function itself predicts, so that the
            perturbation carries nothing of the truth.

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

    name = None
    # Whether the examples depend on the defence: otherwise they are crafted once for all.
    is_adaptive = False

    def __init__(self, labels="true"):
        if labels not in ("true", "predicted"):
            raise ValueError(f"labels must be 'true' or 'predicted', received {labels!r}.")
        self.labels = labels

    def target(self, defence):
        """Returns the function that the attacker attacks.

        Args:
            defence: A Keras model from images to logits.

        Returns:
            A function from images to logits, or a Keras model.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `target`.")

    def applies_to(self, defence):
        """Tells whether the threat model differs from a simpler one for this defence.

        Args:
            defence: A Keras model from images to logits.
        """
        return True

    def obstacle(self, defence):
        """Says why the threat model cannot be run in full on a defence.

        Args:
            defence: A Keras model from images to logits, to which the threat model applies.

        Returns:
            A sentence without its full stop; `None` if nothing is in the way.
        """
        return None

    def admits(self, attack):
        """Tells whether this attacker can run an attack.

        Args:
            attack: An attack of `keras_trn.attacks`.
        """
        return not attack.gradient_free

    def get_config(self):
        """Returns what is needed to say which threat model it is."""
        return {"name": self.name, "labels": self.labels}

    def __repr__(self):
        return f"{type(self).__name__}(labels={self.labels!r})"


class _Adaptive(ThreatModel):
    """A threat model whose attacker runs the defence itself.

    Args:
        labels: `"true"` or `"predicted"`.
        samples: How often the defence is run for each gradient. More than 1 is
            for a defence that is random: the attacker then differentiates the
            mean of its logits (expectation over transformation, Athalye et al.,
            arXiv 1802.00420).
    """

    is_adaptive = True

    def __init__(self, labels="true", samples=1):
        super().__init__(labels)
        self.samples = check_count("samples", samples)
        self._graphs = GraphCache()

    def applies_to(self, defence):
        # Nobody can run what has to be told the true label.
        return not getattr(defence, "needs_labels", False)

    def target(self, defence):
        # Attacks are traced once for a function: it has to be the same whenever it is asked for,
        # unless the defence has changed.
        return self._graphs.remember(
            ("target", self.samples), defence, lambda: self._make_target(defence)
        )

    def _make_target(self, defence):
        logits = self._logits(defence)
        return logits if self.samples == 1 else _expectation(logits_function(logits), self.samples)

    def get_config(self):
        return {**super().get_config(), "samples": self.samples}


class Oblivious(ThreatModel):
    """The attacker knows the bare classifier and nothing of the defence.

    The setting in which defences that restore images are usually reported, and
    the easiest for them. A table that shows it should show `worst` too.

    Args:
        labels: `"true"` or `"predicted"`.

    Example:
        ```python
        protected = keras_trn.ProtectedClassifier(classifier)
        assert keras_trn.threat_models.Oblivious().target(protected) is classifier
        ```
    """

    name = "oblivious"

    def target(self, defence):
        return defence.classifier if isinstance(defence, RestoredClassifier) else defence


class Transfer(ThreatModel):
    """The attacker knows neither the classifier nor the defence, and attacks another.

    Args:
        classifier: The model that the attacker has: a classifier that was trained
            independently, bare or behind a restoration of its own.
        labels: `"true"` or `"predicted"`.
        name: What it is called in tables; to tell several of them apart.

    Raises:
        ValueError: If `classifier` is no Keras model.

    Example:
        ```python
        make = lambda: keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
        other = make()
        transfer = keras_trn.threat_models.Transfer(other)
        assert transfer.target(make()) is other
        ```
    """

    name = "transfer"

    def __init__(self, classifier, labels="true", name="transfer"):
        super().__init__(labels)
        self.name = name
        if not isinstance(classifier, keras.Model):
            raise ValueError(
                "transfer needs the Keras model that the attacker has instead of the defended one: "
                f"`Transfer(another_classifier)`; received {classifier!r}."
            )
        self.classifier = classifier

    def target(self, defence):
        return self.classifier


class BPDA(_Adaptive):
    """The attacker runs the restoration, and differentiates as if it did nothing.

    Backward pass differentiable approximation (BPDA, Athalye et al., arXiv
    1802.00420) with the identity: forward through restoration and classifier,
    backward through the classifier alone. It breaks restorations whose own
    gradient is of no use, such as rounding or JPEG.

    Args:
        labels: `"true"` or `"predicted"`.
        samples: How often a random defence is run for each gradient.

    Example:
        ```python
        rounded = keras_trn.baselines.BitDepthReduction(classifier, bits=2)
        target = keras_trn.threat_models.BPDA().target(rounded)
        assert keras.ops.all(target(images) == rounded(images))
        ```
    """

    name = "bpda"

    def applies_to(self, defence):
        return super().applies_to(defence) and isinstance(defence, RestoredClassifier)

    def _logits(self, defence):
        classify = logits_function(defence.classifier)

        def logits(images):
            restored = tf.stop_gradient(defence.restore_batch(images))
            return classify(restored + (images - tf.stop_gradient(images)))

        return logits


class WhiteboxStopgrad(_Adaptive):
    """The attacker differentiates everything but the path through the gradient map.

    It is what comes out when a defence that takes gradients is differentiated
    carelessly, and is reported so that it cannot be mistaken for `WhiteboxFull`.

    Args:
        labels: `"true"` or `"predicted"`.
        samples: How often a random defence is run for each gradient.

    Example:
        ```python
        threat_model = keras_trn.threat_models.WhiteboxStopgrad()
        assert threat_model.applies_to(keras_trn.ProtectedClassifier(classifier))
        assert not threat_model.applies_to(classifier)
        ```
    """

    name = "whitebox_stopgrad"

    def applies_to(self, defence):
        has_gradient_map = getattr(defence, "gradient_map", None) is not None
        return super().applies_to(defence) and has_gradient_map

    def _logits(self, defence):
        classify = logits_function(defence.classifier)
        return lambda images: classify(defence.restore_batch(images, constant_maps=True))


class WhiteboxFull(_Adaptive):
    """The attacker differentiates everything, also through the gradient map.

    The gradient of a gradient map is of second order in the classifier. It does not
    apply to a restoration that says of itself that it has no gradient
    (`is_differentiable = False`): attacks would find nothing, and that would look
    like strength. For the same reason, `target` refuses a defence whose gradient map
    TensorFlow cannot differentiate.

    Args:
        labels: `"true"` or `"predicted"`.
        samples: How often a random defence is run for each gradient.

    Example:
        ```python
        protected = keras_trn.ProtectedClassifier(classifier)
        target = keras_trn.threat_models.WhiteboxFull().target(protected)
        assert keras.ops.all(target(images) == protected(images))
        ```
    """

    name = "whitebox_full"

    def applies_to(self, defence):
        return super().applies_to(defence) and getattr(defence, "is_differentiable", True)

    def map_slopes(self, defence):
        """Returns the defence's gradient map and its slopes, each compiled once.

        Args:
            defence: A Keras model from images to logits.

        Returns:
            A `MapSlopes`; `None` where there is no gradient map that the attacker can run.
        """
        has_map = getattr(defence, "gradient_map", None) is not None
        if not has_map or not self.applies_to(defence):
            return None
        return self._graphs.remember("slopes", defence, lambda: MapSlopes(defence))

    def obstacle(self, defence):
        slopes = self.map_slopes(defence)
        if slopes is None:
            return None
        return self._graphs.remember("obstacle", defence, slopes.obstacle)

    def _make_target(self, defence):
        obstacle = self.obstacle(defence)
        if obstacle is not None:
            raise ValueError(
                f"`{self.name}` cannot be run on this defence, as {obstacle}. Use `bpda` and "
                "`whitebox_stopgrad`, or take the operation out of the classifier."
            )
        return super()._make_target(defence)

    def _logits(self, defence):
        return defence


class MapSlopes:
    """The gradient map of a defence, and how the tape differentiates it.

    Args:
        defence: A `RestoredClassifier` with a `gradient_map` that needs no labels.

    Example:
        ```python
        protected = keras_trn.ProtectedClassifier(
            classifier,
            keras_trn.TwoStreamRestorationNetwork(width=4, depth=1),
            keras_trn.gradient_maps.UniformLabel(),
        )
        slopes = keras_trn.threat_models.WhiteboxFull().map_slopes(protected)
        assert slopes.maps(images).shape == (8, 8, 8, 1)
        assert slopes.obstacle() is None
        ```
    """

    def __init__(self, defence):
        self._defence = defence
        self.maps = compile_function(self._maps)
        self.slopes = compile_function(self._slopes)

    def obstacle(self):
        """Says why TensorFlow cannot differentiate the map.

        The gradient is traced, and not computed, and even that only where the map has an
        operation of which TensorFlow knows no derivative.

        Returns:
            A sentence without its full stop; `None` if TensorFlow can.
        """
        shape = [None, *(_ANY_SIDE if side is None else side for side in self._defence.image_shape)]
        images = tf.TensorSpec(shape, tf.float32)
        try:
            maps = self.maps.get_concrete_function(images)
            operations = _operations(maps.graph.as_graph_def())
            for operation in sorted(operations & _TAKEN_FOR_CONSTANT):
                return f"TensorFlow takes {operation}, which its gradient map needs, for constant"
            if not all(map(is_registered, operations - _NEEDS_NO_DERIVATIVE)):
                weights = tf.TensorSpec(maps.output_shapes, tf.float32)
                self.slopes.get_concrete_function(images, weights)
        except Exception as error:
            return _without_derivative(error)
        return None

    def _maps(self, images):
        images = with_known_shape(images)
        return self._defence.gradient_map(images, classifier=self._defence.classifier)

    def _slopes(self, images, weights):
        """The gradient, in the images, of the sum of the map times weights."""
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(self._maps(images) * weights)
        return tape.gradient(total, images, None, tf.UnconnectedGradients.ZERO)


def _operations(graph):
    """The types of the operations on tensors in a graph, also in functions that it calls."""
    nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
    return {node.op for node in nodes if node.input}


def _without_derivative(error):
    """Names the operation that TensorFlow could not differentiate, where its error does."""
    named = re.search(r"no entry for: (\w+)|op type: (\w+)", str(error))
    if named:
        operation = named[1] or named[2]
        return f"TensorFlow has no derivative of {operation}, which its gradient map needs"
    return f"TensorFlow cannot differentiate its gradient map: {short_message(error)}"


def short_message(error):
    """Says in one line what an error is.

    Args:
        error: An exception, also one of TensorFlow or Keras, whose messages hold tracebacks and
            arguments.

    Returns:
        Its type and the heart of its message, without a full stop.

    Example:
        ```python
        from keras_trn.threat_models import short_message

        error = ValueError("Traceback:\\n  line 1\\nThe image is too small.")
        assert short_message(error) == "ValueError, The image is too small"
        ```
    """
    # Keras puts a layer's own error in bold print, and TensorFlow an error at its end.
    of_layer = re.search(r"\x1b\[1m(.+?)\x1b\[0m", str(error), re.DOTALL)
    *_, message = ["", *(of_layer[1] if of_layer else str(error)).strip().splitlines()]
    return f"{type(error).__name__}, {message.strip().rstrip('.')}"


class Blackbox(_Adaptive):
    """The attacker sees the defence's logits, and no gradient.

    Admits attacks that only query: `Square` and `SPSA`.

    Args:
        labels: `"true"` or `"predicted"`.
        samples: How often a random defence is run for each query.

    Example:
        ```python
        blackbox = keras_trn.threat_models.Blackbox()
        assert not blackbox.admits(keras_trn.attacks.FastGradientMethod(epsilon=0.1))
        assert blackbox.admits(keras_trn.attacks.Square(epsilon=0.1))
        ```
    """

    name = "blackbox"

    def admits(self, attack):
        return attack.gradient_free

    def _logits(self, defence):
        classify = logits_function(defence)
        return lambda images: tf.stop_gradient(classify(images))


_BY_NAME = {
    threat_model.name: threat_model
    for threat_model in (Oblivious, Transfer, BPDA, WhiteboxStopgrad, WhiteboxFull, Blackbox)
}


def get(threat_model):
    """Returns a threat model, which may be given by its name.

    Args:
        threat_model: A `ThreatModel`, or one of `"oblivious"`, `"bpda"`,
            `"whitebox_stopgrad"`, `"whitebox_full"` and `"blackbox"`. `Transfer`
            has to be made with the classifier that the attacker has.

    Returns:
        The `ThreatModel`.

    Raises:
        ValueError: If there is no such threat model.

    Example:
        ```python
        assert keras_trn.threat_models.get("bpda").name == "bpda"
        ```
    """
    if isinstance(threat_model, ThreatModel):
        return threat_model
    if threat_model == Transfer.name:
        raise ValueError(
            "The threat model 'transfer' needs the classifier that the attacker has: "
            "`keras_trn.threat_models.Transfer(another_classifier)`."
        )
    if threat_model not in _BY_NAME:
        names = ", ".join(map(repr, _BY_NAME))
        raise ValueError(f"Unknown threat model {threat_model!r}; there are {names}.")
    return _BY_NAME[threat_model]()


def _expectation(logits, samples):
    """The mean logits of a random defence over several runs."""

    def mean_logits(images):
        runs = tf.map_fn(
            lambda _: logits(images), tf.range(samples), fn_output_signature=tf.float32
        )
        return tf.reduce_mean(runs, axis=0)

    return mean_logits
