"""The protected classifier trains its restorer, and nothing else."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn.training import unpack

MAPS = keras_trn.gradient_maps
ATTACKS = keras_trn.attacks
METRICS = {"loss", "benign_accuracy", "adversarial_accuracy", "psnr"}


@pytest.fixture
def batches(digits):
    """Two batches of digits, as a pipeline."""
    images, labels = digits
    return tf.data.Dataset.from_tensor_slices((images[:64], labels[:64])).batch(32)


def digits_classifier_with_statistics():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, strides=2),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


# --- Training ---------------------------------------------------------------------------


@pytest.mark.slow
def test_fit_lowers_the_loss_and_raises_the_accuracy_under_attack(classifier, digits, protect):
    keras.utils.set_random_seed(0)
    images, labels = digits
    protected = protect(classifier, optimizer=keras.optimizers.Adam(5e-3))
    before = protected.evaluate(images, labels, verbose=0, return_dict=True)
    protected.fit(images, labels, epochs=15, verbose=0)
    after = protected.evaluate(images, labels, verbose=0, return_dict=True)
    assert after["loss"] < 0.7 * before["loss"]
    assert after["adversarial_accuracy"] > before["adversarial_accuracy"] + 0.2
    assert after["benign_accuracy"] > before["benign_accuracy"] - 0.05


@pytest.mark.slow
def test_the_true_labels_make_no_difference_to_what_is_learned(classifier, digits, protect):
    images, labels = digits[0][:64], digits[1][:64]
    losses = []
    for given in (labels, (labels + 1) % 10):
        keras.utils.set_random_seed(0)
        protected = protect(classifier, attack=ATTACKS.FastGradientMethod(0.2))
        history = protected.fit(images, given, epochs=2, shuffle=False, verbose=0).history
        losses.append(history["loss"])
    np.testing.assert_array_equal(*losses)
    assert history["benign_accuracy"][0] < 0.1


@pytest.mark.slow
def test_history_has_the_metrics_and_means_them_over_the_epoch(classifier, batches, protect):
    protected = protect(classifier)
    history = protected.fit(batches, validation_data=batches, epochs=2, verbose=0).history
    assert set(history) == METRICS | {f"val_{name}" for name in METRICS}
    assert all(np.isfinite(values).all() and len(values) == 2 for values in history.values())
    measured = protected.evaluate(batches, verbose=0, return_dict=True)
    assert measured == pytest.approx({name: history[f"val_{name}"][-1] for name in METRICS})


@pytest.mark.slow
def test_metrics_are_means_over_all_batches_of_an_epoch(classifier, digits, protect):
    images = digits[0][:64]
    labels = classifier.predict(images, verbose=0).argmax(-1)
    labels[32:] = (labels[32:] + 1) % 10  # All of the second batch are wrong.
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)
    protected = protect(classifier, optimizer=keras.optimizers.SGD(0.0))
    history = protected.fit(batches, validation_data=batches, verbose=0).history
    assert history["benign_accuracy"] == history["val_benign_accuracy"] == [0.5]


@pytest.mark.slow
def test_evaluate_returns_each_metric_once_and_in_the_order_of_its_names(
    classifier, batches, protect
):
    protected = protect(classifier)
    loss, benign_accuracy, adversarial_accuracy, psnr = protected.evaluate(batches, verbose=0)
    expected = protected.evaluate(batches, verbose=0, return_dict=True)
    assert expected == {
        "loss": loss,
        "benign_accuracy": benign_accuracy,
        "adversarial_accuracy": adversarial_accuracy,
        "psnr": psnr,
    }
    losses = []
    for images, labels in batches:
        protected.reset_metrics()
        losses.append(protected.test_on_batch(images, labels, return_dict=True)["loss"])
    assert loss == pytest.approx(np.mean(losses))


def test_images_of_a_generator_are_not_written_over(digits):
    images, labels = (part[:16] for part in digits)
    # TensorFlow only takes an array as it lies in memory if it starts at a multiple of 64 bytes.
    memory = np.empty(images.nbytes + 64, "uint8")
    start = -memory.ctypes.data % 64
    aligned = memory[start : start + images.nbytes].view("float32").reshape(images.shape)
    aligned[:] = images
    pipeline = tf.data.Dataset.from_generator(
        lambda: iter([(aligned, labels)]),
        output_signature=(tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), "int64")),
    )

    @tf.function
    def step(iterator, pictures):
        batch, _, _ = unpack(next(iterator))
        return [tf.reduce_sum(tf.square(batch[part] - pictures)) for part in halves]

    halves = slice(0, 8), slice(8, 16)
    step(iter(pipeline), tf.random.uniform((8, 8, 1)))
    np.testing.assert_array_equal(aligned, images)


@pytest.mark.slow
def test_validation_data_may_come_from_a_generator_and_lose_no_batch(classifier, digits, protect):
    def batches():
        for start in (0, 32):
            yield tuple(part[start : start + 32] for part in digits)

    protected = protect(classifier, optimizer=keras.optimizers.SGD(0.0))
    fitted = protected.fit(
        batches(), validation_data=batches(), steps_per_epoch=2, validation_steps=2, verbose=0
    )
    expected = protected.evaluate(*(part[:64] for part in digits), verbose=0)
    np.testing.assert_allclose(fitted.history["val_loss"], expected[:1], rtol=1e-4)


def test_predict_takes_the_batch_size_by_place_as_keras_does(classifier, digits, protect):
    images = digits[0][:8]
    protected = protect(classifier)
    np.testing.assert_allclose(protected.predict(images, 4, 0), protected(images), atol=1e-4)


@pytest.mark.slow
def test_classifier_that_is_unfrozen_does_not_learn_either(batches, protect):
    classifier = digits_classifier_with_statistics()
    before = [weight.numpy() for weight in classifier.weights]
    protected = protect(classifier)
    classifier.trainable = True
    protected.compile(optimizer=keras.optimizers.SGD(0.1), attack=ATTACKS.FastGradientMethod(0.2))
    protected.fit(batches, verbose=0)
    for weight, old in zip(classifier.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old, err_msg=weight.path)


@pytest.mark.slow
def test_an_untrained_model_is_the_bare_classifier(classifier, digits, protect):
    images, _ = digits
    protected = protect(classifier)
    np.testing.assert_array_equal(protected.restore(images), images)
    bare = classifier.predict(images, verbose=0)
    np.testing.assert_array_equal(protected.predict(images, verbose=0), bare)


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_classifier_stays_as_it_is_bit_by_bit(batches, protect, run_eagerly):
    classifier = digits_classifier_with_statistics()
    before = [weight.numpy() for weight in classifier.weights]
    protected = protect(classifier, run_eagerly=run_eagerly)
    protected.fit(batches, validation_data=batches, verbose=0)
    for weight, old in zip(classifier.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old, err_msg=weight.path)


@pytest.mark.slow
def test_fit_changes_restorer_and_estimator(classifier, batches, protect):
    protected = protect(classifier)
    parts = [protected.restorer, protected.gradient_map]
    before = [[weight.numpy() for weight in part.trainable_weights] for part in parts]
    protected.fit(batches, epochs=3, verbose=0)
    for part, old_weights in zip(parts, before, strict=True):
        changed = [
            not np.array_equal(weight, old)
            for weight, old in zip(part.trainable_weights, old_weights, strict=True)
        ]
        assert all(changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "jit_compile"),
    [("float32", False), ("mixed_float16", False), ("mixed_float16", True)],
)
def test_fit_with_and_without_xla_and_float16(classifier, batches, protect, jit_compile, dtype):
    attack = ATTACKS.ProjectedGradientDescent(epsilon=(0.0, 0.2), steps=3)
    protected = protect(classifier, attack=attack, jit_compile=jit_compile, dtype=dtype)
    history = protected.fit(batches, validation_data=batches, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert protected.restore(np.zeros((2, 8, 8, 1), "float32")).dtype == np.float32
    scales = isinstance(protected.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scales == (dtype == "mixed_float16")


@pytest.mark.slow
def test_global_float16_policy_leaves_images_alone(mixed_float16, batches, digits, protect):
    classifier = digits_classifier_with_statistics()
    protected = protect(classifier)
    protected.fit(batches, verbose=0)
    assert isinstance(protected.optimizer, keras.optimizers.LossScaleOptimizer)
    images, _ = digits
    maps = protected.estimate_gradient_maps(images[:4])
    assert maps.dtype == np.float32 and np.isfinite(maps).all()
    assert protected.predict(images[:4], verbose=0).dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    "gradient_map",
    [
        MAPS.PredictedLabel(),
        MAPS.UniformLabel(),
        MAPS.TrueLabel(),
        MAPS.EstimatedLabel(width=4, depth=1),
    ],
    ids=lambda gradient_map: type(gradient_map).__name__,
)
def test_fit_with_every_gradient_map(classifier, batches, protect, gradient_map):
    history = protect(classifier, gradient_map).fit(batches, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_single_stream_needs_no_gradient_map(classifier, digits, batches, protect):
    protected = protect(classifier, two_streams=False)
    protected.fit(batches, verbose=0)
    assert protected.gradient_map is None
    with pytest.raises(ValueError, match="takes no gradient maps"):
        protected.estimate_gradient_maps(digits[0])


class ScaledByKernel(keras.Model):
    """A restorer of one convolution, whose loss may have a penalty for the kernel."""

    takes_gradient_maps = False

    def __init__(self, regularizer=None, added=0.0):
        super().__init__()
        self.convolution = keras.layers.Conv2D(1, 1, kernel_regularizer=regularizer)
        self.added = added

    def build(self, images_shape):
        self.convolution.build(images_shape)
        self.convolution.kernel.assign([[[[0.9]]]])

    def call(self, images):
        if self.added:
            self.add_loss(self.added * keras.ops.square(self.convolution.kernel))
        return self.convolution(images)


@pytest.mark.slow
@pytest.mark.parametrize("threat_model", ["oblivious", "whitebox_full"])
def test_penalties_of_the_restorer_count_in_the_loss(classifier, digits, threat_model):
    def trained_kernel(run_eagerly=False, **penalty):
        restorer = ScaledByKernel(**penalty)
        protected = keras_trn.ProtectedClassifier(classifier, restorer)
        protected.compile(
            keras.optimizers.SGD(0.1),
            attack=keras_trn.attacks.FastGradientMethod(epsilon=0.0),
            threat_model=threat_model,
            jit_compile=False,
            run_eagerly=run_eagerly,
        )
        protected.fit(digits[0][:8], digits[1][:8], batch_size=8, verbose=0)
        return float(restorer.convolution.kernel[0, 0, 0, 0])

    # One step of SGD takes the share 2 * 0.1 * 0.5 of the kernel away.
    expected = trained_kernel() - 0.1 * 0.9
    for penalty in ({"regularizer": keras.regularizers.L2(0.5)}, {"added": 0.5}):
        for run_eagerly in (False, True):
            found = trained_kernel(run_eagerly, **penalty)
            assert found == pytest.approx(expected, abs=1e-4), penalty


@pytest.mark.slow
def test_history_counts_the_penalties_of_the_restorer(classifier, digits):
    def history(**penalty):
        protected = keras_trn.ProtectedClassifier(classifier, ScaledByKernel(**penalty))
        attack = ATTACKS.FastGradientMethod(epsilon=0.1)
        protected.compile(keras.optimizers.SGD(0.0), attack=attack, jit_compile=False)
        data = digits[0][:24], digits[1][:24]
        return protected.fit(*data, validation_data=data, batch_size=16, verbose=0).history

    expected = history()
    for penalty in ({"regularizer": keras.regularizers.L2(0.5)}, {"added": 0.5}):
        found = history(**penalty)
        for name in ("loss", "val_loss"):
            difference = found[name][0] - expected[name][0]
            assert difference == pytest.approx(0.5 * 0.81, rel=1e-3), (name, penalty)


@pytest.mark.slow
def test_sample_weights_do_not_count_in_metrics(classifier, digits, protect):
    images, labels = (array[:32] for array in digits)
    data = images, (labels + (np.arange(32) >= 16)) % 10
    protected = protect(classifier, optimizer=keras.optimizers.SGD(0.0))
    weights = np.repeat([1.0, 0.0], 16)
    measured = [
        protected.evaluate(*data, sample_weight=sample_weight, verbose=0, return_dict=True)
        for sample_weight in (None, weights)
    ]
    for name in METRICS - {"loss"}:
        assert measured[0][name] == measured[1][name], name
    assert measured[1]["loss"] < measured[0]["loss"]


@pytest.mark.slow
def test_benign_share_decides_how_many_images_are_attacked(classifier, batches, protect):
    protected = protect(classifier, benign_share=1.0)
    history = protected.fit(batches, verbose=0).history
    assert np.isnan(history["psnr"][0])  # No image was attacked, so there is none to measure.
    protected = protect(classifier, benign_share=0.0)
    assert np.isnan(protected.fit(batches, verbose=0).history["benign_accuracy"][0])


@pytest.mark.slow
def test_several_attacks_in_a_list_become_a_mixture(classifier, batches, protect):
    attacks = [ATTACKS.FastGradientMethod(0.1), ATTACKS.FastGradientMethod(1.0, norm="l2")]
    protected = protect(classifier, attack=attacks)
    assert isinstance(protected.attack, ATTACKS.Mixture)
    protected.fit(batches, verbose=0)


def test_validation_attacks_at_full_strength(classifier, protect):
    protected = protect(classifier, attack=ATTACKS.FastGradientMethod(epsilon=(0.0, 0.2)))
    assert protected.validation_attack.epsilon == 0.2
    assert protected.attack.epsilon == (0.0, 0.2)


@pytest.mark.slow
def test_sample_weights_of_zero_take_images_out_of_the_loss(classifier, digits, protect):
    images, labels = (array[:32] for array in digits)
    protected = protect(classifier)
    before = [weight.numpy() for weight in protected.trainable_weights]
    protected.fit(images, labels, sample_weight=np.zeros(32), verbose=0)
    for weight, old in zip(protected.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)


@pytest.mark.slow
def test_labels_may_have_a_second_axis_of_one(classifier, digits, protect):
    images, labels = (array[:32] for array in digits)
    history = protect(classifier).fit(images, labels[:, None], verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.slow
def test_one_seed_gives_one_result(classifier, batches, protect):
    attack = ATTACKS.ProjectedGradientDescent(epsilon=(0.0, 0.2), steps=2)

    def losses():
        keras.utils.set_random_seed(7)
        protected = protect(classifier, attack=attack)
        return protected.fit(batches, epochs=2, verbose=0).history["loss"]

    assert losses() == losses()


@pytest.mark.slow
def test_steps_are_traced_once_whatever_the_size_of_the_batch(
    classifier, digits, protect, monkeypatch
):
    images, labels = (array[:80] for array in digits)
    protected = protect(classifier)
    train_step, traces = protected.train_step, []
    monkeypatch.setattr(
        protected, "train_step", lambda data: traces.append(data) or train_step(data)
    )
    protected.fit(images, labels, batch_size=32, epochs=3, verbose=0)
    # Once for full batches, and once for batches of any size.
    assert 1 <= len(traces) <= 2
    call, traced = protected.restorer.call, itertools.count()

    def counting(*arguments):
        next(traced)
        return call(*arguments)

    monkeypatch.setattr(protected.restorer, "call", counting)
    for number in (3, 5, 7, 11):
        protected.restore(images[:number])
    assert 1 <= next(traced) <= 2


# --- Inference --------------------------------------------------------------------------


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch(classifier, digits, batches, protect):
    images, _ = (array[:24] for array in digits)
    protected = protect(classifier)
    protected.fit(batches, verbose=0)
    for function in (protected.restore, protected.estimate_gradient_maps):
        alone = function(images, batch_size=1)
        np.testing.assert_allclose(function(images, batch_size=7), alone, atol=1e-5)
        np.testing.assert_allclose(function(images, batch_size=24), alone, atol=1e-5)


@pytest.mark.slow
def test_predict_classifies_the_restored_images(classifier, digits, batches, protect):
    images, _ = digits
    protected = protect(classifier)
    protected.fit(batches, verbose=0)
    logits = classifier.predict(protected.restore(images), verbose=0)
    np.testing.assert_allclose(protected.predict(images, verbose=0), logits, rtol=1e-5, atol=1e-5)
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(50)
    np.testing.assert_allclose(protected.predict(dataset, verbose=0), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_gradients_flow_through_the_whole_model(classifier, digits, batches, protect):
    images = tf.constant(digits[0][:4])
    protected = protect(classifier)
    protected.fit(batches, verbose=0)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = protected(images)
    gradient = tape.gradient(logits, images).numpy()
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_true_labels_are_refused_at_test_time_and_taken_in_studies(classifier, digits, protect):
    images, labels = (array[:8] for array in digits)
    protected = protect(classifier, MAPS.TrueLabel())
    with pytest.raises(ValueError, match="not known at test time"):
        protected.predict(images, verbose=0)
    with pytest.raises(ValueError, match="not known at test time"):
        protected.restore(images)
    restored = protected.restore(images, labels=labels)
    assert restored.shape == images.shape
    np.testing.assert_array_equal(protected.restore(images, labels=labels[:, None]), restored)


def test_summary_names_the_parts_and_counts_only_the_restorer_as_trainable(classifier, protect):
    protected = protect(classifier)
    lines = []
    protected.summary(print_fn=lambda line, **_: lines.append(line))
    summary = "\n".join(lines)
    for part in (protected.classifier, protected.restorer, protected.gradient_map):
        assert part.name.split("_")[0] in summary
    trainable = sum(weight.shape.num_elements() for weight in protected.trainable_weights)
    parts = protected.restorer.count_params() + protected.gradient_map.count_params()
    assert trainable == parts


def test_defaults_are_the_two_stream_network_and_the_estimated_label(classifier):
    protected = keras_trn.ProtectedClassifier(classifier)
    assert isinstance(protected.restorer, keras_trn.TwoStreamRestorationNetwork)
    assert isinstance(protected.gradient_map, MAPS.EstimatedLabel)


# --- What is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: ((x * 255).astype("uint8"), y), "received uint8"),
        (lambda x, y: (x * 255, y), r"in \[0, 1\], received values from 0 to 255"),
        (lambda x, y: (x[..., 0], y), "channel axis"),
        (lambda x, y: (np.repeat(x, 3, axis=-1), y), "that the classifier takes"),
        (lambda x, y: (np.where(x > 0.9, np.nan, x), y), "NaN"),
        (lambda x, y: (x, y.astype(str)), "StringLookup"),
        (lambda x, y: (x, y + 5), r"\[0, 10\)"),
        (lambda x, y: (x, y - 5), r"\[0, 10\)"),
        (lambda x, y: (x, np.eye(10, dtype=int)[y]), "argmax"),
        (lambda x, y: (x, None), "need labels"),
    ],
)
def test_bad_data_are_refused_before_any_step(classifier, digits, protect, spoil, message):
    images, labels = spoil(*(array[:16] for array in digits))
    protected = protect(classifier)
    with pytest.raises(ValueError, match=message):
        protected.fit(images, labels, verbose=0)
    with pytest.raises(ValueError, match=message):
        protected.evaluate(images, labels, verbose=0)
    assert int(protected.optimizer.iterations) == 0


def test_bad_pipelines_and_validation_data_are_refused(classifier, digits, protect):
    images, labels = (array[:16] for array in digits)
    protected = protect(classifier)
    dataset = tf.data.Dataset.from_tensor_slices((images * 255, labels)).batch(8)
    with pytest.raises(ValueError, match="received values from 0 to 255"):
        protected.fit(dataset, verbose=0)
    with pytest.raises(ValueError, match="received values from 0 to 255"):
        protected.fit(images, labels, validation_data=dataset, verbose=0)
    with pytest.raises(ValueError, match="received values from 0 to 255"):
        protected.fit(images, labels, validation_data=(images * 255, labels), verbose=0)


@pytest.mark.parametrize("call", ["predict", "restore", "estimate_gradient_maps"])
def test_bad_images_are_refused_at_test_time(classifier, digits, protect, call):
    images = digits[0][:4]
    with pytest.raises(ValueError, match="received values from 0 to 255"):
        getattr(protect(classifier), call)(images * 255)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs the attack"),
        ({"attack": "fgsm"}, "needs the attack"),
        ({"attack": ATTACKS.FastGradientMethod(0.1), "benign_share": 1.5}, "benign_share"),
        ({"attack": ATTACKS.FastGradientMethod(0.1), "loss": "no_such_loss"}, "no_such_loss"),
    ],
)
def test_bad_compile_arguments_are_refused(classifier, arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_trn.ProtectedClassifier(classifier).compile(**arguments)


def test_parts_that_do_not_fit_are_refused(classifier):
    single_stream = keras_trn.SingleStreamRestorationNetwork()
    with pytest.raises(ValueError, match="does not use the gradient map"):
        keras_trn.ProtectedClassifier(classifier, single_stream, MAPS.UniformLabel())
    with pytest.raises(ValueError, match="must be an estimator"):
        keras_trn.ProtectedClassifier(classifier, gradient_map="uniform")


@pytest.mark.parametrize(
    ("gradient_map", "two_streams", "expected"),
    [
        (MAPS.EstimatedLabel(width=4, depth=1), True, 4),
        (MAPS.EstimatedLabel(width=4, depth=1, position=1), True, 3),
        (MAPS.UniformLabel(), True, 2),
        (None, False, 1),
    ],
)
def test_prediction_costs_the_declared_number_of_forward_passes(
    protect, digits, gradient_map, two_streams, expected
):
    passes = []

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            passes.append(inputs)
            return inputs

    layers = [Counting(), keras.layers.Flatten(), keras.layers.Dense(10)]
    classifier = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    protected = protect(classifier, gradient_map, two_streams=two_streams)
    passes.clear()
    tf.function(protected, autograph=False)(digits[0][:2])
    assert len(passes) == protected.forward_passes == expected
