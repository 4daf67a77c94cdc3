"""Adversarial examples are crafted once, kept on disk, and trained from."""

import json
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn import attacks
from keras_trn import shards
from keras_trn.training import craft_training_images
from tests.helpers import Batches
from tests.helpers import NeverRun
from tests.helpers import WithHiddenSetting
from tests.helpers import WithSetting
from tests.helpers import classifier_of_any_size
from tests.helpers import in_batches
from tests.helpers import largest_file
from tests.helpers import of_two_sizes
from tests.helpers import random_classifier
from tests.helpers import with_nan
from tests.helpers import without_shape

EPSILON = 0.2
KILLED_SCRIPT = """
import sys
import keras
import keras_trn

classifier = keras.models.load_model(sys.argv[1])
_, _, test = keras_trn.datasets.load("digits")
keras_trn.cache_adversarial_examples(
    classifier,
    test,
    [
        keras_trn.attacks.FastGradientMethod((0.0, 0.2)),
        keras_trn.attacks.ProjectedGradientDescent((0.0, 0.2), steps=int(sys.argv[3])),
    ],
    sys.argv[2],
    shard_size=48,
    verbose=0,
)
"""


@pytest.fixture(scope="module")
def dataset():
    _, _, test = keras_trn.datasets.load("digits")
    return test


def make_attacks():
    return [
        attacks.FastGradientMethod((0.0, EPSILON)),
        attacks.ProjectedGradientDescent((EPSILON / 2, EPSILON), steps=3),
    ]


def cache(classifier, dataset, folder, attack=None, **kwargs):
    arguments = {"shard_size": 100, "verbose": 0, **kwargs}
    return keras_trn.cache_adversarial_examples(
        classifier, dataset, attack or make_attacks(), folder, **arguments
    )


def collect(examples):
    """Returns all examples of a pipeline as arrays, sorted by images, labels and attacks."""
    inputs, labels = zip(*examples.as_numpy_iterator(), strict=True)
    arrays = {key: np.concatenate([batch[key] for batch in inputs]) for key in inputs[0]}
    arrays["labels"] = np.concatenate(labels)
    keys = arrays["images"].reshape(len(labels := arrays["labels"]), -1).round(4)
    order = np.lexsort([arrays["attack"], labels, *keys.T])
    return {key: values[order] for key, values in arrays.items()}


def in_same_order(images):
    return images[np.lexsort([*images.reshape(len(images), -1).round(4).T])]


@pytest.fixture(scope="module")
def examples(classifier, dataset, tmp_path_factory):
    return collect(cache(classifier, dataset, tmp_path_factory.mktemp("cache")))


def test_every_image_is_there_once_with_its_label(examples, digits):
    images, labels = digits
    np.testing.assert_array_equal(in_same_order(examples["images"]), in_same_order(images))
    assert sorted(examples["labels"]) == sorted(labels)


def test_attacks_take_turns_and_keep_to_the_epsilon_that_is_recorded(examples):
    assert np.bincount(examples["attack"]).tolist() == [180, 180]
    epsilon = examples["epsilon"]
    of_descent = epsilon[examples["attack"] == 1]
    assert of_descent.min() >= EPSILON / 2 and of_descent.max() <= EPSILON
    assert epsilon[examples["attack"] == 0].min() < EPSILON / 10
    assert len(np.unique(epsilon)) > 350
    distance = np.abs(examples["adversarial"] - examples["images"]).max(axis=(1, 2, 3))
    assert np.all(distance <= 1.001 * epsilon)
    assert np.mean(distance >= 0.99 * epsilon) > 0.95
    assert examples["adversarial"].min() >= 0 and examples["adversarial"].max() <= 1


def test_examples_mislead_the_classifier_as_the_attack_itself_does(classifier, examples):
    of_descent = examples["attack"] == 1
    images, epsilon, labels = (examples[key][of_descent] for key in ("images", "epsilon", "labels"))
    found = {
        "clean": images,
        "kept": examples["adversarial"][of_descent],
        "crafted now": make_attacks()[1](classifier, images, epsilon=epsilon),
    }
    accuracy = {
        name: np.mean(classifier.predict(x, verbose=0).argmax(-1) == labels)
        for name, x in found.items()
    }
    assert accuracy["clean"] > 0.9 and accuracy["kept"] < 0.3
    assert accuracy["kept"] == pytest.approx(accuracy["crafted now"], abs=0.06)


def test_prediction_for_the_clean_image_is_kept(classifier, examples):
    predicted = classifier.predict(examples["images"], verbose=0).argmax(-1)
    np.testing.assert_array_equal(examples["predicted"], predicted)
    assert not np.array_equal(examples["predicted"], examples["labels"])


@pytest.mark.slow
def test_training_restores_the_prediction_that_was_kept(classifier, dataset, protect, tmp_path):
    def losses(examples):
        protected = protect(classifier)
        protected.compile(optimizer=keras.optimizers.SGD(0.0), attack=make_attacks(), fresh_share=0)
        return protected.fit(examples, verbose=0).history["loss"]

    def with_other_prediction(inputs, labels):
        return {**inputs, "predicted": (inputs["predicted"] + 1) % 10}, labels

    examples = cache(classifier, dataset.take(1), tmp_path, batch_size=64)
    assert losses(examples.map(with_other_prediction)) > losses(examples)


@pytest.mark.slow
def test_rounds_give_each_image_to_another_attack(classifier, dataset, tmp_path):
    examples = cache(classifier, dataset.take(1), tmp_path, rounds=2, shard_size=32)
    assert len(examples) == 4
    examples = collect(examples)
    assert np.bincount(examples["attack"]).tolist() == [128, 128]
    np.testing.assert_array_equal(examples["images"][::2], examples["images"][1::2])


@pytest.mark.slow
def test_pipeline_is_shuffled_anew_and_knows_its_length(classifier, dataset, tmp_path):
    pipeline = cache(classifier, dataset, tmp_path, batch_size=50)
    assert len(pipeline) == 8
    epochs = [np.concatenate([labels for _, labels in pipeline]) for _ in range(2)]
    assert len(epochs[0]) == 360
    assert not np.array_equal(*epochs)


@pytest.mark.slow
def test_finished_examples_are_not_crafted_again(classifier, dataset, tmp_path):
    cache(classifier, dataset, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    missing = sorted(tmp_path.glob("round-*.tfrecord"))[1]
    content = missing.read_bytes()
    missing.unlink()
    cache(classifier, dataset, tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(after) == set(before) and len(after) == 5
    assert {name for name in after if after[name] != before[name]} == {missing.name}
    assert missing.read_bytes() == content


@pytest.mark.slow
def test_killed_run_goes_on_and_ends_with_the_same_examples(classifier, tmp_path, monkeypatch):
    classifier.save(tmp_path / "classifier.keras")

    def arguments(folder):
        return [str(tmp_path / "classifier.keras"), str(tmp_path / folder), "40"]

    process = subprocess.Popen([sys.executable, "-c", KILLED_SCRIPT, *arguments("killed")])
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("round-*.tfrecord"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    finished = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("round-*.tfrecord")
    }
    assert 2 <= len(finished) < 8
    for folder in ("killed", "whole"):
        monkeypatch.setattr(sys, "argv", ["-c", *arguments(folder)])
        exec(KILLED_SCRIPT, {})
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in finished.items())
    killed, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).glob("round-*.tfrecord")}
        for folder in ("killed", "whole")
    )
    assert len(whole) == 8
    assert killed == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"rounds": 2}, "rounds was 1 and is now 2"),
        ({"shard_size": 50}, "shard_size was 100"),
        ({"attack": attacks.FastGradientMethod(0.1)}, "attacks was"),
    ],
)
def test_folder_of_other_settings_is_refused(changed, named, classifier, dataset, tmp_path):
    cache(classifier, dataset.take(1), tmp_path)
    with pytest.raises(ValueError, match=named):
        cache(classifier, dataset.take(1), tmp_path, **changed)


def test_folder_of_an_older_version_is_refused(classifier, dataset, tmp_path):
    cache(classifier, dataset.take(1), tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    del settings["format"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="another version of keras_trn"):
        cache(classifier, dataset.take(1), tmp_path)
    assert contents(tmp_path) == before


def test_settings_that_cannot_be_read_are_refused(classifier, dataset, tmp_path):
    cache(classifier, dataset.take(1), tmp_path)
    for text in ("{", "7", "[" * 100_000):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(ValueError, match="does not hold the settings of a cache"):
            cache(classifier, dataset.take(1), tmp_path)


def test_runs_of_other_settings_do_not_mix_if_both_begin_at_once(classifier, dataset, tmp_path):
    cache(classifier, dataset.take(1), tmp_path)
    # As if the other run had looked for the settings before they were written.
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match="of other images or settings: round-0-shard-00000"):
        cache(classifier, dataset.take(1), tmp_path, seed=1)


# --- Damage ---------------------------------------------------------------------------


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
    ],
    ids=["torn", "empty", "altered"],
)
def test_damaged_shard_is_crafted_again(damage, classifier, dataset, tmp_path):
    cache(classifier, dataset.take(1), tmp_path, shard_size=40)
    before = contents(tmp_path)
    path = min(tmp_path.glob("round-*.tfrecord"))
    path.write_bytes(damage(before[path.name]))
    with pytest.warns(UserWarning, match=f"{path.name} did not hold what was written"):
        cache(classifier, dataset.take(1), tmp_path, shard_size=40)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_damaged_shard_is_removed_where_the_new_one_differs(classifier, dataset, tmp_path):
    cache(classifier, dataset.take(1), tmp_path, shard_size=128)
    (path,) = tmp_path.glob("round-*.tfrecord")
    start, _, _ = path.name.rpartition("-")
    torn = tmp_path / f"{start}-000000000000.tfrecord"
    path.rename(torn)
    with pytest.warns(UserWarning, match="did not hold what was written"):
        cache(classifier, dataset.take(1), tmp_path, shard_size=128)
    assert list(tmp_path.glob("round-*.tfrecord")) == [path]


@pytest.mark.slow
def test_full_disk_is_an_error_that_destroys_nothing(classifier, dataset, tmp_path):
    cache(classifier, dataset.take(1), tmp_path / "whole", shard_size=128)
    cache(classifier, dataset.take(1), tmp_path / "full", shard_size=128)
    (shard,) = (tmp_path / "full").glob("round-*.tfrecord")
    shard.unlink()
    before = contents(tmp_path / "full")
    with largest_file(20_000), pytest.raises(OSError, match=r"shard-00000.* cannot be"):
        cache(classifier, dataset.take(1), tmp_path / "full", shard_size=128)
    assert contents(tmp_path / "full") == before
    cache(classifier, dataset.take(1), tmp_path / "full", shard_size=128)
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_folder_that_cannot_be_made_is_named(classifier, dataset, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match="file/folder' cannot be made"):
        cache(classifier, dataset.take(1), tmp_path / "file" / "folder")
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.slow
def test_every_file_system_of_tensorflow_is_accepted(classifier, dataset, examples):
    for _ in range(2):
        in_memory = collect(cache(classifier, dataset, "ram://examples"))
    for name, values in examples.items():
        np.testing.assert_array_equal(in_memory[name], values)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 300, 100_000])
def test_shard_of_a_stranger_with_images_of_absurd_size_is_refused(
    size, classifier, dataset, tmp_path
):
    cache(classifier, dataset.take(1), tmp_path, shard_size=128)
    (path,) = tmp_path.glob("round-*.tfrecord")
    place, origin = path.name[: len("round-0-shard-00000")], path.name.split("-")[4]
    path.unlink()
    columns = {"image": np.zeros((128, size), "float32"), "label": np.zeros(128, "int64")}
    columns["epsilon"] = np.zeros(128, "float32")
    columns["attack"] = columns["predicted"] = columns["label"]
    shards.write_shard(str(tmp_path), place, origin, columns["image"], columns)
    pipeline = cache(classifier, dataset.take(1), tmp_path, shard_size=128)
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        list(pipeline)


@pytest.mark.slow
def test_folder_of_another_classifier_or_of_other_images_is_refused(classifier, dataset, tmp_path):
    cache(classifier, dataset.take(1), tmp_path)
    other = keras.models.clone_model(classifier)
    with pytest.raises(ValueError, match="classifier was"):
        cache(other, dataset.take(1), tmp_path)
    darker = dataset.take(1).map(lambda images, labels: (0.9 * images, labels))
    with pytest.raises(ValueError, match="of other images or settings: round-0-shard-00000"):
        cache(classifier, darker, tmp_path)
    relabelled = dataset.take(1).map(lambda images, labels: (images, 9 - labels))
    with pytest.raises(ValueError, match="of other images or settings: round-0-shard-00000"):
        cache(classifier, relabelled, tmp_path)


def test_shuffled_or_malformed_data_are_refused(classifier, dataset, digits, tmp_path):
    train, _, _ = keras_trn.datasets.load("digits")
    with pytest.raises(ValueError, match="does not keep its order"):
        cache(classifier, train, tmp_path)
    with pytest.raises(ValueError, match=r"must be a `tf.data.Dataset`.*received ndarray"):
        cache(classifier, digits[0], tmp_path)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        cache(classifier, dataset.map(lambda images, labels: (255 * images, labels)), tmp_path)
    with pytest.raises(ValueError, match="rounds must be a whole number"):
        cache(classifier, dataset, tmp_path, rounds=0)
    with pytest.raises(ValueError, match="seed must be a whole number"):
        cache(classifier, dataset, tmp_path, seed=-1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda images, labels: in_batches(50, images, labels).repeat(), r"no end.*\.take\("),
        (with_nan, "Batch 2 of the data: .*NaN"),
        (of_two_sizes, r"Batch 2 of the data: .*shape \(6, 8, 1\).*One size at a time"),
    ],
)
def test_bad_data_are_refused_before_anything_is_written(digits, make, message, tmp_path):
    data = make(digits[0][:120], digits[1][:120])
    with pytest.raises(ValueError, match=message):
        cache(classifier_of_any_size(), data, tmp_path, NeverRun(0.1), shard_size=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda images, labels: (images, labels),
        lambda images, labels: (images, labels, np.ones(64)),
        Batches,
        without_shape,
        lambda images, labels: (images + 5e-7, labels.astype("uint8")[:, None]),
    ],
    ids=["arrays", "weighted", "PyDataset", "unknown shape", "rounded"],
)
def test_data_in_any_form_are_crafted_alike(classifier, digits, make, tmp_path):
    images, labels = digits[0][:64], digits[1][:64]
    attack = attacks.FastGradientMethod(0.1, seed=0)
    found = collect(cache(classifier, make(images, labels), tmp_path, attack, shard_size=20))
    assert sorted(found["labels"]) == sorted(labels)
    np.testing.assert_allclose(in_same_order(found["images"]), in_same_order(images), atol=1e-6)
    assert found["images"].max() <= 1 and len(list(tmp_path.glob("round-*.tfrecord"))) == 4


def test_random_classifier_is_known_by_its_weights(digits, tmp_path):
    random = random_classifier()
    data = digits[0][:8], digits[1][:8]
    for _ in range(2):
        with pytest.warns(UserWarning, match="answers one image at random"):
            cache(random, data, tmp_path, attacks.FastGradientMethod(0.1))
    random.layers[-1].kernel.assign_add(0.1 * tf.ones((64, 10)))
    with pytest.raises(ValueError, match="classifier was"):
        cache(random, data, tmp_path, attacks.FastGradientMethod(0.1))


@pytest.mark.slow
def test_settings_of_numpy_are_those_of_python(classifier, digits, tmp_path):
    data = digits[0][:8], digits[1][:8]
    cache(classifier, data, tmp_path, WithSetting(0.5, 3), rounds=2, shard_size=4, seed=1)
    numbers = {"rounds": np.int64(2), "shard_size": np.int64(4), "seed": np.int64(1)}
    cache(classifier, data, tmp_path, WithSetting(np.float32(0.5), np.int64(3)), **numbers)
    with pytest.raises(ValueError, match="attacks was"):
        cache(classifier, data, tmp_path, WithSetting(0.5, np.int64(4)), **numbers)


def test_attack_that_does_not_tell_its_settings_is_refused(classifier, digits, tmp_path):
    hidden = WithHiddenSetting(0.1)
    for attack in (hidden, [attacks.Mixture([attacks.RandomNoise(0.1), hidden])]):
        with pytest.raises(TypeError, match="lacks the arguments sharpness"):
            cache(classifier, (digits[0][:8], digits[1][:8]), tmp_path, attack)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_double_precision_and_labels_in_columns_are_kept(classifier, digits, tmp_path):
    images, labels = digits
    pairs = (images[:64].astype("float64"), labels[:64, None])
    dataset = tf.data.Dataset.from_tensor_slices(pairs).batch(32)
    found = collect(cache(classifier, dataset, tmp_path))
    np.testing.assert_array_equal(
        in_same_order(found["images"]), in_same_order(images[:64].astype("float32"))
    )
    assert sorted(found["labels"]) == sorted(labels[:64])


@pytest.mark.slow
def test_classifier_of_any_image_size_and_nested_mixtures_are_accepted(dataset, tmp_path):
    attack = [attacks.Mixture(make_attacks()), attacks.RandomNoise(EPSILON)]
    found = collect(cache(classifier_of_any_size(), dataset.take(1), tmp_path, attack))
    assert found["adversarial"].shape[1:] == (8, 8, 1)
    assert sorted(set(found["attack"])) == [0, 1, 2]


def test_ensemble_is_one_attack_also_in_a_mixture(classifier, digits, tmp_path):
    data = digits[0][:20], digits[1][:20]
    ensemble = attacks.AttackEnsemble(
        [attacks.RandomNoise(EPSILON), attacks.FastGradientMethod(EPSILON)]
    )
    found = collect(cache(classifier, data, tmp_path / "ensemble", ensemble))
    assert set(found["attack"]) == {0}
    mixture = attacks.Mixture([attacks.Mixture([ensemble]), attacks.RandomNoise(EPSILON)])
    assert mixture.parts() == [ensemble, mixture.attacks[1]]
    found = collect(cache(classifier, data, tmp_path / "mixture", mixture))
    assert set(found["attack"]) == {0, 1}


def test_last_smaller_batch_can_be_left_out(classifier, dataset, tmp_path):
    pipeline = cache(classifier, dataset, tmp_path, batch_size=50, drop_remainder=True)
    assert len(pipeline) == 7 == len(list(pipeline))
    assert pipeline.element_spec[1].shape == (50,)


def test_predict_says_that_it_takes_images(classifier, dataset, protect, tmp_path):
    pipeline = cache(classifier, dataset.take(1), tmp_path, shard_size=128)
    with pytest.raises(ValueError, match="received a dictionary"):
        protect(classifier).predict(pipeline, verbose=0)


# --- Training -----------------------------------------------------------------------


@pytest.mark.slow
def test_fit_learns_from_examples_alone(classifier, dataset, protect, tmp_path):
    pipeline = cache(classifier, dataset, tmp_path)
    protected = protect(
        classifier,
        attack=NeverRun(EPSILON),
        fresh_share=0.0,
        optimizer=keras.optimizers.Adam(5e-3),
    )
    history = protected.fit(pipeline, epochs=12, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["psnr"][-1] > history["psnr"][0] + 0.5


@pytest.mark.slow
def test_fit_and_evaluate_take_examples_and_fresh_ones(classifier, dataset, protect, tmp_path):
    pipeline = cache(classifier, dataset.take(1), tmp_path)
    protected = protect(classifier)
    history = protected.fit(pipeline, validation_data=pipeline, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["val_loss"]).all()


@pytest.mark.parametrize(
    ("fresh_share", "shares"), [(0.0, (4, 0, 12)), (0.25, (4, 3, 9)), (1.0, (4, 12, 0))]
)
def test_batch_is_part_benign_part_fresh_part_from_examples(fresh_share, shares, classifier):
    clean = tf.fill([16, 8, 8, 1], 0.5)
    images = craft_training_images(
        attacks.FastGradientMethod(0.1),
        classifier,
        clean,
        tf.zeros([16], tf.int64),
        benign_count=4,
        crafted=tf.ones_like(clean),
        fresh_share=fresh_share,
    )
    largest = np.max(images, axis=(1, 2, 3))
    counts = [np.sum(np.isclose(largest, value)) for value in (0.5, 0.6, 1.0)]
    assert tuple(counts) == shares


def test_adversarial_training_refuses_examples_of_a_frozen_classifier(
    classifier, dataset, tmp_path
):
    pipeline = cache(classifier, dataset.take(1), tmp_path)
    trained = keras_trn.baselines.AdversariallyTrainedClassifier(classifier)
    trained.compile(attack=attacks.FastGradientMethod(EPSILON))
    with pytest.raises(ValueError, match="dictionary"):
        trained.fit(pipeline, verbose=0)


def test_unshuffled_training_images_keep_their_order():
    train, _, _ = keras_trn.datasets.load("digits", shuffle=False)
    twice = [keras_trn.datasets.to_arrays(train) for _ in range(2)]
    np.testing.assert_array_equal(twice[0][0], twice[1][0])
    shuffled, _, _ = keras_trn.datasets.load("digits")
    assert sorted(keras_trn.datasets.to_arrays(shuffled)[1]) == sorted(twice[0][1])
