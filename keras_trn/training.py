"""What every model that trains against attacks needs."""

import inspect

import keras
import tensorflow as tf

from keras_trn.attacks import Attack
from keras_trn.attacks import Mixture
from keras_trn.input_validation import check_range
from keras_trn.keras_settings import float32_numbers


class AdversarialTrainer:
    """Makes a Keras model be compiled, fitted and evaluated against attacks.

    To be inherited from before the Keras model. That one defines `train_step`,
    `test_step`, `_checked`, which checks data, and `trained_part`.
    """

    @property
    def trained_part(self):
        """The model whose weights are trained."""
        raise NotImplementedError(f"{type(self).__name__} does not define `trained_part`.")

    @float32_numbers()
    def compile_training(self, optimizer, attack, benign_share, own_arguments, **keras_arguments):
        """Compiles whatever the loss is.

        Args:
            optimizer: A Keras optimizer, or its name.
            attack: An attack of `keras_trn.attacks`, or a list of them.
            benign_share: Share of each batch that is left benign, from 0 to 1.
            own_arguments: The further arguments of `compile` that the model has of its own;
                they become its attributes.
            **keras_arguments: The arguments of `keras.Model.compile`.

        Raises:
            ValueError: If there is no attack, or the share is out of range.
        """
        attack = checked_attack(attack)
        benign_share = check_range("benign_share", benign_share, 0, 1)
        optimizer = keras.optimizers.get(optimizer)
        if self.trained_part.dtype_policy.name == "mixed_float16":
            optimizer = with_loss_scaling(optimizer)
        self._compile_arguments = {
            "attack": attack,
            "benign_share": benign_share,
            **own_arguments,
            **keras_arguments,
        }
        for name, value in own_arguments.items():
            setattr(self, name, value)
        self.attack = attack
        self.validation_attack = attack.with_largest_epsilon()
        self.benign_share = benign_share
        super().compile(optimizer=optimizer, **keras_arguments)
        # Else the training step would be traced twice, the second time without creating them.
        self.optimizer.build(self.trainable_variables)

    @float32_numbers()
    def fit(self, x=None, y=None, *args, **kwargs):
        """Trains against the attack of `compile`; as `keras.Model.fit`.

        Args:
            x: Clean images in [0, 1]: an array, a list, a tensor, or a `tf.data.Dataset`
                of pairs of images and labels.
            y: Class indices; left out where `x` holds them.
            *args: The arguments of `keras.Model.fit`.
            **kwargs: The arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` of `loss`, `benign_accuracy` and
            `adversarial_accuracy`; of `psnr` too where images are restored; and
            with validation data the same with `val_` before them. A figure of which
            nothing was measured is NaN.

        Raises:
            ValueError: If images or labels are malformed, or all of a pipeline without
                end is asked for. Arrays are checked whole, pipelines by their first batch.
        """
        given = inspect.signature(keras.Model.fit).bind(self, x, y, *args, **kwargs).arguments
        del given["self"]
        given["x"], given["y"] = self._checked(x, y, steps=given.get("steps_per_epoch"))
        validation_data = given.get("validation_data")
        if validation_data is not None:
            given["validation_data"] = self._checked_validation_data(
                validation_data, given.get("validation_steps")
            )
        if isinstance(given["x"], tf.data.Dataset):
            # Keras warns of its own default, which does nothing to a pipeline.
            given.setdefault("shuffle", False)
        return super().fit(**given)

    def _checked_validation_data(self, data, steps):
        if not isinstance(data, (list, tuple)):
            return self._checked(data, steps=steps)[0]
        images, labels, *weights = data
        return (*self._checked(images, labels), *weights)

    @float32_numbers()
    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Measures accuracy with and without attack; as `keras.Model.evaluate`.

        The attack is the one of `compile`, at full strength, on the classifier
        alone: the attacker does not know of a restorer.

        Args:
            x: Clean images in [0, 1]: an array, a list, a tensor, or a `tf.data.Dataset`
                of pairs of images and labels.
            y: Class indices; left out where `x` holds them.
            *args: The arguments of `keras.Model.evaluate`.
            **kwargs: The arguments of `keras.Model.evaluate`.

        Returns:
            As `keras.Model.evaluate`: what `fit` has in its history.

        Raises:
            ValueError: If images or labels are malformed, or the pipeline has no end.
        """
        given = inspect.signature(keras.Model.evaluate).bind(self, x, y, *args, **kwargs)
        # `fit` has checked its validation data already, and a generator would lose a batch.
        if not kwargs.get("_use_cached_eval_dataset"):
            x, y = self._checked(x, y, steps=given.arguments.get("steps"))
        return super().evaluate(x, y, *args, **kwargs)

    @float32_numbers()
    def train_on_batch(self, x, y=None, *args, **kwargs):
        """Trains on one batch; as `keras.Model.train_on_batch`.

        Args:
            x: Clean images in [0, 1].
            y: Class indices.
            *args: The arguments of `keras.Model.train_on_batch`.
            **kwargs: The arguments of `keras.Model.train_on_batch`.

        Returns:
            As `keras.Model.train_on_batch`.

        Raises:
            ValueError: If images or labels are malformed.
        """
        x, y = self._checked(x, y)
        return super().train_on_batch(x, y, *args, **kwargs)

    @float32_numbers()
    def test_on_batch(self, x, y=None, *args, **kwargs):
        """Measures accuracy on one batch; as `keras.Model.test_on_batch`.

        Args:
            x: Clean images in [0, 1].
            y: Class indices.
            *args: The arguments of `keras.Model.test_on_batch`.
            **kwargs: The arguments of `keras.Model.test_on_batch`.

        Returns:
            As `keras.Model.test_on_batch`.

        Raises:
            ValueError: If images or labels are malformed.
        """
        x, y = self._checked(x, y)
        return super().test_on_batch(x, y, *args, **kwargs)

    @property
    def metrics(self):
        """The metrics, each name once: Keras adds a `loss` of its own, which stays empty here."""
        return list({metric.name: metric for metric in super().metrics}.values())

    def get_compile_config(self):
        """Returns the arguments of `compile`, to be saved with the model."""
        if not self.compiled:
            return {}
        arguments = {**self._compile_arguments, "optimizer": self.optimizer}
        return keras.saving.serialize_keras_object(arguments)

    def compile_from_config(self, config):
        """Compiles as `get_compile_config` says."""
        self.compile(**keras.saving.deserialize_keras_object(config))


_INSTEAD = {
    "loss": "the loss is built in; where it has parts, their weights are arguments of `compile`, "
    "such as `pixel_loss_weight`",
    "loss_weights": "where the loss has parts, their weights are arguments of `compile`, such as "
    "`pixel_loss_weight`",
    "metrics": "the history has `loss`, `benign_accuracy`, `adversarial_accuracy` and, where "
    "images are restored, `psnr`; measure others on what `predict` and `restore` return",
    "weighted_metrics": "sample weights count in the loss and in validation",
}


def refuse_unknown(arguments):
    """Refuses arguments of `compile` that there are none of, and names those to use instead.

    Args:
        arguments: Dictionary of the arguments that are not known.

    Raises:
        ValueError: If there are any that are not `None`.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    for name, value in given.items():
        instead = _INSTEAD.get(name, "see its documentation for those that there are")
        raise ValueError(f"compile() takes no {name!r}, received {name}={value!r}: {instead}.")


def checked_attack(attack):
    """Returns the attack that `compile` was given, a list of them as one; or says what is wrong."""
    attack = Mixture(attack) if isinstance(attack, (list, tuple)) else attack
    if not isinstance(attack, Attack):
        raise ValueError(
            "compile() needs the attack to train against, one of `keras_trn.attacks` or a "
            f"list of them, such as `ProjectedGradientDescent(epsilon=8 / 255)`; received "
            f"attack={attack!r}."
        )
    return attack


def count_benign(share, size, step):
    """How many images of a batch are left benign, such that the share holds over all steps.

    A quarter of a batch of one is no image. So the number is rounded down or up, in turns:
    of four such batches, one is benign.

    Args:
        share: Share of the images that is left benign.
        size: Number of images in the batch.
        step: Number of the training step, counted from 0.

    Returns:
        An int32 tensor.
    """
    step = tf.cast(step, tf.float64)
    wanted = tf.cast(size, tf.float64) * share
    return tf.cast(tf.floor(wanted * (step + 1)) - tf.floor(wanted * step), tf.int32)


def craft_training_images(
    attack, classifier, clean, labels, benign_count, crafted=None, fresh_share=1.0
):
    """Leaves the first images of a batch benign, and makes the others adversarial.

    Args:
        attack: The attack.
        classifier: What it attacks.
        clean: Clean images of shape `(batch, height, width, channels)`.
        labels: Class indices of shape `(batch,)` that it leads away from.
        benign_count: Number of images that are left benign.
        crafted: Adversarial examples of all images that were crafted before, if any.
        fresh_share: Share of the others that is crafted anew where there are any.

    Returns:
        The images, of which the benign ones are the first.
    """
    size = tf.shape(clean)[0]
    # Convolutions need at least one image, also where all are left benign.
    start = tf.minimum(benign_count, size - 1)
    if crafted is None:
        fresh_share, crafted = 1.0, clean
    stop = start
    parts = []
    if fresh_share > 0:
        share = tf.round(fresh_share * tf.cast(size - start, tf.float32))
        stop += tf.maximum(tf.cast(share, tf.int32), 1)
        parts = [attack(classifier, clean[start:stop], labels[start:stop])]
    adversarial = tf.concat([*parts, crafted[stop:]], axis=0)
    images = tf.concat([clean[:benign_count], adversarial[benign_count - start :]], axis=0)
    return tf.stop_gradient(tf.ensure_shape(images, clean.shape))


def with_loss_scaling(optimizer):
    """Keeps the small gradients of float16 computations from vanishing."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def unpack(data):
    """The images, labels and weights of a batch."""
    images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    images = images["images"] if isinstance(images, dict) else images
    if labels is None:
        raise ValueError(
            "Training and evaluation need labels: pass `fit(images, labels)`, or a dataset of "
            "pairs of images and labels."
        )
    images = _copied(tf.cast(images, tf.float32))
    return images, tf.cast(tf.reshape(labels, [-1]), tf.int64), sample_weight


def _copied(images):
    """The same images in memory of TensorFlow's own.

    Those of a generator may lie in the caller's arrays, and TensorFlow 2.21 computes in place
    on a slice of them: it would write over the caller's images.
    """
    copied = tf.gather(images, tf.range(tf.shape(images)[0]))
    return tf.ensure_shape(copied, images.shape)


def is_cached_pipeline(dataset):
    """Tells whether a pipeline is one of `cache_adversarial_examples`."""
    spec = dataset.element_spec if isinstance(dataset, tf.data.Dataset) else None
    return isinstance(spec, tuple) and isinstance(spec[0], dict) and "adversarial" in spec[0]


def cached_entry(data, name):
    """What a batch of `cache_adversarial_examples` holds under a name; None where it does not."""
    images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    return images.get(name) if isinstance(images, dict) else None


def per_replica_loss(losses, sample_weight=None):
    """The mean loss, such that the gradients of all replicas can be summed."""
    if sample_weight is not None:
        losses *= tf.cast(tf.reshape(sample_weight, [-1]), losses.dtype)
    return tf.reduce_mean(losses) / tf.distribute.get_strategy().num_replicas_in_sync
