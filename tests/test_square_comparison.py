"""The comparison of Square with ART's gives both the same queries, and counts their passes."""

import numpy as np
import pytest

from experiments.studies import square_comparison as study


# ART classifies each image two more times for a query.
@pytest.mark.slow
@pytest.mark.parametrize(("implementation", "passes_per_query"), [("keras_trn", 1), ("ART", 3)])
def test_implementation_breaks_images_within_its_queries(
    implementation, passes_per_query, preset_classifier
):
    settings = study.Settings(images=8, epsilon=0.3, queries=20)
    images = np.random.default_rng(0).uniform(size=(8, *study.IMAGE_SHAPE)).astype("float32")
    labels = preset_classifier.predict(images, verbose=0).argmax(-1)
    make = study.IMPLEMENTATIONS[implementation]
    measured = study.measure(make, settings, preset_classifier, images, labels)
    assert measured["accuracy"] < 1
    assert 8 <= measured["passes"] <= 8 * passes_per_query * (settings.queries + 2)
    rows = study.table({implementation: measured}, settings.images).splitlines()
    assert rows[2].startswith(f"| {implementation} | {100 * measured['accuracy']:.1f} |")


@pytest.fixture(scope="module")
def preset_classifier():
    return study.keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist").classifier
