"""A protected classifier survives saving, crashes and a change of machine."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_trn

pytestmark = pytest.mark.slow

LOAD_AND_PREDICT = """
import sys
import keras, numpy as np
import keras_trn

protected = keras.models.load_model(sys.argv[1])
images = np.load(sys.argv[2])
np.savez(sys.argv[3], logits=protected.predict(images, verbose=0),
         restored=protected.restore(images),
         iterations=int(protected.optimizer.iterations),
         weights=sum(np.abs(w.numpy()).sum() for w in protected.classifier.weights))
"""

SERVE = """
import sys
import numpy as np
import tensorflow as tf

served = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
np.savez(sys.argv[3], together=served.serve(images), alone=served.serve(images[:1]))
assert "keras_trn" not in sys.modules
"""

TRAIN_ON_TWO_DEVICES = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np, tensorflow as tf
import keras_trn

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.set_visible_devices([], "GPU")

images, labels = keras_trn.datasets.to_arrays(keras_trn.datasets.load("digits")[1])
clean = tf.data.Dataset.from_tensor_slices((images, labels)).batch(36)
# As from cache_adversarial_examples.
inputs = {"images": images, "adversarial": np.clip(images + 0.1, 0, 1)}
crafted = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(36)

def train(strategy, dataset):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        classifier = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
        restorer = keras_trn.TwoStreamRestorationNetwork(width=4, depth=1)
        protected = keras_trn.ProtectedClassifier(classifier, restorer)
        protected.compile(
            optimizer=keras.optimizers.SGD(0.01),
            attack=keras_trn.attacks.BasicIterativeMethod(epsilon=0.2, steps=2),
            benign_share=0.0,
            fresh_share=0.0,
            jit_compile=False,
        )
    history = protected.fit(dataset, validation_data=clean, epochs=2, verbose=0)
    return np.array(history.history["val_loss"])

for dataset in (clean, crafted):
    one = train(tf.distribute.get_strategy(), dataset)
    two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), dataset)
    np.testing.assert_allclose(one, two, rtol=1e-3)
"""


def run_python(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture
def images(digits):
    return digits[0][:64]


@pytest.fixture
def labels(digits):
    return digits[1][:64]


def test_fresh_process_loads_the_very_same_model(classifier, images, labels, protect, tmp_path):
    attacks = [
        keras_trn.attacks.FastGradientMethod(epsilon=(0.0, 0.2)),
        keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2),
    ]
    protected = protect(classifier, attack=attacks)
    protected.fit(images, labels, verbose=0)
    protected.save(tmp_path / "protected.keras")
    np.save(tmp_path / "images.npy", images)
    paths = [tmp_path / name for name in ("protected.keras", "images.npy", "outputs.npz")]
    run_python(LOAD_AND_PREDICT, *paths)

    with np.load(tmp_path / "outputs.npz") as outputs:
        np.testing.assert_array_equal(outputs["logits"], protected.predict(images, verbose=0))
        np.testing.assert_array_equal(outputs["restored"], protected.restore(images))
        assert outputs["iterations"] == 2
        assert outputs["weights"] == sum(np.abs(w.numpy()).sum() for w in classifier.weights)


def test_loaded_model_has_one_classifier_and_stays_frozen(
    classifier, images, labels, protect, tmp_path, recwarn
):
    protected = protect(classifier)
    protected.fit(images, labels, verbose=0)
    protected.save(tmp_path / "protected.keras")
    loaded = keras.models.load_model(tmp_path / "protected.keras")
    assert not [warning for warning in recwarn if "optimizer" in str(warning.message)]
    assert loaded.count_params() == protected.count_params()
    assert not loaded.classifier.trainable_weights
    assert repr(loaded.attack) == repr(protected.attack)
    before = loaded.evaluate(images, labels, verbose=0)
    np.testing.assert_allclose(before, protected.evaluate(images, labels, verbose=0), rtol=1e-5)
    loaded.fit(images, labels, verbose=0)
    assert int(loaded.optimizer.iterations) == 4


@pytest.mark.parametrize("gradient_map", ["PredictedLabel", "UniformLabel", None])
def test_every_kind_of_stream_survives_saving(
    classifier, images, labels, protect, tmp_path, gradient_map
):
    if gradient_map is None:
        protected = protect(classifier, two_streams=False)
    else:
        protected = protect(classifier, getattr(keras_trn.gradient_maps, gradient_map)())
    protected.fit(images, labels, verbose=0)
    protected.save(tmp_path / "protected.keras")
    loaded = keras.models.load_model(tmp_path / "protected.keras")
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), protected.predict(images, verbose=0)
    )


def test_float16_model_survives_saving(classifier, images, labels, protect, tmp_path):
    protected = protect(classifier, dtype="mixed_float16")
    protected.fit(images, labels, verbose=0)
    protected.save(tmp_path / "protected.keras")
    loaded = keras.models.load_model(tmp_path / "protected.keras")
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), protected.predict(images, verbose=0)
    )


def test_callbacks_just_work(classifier, images, labels, protect, tmp_path):
    protected = protect(classifier)
    history = protected.fit(
        images,
        labels,
        validation_data=(images, labels),
        epochs=6,
        verbose=0,
        callbacks=[
            keras.callbacks.ModelCheckpoint(
                tmp_path / "best.keras",
                monitor="val_adversarial_accuracy",
                mode="max",
                save_best_only=True,
            ),
            keras.callbacks.EarlyStopping(
                "val_loss", mode="max", patience=1, restore_best_weights=True
            ),
            keras.callbacks.TensorBoard(tmp_path / "logs"),
            keras.callbacks.TerminateOnNaN(),
        ],
    )
    # The loss falls, so waiting for it to rise stops the training early.
    assert len(history.epoch) < 6
    best = keras.models.load_model(tmp_path / "best.keras")
    measured = best.evaluate(images, labels, verbose=0, return_dict=True)
    highest = max(history.history["val_adversarial_accuracy"])
    assert measured["adversarial_accuracy"] == pytest.approx(highest)
    assert list((tmp_path / "logs").rglob("events*"))


def test_interrupted_training_goes_on_where_it_was(classifier, images, labels, protect, tmp_path):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def backup():
        return keras_trn.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(KeyboardInterrupt):
        protect(classifier).fit(
            images, labels, epochs=4, verbose=0, callbacks=[backup(), Crash()], batch_size=64
        )
    resumed = protect(classifier)
    history = resumed.fit(images, labels, epochs=4, verbose=0, callbacks=[backup()], batch_size=64)
    assert history.epoch == [2, 3]
    assert int(resumed.optimizer.iterations) == 4


def test_several_devices_give_the_result_of_one():
    run_python(TRAIN_ON_TWO_DEVICES)


def test_exported_model_serves_in_a_fresh_process_with_tensorflow_alone(
    classifier, digits, protect, tmp_path
):
    images, _ = digits
    protected = protect(classifier)
    # Untrained, it would return its input.
    correction = protected.restorer.correction
    correction.kernel.assign(0.1 * keras.random.normal(correction.kernel.shape, seed=0))
    protected.export(tmp_path / "exported", verbose=False)
    np.save(tmp_path / "images.npy", images[:8])
    paths = [tmp_path / name for name in ("exported", "images.npy", "logits.npz")]
    subprocess.run([sys.executable, "-c", SERVE, *paths], check=True)
    served = np.load(tmp_path / "logits.npz")
    expected = protected.predict(images[:8], verbose=0)
    np.testing.assert_allclose(served["together"], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(served["alone"], expected[:1], rtol=1e-4, atol=1e-4)
