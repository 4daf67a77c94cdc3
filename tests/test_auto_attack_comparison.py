"""The comparison with the authors' AutoAttack: its adapters, and a small one of both."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn.evaluation.packing import pack_bits
from keras_trn.evaluation.passes import CountedTarget

torch = pytest.importorskip("torch", reason="the extra `compare` is not installed")
pytest.importorskip("pyautoattack", reason="the extra `compare` is not installed")

import keras_trn  # noqa: E402
from experiments.studies import auto_attack_comparison as comparison  # noqa: E402
from experiments.torch_classifier import TorchClassifier  # noqa: E402

SETTINGS = comparison.Settings(images=20, steps=5, targets=3, queries=20, batch_size=12)


@pytest.fixture
def color_classifier():
    """A classifier of oblong colour images, with which no two axes can be confused."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 9, 3)),
            keras.layers.Conv2D(4, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )


@pytest.fixture
def color_images():
    return np.random.default_rng(0).random((7, 6, 9, 3), dtype="float32")


def channels_first(images):
    return torch.tensor(images.transpose(0, 3, 1, 2))


# --- The adapter and the counters -------------------------------------------------------


def test_adapter_returns_the_logits_and_gradients_of_tensorflow(color_classifier, color_images):
    weights = np.random.default_rng(1).normal(size=(7, 5)).astype("float32")
    images = tf.constant(color_images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = color_classifier(images, training=False)
        loss = tf.reduce_sum(weights * logits**2)
    adapter = TorchClassifier(color_classifier, (6, 9, 3), 5)
    torch_images = channels_first(color_images).requires_grad_()
    torch_logits = adapter(torch_images)
    (torch.tensor(weights) * torch_logits**2).sum().backward()
    np.testing.assert_allclose(torch_logits.detach().numpy(), logits, rtol=1e-5, atol=1e-6)
    gradient = torch_images.grad.numpy().transpose(0, 2, 3, 1)
    expected = tape.gradient(loss, images).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_adapter_counts_images_and_gives_away_no_memory(color_classifier, color_images):
    adapter = TorchClassifier(color_classifier, (6, 9, 3), 5)
    images = channels_first(color_images)
    logits = adapter(images)
    before = logits.clone()
    logits.zero_()
    np.testing.assert_array_equal(adapter(images), before)
    assert adapter.passes == (14, 0)
    images.requires_grad_()
    adapter(images[:3]).sum().backward()
    assert adapter.passes == (17, 3)


def test_passes_are_counted_within_graphs_and_change_nothing(color_classifier, color_images):
    counted = CountedTarget(color_classifier)

    @tf.function
    def ascend(images):
        for _ in tf.range(3):
            with tf.GradientTape() as tape:
                tape.watch(images)
                loss = tf.reduce_sum(counted(images) ** 2)
            images += 0.1 * tape.gradient(loss, images)
        return images

    expected = tf.constant(color_images)
    for _ in range(3):
        with tf.GradientTape() as tape:
            tape.watch(expected)
            loss = tf.reduce_sum(color_classifier(expected, training=False) ** 2)
        expected += 0.1 * tape.gradient(loss, expected)
    np.testing.assert_allclose(ascend(tf.constant(color_images)), expected, rtol=1e-4, atol=1e-5)
    assert counted.passes == (21, 21)
    # Outside of a graph, nothing is counted.
    counted(tf.constant(color_images[:2]))
    assert counted.passes == (21, 21)


# --- The study ------------------------------------------------------------------------


@pytest.fixture
def few_digits(digits):
    return digits[0][: SETTINGS.images], digits[1][: SETTINGS.images]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_own_ensemble_is_the_standard_version(norm):
    settings = comparison.Settings(norm, comparison.EPSILONS[norm])
    ensemble = comparison.make_attack(comparison.ENSEMBLE, settings)
    standard = keras_trn.attacks.auto_attack("standard", settings.epsilon, norm)
    for attack, expected in zip(ensemble.attacks, standard.attacks, strict=True):
        assert type(attack) is type(expected)
        assert attack.get_config() == {
            **expected.get_config(),
            "seed": comparison.SEED,
        }


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.2), ("l2", 1.0)])
def test_both_implementations_attack_the_same_images(norm, epsilon, classifier, few_digits):
    settings = dataclasses.replace(SETTINGS, norm=norm, epsilon=epsilon)
    cells = {
        (implementation, attack): comparison.measure(
            implementation, classifier, attack, few_digits, settings
        )
        for implementation in comparison.IMPLEMENTATIONS
        for attack in (*comparison.STANDARD, comparison.ENSEMBLE)
    }
    clean = comparison.are_correct(classifier, few_digits, settings).mean()
    for (implementation, attack), cell in cells.items():
        assert cell["accuracy"] < clean, (implementation, attack)
        assert cell["largest_distance"] <= epsilon + 1e-5
        assert cell["forward_passes"] >= SETTINGS.images
        assert (cell["backward_passes"] > 0) == (attack != "square")
    for implementation in comparison.IMPLEMENTATIONS:
        alone = [cells[implementation, attack]["accuracy"] for attack in comparison.STANDARD]
        # Not the lowest: attacks within the ensemble draw other random numbers than alone.
        assert cells[implementation, comparison.ENSEMBLE]["accuracy"] <= max(alone)


@pytest.fixture
def counted_runs(monkeypatch):
    """Puts attacks in place of both implementations that find nothing, and lists their runs."""
    runs = []

    def make(implementation):
        def run(target, name, examples, settings):
            runs.append((implementation, name))
            return examples[0], CountedTarget(target)

        return run

    names = comparison.IMPLEMENTATIONS
    monkeypatch.setattr(comparison, "IMPLEMENTATIONS", {name: make(name) for name in names})
    return runs


def test_comparison_continues_and_tells_models_and_settings_apart(
    classifier, few_digits, counted_runs, tmp_path
):
    path = tmp_path / "comparison.json"

    def run(model, settings=SETTINGS):
        study = comparison.Comparison(path, {"digits": model}, few_digits, settings)
        for implementation in comparison.IMPLEMENTATIONS:
            study.run(implementation)

    run(classifier)
    results = json.loads(path.read_text(encoding="utf-8"))
    assert len(counted_runs) == len(results["cells"]) == 10
    accuracy = results["clean_accuracy"]["digits"]
    assert all(cell["accuracy"] == accuracy for cell in results["cells"])
    # As if it had been interrupted before the last attack.
    last = results["cells"].pop()
    path.write_text(json.dumps(results), encoding="utf-8")
    run(classifier)
    assert counted_runs[10:] == [(last["implementation"], last["attack"])]
    with pytest.raises(ValueError, match=r"holds results of other settings: .*'steps': 5"):
        run(classifier, dataclasses.replace(SETTINGS, steps=6))
    run(keras.models.clone_model(classifier))
    assert len(counted_runs) == 21
    assert len(json.loads(path.read_text(encoding="utf-8"))["cells"]) == 10


def test_table_counts_the_images_on_which_the_implementations_differ():
    survivors = {"authors": [1, 1, 0, 0, 0, 0], "keras_trn": [1, 0, 1, 1, 0, 0]}
    cells = [
        {
            "model": "bare",
            "implementation": implementation,
            "attack": attack,
            "accuracy": sum(bits) / 6,
            "survivors": pack_bits(bits),
            "forward_passes": 600,
            "backward_passes": 300,
        }
        for implementation, bits in survivors.items()
        for attack in (*comparison.STANDARD, comparison.ENSEMBLE)
    ]
    results = {"settings": {"images": 6}, "clean_accuracy": {"bare": 1.0}, "cells": cells}
    rows = comparison.to_markdown(results).splitlines()[2:]
    assert len(rows) == 5
    assert rows[0] == "| bare | apgd-ce | 33.3 | 50.0 | 1 | 2 | 1 | 2 | 100 + 50 | 100 + 50 |"
