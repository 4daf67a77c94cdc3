"""The tutorials on photographs run from start to end; a file of their own for another process."""

import json

import numpy as np
import pytest

from tests.tutorials import run_tutorial

pytestmark = pytest.mark.slow


@pytest.mark.real_data
def test_cifar10_goes_the_whole_way(tmp_path):
    run_tutorial(
        "04_cifar10",
        tmp_path,
        CLASSIFIER_IMAGES=640,
        CLASSIFIER_EPOCHS=1,
        CACHED_IMAGES=512,
        RESTORER_EPOCHS=2,
        EXAMPLES=100,
    )
    results = json.loads((tmp_path / "cifar10.json").read_text())
    assert results["same_examples_after_interruption"]
    assert np.isfinite(results["loss"]).all() and results["loss"][-1] < results["loss"][0]
    accuracy = results["accuracy"]
    assert accuracy["bare"]["PGD"] <= 0.01
    assert accuracy["preset"]["PGD"] >= 0.85
    assert accuracy["preset"]["benign"] >= accuracy["bare"]["benign"] - 0.02


@pytest.mark.real_data
def test_any_classifier_can_be_protected_and_served(tmp_path):
    run_tutorial("05_your_own_classifier", tmp_path, IMAGES=400, EXAMPLES=40, CHECK_EXAMPLES=8)
    results = json.loads((tmp_path / "your_own_classifier.json").read_text())
    assert results["classifier_is_unchanged"]
    assert np.isfinite(results["loss"]).all()
    accuracy = results["accuracy"]
    assert accuracy["bare"]["benign"] >= 0.9 and accuracy["bare"]["PGD"] <= 0.1
    assert accuracy["restorer"]["oblivious"] >= 0.75
    assert accuracy["hardened restorer"]["full knowledge"] >= 0.65
    assert results["difference"] == 0
    assert results["exported_difference"] <= 0.01
    assert len(results["latency"]) == 6 and min(results["latency"].values()) > 0
