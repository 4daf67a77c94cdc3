"""What the comparison of gradient maps is made of does what its names say."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from experiments import color_images
from experiments import fusion_blocks
from experiments import label_estimators
from experiments import label_leak_fashion_mnist
from experiments import trained_models
from experiments.fused_batch_normalization import FusedBatchNormalization
from experiments.gradient_maps_plots import attacks_table
from experiments.gradient_maps_plots import plot_gradient_maps
from experiments.gradient_maps_plots import variants_table

RESULTS = Path(__file__).parent.parent / "results"
FUSION_BLOCKS = [
    fusion_blocks.Concatenation,
    fusion_blocks.ChannelAttention,
    fusion_blocks.CrossAttention,
]


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


def test_zeroed_map_leaves_the_noise_estimate_alone(classifier, images):
    maps = estimate(keras_trn.gradient_maps.EstimatedLabel, classifier, images)
    zeroed = estimate(label_estimators.MapZeroed, classifier, images)
    np.testing.assert_array_equal(zeroed[..., :2], 0 * maps[..., :2])
    np.testing.assert_allclose(zeroed[..., 2], maps[..., 2], atol=1e-6)


def test_known_label_decides_for_which_label_the_map_is_taken(classifier, images):
    known = [
        estimate(label_estimators.LabelKnown, classifier, images, labels=np.full(8, label))
        for label in (3, 5)
    ]
    assert np.abs(known[0][..., 0] - known[1][..., 0]).max() > 0.1
    np.testing.assert_array_equal(known[0][..., 2], known[1][..., 2])


@pytest.mark.parametrize("training", [False, True])
def test_taught_with_estimates_no_known_label_is_seen(training, classifier, images):
    estimator = label_estimators.TaughtWithEstimates(width=4, depth=1)
    estimator.build_for((8, 8, 1), num_classes=10)
    maps = [
        estimator.call_with_loss(images, classifier, np.full(8, label), images, training)[0]
        for label in (3, 5)
    ]
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize("fusion_block", FUSION_BLOCKS)
@pytest.mark.parametrize("sides", [(8, 8), (7, 9)])
def test_restorer_with_another_fusion_block_uses_both_streams(fusion_block, sides):
    keras.utils.set_random_seed(0)
    restorer = fusion_blocks.make_restorer(fusion_block, width=4, depth=1)
    generator = np.random.default_rng(0)
    images = generator.random((2, *sides, 1), dtype="float32")
    maps = generator.normal(size=(2, *sides, 3)).astype("float32")
    restorer(images, gradient_maps=maps)
    assert isinstance(restorer.fusion_blocks[0], fusion_block)
    for variable in restorer.trainable_variables:
        variable.assign(generator.normal(scale=0.3, size=variable.shape))
    restored = restorer(images, gradient_maps=maps)
    assert restored.shape == images.shape
    assert np.abs(restored - restorer(images, gradient_maps=-maps)).max() > 1e-3
    assert np.abs(restored - restorer(1 - images, gradient_maps=maps)).max() > 1e-3


def test_model_is_trained_once_and_loaded_from_then_on(tmp_path):
    made = []

    def train():
        made.append(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        return made[-1]

    first, second = (trained_models.load_or_train(tmp_path / "model.keras", train) for _ in "12")
    assert len(made) == 1
    np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])
    # What was only half written when the process died is trained again.
    (tmp_path / "model.keras").rename(tmp_path / "unfinished_model.keras")
    trained_models.load_or_train(tmp_path / "model.keras", train)
    assert len(made) == 2


def test_tables_of_the_comparison_are_those_of_its_results():
    path = RESULTS / "gradient_maps_fashion_mnist.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    tables = {
        "variants": variants_table(runs),
        "agreement": attacks_table(runs, "agreement", 100),
        "psnr": attacks_table(runs, "restored_psnr"),
    }
    for name, table in tables.items():
        written = path.with_name(f"{path.stem}_{name}.md").read_text(encoding="utf-8")
        assert written == table
    left, right = plot_gradient_maps(runs).axes
    assert len(left.get_yticklabels()) == len({run["variant"] for run in runs}) - 2
    assert len(right.lines) == 5


def test_map_is_worth_more_than_its_baselines():
    path = RESULTS / "gradient_maps_fashion_mnist.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]

    def ratio(variant, attack):
        return [
            cell["restored_psnr"]
            for run in runs
            for cell in run["cells"]
            if run["variant"] == variant
            and (cell["attack"], cell["threat_model"]) == (attack, "oblivious")
            and (cell["norm"], cell["epsilon"]) == ("linf", 0.1)
        ]

    for attack in ("PGD-20", "BIM-20", "MIM-20"):
        for baseline in ("single stream", "EstimatedLabel, map zeroed"):
            assert min(ratio("EstimatedLabel", attack)) > max(ratio(baseline, attack)) + 1, baseline


def test_table_of_the_label_leak_is_that_of_its_results():
    path = RESULTS / "label_leak_fashion_mnist.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    written = path.with_suffix(".md").read_text(encoding="utf-8")
    assert written == label_leak_fashion_mnist.to_markdown(rows)


@pytest.mark.parametrize("make", [color_images.make_classifier, color_images.make_other_classifier])
def test_classifiers_of_colour_images_can_be_protected_and_are_small(make):
    classifier = make()
    protected = keras_trn.ProtectedClassifier(classifier)
    assert protected.image_shape == (32, 32, 3) and protected.num_classes == 10
    # In half precision, with a restorer beside it, a preset stays under two megabytes.
    assert classifier.count_params() < 750_000


def test_fused_normalization_is_that_of_keras():
    images = keras.random.normal((8, 4, 4, 3), mean=2.0, stddev=3.0, seed=0)
    layers = [keras.layers.BatchNormalization(), FusedBatchNormalization()]
    for layer in layers:
        layer.build(images.shape)
        layer.gamma.assign([1.0, 2.0, 3.0])
    trained, fused_trained = (layer(images, training=True) for layer in layers)
    np.testing.assert_allclose(trained, fused_trained, atol=1e-5)
    assert not np.allclose(layers[1].moving_mean, 0)
    for weight, fused_weight in zip(*(layer.get_weights() for layer in layers), strict=True):
        # Its variance is that of a sample.
        np.testing.assert_allclose(weight, fused_weight, rtol=1e-3)
    layers[1].set_weights(layers[0].get_weights())
    used, fused_used = (layer(images, training=False) for layer in layers)
    np.testing.assert_array_equal(used, fused_used)


@pytest.mark.parametrize("mirrored", [False, True])
def test_varied_images_are_shifted_and_mirrored_where_it_fits(mirrored):
    image = np.zeros((32, 32, 3), "float32")
    image[8:24, 8:12] = 1.0
    variation = color_images._mirror if mirrored else lambda image, seed: image
    varied = [
        color_images._vary(image, tf.constant([0, seed]), variation).numpy() for seed in range(40)
    ]
    assert all(v.shape == image.shape and v.sum() == image.sum() for v in varied)
    columns = {int(np.argmax(v.sum(axis=(0, 2)))) for v in varied}
    assert {column for column in columns if column < 16} <= set(range(4, 13))
    assert len(columns) > 5
    assert any(column >= 16 for column in columns) == mirrored


def test_mixed_images_stay_images_and_their_labels_distributions():
    images = tf.random.stateless_uniform((16, 32, 32, 3), [0, 0])
    labels = tf.range(16) % 10
    pipeline = tf.data.Dataset.from_tensors((images, labels)).repeat(3)
    mixed_images, mixed_labels = keras_trn.datasets.to_arrays(color_images.mixed(pipeline))
    assert mixed_images.min() >= 0 and mixed_images.max() <= 1
    np.testing.assert_allclose(mixed_labels.sum(axis=-1), 1, atol=1e-6)
    assert not np.array_equal(mixed_images[:16], mixed_images[16:32])


def test_recoloured_images_stay_images_and_are_inverted_now_and_then():
    image = np.full((32, 32, 3), 0.2, "float32")
    image[8:24, 8:12] = 0.8
    recoloured = [color_images._recolour(image, tf.constant([0, s])).numpy() for s in range(40)]
    assert all(v.min() >= 0 and v.max() <= 1 for v in recoloured)
    darker_inside = [v[10, 10, 0] < v[0, 0, 0] for v in recoloured]
    assert 5 < sum(darker_inside) < 35


@pytest.mark.real_data
def test_training_pipeline_of_colour_images_differs_in_each_epoch():
    pipeline = color_images.training_pipeline("svhn_cropped", batch_size=32)
    epochs = [keras_trn.datasets.to_arrays(pipeline) for _ in range(2)]
    assert len(epochs[0][0]) == 32 * len(pipeline)
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    assert epochs[0][0].min() >= 0 and epochs[0][0].max() <= 1
