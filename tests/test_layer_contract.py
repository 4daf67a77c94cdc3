"""Every layer keeps one contract; a new one is added to the table below."""

from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn import layers


class Entry(NamedTuple):
    """A layer, with the shapes of its inputs and outputs without the batch, and its errors."""

    layer_class: type
    config: dict[str, Any]
    inputs: list[tuple[int, ...]]
    outputs: list[tuple[int, ...]]
    # Configurations and inputs that are refused, with a part of the message.
    bad_configs: tuple[tuple[dict[str, Any], str], ...] = ()
    bad_inputs: tuple[tuple[list[tuple[int, ...]], str], ...] = ()


def not_counts(name):
    return tuple(({name: value}, f"{name} must be a whole number") for value in (0, 1.5, "2", None))


CONTRACT = {
    "residual": Entry(
        layers.ResidualBlock, {}, [(5, 7, 4)], [(5, 7, 4)], bad_configs=not_counts("kernel_size")
    ),
    "residual_5x5": Entry(layers.ResidualBlock, {"kernel_size": 5}, [(5, 7, 4)], [(5, 7, 4)]),
    "fusion": Entry(
        layers.FusionBlock,
        {},
        [(5, 7, 4)] * 2,
        [(5, 7, 4)] * 2,
        bad_inputs=(([(5, 7, 4), (5, 7, 3)], "same shape"),),
    ),
    "attack_gate": Entry(layers.AttackGate, {}, [(5, 7, 4)], [(1,)]),
    "downsample": Entry(
        layers.Downsample,
        {"filters": 6},
        [(5, 7, 4)],
        [(3, 4, 6)],
        bad_configs=not_counts("filters"),
    ),
    "upsample": Entry(layers.Upsample, {}, [(3, 4, 6), (5, 7, 4)], [(5, 7, 4)]),
    "unshuffle": Entry(
        layers.PixelUnshuffle,
        {"block_size": 2},
        [(5, 7, 3)],
        [(3, 4, 12)],
        bad_configs=not_counts("block_size"),
    ),
    "unshuffle_1": Entry(layers.PixelUnshuffle, {"block_size": 1}, [(5, 7, 3)], [(5, 7, 3)]),
    "shuffle": Entry(
        layers.PixelShuffle,
        {"block_size": 2},
        [(5, 7, 12)],
        [(10, 14, 3)],
        bad_configs=not_counts("block_size"),
        bad_inputs=(([(5, 7, 6)], "multiple of 4, received 6"),),
    ),
    "shuffle_1": Entry(layers.PixelShuffle, {"block_size": 1}, [(5, 7, 3)], [(5, 7, 3)]),
}
every_layer = pytest.mark.parametrize("entry", CONTRACT.values(), ids=CONTRACT)


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


def test_every_layer_is_in_the_table():
    assert {entry.layer_class.__name__ for entry in CONTRACT.values()} == set(layers.__all__)


@every_layer
def test_output_shape_is_the_computed_one(entry):
    layer = entry.layer_class(**entry.config)
    outputs = as_list(layer(random_features(entry.inputs)))
    assert [tuple(output.shape) for output in outputs] == [(2, *shape) for shape in entry.outputs]
    shapes = [(None, *shape) for shape in entry.inputs]
    computed = layer.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])
    expected = [(None, *shape) for shape in entry.outputs]
    assert computed == (expected if len(expected) > 1 else expected[0])


@every_layer
def test_symbolic_shape_of_unknown_sides_stays_unknown(entry):
    inputs = [keras.Input((None, None, shape[-1])) for shape in entry.inputs]
    layer = entry.layer_class(**entry.config)
    outputs = as_list(layer(inputs if len(inputs) > 1 else inputs[0]))
    assert [output.shape for output in outputs] == [
        (*[None] * len(shape), shape[-1]) for shape in entry.outputs
    ]


@every_layer
def test_saved_model_answers_the_same_for_any_batch_and_size(entry, tmp_path):
    inputs = [keras.Input((None, None, shape[-1])) for shape in entry.inputs]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    model = keras.Model(inputs, entry.layer_class(**entry.config)(inputs))
    randomize(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")

    features = random_features(entry.inputs, batch_size=5)
    expected = as_list(model(features))
    for output, array in zip(as_list(loaded(features)), expected, strict=True):
        np.testing.assert_array_equal(output, array)
    first = tf.nest.map_structure(lambda tensor: tensor[:1], features)
    for output, array in zip(as_list(loaded(first)), expected, strict=True):
        np.testing.assert_allclose(output, array[:1], atol=1e-5)


@every_layer
def test_config_holds_the_arguments(entry):
    layer = entry.layer_class(**entry.config, name="some_name", dtype="mixed_float16")
    copy = entry.layer_class.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert copy.name == "some_name" and copy.dtype_policy.name == "mixed_float16"
    assert {key: getattr(copy, key) for key in entry.config} == entry.config


@every_layer
def test_mixed_precision_computes_in_float16_with_float32_weights(entry, mixed_float16):
    layer = entry.layer_class(**entry.config)
    outputs = as_list(layer(random_features(entry.inputs)))
    assert {output.dtype for output in outputs} == {tf.float16}
    assert all(variable.dtype == "float32" for variable in layer.weights)
    assert all(np.isfinite(output).all() for output in outputs)


@every_layer
def test_wrong_configurations_and_inputs_are_refused(entry):
    for config, message in entry.bad_configs:
        with pytest.raises(ValueError, match=f"{message} .*received"):
            entry.layer_class(**config)
    for shapes, message in entry.bad_inputs:
        with pytest.raises(ValueError, match=message):
            entry.layer_class(**entry.config)(random_features(shapes))
