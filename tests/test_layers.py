"""Each layer computes what its description says."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from test_layer_contract import random_features
from test_layer_contract import randomize

from keras_trn.layers import AttackGate
from keras_trn.layers import FusionBlock
from keras_trn.layers import PixelShuffle
from keras_trn.layers import PixelUnshuffle
from keras_trn.layers import ResidualBlock


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
def test_shuffles_agree_with_tensorflow(block_size):
    images = np.random.default_rng(0).random((2, 6, 12, 3), dtype="float32")
    folded = tf.nn.space_to_depth(images, block_size)
    np.testing.assert_array_equal(PixelUnshuffle(block_size)(images), folded)
    np.testing.assert_array_equal(PixelShuffle(block_size)(folded), images)


def test_odd_sides_are_extended_by_mirroring():
    images = np.random.default_rng(0).random((2, 5, 6, 3), dtype="float32")
    unfolded = PixelShuffle(4)(PixelUnshuffle(4)(images))
    expected = np.pad(images, [(0, 0), (0, 3), (0, 2), (0, 0)], mode="symmetric")
    np.testing.assert_array_equal(unfolded, expected)


def test_attack_gate_sees_a_perturbation_anywhere_in_the_image():
    gate = AttackGate()
    features = np.zeros((3, 6, 6, 4), "float32")
    features[1, 0, 0], features[2, 5, 3] = 1.0, 1.0
    gate.build(features.shape)
    randomize(gate)
    clean, in_a_corner, elsewhere = gate(features).numpy()
    assert clean != in_a_corner
    np.testing.assert_allclose(in_a_corner, elsewhere, rtol=1e-6)


def test_attack_gate_starts_open():
    logits = AttackGate()(np.zeros((2, 6, 6, 4), "float32"))
    np.testing.assert_array_equal(logits, np.ones((2, 1)))
