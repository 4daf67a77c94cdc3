"""The layers keep shapes and pixels, survive saving, and mix what they should."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from keras_trn.layers import AttackGate
from keras_trn.layers import FusionBlock
from keras_trn.layers import PixelShuffle
from keras_trn.layers import PixelUnshuffle
from keras_trn.layers import ResidualBlock

# Each layer with the shapes of its inputs and outputs, without the batch.
LAYERS = {
    "residual": (ResidualBlock, {}, [(5, 7, 4)], [(5, 7, 4)]),
    "residual_5x5": (ResidualBlock, {"kernel_size": 5}, [(5, 7, 4)], [(5, 7, 4)]),
    "fusion": (FusionBlock, {}, [(5, 7, 4)] * 2, [(5, 7, 4)] * 2),
    "attack_gate": (AttackGate, {}, [(5, 7, 4)], [(1,)]),
    "unshuffle": (PixelUnshuffle, {"block_size": 2}, [(5, 7, 3)], [(3, 4, 12)]),
    "shuffle": (PixelShuffle, {"block_size": 2}, [(5, 7, 12)], [(10, 14, 3)]),
    "unshuffle_1": (PixelUnshuffle, {"block_size": 1}, [(5, 7, 3)], [(5, 7, 3)]),
    "shuffle_1": (PixelShuffle, {"block_size": 1}, [(5, 7, 3)], [(5, 7, 3)]),
}
all_layers = pytest.mark.parametrize(
    ("layer_class", "config", "input_shapes", "output_shapes"), LAYERS.values(), ids=LAYERS
)


def random_features(shapes, batch_size=2):
    generator = np.random.default_rng(0)
    features = [generator.normal(size=(batch_size, *shape)).astype("float32") for shape in shapes]
    return features if len(features) > 1 else features[0]


def as_list(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def randomize(layer):
    """Gives a layer weights that are nowhere zero, whatever its initializers."""
    generator = np.random.default_rng(1)
    for variable in layer.weights:
        variable.assign(generator.normal(scale=0.3, size=variable.shape))


@all_layers
def test_output_shape_is_as_computed(layer_class, config, input_shapes, output_shapes):
    outputs = layer_class(**config)(random_features(input_shapes))
    assert [tuple(output.shape) for output in as_list(outputs)] == [
        (2, *shape) for shape in output_shapes
    ]


@all_layers
def test_symbolic_shape_of_unknown_sides_stays_unknown(
    layer_class, config, input_shapes, output_shapes
):
    inputs = [keras.Input((None, None, shape[-1])) for shape in input_shapes]
    outputs = as_list(layer_class(**config)(inputs if len(inputs) > 1 else inputs[0]))
    assert [output.shape for output in outputs] == [
        (*[None] * len(shape), shape[-1]) for shape in output_shapes
    ]


@all_layers
def test_saved_model_loads_with_identical_outputs(
    layer_class, config, input_shapes, output_shapes, tmp_path
):
    inputs = [keras.Input(shape) for shape in input_shapes]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    model = keras.Model(inputs, layer_class(**config)(inputs))
    randomize(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")

    features = random_features(input_shapes)
    for output, expected in zip(as_list(loaded(features)), as_list(model(features)), strict=True):
        np.testing.assert_array_equal(output, expected)


@all_layers
def test_config_holds_the_arguments(layer_class, config, input_shapes, output_shapes):
    layer = layer_class(**config, name="some_name")
    copy = layer_class.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert copy.name == "some_name"
    assert {key: getattr(copy, key) for key in config} == config


@all_layers
def test_computes_in_float16_and_keeps_float32_weights_under_mixed_precision(
    layer_class, config, input_shapes, output_shapes, mixed_float16
):
    layer = layer_class(**config)
    outputs = as_list(layer(random_features(input_shapes)))
    assert {output.dtype for output in outputs} == {tf.float16}
    assert all(variable.dtype == "float32" for variable in layer.weights)
    assert all(np.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize("key", ["residual", "fusion", "attack_gate"])
def test_output_for_an_image_does_not_depend_on_its_batch(key):
    layer_class, config, input_shapes, _ = LAYERS[key]
    layer = layer_class(**config)
    features = random_features(input_shapes, batch_size=5)
    layer(features)
    randomize(layer)
    alone = as_list(layer(tf.nest.map_structure(lambda tensor: tensor[:1], features)))
    together = as_list(layer(features))
    for output, expected in zip(alone, together, strict=True):
        np.testing.assert_allclose(output, expected[:1], atol=1e-5)


def test_residual_block_adds_to_its_input():
    block = ResidualBlock()
    features = random_features([(5, 7, 4)])
    block(features)
    for variable in block.weights:
        variable.assign(keras.ops.zeros(variable.shape))
    np.testing.assert_array_equal(block(features), features)
    randomize(block)
    assert np.abs(block(features) - features).max() > 0.1


@pytest.mark.parametrize("changed", [0, 1], ids=["image_stream", "gradient_stream"])
def test_each_output_of_the_fusion_block_depends_on_both_inputs(changed):
    block = FusionBlock()
    features = random_features([(5, 7, 4)] * 2)
    block(features)
    randomize(block)
    before = block(features)
    features[changed] = features[changed] + 1.0
    after = block(features)
    # The stream's own output changes by more than the shift that was added to it.
    for index in range(2):
        shift = 1.0 if index == changed else 0.0
        assert np.abs(after[index] - before[index] - shift).max() > 0.01


def test_fusion_block_refuses_streams_of_different_shape():
    with pytest.raises(ValueError, match="same shape"):
        FusionBlock()([np.zeros((2, 5, 7, 4)), np.zeros((2, 5, 7, 3))])


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=40, deadline=None)
def test_shuffle_is_the_exact_inverse_of_unshuffle(data):
    block_size = data.draw(st.integers(1, 4), label="block_size")
    sides = st.integers(block_size, 10)
    shape = data.draw(st.tuples(st.integers(1, 3), sides, sides, st.integers(1, 3)), label="shape")
    images = np.random.default_rng(0).random(shape, dtype="float32")
    folded = PixelUnshuffle(block_size)(images)
    unfolded = PixelShuffle(block_size)(folded)
    assert folded.shape == PixelUnshuffle(block_size).compute_output_shape(shape)
    np.testing.assert_array_equal(unfolded[:, : shape[1], : shape[2]], images)


@pytest.mark.parametrize(("side", "block_size"), [(1, 3), (1, 4), (2, 8)])
def test_images_smaller_than_half_a_block_are_folded_too(side, block_size):
    images = np.random.default_rng(0).random((2, side, side, 1), dtype="float32")
    unfolded = PixelShuffle(block_size)(PixelUnshuffle(block_size)(images))
    assert unfolded.shape == (2, block_size, block_size, 1)
    np.testing.assert_array_equal(unfolded[:, :side, :side], images)


@pytest.mark.parametrize("block_size", [2, 3])
def test_shuffles_agree_with_those_of_tensorflow(block_size):
    images = np.random.default_rng(0).random((2, 6, 12, 3), dtype="float32")
    folded = tf.nn.space_to_depth(images, block_size)
    np.testing.assert_array_equal(PixelUnshuffle(block_size)(images), folded)
    np.testing.assert_array_equal(PixelShuffle(block_size)(folded), images)


def test_odd_sides_are_extended_by_mirroring():
    images = np.random.default_rng(0).random((2, 5, 6, 3), dtype="float32")
    unfolded = PixelShuffle(4)(PixelUnshuffle(4)(images))
    expected = np.pad(images, [(0, 0), (0, 3), (0, 2), (0, 0)], mode="symmetric")
    np.testing.assert_array_equal(unfolded, expected)


@pytest.mark.parametrize("layer_class", [PixelUnshuffle, PixelShuffle])
@pytest.mark.parametrize("block_size", [0, -1, 1.5, "2", None])
def test_block_size_must_be_a_positive_whole_number(layer_class, block_size):
    with pytest.raises(ValueError, match=r"block_size must be a whole number .* received"):
        layer_class(block_size)


@pytest.mark.parametrize("kernel_size", [0, -3, 2.5, "3", None, (3, 3)])
def test_kernel_size_must_be_a_positive_whole_number(kernel_size):
    with pytest.raises(ValueError, match=r"kernel_size must be a whole number .* received"):
        ResidualBlock(kernel_size)


def test_pixel_shuffle_refuses_channels_that_fill_no_block():
    with pytest.raises(ValueError, match="multiple of 4, received 6"):
        PixelShuffle(2)(np.zeros((2, 4, 4, 6), "float32"))


def test_attack_gate_judges_the_whole_image_wherever_it_looks_attacked():
    gate = AttackGate()
    features = np.zeros((3, 6, 6, 4), "float32")
    features[1, 0, 0], features[2, 5, 3] = 1.0, 1.0
    gate.build(features.shape)
    randomize(gate)
    clean, in_a_corner, elsewhere = gate(features).numpy()
    assert clean != in_a_corner
    np.testing.assert_allclose(in_a_corner, elsewhere, rtol=1e-6)


def test_attack_gate_is_open_where_no_feature_says_otherwise():
    logits = AttackGate()(np.zeros((2, 6, 6, 4), "float32"))
    np.testing.assert_array_equal(logits, np.ones((2, 1)))
