"""A classifier that is trained on adversarial images, and restores none."""

import keras
import tensorflow as tf

from keras_trn.architecture import architecture_config
from keras_trn.architecture import clone_with_new_weights
from keras_trn.checked_model import CheckedModel
from keras_trn.classifier_interface import describe_classifier
from keras_trn.logits import single_output
from keras_trn.metrics import Accuracy
from keras_trn.training import AdversarialTrainer
from keras_trn.training import count_benign
from keras_trn.training import craft_training_images
from keras_trn.training import per_replica_loss
from keras_trn.training import refuse_unknown
from keras_trn.training import unpack


@keras.saving.register_keras_serializable(package="keras_trn")
class AdversariallyTrainedClassifier(AdversarialTrainer, CheckedModel):
    """Trains a new classifier of the same architecture on attacks on itself.

    The defence that does without restoration: in each step, the classifier is
    attacked as it is, and learns from the adversarial images. It is made anew, with
    fresh weights that can all be trained, even those frozen in the classifier that
    was given; that one stays as it is. What no training changes is kept: the mean and
    the variance of a `keras.layers.Normalization` that was adapted to its data, and
    other weights that were made with `trainable=False`.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial
    Attacks", arXiv 1706.06083.

    Args:
        classifier: A built Keras model from images of shape `(batch, height,
            width, channels)` in [0, 1] to logits of shape `(batch, num_classes)`:
            only its architecture is taken.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].

    Returns:
        The logits of the new classifier: a float32 tensor of shape `(batch,
        num_classes)`.

    Raises:
        ValueError: If the classifier is not built, returns probabilities instead
            of logits, does not map images to at least two classes, or cannot be made
            anew from its configuration.

    Example:
        ```python
        trained = keras_trn.baselines.AdversariallyTrainedClassifier(classifier)
        trained.compile(attack=keras_trn.attacks.FastGradientMethod(epsilon=0.1))
        train, validation, _ = keras_trn.datasets.load("digits")
        history = trained.fit(train.take(2), validation_data=validation.take(1), verbose=0)
        assert "val_adversarial_accuracy" in history.history
        ```
    """

    def __init__(self, classifier, **kwargs):
        # Images and attacks stay float32 under any global policy.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.image_shape, self.num_classes = describe_classifier(classifier)
        self.classifier = clone_with_new_weights(classifier)
        self.loss_metric = keras.metrics.Mean(name="loss", dtype="float32")
        self.benign_accuracy = Accuracy(name="benign_accuracy", dtype="float32")
        self.adversarial_accuracy = Accuracy(name="adversarial_accuracy", dtype="float32")
        self.build((None, *self.image_shape))

    def build(self, images_shape):
        self.built = True

    def call(self, images, training=None):
        return tf.cast(single_output(self.classifier(images, training=training)), tf.float32)

    def compute_output_shape(self, images_shape):
        return (images_shape[0], self.num_classes)

    # --- Training ------------------------------------------------------------

    def compile(
        self,
        optimizer="adam",
        attack=None,
        benign_share=0.25,
        jit_compile="auto",
        run_eagerly=False,
        steps_per_execution=1,
        **unknown,
    ):
        """Says how the classifier is trained: by cross-entropy, on adversarial images.

        Args:
            optimizer: A Keras optimizer, or its name.
            attack: An attack of `keras_trn.attacks`, or a list of them, of which
                each gets an equal share of every batch. An attack whose epsilon
                is a range draws one for each image while training; validation
                attacks with the upper end of the range.
            benign_share: Share of each batch that is left benign, from 0, as in the
                source, to 1.
            jit_compile: Whether to compile the steps with XLA; `"auto"` leaves it
                to Keras.
            run_eagerly: Whether to run steps without a graph, to debug them.
            steps_per_execution: Number of batches for each call of the graph.
            **unknown: Not taken: arguments of `keras.Model.compile` such as `loss` are
                refused with what to use instead.

        Raises:
            ValueError: If there is no attack, the share is out of range, or an argument is
                not known.
        """
        refuse_unknown(unknown)
        self.compile_training(
            optimizer,
            attack,
            benign_share,
            own_arguments={},
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
        )

    @property
    def trained_part(self):
        """The classifier, whose numbers decide how it is trained."""
        return self.classifier

    def train_step(self, data):
        clean, labels, sample_weight = unpack(data)
        benign_count = count_benign(
            self.benign_share, tf.shape(clean)[0], self.optimizer.iterations
        )
        images = craft_training_images(self.attack, self.classifier, clean, labels, benign_count)
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            weight_penalty = per_replica_loss(sum(self.losses, start=0.0))
            loss = per_replica_loss(losses, sample_weight) + weight_penalty
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))

        self.loss_metric.update_state(losses, sample_weight)
        self.benign_accuracy.update_state(labels[:benign_count], logits[:benign_count])
        self.adversarial_accuracy.update_state(labels[benign_count:], logits[benign_count:])
        return self.get_metrics_result()

    def test_step(self, data):
        clean, labels, sample_weight = unpack(data)
        attacked = self.validation_attack(self.classifier, clean, labels)
        benign_logits, logits = self(clean, training=False), self(attacked, training=False)
        self.benign_accuracy.update_state(labels, benign_logits, sample_weight)
        self.adversarial_accuracy.update_state(labels, logits, sample_weight)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
        losses = self.benign_share * cross_entropy(labels, benign_logits)
        losses += (1 - self.benign_share) * cross_entropy(labels, logits)
        self.loss_metric.update_state(losses, sample_weight)
        return self.get_metrics_result()

    # --- Saving --------------------------------------------------------------

    def get_config(self):
        return {"name": self.name, "classifier": architecture_config(self.classifier)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        classifier = keras.saving.deserialize_keras_object(config["classifier"], custom_objects)
        return cls(**{**config, "classifier": classifier})
