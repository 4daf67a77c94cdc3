"""The tutorials on photographs run from start to end; a file of their own for another process."""

import json

import numpy as np
import pytest

from tests.tutorials import TUTORIALS
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
        RESULTS=str(TUTORIALS.parent / "results"),
    )
    results = json.loads((tmp_path / "cifar10.json").read_text())
    assert results["same_examples_after_interruption"]
    assert np.isfinite(results["loss"]).all() and results["loss"][-1] < results["loss"][0]
    accuracy = results["accuracy"]
    assert accuracy["bare"]["PGD"] <= 0.01
    assert accuracy["preset"]["PGD"] >= 0.85
    assert accuracy["preset"]["benign"] >= accuracy["bare"]["benign"] - 0.02


def test_any_classifier_can_be_protected_and_served(tmp_path):
    run_tutorial("05_your_own_classifier", tmp_path, SIZE=96, IMAGES=8, EPOCHS=2)
    results = json.loads((tmp_path / "your_own_classifier.json").read_text())
    assert results["classifier_is_unchanged"]
    assert np.isfinite(results["loss"]).all()
    assert results["difference"] == 0
    assert results["exported_difference"] <= 0.1 and results["same_classes"]
    assert results["logits"] == [2, 1000]
    assert len(results["latency"]) == 4 and min(results["latency"].values()) > 0
