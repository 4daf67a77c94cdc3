"""Training against an attacker with full knowledge of the restorer."""

import keras
import numpy as np
import pytest

import keras_trn
from keras_trn import attacks
from keras_trn import threat_models

EPSILON = 0.15
ATTACK = attacks.ProjectedGradientDescent(EPSILON, steps=3, seed=0)


def protect(classifier, **options):
    keras.utils.set_random_seed(0)
    network = keras_trn.RestorationAutoencoder(16, 1, block_size=2)
    protected = keras_trn.ProtectedClassifier(classifier, network)
    loss = keras_trn.losses.RestorationLoss(pixel=1.0)
    protected.compile(keras.optimizers.Adam(5e-3), loss, ATTACK, benign_share=0.0, **options)
    return protected


@pytest.mark.slow
def test_hardened_restorer_withstands_more_than_one_that_met_oblivious_attackers(
    classifier, digits
):
    images, labels = digits
    before = [weight.numpy() for weight in classifier.weights]
    accuracies = {}
    for name in ("oblivious", "whitebox_full"):
        protected = protect(classifier, threat_model=name)
        history = protected.fit(images, labels, epochs=12, verbose=0).history
        target = threat_models.WhiteboxFull().target(protected)
        strong = attacks.ProjectedGradientDescent(EPSILON, steps=20, seed=1)
        adversarial = strong(target, images[:256], labels[:256])
        predicted = protected.predict(adversarial, verbose=0).argmax(axis=-1)
        accuracies[name] = np.mean(predicted == labels[:256])
        assert history["loss"][-1] < history["loss"][0]
    assert accuracies["whitebox_full"] > accuracies["oblivious"] + 0.15
    for weight, unchanged in zip(classifier.weights, before, strict=True):
        np.testing.assert_array_equal(weight, unchanged)


@pytest.mark.slow
def test_validation_runs_the_attack_on_the_same_target(classifier, digits):
    images, labels = digits[0][:64], digits[1][:64]
    protected = protect(classifier, threat_model="whitebox_full")
    protected.fit(images, labels, epochs=2, verbose=0)
    measured = protected.evaluate(images, labels, batch_size=64, verbose=0, return_dict=True)
    adversarial = ATTACK(threat_models.WhiteboxFull().target(protected), images, labels)
    predicted = protected.predict(adversarial, verbose=0).argmax(axis=-1)
    assert measured["adversarial_accuracy"] == pytest.approx(np.mean(predicted == labels), abs=0.02)


@pytest.mark.slow
def test_threat_model_decides_which_labels_the_restored_images_should_get(classifier, digits):
    images, labels = digits[0][:64], (digits[1][:64] + 1) % 10
    losses = {}
    for kind in ("true", "predicted"):
        protected = protect(classifier, threat_model=threat_models.Oblivious(labels=kind))
        losses[kind] = [
            protected.test_on_batch(images, given, return_dict=True)["loss"]
            for given in (digits[1][:64], labels)
        ]
    assert losses["true"][0] != losses["true"][1]
    assert losses["predicted"][0] == losses["predicted"][1]


def test_threat_model_is_saved_with_the_model(classifier, tmp_path):
    threat_model = threat_models.WhiteboxFull(labels="predicted", samples=2)
    protect(classifier, threat_model=threat_model).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.threat_model, threat_models.WhiteboxFull)
    assert loaded.threat_model.get_config() == threat_model.get_config()


def test_model_that_was_trained_by_transfer_loads_without_its_surrogate(classifier, tmp_path):
    surrogate = threat_models.Transfer(keras.models.clone_model(classifier))
    protected = protect(classifier, threat_model=surrogate)
    protected.save(tmp_path / "model.keras")
    assert not keras.saving.load_model(tmp_path / "model.keras").compiled


@pytest.mark.parametrize("name", ["blackbox", "whitebox_stopgrad"])
def test_attackers_against_whom_nothing_can_be_learned_are_refused(classifier, name):
    with pytest.raises(ValueError, match=f"The threat model '{name}' does not"):
        protect(classifier, threat_model=name)


@pytest.mark.slow
def test_attacks_without_gradients_train_as_before(classifier, digits):
    protected = protect(classifier)
    protected.compile("adam", attack=attacks.SPSA(EPSILON, steps=1, samples=2, seed=0))
    losses = protected.fit(digits[0][:8], digits[1][:8], epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("wrong", ["whitebox", "transfer", 3])
def test_unknown_threat_models_are_refused(classifier, wrong):
    with pytest.raises(ValueError, match="threat model"):
        protect(classifier, threat_model=wrong)


def test_noise_of_n_fgsm_leaves_the_ball_and_only_trains(classifier, digits):
    images, labels = digits[0][:16], digits[1][:16]
    noisy = attacks.NoisyFastGradientMethod(0.1, seed=0)
    distances = np.abs(noisy(classifier, images, labels) - images).max(axis=(1, 2, 3))
    assert np.all(distances <= 0.3 + 1e-6) and distances.max() > 0.2
    with pytest.raises(ValueError, match="N-FGSM leaves the ball"):
        keras_trn.evaluate(classifier, (images, labels), noisy, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["restorer", "adversarial training"])
def test_best_average_under_a_strong_validation_attack_is_kept(classifier, digits, kind):
    images, labels = digits
    strong = attacks.ProjectedGradientDescent(EPSILON, steps=10, seed=0)
    optimizer = keras.optimizers.Adam(5e-3, use_ema=True, ema_momentum=0.9)
    if kind == "restorer":
        defence = protect(classifier, threat_model="whitebox_full")
        options = {"loss": defence.restoration_loss, "threat_model": "whitebox_full"}
    else:
        defence = keras_trn.baselines.AdversariallyTrainedClassifier(classifier)
        options = {}
    defence.compile(optimizer, attack=ATTACK, benign_share=0.0, validation_attack=strong, **options)
    stop = keras.callbacks.EarlyStopping(
        "val_adversarial_accuracy", mode="max", patience=6, restore_best_weights=True
    )
    history = defence.fit(
        images,
        labels,
        validation_data=(images[:128], labels[:128]),
        epochs=12,
        callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True), stop],
        verbose=0,
    ).history
    kept = defence.evaluate(images[:128], labels[:128], verbose=0, return_dict=True)
    best = max(history["val_adversarial_accuracy"])
    assert kept["adversarial_accuracy"] == pytest.approx(best, abs=0.02)
    assert best > 0.2


def test_validation_attack_is_saved_with_the_model(classifier, tmp_path):
    strong = attacks.ProjectedGradientDescent((0.0, EPSILON), steps=10, seed=0)
    protected = protect(classifier, validation_attack=strong)
    protected.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.validation_attack.get_config() == strong.with_largest_epsilon().get_config()
    assert loaded.attack.get_config() == ATTACK.get_config()
