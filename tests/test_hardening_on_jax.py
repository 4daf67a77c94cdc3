"""Hardening on JAX: it packs a data set, learns, continues, and hands its weights to TensorFlow."""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from experiments import packing
from experiments.harden import load_trained_on_jax
from experiments.hardening_on_jax import cutmix
from experiments.recipe import HardeningOnJax
from experiments.recipe import HardeningRecipe
from experiments.recipes import digits as digits_recipe

pytestmark = pytest.mark.slow

EPOCHS = 2
SETTINGS = HardeningOnJax(
    epochs={"restorer": EPOCHS, "adversarial training": EPOCHS},
    batch_size=16,
    learning_rate=1e-2,
    momentum=0.9,
    attack_steps=1,
    largest_shift=1,
    cutmix_share={"restorer": 0.2, "adversarial training": 0.2},
    validation_steps=2,
    validation_images=40,
)
FAST_COMPILATION = "--xla_backend_optimization_level=0"
RESTORER = {"width": 8, "depth": 1, "block_size": 2}


@pytest.fixture(scope="module")
def validation(digits):
    images, labels = digits
    return images[128:168], labels[128:168]


@pytest.fixture(scope="module")
def folder(digits, classifier, tmp_path_factory):
    """What the recipe of some digits packs, which come as PNG files."""
    parts = {"train[:90%]": slice(128), "train[90%:]": slice(128, 168)}

    def load(data, split, decoders):
        images, labels = (part[parts[split]] for part in digits)
        encoded = [tf.io.encode_png(np.uint8(image * 255)).numpy() for image in images]
        return tf.data.Dataset.from_tensor_slices({"image": encoded, "label": labels})

    recipe = HardeningRecipe(
        plain=digits_recipe.RECIPE,
        settings=SETTINGS,
        restorer=RESTORER,
        make_large_classifier=digits_recipe.make_classifier,
        filters={"bit depth": 1},
        evaluations=[],
        preset="hardened",
    )
    folder = tmp_path_factory.mktemp("packed")
    plain = folder / "plain.keras"
    keras_trn.ProtectedClassifier(classifier, keras_trn.SingleStreamRestorationNetwork(4, 1)).save(
        plain
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tensorflow_datasets.load", load)
        patch.setattr(packing, "preset_path", lambda name: plain)
        packing.pack(recipe, folder)
    return folder


@pytest.fixture(scope="module")
def harden_on_jax(folder):
    """Trains a defence once, and returns what each epoch measured."""

    @functools.cache
    def harden(name):
        return run_hardening(folder, name)

    return harden


def start_hardening(folder, name):
    """Starts the command in its own process, as this one has chosen TensorFlow."""
    # XLA compiles for longer than these few images are trained on.
    backend = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILATION}
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.hardening_on_jax", folder, name],
        env={**os.environ, **backend},
        cwd=Path(__file__).parents[1],
    )


def run_hardening(folder, name):
    """Trains a defence, and returns what each epoch measured."""
    assert start_hardening(folder, name).wait() == 0
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["restorer", "adversarial training"])
def test_learns_and_hands_its_best_weights_to_tensorflow(
    folder, harden_on_jax, name, classifier, validation
):
    log = harden_on_jax(name)
    assert len(log) == EPOCHS
    assert log[-1]["loss"] < log[0]["loss"]
    if name == "restorer":
        restorer = keras_trn.RestorationAutoencoder(**RESTORER)
        defence = keras_trn.ProtectedClassifier(classifier, restorer)
    else:
        defence = digits_recipe.make_classifier()
    load_trained_on_jax(defence, folder / f"{name}.weights.h5")
    images, labels = validation
    # Packed images are whole numbers of 255.
    logits = defence.predict(np.uint8(images * 255).astype("float32") / 255, verbose=0)
    best = max(log, key=lambda epoch: epoch["val_robust_accuracy"])
    assert np.mean(logits.argmax(-1) == labels) == pytest.approx(best["val_benign_accuracy"])


def test_continues_after_an_interruption_as_if_there_were_none(folder, harden_on_jax, tmp_path):
    log = harden_on_jax("restorer")
    for path in folder.iterdir():
        if path.suffix in (".npz", ".keras", ".json") and "restorer" not in path.name:
            (tmp_path / path.name).symlink_to(path)
    interrupt_after_first_epoch(tmp_path)
    assert not (tmp_path / "restorer.json").exists()
    assert run_hardening(tmp_path, "restorer") == log


def interrupt_after_first_epoch(folder):
    """Kills the training once it has written its first backup."""
    process = start_hardening(folder, "restorer")
    while not (folder / "restorer.backup.npz").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()


def test_cutmix_mixes_labels_as_it_mixes_pixels():
    count = 12
    # Each pixel says which image it is from.
    images = jnp.tile(jnp.arange(count, dtype="float32")[:, None, None, None], (1, 6, 8, 1))
    mixed, soft_labels = cutmix(images, jnp.eye(count), jax.random.key(0), 0.5)
    shares = [[np.mean(image == source) for source in range(count)] for image in mixed]
    np.testing.assert_allclose(soft_labels, shares, atol=1e-6)
    is_mixed = np.any(mixed != images, axis=(1, 2, 3))
    assert 0 < is_mixed.sum() < count


def test_missing_weights_are_named_with_the_commands_that_make_them(tmp_path, classifier):
    defence = keras_trn.ProtectedClassifier(classifier, keras_trn.RestorationAutoencoder(4, 1, 2))
    with pytest.raises(FileNotFoundError, match=r"missing.*experiments\.packing"):
        load_trained_on_jax(defence, tmp_path / "restorer.weights.h5")
