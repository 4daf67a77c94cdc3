"""What experiments on different data sets have in common."""

import keras
import tensorflow as tf

from keras_trn import attacks


def evaluation_pipeline(images, labels, number, batch_size):
    """Makes a pipeline of batches of the first images."""
    examples = tf.data.Dataset.from_tensor_slices((images[:number], labels[:number]))
    return examples.batch(batch_size)


def make_optimizer(learning_rate, train, epochs):
    """Makes an optimizer whose learning rate rises for a while and then falls to zero.

    Args:
        learning_rate: The highest learning rate.
        train: Pipeline of training images.
        epochs: Number of epochs.
    """
    steps = epochs * len(train)
    warmup_steps = min(300, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup_steps, warmup_target=learning_rate, warmup_steps=warmup_steps
    )
    return keras.optimizers.Adam(schedule, global_clipnorm=1.0)


def training_attacks(strengths, l2_strengths):
    """What restorers are trained on: attacks of one step and of several, and noise.

    Args:
        strengths: Range of epsilon in L∞.
        l2_strengths: Range of epsilon in L2.

    Returns:
        A list of attacks.
    """
    return [
        attacks.FastGradientMethod(strengths),
        attacks.ProjectedGradientDescent(strengths, steps=5),
        attacks.ProjectedGradientDescent(strengths, steps=10),
        attacks.ProjectedGradientDescent(l2_strengths, norm="l2", steps=5),
        attacks.RandomNoise(strengths),
    ]


def count_parameters(protected):
    """Counts the trained parameters of restorer and gradient map together."""
    return sum(weight.shape.num_elements() for weight in protected.trainable_weights)


# The figures and presets were made with an `EstimatedLabel` that commits itself less, and takes
# attacks in use for as frequent as in training.
ESTIMATE = {"attack_prior": 0.75, "temperature": 1.0}
