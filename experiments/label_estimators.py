"""`EstimatedLabel` with one of its parts exchanged, to show what that part is worth."""

import tensorflow as tf

from keras_trn.gradient_maps import EstimatedLabel


class MapZeroed(EstimatedLabel):
    """The control: the same network and noise estimate, with the gradient map replaced by zeros."""

    def backward_passes(self, num_classes):
        return 0

    def maps_for(self, label_distribution, first):
        nothing = tf.zeros_like(first.images)
        return tf.concat([nothing, nothing, first.images - first.restored], axis=-1)


class LabelKnown(EstimatedLabel):
    """The upper bound: the same weights, told the label that the attack leads away from."""

    needs_labels = True

    def label_distribution(self, label_logits, labels=None):
        return tf.one_hot(labels, label_logits.shape[-1])


class TaughtWithEstimates(EstimatedLabel):
    """The restorer learns from maps for estimated labels, not from those for the known ones."""

    def call_with_loss(self, images, classifier, labels, clean_images, training=True):
        return super().call_with_loss(images, classifier, labels, clean_images, training=False)
