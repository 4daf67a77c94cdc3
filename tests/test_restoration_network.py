"""The restoration network starts harmless, takes any image, and learns."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn import SingleStreamRestorationNetwork
from keras_trn import TwoStreamRestorationNetwork
from tests.helpers import random_images
from tests.helpers import randomize

SMALL = {"width": 4, "depth": 1}
both = pytest.mark.parametrize(
    "make_network", [TwoStreamRestorationNetwork, SingleStreamRestorationNetwork]
)


def random_maps(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("block_size", [1, 2, 4])
@pytest.mark.parametrize("sides", [(8, 8), (7, 9), (5, 6)], ids=str)
@pytest.mark.parametrize("levels", [1, 3])
@both
def test_untrained_network_returns_its_input(sides, channels, block_size, levels, make_network):
    network = make_network(**SMALL, block_size=block_size, levels=levels)
    images = random_images(2, *sides, channels)
    maps = {"gradient_maps": random_maps(2, *sides, 2)} if network.takes_gradient_maps else {}
    np.testing.assert_array_equal(network(images, **maps), images)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@both
def test_restored_images_are_float32_in_the_unit_range(dtype, make_network):
    network = make_network(**SMALL, dtype=dtype)
    images = random_images(2, 7, 9, 3)
    maps = {"gradient_maps": random_maps(2, 7, 9, 3)} if network.takes_gradient_maps else {}
    network(images, **maps)
    randomize(network)
    restored = network(images, **maps)
    assert restored.dtype == tf.float32
    assert restored.shape == images.shape
    assert np.min(restored) >= 0 and np.max(restored) <= 1
    assert np.abs(restored - images).max() > 0.1


def test_untrained_network_does_not_round_images_under_mixed_precision(mixed_float16):
    network = TwoStreamRestorationNetwork(**SMALL)
    images = random_images(2, 8, 8, 1)
    restored = network(images, gradient_maps=random_maps(2, 8, 8, 1))
    assert network.compute_dtype == "float16"
    assert network.image_blocks[0].compute_dtype == "float16"
    assert restored.dtype == tf.float32
    np.testing.assert_array_equal(restored, images)


def test_symbolic_output_is_float32_under_mixed_precision(mixed_float16):
    network = SingleStreamRestorationNetwork(**SMALL)
    restored = network(keras.Input((8, 8, 1), dtype="float32"))
    assert restored.dtype == "float32"


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_images_of_another_float_type_are_restored_to_float32(dtype):
    network = TwoStreamRestorationNetwork(**SMALL)
    images = random_images(2, 8, 8, 1).astype(dtype)
    restored = network(images, gradient_maps=random_maps(2, 8, 8, 1))
    assert restored.dtype == tf.float32
    np.testing.assert_array_equal(restored, images.astype("float32"))


def test_both_streams_reach_the_restored_image():
    network = TwoStreamRestorationNetwork(**SMALL)
    images, maps = random_images(2, 8, 8, 1), random_maps(2, 8, 8, 1)
    network(images, gradient_maps=maps)
    randomize(network)
    restored = network(images, gradient_maps=maps)
    assert np.abs(restored - network(images, gradient_maps=-maps)).max() > 0.01
    assert np.abs(restored - network(1 - images, gradient_maps=maps)).max() > 0.01


def test_restoration_of_an_image_does_not_depend_on_its_batch():
    network = TwoStreamRestorationNetwork(**SMALL)
    images, maps = random_images(5, 8, 8, 1), random_maps(5, 8, 8, 1)
    network(images, gradient_maps=maps)
    randomize(network)
    together = network(images, gradient_maps=maps)
    alone = network(images[:1], gradient_maps=maps[:1])
    np.testing.assert_allclose(alone, together[:1], atol=1e-5)


def test_two_stream_network_refuses_to_run_without_maps():
    with pytest.raises(ValueError, match=r"expects gradient maps.*gradient_maps=maps"):
        TwoStreamRestorationNetwork(**SMALL)(random_images(2, 8, 8, 1))


def test_single_stream_network_refuses_maps():
    network = SingleStreamRestorationNetwork(**SMALL)
    with pytest.raises(ValueError, match="takes no gradient maps"):
        network(random_images(2, 8, 8, 1), gradient_maps=random_maps(2, 8, 8, 1))


@both
def test_coarse_levels_see_the_whole_image(make_network):
    def reach(levels):
        network = make_network(**SMALL, levels=levels)
        images = tf.constant(random_images(1, 48, 48, 1))
        network.build(images.shape, *([images.shape] if network.takes_gradient_maps else []))
        randomize(network, scale=0.1)
        with tf.GradientTape() as tape:
            tape.watch(images)
            maps = images if network.takes_gradient_maps else None
            # The gate sees the whole image at any number of levels.
            corner = network.stream_features(images, maps)[0, 0, 0, 0]
        return int(tf.reduce_max(tf.where(tape.gradient(corner, images)[0, :, 0, 0] != 0)))

    assert reach(1) < 15 and reach(4) > 40


@pytest.mark.parametrize("argument", ["width", "depth", "block_size", "levels"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "4", None])
def test_sizes_must_be_positive_whole_numbers(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be a whole number .* received"):
        TwoStreamRestorationNetwork(**{argument: value})


def test_baseline_is_a_single_stream_of_the_same_size():
    # Wide enough that one filter more or less is a small part of the whole.
    network = TwoStreamRestorationNetwork(width=32, depth=1)
    images_shape, maps_shape = (None, 8, 8, 1), (None, 8, 8, 3)
    network.build(images_shape, maps_shape)
    parameters = network.count_params()
    baseline = SingleStreamRestorationNetwork.with_parameters(parameters, images_shape, depth=1)
    assert baseline.depth == 1

    baseline.build(images_shape)
    assert baseline.count_params() == pytest.approx(network.count_params(), rel=0.03)


@both
def test_config_round_trip(make_network):
    network = make_network(
        width=6, depth=2, block_size=4, levels=3, dtype="mixed_float16", name="some_name"
    )
    serialized = keras.saving.serialize_keras_object(network)
    copy = keras.saving.deserialize_keras_object(serialized)
    assert copy.get_config() == network.get_config()
    assert (copy.width, copy.depth, copy.block_size, copy.levels) == (6, 2, 4, 3)
    assert type(copy) is make_network
    assert copy.dtype_policy.name == "mixed_float16"
    assert copy.name == "some_name"


@pytest.mark.parametrize("options", [{}, {"levels": 3}], ids=str)
@both
def test_saved_network_loads_with_identical_outputs(make_network, options, tmp_path):
    network = make_network(**SMALL, **options)
    images = random_images(2, 7, 9, 3)
    maps = {"gradient_maps": random_maps(2, 7, 9, 2)} if network.takes_gradient_maps else {}
    network(images, **maps)
    randomize(network)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(images, **maps), network(images, **maps))


def test_network_built_for_unknown_sides_takes_every_size():
    network = TwoStreamRestorationNetwork(**SMALL, levels=2)
    network.build((None, None, None, 3), (None, None, None, 1))
    randomize(network)

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, None, 3), tf.float32),
            tf.TensorSpec((None, None, None, 1), tf.float32),
        ]
    )
    def restore(images, maps):
        return network(images, gradient_maps=maps)

    for sides in [(8, 8), (7, 10), (5, 3)]:
        images, maps = random_images(2, *sides, 3), random_maps(2, *sides, 1)
        restored = restore(images, maps)
        assert restored.shape == images.shape
        np.testing.assert_allclose(restored, network(images, gradient_maps=maps), atol=1e-5)
    assert restore.experimental_get_tracing_count() == 1


def test_network_compiled_with_xla_agrees_with_eager():
    network = TwoStreamRestorationNetwork(**SMALL)
    images, maps = random_images(2, 7, 9, 1), random_maps(2, 7, 9, 1)
    network(images, gradient_maps=maps)
    randomize(network)
    compiled = tf.function(network, jit_compile=True)(images, gradient_maps=maps)
    np.testing.assert_allclose(compiled, network(images, gradient_maps=maps), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_few_steps_lower_the_loss(dtype):
    keras.utils.set_random_seed(0)
    network = TwoStreamRestorationNetwork(width=8, depth=1, dtype=dtype)
    optimizer = keras.optimizers.Adam(1e-2)
    maps = np.sign(random_maps(8, 8, 8, 1))
    clean = 0.3 + 0.4 * random_images(8, 8, 8, 1)
    attacked = clean + 0.1 * maps

    losses = []
    for _ in range(10):
        with tf.GradientTape() as tape:
            restored = network(attacked, gradient_maps=maps)
            loss = tf.reduce_mean(tf.abs(restored - clean))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        losses.append(float(loss))
    assert losses[0] == pytest.approx(0.1, rel=1e-3)
    assert losses[-1] < 0.8 * losses[0]


@keras.saving.register_keras_serializable(package="tests")
class Sum(keras.layers.Layer):
    """Fuses the streams by their sum, times a trained number."""

    def build(self, features_shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, features):
        total = self.scale * (features[0] + features[1])
        return [total, total]


def test_layer_that_fuses_is_copied_for_each_stage_and_survives_saving(tmp_path):
    network = TwoStreamRestorationNetwork(width=4, depth=2, fusion=Sum())
    images, maps = random_images(2, 8, 8, 1), random_maps(2, 8, 8, 1)
    network(images, gradient_maps=maps)
    first, second = network.fusion_blocks
    assert type(first) is type(second) is Sum and first.scale is not second.scale
    randomize(network)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    restored = network(images, gradient_maps=maps)
    np.testing.assert_array_equal(loaded(images, gradient_maps=maps), restored)


def test_fusion_must_be_a_layer():
    with pytest.raises(ValueError, match="'product' or a Keras layer, received 'sum'"):
        TwoStreamRestorationNetwork(fusion="sum")


def test_config_of_version_0_1_still_loads():
    config = {"width": 4, "depth": 1, "block_size": 2, "name": "old", "gate_threshold": 0.5}
    single = TwoStreamRestorationNetwork.from_config({**config, "gradient_stream": False})
    two = TwoStreamRestorationNetwork.from_config({**config, "gradient_stream": True})
    assert type(single) is SingleStreamRestorationNetwork and single.gate_threshold == 0.5
    assert type(two) is TwoStreamRestorationNetwork
