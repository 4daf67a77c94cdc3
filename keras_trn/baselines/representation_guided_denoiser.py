"""A restorer that is guided by what the classifier makes of its images."""

import keras
import tensorflow as tf

from keras_trn.baselines.single_stream import SingleStreamBaseline
from keras_trn.input_validation import check_range
from keras_trn.logits import logits_function
from keras_trn.training import refuse_unknown


@keras.saving.register_keras_serializable(package="keras_trn")
class RepresentationGuidedDenoiser(SingleStreamBaseline):
    """Restores images such that an unchanged classifier takes them for the clean ones.

    A single-stream restorer learns to bring the classifier's logits for a restored
    image close to those for the clean image: the logits guided denoiser, one of the
    high-level representation guided denoisers (HGD). It compares neither pixels nor
    labels. The restorer is the residual network of this project, instead of the
    U-Net of the source.

    Source: Liao et al., "Defense against Adversarial Attacks Using High-Level
    Representation Guided Denoiser", arXiv 1712.02976.

    Args:
        classifier: A built Keras model from images of shape `(batch, height,
            width, channels)` in [0, 1] to logits of shape `(batch, num_classes)`.
            It is frozen.
        restorer: A `TwoStreamRestorationNetwork` with `gradient_stream=False`, the
            default. For a fair comparison, take the `single_stream_baseline` of the
            restorer to compare with.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].

    Returns:
        The classifier's logits for the restored images: a float32 tensor of shape
        `(batch, num_classes)`.

    Raises:
        ValueError: If the classifier is not built or returns probabilities, or the
            restorer has a gradient stream.

    Example:
        ```python
        denoiser = keras_trn.baselines.RepresentationGuidedDenoiser(
            classifier,
            keras_trn.TwoStreamRestorationNetwork(width=8, depth=1, gradient_stream=False),
        )
        denoiser.compile(attack=keras_trn.attacks.FastGradientMethod(epsilon=0.2))
        train, _, _ = keras_trn.datasets.load("digits")
        history = denoiser.fit(train.take(2), verbose=0)
        assert "adversarial_accuracy" in history.history
        ```
    """

    def compile(
        self,
        optimizer="adam",
        attack=None,
        benign_share=0.25,
        fresh_share=0.25,
        jit_compile="auto",
        run_eagerly=False,
        steps_per_execution=1,
        **unknown,
    ):
        """Says how the restorer is trained.

        The loss of an image is the mean absolute difference of the classifier's
        logits for the restored image from those for the clean image.

        Args:
            optimizer: A Keras optimizer, or its name.
            attack: An attack of `keras_trn.attacks`, or a list of them, of which
                each gets an equal share of every batch.
            benign_share: Share of each batch that is left benign, from 0 to 1.
            fresh_share: Share of the adversarial images that is crafted anew in each step,
                from 0 to 1, where the data come from `cache_adversarial_examples`.
                Of other data, all are.
            jit_compile: Whether to compile the steps with XLA; `"auto"` leaves it
                to Keras.
            run_eagerly: Whether to run steps without a graph, to debug them.
            steps_per_execution: Number of batches for each call of the graph.
            **unknown: Not taken: arguments of `keras.Model.compile` such as `loss` are
                refused with what to use instead.

        Raises:
            ValueError: If there is no attack, a share is out of range, or an argument is not
                known.
        """
        refuse_unknown(unknown)
        self.compile_training(
            optimizer,
            attack,
            benign_share,
            own_arguments={"fresh_share": check_range("fresh_share", fresh_share, 0, 1)},
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
        )

    def restoration_losses(self, restored, logits, predicted, clean):
        clean_logits = logits_function(self.classifier)(clean)
        return tf.reduce_mean(tf.abs(logits - clean_logits), axis=-1)
