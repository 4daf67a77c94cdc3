"""Checks of the defence itself: whether it can be attacked as any classifier can."""

import contextlib
import itertools
from unittest import mock

import numpy as np
import scipy.stats
import tensorflow as tf

from keras_trn import threat_models
from keras_trn.evaluation.checks.registry import Finding
from keras_trn.evaluation.checks.registry import NotApplicable
from keras_trn.evaluation.checks.registry import check
from keras_trn.evaluation.randomness import ROUNDING_OF_LOGITS
from keras_trn.evaluation.randomness import largest_distance
from keras_trn.evaluation.randomness import normalized
from keras_trn.graphs import compile_function
from keras_trn.logits import logits_function
from keras_trn.logits import looks_like_probabilities

# So rarely is a constant answer right as often by chance.
_BY_CHANCE = 0.01
# One by one is slow, and what depends on the batch shows in few images already.
_BATCH_SIZES = (1, 7)
_REGROUPED_IMAGES = 14
# Where a gradient is nothing but rounding, so is its sign, and with it the pixel.
_ROUNDING_OF_PIXELS = 0.02


@check
def outputs_are_logits(examination):
    """Checks that the defence returns logits, and finite ones.

    Probabilities near 0 or 1 have no gradient that an attack could follow, even
    where they are scaled; and a defence that returns NaN where it is attacked
    makes an attack stop there. Both clean and adversarial images are looked at.

    Source: `check_range_output` of AutoAttack (Croce and Hein, arXiv 2003.01690).

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the share of images without proper logits.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.outputs_are_logits(examination).status == "PASS"
        ```
    """
    # Not compiled: fused with a convolution, ReLU makes zeros of NaN on CPUs.
    answer = logits_function(examination.defence)
    clean = answer(examination.images).numpy()
    attacked = answer(examination.adversarial("whitebox_full")).numpy()
    is_finite = np.isfinite(clean).all(axis=-1) & np.isfinite(attacked).all(axis=-1)
    share = 1 - is_finite.mean()
    if share > 0:
        measured = f"{share:.1%} of images have a logit that is NaN or infinite, clean or attacked"
        warning = "attacks stop there; repair the forward pass"
        return Finding(False, share, measured, warning, random_explains=False)
    # Scaled probabilities are still probabilities, and still flat.
    if looks_like_probabilities(clean / (np.mean(clean.sum(axis=-1)) or 1.0)):
        measured = "All rows of scores are positive and have the same sum, as probabilities do"
        warning = "leave out the softmax, and return logits"
        return Finding(False, 1.0, measured, warning, random_explains=False)
    return Finding(True, 0.0, "All outputs are finite, and no probabilities")


@check
def deterministic(examination):
    """Checks that the defence gives one image one answer.

    An attack that differentiates one run of a random defence optimizes against
    noise that is gone at the next run, and finds too little.

    Source: `check_randomized` of AutoAttack (Croce and Hein, arXiv 2003.01690).

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the largest distance between the normalized
        logits of two runs.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.deterministic(examination).figure == 0
        ```
    """
    distance = largest_distance(examination.runs)
    return Finding(
        not examination.is_random,
        distance,
        f"{len(examination.runs)} runs on the same images differ by at most {distance:.2g} in "
        "normalized logits",
        "attack the mean of several runs, such as `WhiteboxFull(samples=20)`",
        random_explains=None,
    )


@check
def classifier_beats_chance(examination):
    """Checks that the bare classifier has learned something.

    What a classifier that guesses loses under attack says nothing about the attack or the
    defence. Its accuracy without attack has to be above that of the best constant answer, the
    share of the most frequent class, by more than chance explains.

    Source: this package.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the accuracy of the bare classifier on the images as they
        are.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.classifier_beats_chance(examination).status == "WARN"
        ```
    """
    right = examination.classified_correctly(examination.images, examination.classifier)
    most_frequent = np.bincount(examination.labels).max() / len(right)
    chance = scipy.stats.binomtest(int(right.sum()), len(right), most_frequent, "greater").pvalue
    return Finding(
        chance <= _BY_CHANCE,
        right.mean(),
        f"The bare classifier is right on {right.mean():.1%} of {len(right)} images without "
        f"attack, and the best constant answer on {most_frequent:.1%}",
        "that may be chance, and robust accuracies then mean nothing; train the classifier, check "
        "that it sees images in [0, 1] and the labels it was trained on, or check more images",
        random_explains=False,
    )


@check
def input_gradients(examination):
    """Checks that every image has a gradient that an attack can follow.

    Where the gradient is zero, NaN or infinite, an attack that follows it stays
    where it is, and the defence looks robust without being so. The cross-entropy
    and the margin between the true class and the next one are both tried, as
    either can be flat where the other is not.

    Source: `check_zero_gradients` of AutoAttack (Croce and Hein, arXiv
    2003.01690); "shattered gradients" of Athalye et al., arXiv 1802.00420.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the share of images without a gradient.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.input_gradients(examination).status == "PASS"
        ```
    """
    sizes = _gradient_sizes(examination.target("whitebox_full"))
    size = sizes(examination.images, tf.constant(examination.labels)).numpy()
    is_useless = ~np.isfinite(size) | (size == 0)
    share = is_useless.any(axis=0).mean()
    return Finding(
        share == 0,
        share,
        f"{share:.1%} of images have a gradient of cross-entropy or margin that is zero, NaN or "
        "infinite",
        "white-box attacks are blind there, and only `bpda` and `blackbox` say something",
    )


@check
def dynamic_defence(examination):
    """Checks that a defence which takes gradients was attacked through them.

    Attacks for defences that only go forward, AutoAttack's standard version among
    them, are not enough for one that takes gradients while it answers, as the
    gradient maps of this package do: it needs an adaptive attack, which
    differentiates these gradients too.

    Source: `check_dynamic` of AutoAttack; Croce et al., "Evaluating the
    Adversarial Robustness of Adaptive Test-time Defenses", arXiv 2202.13711.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult` without a figure; not applicable where the forward pass
        takes no gradient.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.dynamic_defence(examination).status == "not applicable"
        ```
    """
    graph = examination.graph(examination.defence).get_concrete_function().graph.as_graph_def()
    if not _takes_gradients(graph):
        return NotApplicable("The forward pass takes no gradients")
    full = threat_models.WhiteboxFull.name
    if examination.obstacle is not None:
        measured = f"The forward pass takes gradients, and `{full}` cannot be run"
        return Finding(False, None, measured, examination.obstacle, random_explains=False)
    return Finding(
        full in examination.threat_models,
        None,
        "The forward pass takes gradients",
        "AutoAttack's standard version is not enough for it; report the threat model "
        f"`{full}`, which differentiates these gradients too",
        random_explains=False,
    )


@check
def map_gradient_is_complete(examination):
    """Checks that the attacker who knows everything sees the gradient map move.

    `whitebox_full` differentiates the map, which is a gradient itself. An operation of the
    classifier may hide the gradient of its gradient, such as a custom gradient that is
    constant: the map then looks as if it stood still, and the attacker is weaker than the name
    says. So slopes of the map by the tape are compared with finite differences, the median over
    some images and directions.

    Source: this package.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the share of the slopes that the tape misses. Not
        applicable where there is no gradient map, or finite differences do not settle.

    Example:
        ```python
        from keras_trn.evaluation import checks

        protected = keras_trn.ProtectedClassifier(
            classifier,
            keras_trn.TwoStreamRestorationNetwork(width=4, depth=1),
            keras_trn.gradient_maps.UniformLabel(),
        )
        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2)
        examination = checks.Examination(protected, images, labels, attack)
        assert checks.map_gradient_is_complete(examination).status == "PASS"
        ```
    """
    motion = examination.map_motion
    if motion is None and examination.obstacle is None:
        return NotApplicable("There is no gradient map that an attacker could run")
    if motion is None:
        measured = "`whitebox_full` cannot be run"
        return Finding(False, 1.0, measured, examination.obstacle, random_explains=False)
    if motion.missed is None:
        return NotApplicable("Finite differences of the gradient map do not settle")
    return Finding(
        motion.is_seen,
        motion.missed,
        f"{str(motion).capitalize()}, which misses {motion.missed:.1%}",
        "an operation of the classifier hides the gradient of its gradient, and "
        "`whitebox_full` cannot be run in full",
    )


@check
def restoration_switched_off(examination):
    """Checks that a restoration is all that stands before the classifier.

    The defence's logits have to equal the logits of its classifier on its restored
    images, and with a restoration that does nothing the logits of the bare classifier:
    bit for bit. Otherwise the columns of a report do not compare the same
    classifier with and without its restoration.

    Source: this package.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the largest difference between logits. Not
        applicable where there is no restoration.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.restoration_switched_off(examination).status == "not applicable"
        ```
    """
    if not examination.is_restored:
        return NotApplicable("There is no restoration")
    images, defence = examination.images, examination.defence
    defended, bare = logits_function(defence), logits_function(defence.classifier)
    difference = _largest_difference(defended(images), bare(defence.restore_batch(images)))
    with _identity_restoration(defence):
        switched_off = _largest_difference(defended(images), bare(images))
    figure = max(difference, switched_off)
    return Finding(
        figure == 0,
        figure,
        f"Logits differ by {difference:.2g} from the classifier's on the restored images, and by "
        f"{switched_off:.2g} from the bare classifier's without a restoration",
        "something but the restoration changes the answer; with and without it do not compare",
    )


@check
def batch_invariance(examination):
    """Checks that what becomes of an image does not depend on the rest of its batch.

    A loss that is averaged over a batch where it should be summed, or statistics
    of a batch, make results that nobody can repeat with another batch size; and an
    attacker chooses the batch. Logits and adversarial images are compared for
    batches of 1, of 7, and of all. The attack is that of one step: random starts
    differ with the place in the batch, and many steps blow up rounding errors.

    Source: this package.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the share of images with other logits or
        another adversarial image.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.batch_invariance(examination).status == "PASS"
        ```
    """
    attack, target = examination.single_step, examination.target("whitebox_full")
    images, labels = examination.images[:_REGROUPED_IMAGES], examination.labels[:_REGROUPED_IMAGES]
    logits = normalized(examination.logits(examination.images)[: len(images)])
    adversarial = examination.adversarial("whitebox_full", attack)[: len(images)].numpy()
    differs = np.zeros(len(images), bool)
    for size in _BATCH_SIZES:
        starts = range(0, len(images), size)
        groups = [slice(start, start + size) for start in starts]
        regrouped = np.concatenate([examination.logits(images[group]) for group in groups])
        distance = np.linalg.norm(normalized(regrouped) - logits, axis=-1)
        attacked = np.concatenate([attack(target, images[g], labels[g]) for g in groups])
        other_pixels = np.mean(np.abs(attacked - adversarial) > 1e-3, axis=(1, 2, 3))
        differs |= (distance > ROUNDING_OF_LOGITS) | (other_pixels > _ROUNDING_OF_PIXELS)
    share = differs.mean()
    return Finding(
        share == 0,
        share,
        f"{share:.1%} of {len(images)} images have other logits or another adversarial image in "
        f"batches of {' or '.join(map(str, _BATCH_SIZES))} than among all",
        "the answer depends on the batch; look for means or sums over its axis",
    )


def _gradient_sizes(target):
    """A function that sums the gradient of each image, for cross-entropy and margin."""
    answer = logits_function(target)

    def sizes(images, labels):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            logits = answer(images)
            true = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False)
            next_best = tf.reduce_max(tf.where(true, -np.inf, logits), axis=-1)
            margin = next_best - tf.reduce_sum(tf.where(true, logits, 0.0), axis=-1)
            cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        zero = tf.UnconnectedGradients.ZERO
        gradients = [tape.gradient(loss, images, None, zero) for loss in (cross_entropy, margin)]
        return tf.reduce_sum(tf.abs(tf.stack(gradients)), axis=[2, 3, 4])

    return compile_function(sizes)


def _takes_gradients(graph):
    """Whether a graph holds what a gradient tape writes into it, also in functions it calls."""
    nodes = [graph.node, *(function.node_def for function in graph.library.function)]
    return any(node.name.startswith("gradient_tape/") for node in itertools.chain(*nodes))


@contextlib.contextmanager
def _identity_restoration(defence):
    """Makes a defence restore nothing, for as long as the context lasts."""
    with mock.patch.object(defence, "restore_batch", lambda images, labels=None: images):
        yield


def _largest_difference(logits, other_logits):
    """The largest difference; NaN equals NaN."""
    return float(np.abs(np.nan_to_num(logits) - np.nan_to_num(other_logits)).max())
