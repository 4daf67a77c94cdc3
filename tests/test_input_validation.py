"""Malformed input is refused with what came and how to fix it."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn.input_validation import check_image_type
from keras_trn.input_validation import check_images
from keras_trn.input_validation import check_labels
from keras_trn.input_validation import check_range
from keras_trn.pipelines import check_data

SHAPE = (8, 8, 1)
IMAGES = np.random.default_rng(0).random((6, *SHAPE), dtype="float32")
LABELS = np.arange(6)


def with_value(value):
    images = IMAGES.copy()
    images[2, 3, 3, 0] = value
    return images


# Each malformed batch of images, with what the message has to say of it.
BAD_IMAGES = {
    "uint8": ((255 * IMAGES).astype("uint8"), ["uint8", "(6, 8, 8, 1)", "astype('float32') / 255"]),
    "0_to_255": (255 * IMAGES / IMAGES.max(), ["0, 1", "to 255", "images / 255", "Rescaling"]),
    "minus_1_to_1": (2 * IMAGES - 1, ["[0, 1]", "from -0.9", "(images - low) / (high - low)"]),
    "rank_3": (IMAGES[..., 0], ["(6, 8, 8)", "images[..., None]"]),
    "one_image": (IMAGES[0], ["(8, 8, 1)", "image[None]"]),
    "channels": (np.repeat(IMAGES, 3, axis=-1), ["(batch, 8, 8, 1)", "(6, 8, 8, 3)", "channels"]),
    "size": (IMAGES[:, :6], ["(batch, 8, 8, 1)", "(6, 6, 8, 1)", "Resize"]),
    "nan": (with_value(np.nan), ["NaN", "1 of 6", "index 2", "Remove or repair"]),
    "infinity": (with_value(-np.inf), ["infinity", "1 of 6", "index 2", "Remove or repair"]),
    "empty": (IMAGES[:0], ["no images", "(0, 8, 8, 1)"]),
}
BAD_LABELS = {
    "strings": (np.array(list("abcdef")), ["whole numbers", "[0, 10)", "StringLookup"]),
    "floats": (LABELS.astype("float32"), ["whole numbers", "float32", "astype('int64')"]),
    "bools": (LABELS > 2, ["whole numbers", "bool"]),
    "one_hot": (np.eye(10, dtype="int64")[LABELS], ["(6, 10)", "labels.argmax(-1)"]),
    "one_hot_floats": (np.eye(10)[LABELS], ["float64", "labels.argmax(-1)"]),
    "too_large": (LABELS + 5, ["[0, 10)", "from 5 to 10", "counted from 0"]),
    "negative": (LABELS - 1, ["[0, 10)", "from -1 to 4", "counted from 0"]),
    "too_few": (LABELS[:4], ["6 images but 4 labels"]),
    "too_many": (np.zeros(7, "int64"), ["6 images but 7 labels"]),
    "scalar": (np.int64(3), ["(batch,)", "()"]),
}
bad_images = pytest.mark.parametrize(("images", "said"), BAD_IMAGES.values(), ids=BAD_IMAGES)
bad_labels = pytest.mark.parametrize(("labels", "said"), BAD_LABELS.values(), ids=BAD_LABELS)


def refused(said):
    """Expects a `ValueError` that says all of this, in whatever order."""
    return pytest.raises(ValueError, match="".join(f"(?=.*{re.escape(words)})" for words in said))


# --- Images ---------------------------------------------------------------------------


@bad_images
@pytest.mark.parametrize("container", [np.asarray, tf.convert_to_tensor], ids=["array", "tensor"])
def test_malformed_images_are_refused(images, said, container):
    with refused(said):
        check_images(container(images), SHAPE)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("image_shape", [SHAPE, (None, None, 1), None], ids=str)
def test_images_of_the_unit_range_are_accepted(dtype, image_shape):
    check_images(tf.cast(IMAGES, dtype), image_shape)
    check_images(np.zeros((1, *SHAPE), "float32"), image_shape)
    check_images(np.ones((1, *SHAPE), "float32"), image_shape)


def test_unknown_sides_leave_the_channels_checked():
    check_images(IMAGES[:, :5], (None, None, 1))
    with refused(["(batch, None, None, 3)", "(6, 8, 8, 1)"]):
        check_images(IMAGES, (None, None, 3))


def test_type_of_symbolic_images_is_checked_before_there_are_values():
    check_image_type(tf.TensorSpec((None, 8, 8, 1), tf.float32), SHAPE)
    check_image_type(tf.TensorSpec((None, None, None, 1), tf.bfloat16), SHAPE)
    check_image_type(keras.KerasTensor((None, 8, 8, 1), "float32"), SHAPE)
    with refused(["uint8"]):
        check_image_type(tf.TensorSpec((None, 8, 8, 1), tf.uint8), SHAPE)
    with refused(["(None, 8, 8, 3)"]):
        check_image_type(keras.KerasTensor((None, 8, 8, 3), "float32"), SHAPE)


# --- Labels ---------------------------------------------------------------------------


@bad_labels
@pytest.mark.parametrize("container", [np.asarray, tf.convert_to_tensor], ids=["array", "tensor"])
def test_malformed_labels_are_refused(labels, said, container):
    with refused(said):
        check_labels(container(labels), num_classes=10, batch_size=6)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        LABELS.astype("uint8"),
        LABELS[:, None],
        LABELS.tolist(),
        tf.constant(LABELS),
        np.array([0, 9, 0, 9, 0, 9]),
    ],
    ids=["int64", "uint8", "column", "list", "tensor", "first_and_last"],
)
def test_class_indices_are_accepted(labels):
    check_labels(labels, num_classes=10, batch_size=6)
    check_labels(labels, num_classes=10)


# --- Numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.int64(1)])
def test_numbers_of_the_range_are_accepted(value):
    check_range("share", value, 0, 1)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True, [0.5]])
def test_what_is_no_number_of_the_range_is_refused(value):
    with refused(["share must be a number from 0 to 1", f"received {value!r}"]):
        check_range("share", value, 0, 1)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1])
def test_infinity_is_no_number_of_an_open_range(value):
    check_range("weight", 1e9, 0, np.inf)
    with refused(["weight must be a number", f"received {value!r}"]):
        check_range("weight", value, 0, np.inf)


# --- Whatever goes into fit, evaluate and predict -------------------------------------


class Batches(keras.utils.PyDataset):
    """A data set in Keras' own form."""

    def __init__(self, images, labels):
        super().__init__()
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images) // 2

    def __getitem__(self, index):
        batch = slice(2 * index, 2 * index + 2)
        return self.images[batch], self.labels[batch]


def generator(images, labels):
    for start in range(0, len(images), 2):
        yield images[start : start + 2], labels[start : start + 2]


def pipeline(images, labels):
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)


FORMS = {
    "arrays": lambda images, labels: (images, labels),
    "lists": lambda images, labels: (list(images), list(labels)),
    "tensors": lambda images, labels: (tf.constant(images), tf.constant(labels)),
    "pipeline": lambda images, labels: (pipeline(images, labels), None),
    "generator": lambda images, labels: (generator(images, labels), None),
    "py_dataset": lambda images, labels: (Batches(images, labels), None),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def as_arrays(x, y):
    """Reads all data, as Keras would."""
    if y is not None:
        return np.array(x), np.array(y)
    if isinstance(x, keras.utils.PyDataset):
        x = map(x.__getitem__, range(x.num_batches))
    return tuple(map(np.concatenate, zip(*x, strict=True)))


@every_form
def test_good_data_of_every_form_arrive_unchanged(form):
    images, labels = as_arrays(*check_data(*form(IMAGES, LABELS), SHAPE, 10))
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@every_form
def test_malformed_images_of_every_form_are_refused(form):
    with refused(["to 255", "images / 255"]):
        check_data(*form(np.full((6, *SHAPE), 255.0, "float32"), LABELS), SHAPE, 10)
    with refused(["uint8"]):
        check_data(*form(np.zeros((6, *SHAPE), "uint8"), LABELS), SHAPE, 10)


@every_form
def test_malformed_labels_of_every_form_are_refused(form):
    with refused(["[0, 10)", "from 10 to"]):
        check_data(*form(IMAGES, LABELS + 10), SHAPE, 10)
    with refused(["whole numbers", "StringLookup"]):
        check_data(*form(IMAGES, np.array(list("abcdef"))), SHAPE, 10)


def test_arrays_are_checked_to_the_last_image_and_label():
    images = IMAGES.copy()
    images[-1] = np.nan
    with refused(["index 5"]):
        check_data(images, LABELS, SHAPE, 10)
    with refused(["from 0 to 10"]):
        check_data(IMAGES, np.array([0, 1, 2, 3, 4, 10]), SHAPE, 10)


def test_a_generator_loses_no_batch():
    checked, _ = check_data(generator(IMAGES, LABELS), None, SHAPE, 10)
    images, labels = zip(*checked, strict=True)
    np.testing.assert_array_equal(np.concatenate(images), IMAGES)
    np.testing.assert_array_equal(np.concatenate(labels), LABELS)


def test_keras_takes_all_batches_of_a_checked_generator():
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(10)])
    checked, _ = check_data(generator(IMAGES, LABELS), None, SHAPE, 10)
    assert model.predict(checked, steps=3, verbose=0).shape == (6, 10)


def test_a_checked_pipeline_keeps_its_elements():
    data = pipeline(IMAGES, LABELS)
    checked, _ = check_data(data, None, SHAPE, 10)
    assert checked.element_spec == data.element_spec
    assert checked.cardinality() == data.cardinality()
    for received, expected in zip(checked, data, strict=True):
        np.testing.assert_array_equal(received[0], expected[0])
        np.testing.assert_array_equal(received[1], expected[1])


def test_an_endless_pipeline_is_accepted_where_a_part_is_taken():
    data = pipeline(IMAGES, LABELS).repeat()
    assert check_data(data, None, SHAPE, 10, steps=2)[0].cardinality() == data.cardinality()
    with refused(["no end", "take(number_of_batches)", "steps_per_epoch"]):
        check_data(data, None, SHAPE, 10)


@pytest.mark.parametrize(
    "data",
    [IMAGES, tf.data.Dataset.from_tensor_slices(IMAGES).batch(2)],
    ids=["array", "pipeline"],
)
def test_labels_may_be_missing_only_where_none_are_needed(data):
    check_data(data, None, SHAPE, 10, needs_labels=False)
    with refused(["need labels", "fit(images, labels)"]):
        check_data(data, None, SHAPE, 10)


def test_missing_images_are_refused():
    with refused(["no images"]):
        check_data(None, LABELS, SHAPE, 10)


def test_sample_weights_are_let_through():
    weights = np.ones(6, "float32")
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, weights)).batch(2)
    checked, _ = check_data(data, None, SHAPE, 10)
    assert checked.element_spec == data.element_spec


def test_a_pipeline_that_was_not_batched_is_refused():
    with refused(["(8, 8, 1)", "batch axis"]):
        check_data(tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)), None, SHAPE, 10)


@pytest.mark.parametrize("form", ["arrays", "tensors", "pipeline", "generator"])
def test_data_without_any_batch_are_refused(form):
    with refused(["no images"]):
        check_data(*FORMS[form](IMAGES[:0], LABELS[:0]), SHAPE, 10)
