"""The studies and the claims about their results do what their names say."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from experiments import claims
from experiments.recipes import color_images
from experiments.studies import cost
from experiments.studies import gradient_maps
from experiments.studies import label_leak
from experiments.studies import variants
from experiments.studies.gradient_maps_plots import plot_gradient_maps
from experiments.writing import write_results
from keras_trn.gradient_maps import EstimatedLabel

RESULTS = Path(__file__).parent.parent / "results"


def estimate(estimator_class, classifier, images, labels=None):
    keras.utils.set_random_seed(0)
    estimator = estimator_class(width=4, depth=1)
    estimator.build_for((8, 8, 1), num_classes=10)
    for variable in estimator.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(scale=0.1, size=variable.shape))
    return estimator(images, classifier=classifier, labels=labels).numpy()


@pytest.fixture
def images(digits):
    return tf.constant(digits[0][:8])


# --- Gradient maps --------------------------------------------------------------------


def test_zeroed_map_leaves_the_noise_estimate_alone(classifier, images):
    maps = estimate(EstimatedLabel, classifier, images)
    zeroed = estimate(variants.MapZeroed, classifier, images)
    np.testing.assert_array_equal(zeroed[..., :2], 0 * maps[..., :2])
    np.testing.assert_allclose(zeroed[..., 2], maps[..., 2], atol=1e-6)


def test_known_label_decides_for_which_label_the_map_is_taken(classifier, images):
    known = [
        estimate(variants.LabelKnown, classifier, images, labels=np.full(8, label))
        for label in (3, 5)
    ]
    assert np.abs(known[0][..., 0] - known[1][..., 0]).max() > 0.1
    np.testing.assert_array_equal(known[0][..., 2], known[1][..., 2])


@pytest.mark.parametrize("training", [False, True])
def test_taught_with_estimates_no_known_label_is_seen(training, classifier, images):
    estimator = variants.TaughtWithEstimates(width=4, depth=1)
    estimator.build_for((8, 8, 1), num_classes=10)
    maps = [
        estimator.call_with_loss(images, classifier, np.full(8, label), images, training)[0]
        for label in (3, 5)
    ]
    np.testing.assert_array_equal(*maps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fusion", [variants.Concatenation, variants.ChannelAttention, variants.CrossAttention]
)
@pytest.mark.parametrize("sides", [(8, 8), (7, 9)])
def test_restorer_with_another_fusion_uses_both_streams(fusion, sides):
    keras.utils.set_random_seed(0)
    restorer = keras_trn.TwoStreamRestorationNetwork(width=4, depth=1, fusion=fusion())
    generator = np.random.default_rng(0)
    images = generator.random((2, *sides, 1), dtype="float32")
    maps = generator.normal(size=(2, *sides, 3)).astype("float32")
    restorer(images, gradient_maps=maps)
    for variable in restorer.trainable_variables:
        variable.assign(generator.normal(scale=0.3, size=variable.shape))
    restored = restorer(images, gradient_maps=maps)
    assert restored.shape == images.shape
    assert np.abs(restored - restorer(images, gradient_maps=-maps)).max() > 1e-3
    assert np.abs(restored - restorer(1 - images, gradient_maps=maps)).max() > 1e-3


def test_tables_of_the_comparison_are_those_of_its_results():
    path = RESULTS / "gradient_maps_fashion_mnist.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    for name, table in gradient_maps.tables(runs).items():
        written = path.with_name(f"{path.stem}{name}.md").read_text(encoding="utf-8")
        assert written == table + "\n"
    left, right = plot_gradient_maps(runs).axes
    assert len(left.get_yticklabels()) == len({run["variant"] for run in runs}) - 2
    assert len(right.lines) == 5


@pytest.fixture
def few_digits(digits, monkeypatch):
    """A few digits in the size of Fashion-MNIST, in its place."""
    images = tf.image.resize(digits[0][:60], (28, 28)).numpy()
    parts = [(images[part], digits[1][part]) for part in (slice(32), slice(32, 60), slice(60))]
    monkeypatch.setattr("experiments.recipes.fashion_mnist.load_arrays", lambda: parts)
    return gradient_maps.Settings(
        classifier_epochs=1,
        classifier_batch_size=16,
        batch_size=8,
        validation_images=28,
        training_images=16,
        epochs=1,
    )


@pytest.mark.slow
def test_label_leak_measures_both_restorers(few_digits, tmp_path):
    path = tmp_path / "leak.json"
    label_leak.main(path, few_digits)
    rows = json.loads(path.read_text())["rows"]
    defences = ["bare", "trained on the truth", "trained on predictions"]
    assert [row["defence"] for row in rows] == defences * 5
    assert path.with_suffix(".md").read_text() == label_leak.to_markdown(rows) + "\n"


def test_table_of_the_label_leak_is_that_of_its_results():
    path = RESULTS / "label_leak_fashion_mnist.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    written = path.with_suffix(".md").read_text(encoding="utf-8")
    assert written == label_leak.to_markdown(rows) + "\n"


# --- Cost and tutorials ---------------------------------------------------------------


def test_results_are_written_with_their_tables(tmp_path):
    write_results(tmp_path / "cost.json", {"ratio": [1, 2]}, {"": "| a |", "_parts": "| b |"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "cost.json": '{\n "ratio": [\n  1,\n  2\n ]\n}\n',
        "cost.md": "| a |\n",
        "cost_parts.md": "| b |\n",
    }


def test_operations_are_counted_and_costs_relative_to_the_bare_classifier():
    matrix = tf.ones((3, 5))
    operations = cost.count_operations(lambda images: images @ matrix, (7, 3))
    assert operations == 2 * 7 * 3 * 5
    classifier = color_images.make_surrogate()
    shape = (2, 32, 32, 3)
    forward = cost.count_operations(classifier, shape)
    both = cost.count_operations(cost.gradient_of(classifier), shape)
    assert 2 <= both / forward <= 2.1
    assert cost.relative({"bare": 2.0, "restoration": 7.0}) == {"bare": 1.0, "restoration": 3.5}


def test_functions_are_timed_in_turn_and_not_the_first_time():
    called = []
    functions = {"a": lambda: called.append("a"), "b": lambda: called.append("b") or 7.0}
    seconds = cost.seconds_in_turn(functions, repeats=2)
    assert called == ["a", "b"] * 3
    assert len(seconds["a"]) == 2 and seconds["b"] == [7.0, 7.0]


def test_table_of_the_cost_is_that_of_its_results():
    path = RESULTS / "cost_color_images.json"
    table = cost.to_markdown(json.loads(path.read_text(encoding="utf-8")))
    assert path.with_suffix(".md").read_text(encoding="utf-8") == table + "\n"


def test_executed_tutorial_keeps_what_is_for_readers():
    # The imports take seconds, which every run of the tests would pay.
    import nbformat

    from experiments.studies import tutorials

    def cell(source, **metadata):
        output = nbformat.v4.new_output("stream", text="shown")
        return nbformat.v4.new_code_cell(source, metadata=metadata, outputs=[output])

    kernel = {"name": "python3", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("text", metadata={"papermill": {"duration": 1.0}}),
            cell("parameters", tags=["injected-parameters"]),
            cell("plot", alt="What it shows.", tags=["a"], papermill={"duration": 2.0}),
            cell("noisy", tags=["remove_output"]),
        ],
        metadata={"kernelspec": kernel, "papermill": {"duration": 3.0}},
    )
    cleaned = tutorials.cleaned(notebook)
    assert [c.source for c in cleaned.cells] == ["text", "plot", "noisy"]
    assert [dict(c.metadata) for c in cleaned.cells] == [
        {},
        {"alt": "What it shows.", "tags": ["a"]},
        {"tags": ["remove_output"]},
    ]
    assert [len(c.get("outputs", [])) for c in cleaned.cells] == [0, 1, 0]
    assert dict(cleaned.metadata) == {"kernelspec": kernel}


# --- Claims ---------------------------------------------------------------------------


def test_claims_are_those_of_the_results():
    table = claims.to_markdown(claims.Results(RESULTS))
    assert (RESULTS / "claims.md").read_text(encoding="utf-8") == table


def test_claim_that_does_not_hold_is_shown():
    planned = {
        "No accuracy is lost": claims.benign_cost(0.0),
        "It leads": claims.ahead("worst", "protected", ["JPEG"]),
    }
    table = claims.to_markdown(claims.Results(RESULTS), {"trn_cifar10": planned})
    lost, leads = table.splitlines()[2:]
    assert "| No accuracy is lost | 87.3 - 86.8 |" in lost and lost.endswith("| **no** |")
    assert leads.endswith("| yes |")
