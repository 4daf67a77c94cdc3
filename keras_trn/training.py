"""What every model that trains against attacks needs."""

import keras
import tensorflow as tf

from keras_trn.attacks import Attack
from keras_trn.attacks import Mixture


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


def checked_training_data(check, x, y, kwargs):
    """Checks what `fit` was given; returns what to use in place of `x` and its other arguments."""
    x = check(x, y)
    validation_data = kwargs.get("validation_data")
    if isinstance(validation_data, (list, tuple)):
        check(*validation_data[:2])
    elif validation_data is not None:
        kwargs = {**kwargs, "validation_data": check(validation_data)}
    if isinstance(x, tf.data.Dataset):
        # Keras warns of its own default, which does nothing to a pipeline.
        kwargs = {"shuffle": False, **kwargs}
    return x, kwargs


def attack_some(attack, classifier, clean, labels, benign_share):
    """Leaves the first images of a batch benign and attacks the others; returns also how many."""
    if benign_share == 1:
        return clean, tf.shape(clean)[0]
    # At least one image is attacked, as convolutions need one.
    count = tf.round(benign_share * tf.cast(tf.shape(clean)[0], tf.float32))
    benign_count = tf.minimum(tf.cast(count, tf.int32), tf.shape(clean)[0] - 1)
    attacked = attack(classifier, clean[benign_count:], labels[benign_count:])
    images = tf.concat([clean[:benign_count], attacked], axis=0)
    return tf.stop_gradient(tf.ensure_shape(images, clean.shape)), benign_count


def with_loss_scaling(optimizer):
    """Keeps the small gradients of float16 computations from vanishing."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def unpack(data):
    """The images, labels and weights of a batch."""
    images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None:
        raise ValueError(
            "Training and evaluation need labels: pass `fit(images, labels)`, or a dataset of "
            "pairs of images and labels."
        )
    return tf.cast(images, tf.float32), tf.cast(tf.reshape(labels, [-1]), tf.int64), sample_weight


def loss_of_replica(losses, sample_weight=None):
    """The mean loss, such that the gradients of all replicas can be summed."""
    if sample_weight is not None:
        losses *= tf.cast(tf.reshape(sample_weight, [-1]), losses.dtype)
    return tf.reduce_mean(losses) / tf.distribute.get_strategy().num_replicas_in_sync
