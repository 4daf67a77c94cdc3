"""What is compiled follows the models it was compiled for, and takes no gradient of weights."""

import copy
import functools
import pickle
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn.evaluation.checks import Examination
from keras_trn.evaluation.runs import Run
from keras_trn.graphs import GraphCache
from keras_trn.graphs import state_of
from keras_trn.logits import logits_function

layers = keras.layers


@pytest.fixture
def squashed(digits):
    """An untrained classifier whose logits go through tanh."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10, activation="tanh")]
    )


CALLS = {
    "attack": lambda model: keras_trn.attacks.FastGradientMethod(epsilon=0.2),
    "square": lambda model: keras_trn.attacks.Square(epsilon=0.2, queries=20, seed=0),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", CALLS.values(), ids=CALLS)
def test_attack_follows_a_changed_classifier(make, squashed, digits):
    images, labels = digits[0][:8], digits[1][:8]
    used = make(squashed)
    before = used(squashed, images, labels).numpy()
    squashed.layers[-1].activation = lambda logits: -logits
    after = used(squashed, images, labels).numpy()
    fresh = make(squashed)(squashed, images, labels).numpy()
    np.testing.assert_array_equal(after, fresh)
    assert not np.array_equal(after, before)


def test_attack_on_a_threat_model_follows_a_changed_classifier(squashed, digits):
    images, labels = digits[0][:8], digits[1][:8]
    rounded = keras_trn.baselines.BitDepthReduction(squashed, bits=3)
    target = keras_trn.threat_models.BPDA().target(rounded)
    attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
    before = attack(target, images, labels).numpy()
    squashed.layers[-1].activation = lambda logits: -logits
    assert not np.array_equal(attack(target, images, labels).numpy(), before)


def test_a_target_is_traced_once_for_all_attacks(classifier, digits):
    images, labels = digits[0][:4], digits[1][:4]
    traced = []

    class Darkened(keras_trn.RestoredClassifier):
        def restore_batch(self, images, labels=None):
            if not tf.executing_eagerly():
                traced.append(images)
            return 0.9 * images

    target = keras_trn.threat_models.WhiteboxFull().target(Darkened(classifier))
    for make in (keras_trn.attacks.FastGradientMethod, keras_trn.attacks.ProjectedGradientDescent):
        make(epsilon=0.2)(target, images, labels)
    assert len(traced) == 1


def test_a_report_counts_passes_through_one_function_for_all_epsilons_and_checks(
    classifier, digits
):
    defence = keras_trn.baselines.BitDepthReduction(classifier, bits=3)
    attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
    threat_model = keras_trn.threat_models.BPDA()
    targets = {
        Run(["protected"], attack, threat_model, defence, epsilon).counted_target
        for epsilon in (0.1, 0.2)
    }
    examination = Examination(defence, digits[0][:4], digits[1][:4], attack, [threat_model])
    assert targets == {examination.target("bpda")}


def test_attack_follows_its_own_arguments(squashed, digits):
    attack = keras_trn.attacks.BasicIterativeMethod(0.2, steps=1, relative_step_size=0.1)
    images = digits[0][:2] * 0.5 + 0.25
    near = np.abs(attack(squashed, images) - images).max()
    attack.steps = 5
    assert np.abs(attack(squashed, images) - images).max() == pytest.approx(5 * near, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["predict", "restore", "estimate_gradient_maps", "evaluate"])
def test_protected_classifier_follows_a_changed_classifier(call, squashed, digits, protect):
    images, labels = digits[0][:8], digits[1][:8]
    protected = protect(squashed, keras_trn.gradient_maps.PredictedLabel())
    protected.fit(images, labels, verbose=0)

    def answer(model):
        if call == "evaluate":
            return model.evaluate(images, labels, verbose=0)
        arguments = {"verbose": 0} if call == "predict" else {}
        return getattr(model, call)(images, **arguments)

    before = answer(protected)
    squashed.layers[-1].activation = lambda logits: -5.0 * logits
    after = answer(protected)
    copied = keras_trn.ProtectedClassifier(squashed, protected.restorer, protected.gradient_map)
    copied.compile(attack=protected.attack)
    np.testing.assert_allclose(after, answer(copied), atol=1e-5)
    assert not np.allclose(before, after)


def test_filter_follows_its_own_arguments(squashed, digits):
    reduced = keras_trn.baselines.BitDepthReduction(squashed, bits=8)
    fine = reduced.restore(digits[0][:4] * 0.9)
    reduced.predict(digits[0][:4], verbose=0)
    reduced.bits = 1
    coarse = reduced.restore(digits[0][:4] * 0.9)
    assert set(np.unique(coarse)) == {0.0, 1.0} and not np.array_equal(fine, coarse)


class Scaled(keras.Model):
    """A subclassed classifier with attributes of its own."""

    def __init__(self):
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(3)
        self.temperature = 1.0
        self.offsets = [0.0, 0.0, 0.0]
        self.table = np.zeros(3, "float32")

    def call(self, images):
        logits = self.dense(self.flatten(images)) / self.temperature
        return logits + tf.constant(self.offsets) + self.table


def change_temperature(model):
    model.temperature = 2.0


def change_list(model):
    model.offsets[1] = 1.0


def change_array(model):
    model.table = np.ones(3, "float32")


def change_activation(model):
    model.dense.activation = keras.activations.tanh


@pytest.mark.parametrize(
    "change", [change_temperature, change_list, change_array, change_activation]
)
def test_every_change_of_a_model_is_seen(change):
    model = Scaled()
    model(tf.zeros((1, 4, 4, 1)))
    before = state_of(model)
    assert state_of(model) == before
    change(model)
    assert state_of(model) != before


@pytest.mark.slow
def test_an_added_layer_and_a_new_precision_are_seen():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(3)])
    before = state_of(model)
    model.pop()
    assert state_of(model) != before
    before = state_of(model)
    model.add(layers.Dense(2))
    assert state_of(model) != before
    before = state_of(model)
    model.quantize("int8")
    assert state_of(model) != before


def test_what_a_function_refers_to_is_seen():
    model = Scaled()
    model(tf.zeros((1, 4, 4, 1)))
    factor = [1.0]

    def scaled(images):
        return model(images) * factor[0]

    for subject in (scaled, functools.partial(scaled), lambda images: scaled(images)):
        before = state_of(subject)
        assert state_of(subject) == before
        factor[0] += 1.0
        assert state_of(subject) != before
        before = state_of(subject)
        change_temperature(model)
        model.temperature += factor[0]
        assert state_of(subject) != before


@pytest.mark.slow
def test_nothing_is_compiled_again_without_a_change(classifier, digits, protect):
    protected = protect(classifier)
    images, labels = digits[0][:16], digits[1][:16]
    protected.fit(images, labels, validation_data=(images, labels), verbose=0)
    protected.predict(images, verbose=0)
    functions = protected.train_function, protected.test_function, protected.predict_function
    protected.fit(images, labels, validation_data=(images, labels), epochs=2, verbose=0)
    protected.predict(images, verbose=0)
    again = protected.train_function, protected.test_function, protected.predict_function
    assert functions == again


def test_new_weights_need_no_new_graph(squashed):
    before = state_of(squashed)
    squashed.set_weights([weight + 1 for weight in squashed.get_weights()])
    assert state_of(squashed) == before


# --- Copies -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
@pytest.mark.parametrize(
    "attack",
    [
        keras_trn.attacks.ProjectedGradientDescent(0.1, steps=2, seed=0),
        keras_trn.attacks.Restarts(
            keras_trn.attacks.ProjectedGradientDescent(0.1, steps=2, seed=0), restarts=2
        ),
        keras_trn.attacks.Mixture([keras_trn.attacks.FastGradientMethod(0.1)]),
        keras_trn.attacks.DeepFool(0.5, steps=2),
    ],
    ids=lambda attack: attack.name,
)
def test_a_used_attack_can_be_copied(copied, attack, classifier, digits):
    images = digits[0][:4]
    expected = attack(classifier, images).numpy()
    np.testing.assert_allclose(copied(attack)(classifier, images).numpy(), expected, atol=1e-6)


def test_a_copied_cache_is_empty():
    graphs = GraphCache()
    # A copy of a function is the function itself, so a copied entry would be found.
    subject = tf.tanh
    graphs.remember("call", subject, lambda: "made")
    assert graphs.remember("call", subject, lambda: "made again") == "made"
    assert copy.deepcopy(graphs).remember("call", subject, lambda: "made again") == "made again"


# --- Gradients of the images alone -------------------------------------------------


class Watched(layers.Layer):
    """A weight that tells when anything computes its gradient."""

    computed = 0

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs):
        @tf.custom_gradient
        def scale(inputs, kernel):
            def gradient(upstream):
                # Not stateful: a graph leaves it out where nobody asks for the result.
                counted = tf.numpy_function(self._count, [upstream], tf.float32, stateful=False)
                in_kernel = counted * tf.reduce_sum(upstream * inputs, axis=[0, 1, 2])
                return upstream * kernel, in_kernel

            return inputs * kernel, gradient

        return scale(inputs, tf.convert_to_tensor(self.kernel))

    @staticmethod
    def _count(_):
        Watched.computed += 1
        return np.float32(1)


@pytest.fixture
def watched():
    Watched.computed = 0
    return keras.Sequential([keras.Input((8, 8, 1)), Watched(), layers.Flatten(), layers.Dense(10)])


@pytest.mark.slow
@pytest.mark.parametrize("with_labels", [False, True])
def test_eager_gradients_agree_with_compiled_ones(classifier, digits, with_labels):
    protected = keras_trn.ProtectedClassifier(
        classifier,
        keras_trn.TwoStreamRestorationNetwork(width=4, depth=1),
        keras_trn.gradient_maps.UniformLabel(),
    )
    correction = protected.restorer.correction
    correction.kernel.assign(0.1 * keras.random.normal(correction.kernel.shape, seed=0))
    images = tf.constant(digits[0][:4])
    direction = tf.one_hot(digits[1][:4], 10)

    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            score = tf.reduce_sum(protected(images) * direction)
        return tape.gradient(score, images)

    compiled = tf.function(gradient, autograph=False)
    np.testing.assert_allclose(gradient(images), compiled(images), rtol=1e-3, atol=1e-4)


def test_eager_training_gradients_of_the_restorer_are_taken(classifier, digits):
    protected = keras_trn.ProtectedClassifier(classifier)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(protected(tf.constant(digits[0][:4])))
    gradients = tape.gradient(loss, protected.restorer.correction.trainable_variables)
    assert np.abs(gradients[0]).max() > 0


@pytest.mark.slow
def test_no_gradient_of_the_classifiers_weights_is_computed(watched):
    images = np.random.default_rng(0).random((4, 8, 8, 1), dtype="float32")
    for gradient_map in (
        keras_trn.gradient_maps.UniformLabel(),
        keras_trn.gradient_maps.EstimatedLabel(width=4, depth=1),
    ):
        protected = keras_trn.ProtectedClassifier(
            watched, keras_trn.TwoStreamRestorationNetwork(width=4, depth=1), gradient_map
        )
        protected(images)
        with tf.GradientTape() as tape:
            x = tf.constant(images)
            tape.watch(x)
            score = tf.reduce_sum(protected(x))
        assert tape.gradient(score, x).shape == images.shape
        protected.compile(attack=keras_trn.attacks.FastGradientMethod(0.1), run_eagerly=True)
        protected.fit(images, np.arange(4), verbose=0)
    keras_trn.attacks.ProjectedGradientDescent(0.1, steps=2)(watched, images)
    assert Watched.computed == 0
    with tf.GradientTape() as tape:
        score = tf.reduce_sum(watched(images))
    tape.gradient(score, watched.trainable_variables or watched.weights)
    assert Watched.computed == 1, "The layer does not count."


@pytest.mark.slow
def test_a_strided_shortcut_does_not_corrupt_the_memory():
    """Runs what ends in `free(): invalid next size` where the kernel's gradient is taken."""
    program = """
        import keras, numpy as np, tensorflow as tf, keras_trn
        from keras_trn.logits import logits_function
        layers = keras.layers
        x = inputs = keras.Input((60, 60, 8))
        shortcut = layers.Conv2D(16, 1, strides=2, padding="same", use_bias=False)(x)
        x = layers.Conv2D(16, 3, strides=2, padding="same")(x)
        x = layers.GlobalAveragePooling2D()(layers.Add()([x, shortcut]))
        classifier = keras.Model(inputs, layers.Dense(5)(x))
        images = np.random.default_rng(0).random((8, 60, 60, 8), dtype="float32")
        protected = keras_trn.ProtectedClassifier(
            classifier, keras_trn.TwoStreamRestorationNetwork(width=4, depth=1)
        )
        for _ in range(10):
            with tf.GradientTape() as tape:
                x = tf.constant(images)
                tape.watch(x)
                score = tf.reduce_sum(protected(x))
            tape.gradient(score, x)
        print("alive")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert run.stdout.strip() == "alive", run.stderr[-500:]


def test_logits_function_takes_one_output_however_it_is_wrapped(digits):
    images = digits[0][:2]
    x = keras.Input((8, 8, 1))
    y = layers.Dense(10)(layers.Flatten()(x))
    plain = keras.Model(x, y)
    for outputs in ([y], {"logits": y}, [[y]], (y,)):
        wrapped = keras.Model([x], outputs)
        np.testing.assert_array_equal(logits_function(wrapped)(images), plain(images))


@pytest.mark.parametrize("outputs", ["list", "dictionary"])
def test_several_outputs_are_refused_with_the_way_out(outputs):
    x = keras.Input((8, 8, 1))
    y, z = layers.Dense(10)(layers.Flatten()(x)), layers.Dense(4)(layers.Flatten()(x))
    model = keras.Model(x, [y, z] if outputs == "list" else {"class": y, "box": z})
    with pytest.raises(ValueError, match=r"returns 2.*keras\.Model\(classifier\.inputs"):
        keras_trn.ProtectedClassifier(model)
    one = keras.Model(model.inputs, model.outputs[0])
    assert keras_trn.ProtectedClassifier(one).num_classes in (4, 10)
