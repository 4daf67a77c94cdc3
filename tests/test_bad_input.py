"""Each kind of bad input, at each public entry: the right result, or an error that names it."""

import dataclasses
import functools
import re
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf
from hypothesis import strategies as st

import keras_trn
from keras_trn import attacks
from keras_trn import baselines
from keras_trn import threat_models
from keras_trn.gradient_maps import UniformLabel
from tests.helpers import NeverRun
from tests.helpers import in_batches

LAYERS = keras.layers
SHAPE, CLASSES, NUMBER = (4, 4, 1), 3, 6
# Multiples of 1/256, which all floating-point types hold exactly.
IMAGES = (np.random.default_rng(0).integers(0, 256, (NUMBER, *SHAPE)) / 256).astype("float32")
LABELS = np.arange(NUMBER) % CLASSES
ATTACK = attacks.FastGradientMethod(0.1)


def with_draws(check):
    """Runs a check of `draw` with a few draws, which are the same each time."""
    # A parametrized test of Hypothesis' own exceeds the recursion limit after a thousand cells.
    settings = hypothesis.settings(
        max_examples=3,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    given = hypothesis.given(data=st.data())
    settings(given(lambda data: check(data.draw)))()


def assert_names(error, said):
    """The message says all of this: what came, and what was expected."""
    missing = [words for words in said if not re.search(words, str(error), re.DOTALL)]
    assert not missing, f"{missing} is missing in: {error}"


# --- The entries --------------------------------------------------------------------------


def linear(shape=SHAPE, classes=CLASSES, **options):
    flat = [keras.Input(shape), LAYERS.Flatten()]
    return keras.Sequential([*flat, LAYERS.Dense(classes, **options)])


@functools.cache
def classifier():
    keras.utils.set_random_seed(0)
    return linear()


def make_protected(**changes):
    restorer = keras_trn.TwoStreamRestorationNetwork(width=2, depth=1)
    return keras_trn.ProtectedClassifier(classifier(), restorer, UniformLabel(), **changes)


@functools.cache
def fresh():
    """A protected classifier, and its weights."""
    protected = make_protected()
    protected.compile(keras.optimizers.SGD(0.01), attack=ATTACK, jit_compile=False)
    return protected, protected.get_weights()


def protected():
    return fresh()[0]


def trained(train):
    """The weights of the restorer after training, which starts anew each time."""
    model, weights = fresh()
    model.set_weights(weights)
    model.optimizer.iterations.assign(0)
    try:
        train(model)
        return np.concatenate([np.ravel(weight) for weight in model.restorer.get_weights()])
    finally:
        model.set_weights(weights)


def fit(*data, **options):
    return trained(lambda model: model.fit(*data, shuffle=False, verbose=0, **options))


def fit_with_validation(*data):
    validation = data[0] if len(data) == 1 else data
    return fit(IMAGES, LABELS, validation_data=validation)


def train_on_batch(*data):
    return trained(lambda model: model.train_on_batch(*data))


def evaluate_protected(*data, **options):
    return list(protected().evaluate(*data, verbose=0, return_dict=True, **options).values())


def calibrate(images, *_, **options):
    calibration = protected().calibrate(images, **{"benign_agreement": 0.9, **options})
    return [calibration.images, calibration.benign_after, calibration.attacked_after]


def accuracies(cells):
    return [[cell["examples"], cell["accuracy"]] for cell in cells]


def measure(*data, **options):
    dataset = data[0] if len(data) == 1 else data
    given = {"defences": {"bare": classifier()}, "attacks": ATTACK, "verbose": 0, **options}
    return accuracies(keras_trn.evaluation.measure(dataset=dataset, **given))


def evaluate(*data, **options):
    dataset = data[0] if len(data) == 1 else data
    given = {"attacks": NeverRun(0.1), "threat_models": "oblivious", "verbose": 0, **options}
    return keras_trn.evaluate(**{"defence": classifier(), "dataset": dataset, **given})


def cache(*data, **options):
    dataset = data[0] if len(data) == 1 else data
    given = {"classifier": classifier(), "attack": ATTACK, "verbose": 0, **options}
    with tempfile.TemporaryDirectory() as folder:
        given = {"folder": folder, **given}
        examples = keras_trn.cache_adversarial_examples(dataset=dataset, **given)
        inputs, labels = zip(*examples.as_numpy_iterator(), strict=True)
    adversarial = np.concatenate([batch["adversarial"].reshape(-1, 16) for batch in inputs])
    rows = np.column_stack([adversarial, np.concatenate(labels)])
    # The pipeline is shuffled.
    return rows[np.lexsort(rows.T)]


# What takes images, then labels, or a pipeline of both.
ENTRIES = {
    "fit": fit,
    "fit_with_validation": fit_with_validation,
    "train_on_batch": train_on_batch,
    "evaluate_protected": evaluate_protected,
    "predict": lambda images, *_: protected().predict(images, verbose=0),
    "predict_on_batch": lambda images, *_: protected().predict_on_batch(images),
    "restore": lambda images, *labels: protected().restore(images, *labels),
    "estimate_gradient_maps": lambda images, *_: protected().estimate_gradient_maps(images),
    "calibrate": calibrate,
    "attack": lambda *data: ATTACK(classifier(), *data),
    "measure": measure,
    "evaluate": evaluate,
    "cache": cache,
}
TRAINERS = {"fit", "fit_with_validation", "evaluate_protected"}
NEED_LABELS = {*TRAINERS, "train_on_batch", "measure", "evaluate", "cache"}
CHECK_LABELS = {*NEED_LABELS, "restore", "attack"}
TAKE_PIPELINES = set(ENTRIES) - {"train_on_batch", "predict_on_batch", "attack"}
# Wherever labels come with the images of a pipeline, they are ignored.
IGNORE_LABELS = {"restore", "estimate_gradient_maps", "calibrate"}
# They are slow, and the others share their checks.
NO_RESULTS = {"fit_with_validation", "train_on_batch", "evaluate"}


@functools.cache
def expected_result(entry, batch_size):
    """The result of a valid call; only training depends on the size of the batches."""
    options = {"batch_size": batch_size} if entry == "fit" else {}
    return np.asarray(ENTRIES[entry](IMAGES, LABELS, **options))


# --- The kinds of images, labels and pipelines --------------------------------------------


@dataclasses.dataclass(frozen=True)
class Right:
    """Demands the result of the valid call."""

    batch_size: int = NUMBER


@dataclasses.dataclass(frozen=True)
class Kind:
    """Spoils the data of a valid call.

    `spoil` draws the details. It returns the data, and what the error must say or `Right`.
    """

    spoil: Any
    entries: set


def kinds(entries, **table):
    return {name: Kind(spoil, entries) for name, spoil in table.items()}


def drawn(draw, *choices):
    return draw(st.sampled_from(choices))


def in_container(draw, values):
    return drawn(draw, np.asarray, tf.convert_to_tensor)(values)


def with_pixel(draw, value):
    images = IMAGES.copy()
    images[tuple(draw(st.integers(0, side - 1)) for side in images.shape)] = value
    return images


def image_kind(change, *said):
    """Spoils the images by a function of `draw`; the labels stay right."""
    return lambda draw: ((change(draw), LABELS), said)


def range_kind(low, high):
    """Puts a value of this range into one pixel."""

    def spoil(draw):
        value = np.float32(draw(st.floats(low, high)))
        images = in_container(draw, with_pixel(draw, value))
        return (images, LABELS), [r"must lie in \[0, 1\]", re.escape(f"{float(value):g}")]

    return spoil


def dtype_kind(*dtypes):
    """Gives the images another data type."""

    def spoil(draw):
        dtype = drawn(draw, *dtypes)
        return ((255 * IMAGES).astype(dtype), LABELS), [
            "must be (floating|numbers)",
            re.escape(dtype),
        ]

    return spoil


def shape_kind(*changes):
    """Gives the images another shape."""

    def spoil(draw):
        images = in_container(draw, drawn(draw, *changes)(IMAGES))
        came = re.escape(str(tuple(images.shape)))
        return (images, LABELS), [came, r"must have the shape \(batch|as many labels as images"]

    return spoil


def type_kind(*makes):
    """Gives an object that is no array of images."""

    def spoil(draw):
        images = drawn(draw, *makes)()
        return (images, LABELS), ["Images must be an array", f"received {type(images).__name__}"]

    return spoil


IMAGE_KINDS = kinds(
    set(ENTRIES),
    nan=image_kind(
        lambda draw: in_container(draw, with_pixel(draw, np.nan)), "must be finite", "1 of 6"
    ),
    infinity=image_kind(
        lambda draw: in_container(draw, with_pixel(draw, drawn(draw, -np.inf, np.inf))),
        "must be finite",
        "1 of 6",
    ),
    negative=range_kind(-9, -0.015625),
    above_1=range_kind(1.015625, 99),
    huge=range_kind(1e6, 1e30),
    grey_levels=image_kind(
        lambda draw: in_container(draw, 255 * IMAGES), "to 25", r"\[0, 1\]", "images / 255"
    ),
    bytes=dtype_kind("uint8"),
    integers=dtype_kind("int8", "uint16", "int32", "int64"),
    bools=dtype_kind("bool"),
    complex=dtype_kind("complex64", "complex128"),
    objects=dtype_kind("object"),
    dates=dtype_kind("datetime64[s]", "timedelta64[s]"),
    texts=image_kind(lambda _: IMAGES.astype(str), "floating point", "str|object"),
    empty=image_kind(lambda draw: in_container(draw, IMAGES[:0]), r"\(0, 4, 4, 1\)", "images"),
    no_items=image_kind(lambda draw: drawn(draw, [], ()), r"\(0,\)", "shape|as many"),
    rank_0=shape_kind(lambda images: images[0, 0, 0, 0]),
    rank_1=shape_kind(lambda images: images[:, 0, 0, 0]),
    rank_2=shape_kind(lambda images: images.reshape(NUMBER, -1)),
    rank_3=shape_kind(lambda images: images[..., 0], lambda images: images[0]),
    rank_5=shape_kind(lambda images: images[None], lambda images: images[..., None]),
    size=shape_kind(
        lambda images: images[:, :3],
        lambda images: images[:, :, 1:],
        lambda images: images.repeat(2, axis=1),
        lambda images: images.reshape(NUMBER, 2, 8, 1),
    ),
    channels=shape_kind(lambda images: images.repeat(3, axis=-1), lambda images: images[..., :0]),
    channels_first=shape_kind(lambda images: images.transpose(0, 3, 1, 2)),
    table=image_kind(
        lambda _: pd.DataFrame(IMAGES.reshape(NUMBER, -1)), r"\(6, 16\)", r"shape \(batch"
    ),
    sizes=image_kind(
        lambda draw: [IMAGES[0], IMAGES[1][: draw(st.integers(1, 3))], *IMAGES[2:]],
        "received a list",
        "one shape",
    ),
    masked=image_kind(
        lambda draw: np.ma.masked_array(IMAGES, drawn(draw, *IMAGES[0].ravel()) == IMAGES),
        "masked values",
        "a value everywhere",
    ),
    ragged=type_kind(
        lambda: tf.RaggedTensor.from_row_lengths(IMAGES.reshape(24, 4, 1), [4, 3, 5, 4, 4, 4])
    ),
    sparse=type_kind(
        lambda: tf.sparse.from_dense(IMAGES),
        lambda: scipy.sparse.csr_matrix(IMAGES.reshape(NUMBER, -1)),
    ),
    no_array=type_kind(
        lambda: {"images": IMAGES}, lambda: {0.5, 1.0}, lambda: 3, object, lambda: len
    ),
    path=type_kind(lambda: "photographs/", lambda: b"photographs/", lambda: Path("photographs")),
    iterator=type_kind(lambda: iter(in_batches(3, IMAGES)), lambda: iter([IMAGES])),
    symbolic=image_kind(lambda _: keras.Input(SHAPE), "KerasTensor|symbolic", "Images must"),
    missing=image_kind(lambda _: None, "no images|received NoneType", "missing|must be an array"),
    swapped=lambda _: ((LABELS, IMAGES), ["Images must be floating point", "int64", r"\(.*6.*\)"]),
    float_types=lambda draw: (
        (tf.cast(IMAGES, "bfloat16"), LABELS)
        if (dtype := drawn(draw, "float16", "float64", "longdouble", ">f4", "bfloat16"))
        == "bfloat16"
        else (IMAGES.astype(dtype), LABELS),
        Right(),
    ),
    containers=lambda draw: (
        (
            drawn(
                draw, tf.constant, list, tuple, np.ndarray.tolist, np.asfortranarray, tf.Variable
            )(IMAGES),
            LABELS,
        ),
        Right(),
    ),
)


def label_kind(change, *said):
    """Spoils the labels by a function of `draw`; the images stay right."""
    return lambda draw: ((IMAGES, change(draw)), said)


def label_at(draw, value, dtype="int64"):
    labels = LABELS.astype(dtype)
    labels[draw(st.integers(0, NUMBER - 1))] = value
    return labels


def outside_kind(low, high):
    """Puts a label of this range into one place."""

    def spoil(draw):
        value = draw(st.integers(low, high))
        labels = in_container(draw, label_at(draw, value))
        return (IMAGES, labels), [r"must lie in \[0, 3\)", f"from.*{value}"]

    return spoil


WHOLE = r"must be (whole )?numbers"
LABEL_KINDS = kinds(
    CHECK_LABELS,
    label_negative=outside_kind(-9, -1),
    label_of_no_class=outside_kind(CLASSES, 2**40),
    one_hot=label_kind(
        lambda draw: in_container(draw, np.eye(3, dtype="int64")[LABELS]), r"\(6, 3\)", "argmax"
    ),
    one_hot_floats=label_kind(
        lambda draw: in_container(draw, np.eye(3)[LABELS]), WHOLE, "float64", "argmax"
    ),
    label_fractions=label_kind(
        lambda draw: LABELS + draw(st.floats(0.1, 0.9)), WHOLE, "float64", "astype"
    ),
    label_floats=label_kind(lambda _: LABELS.astype("float32"), WHOLE, "float32", "astype"),
    label_nan=label_kind(lambda draw: label_at(draw, np.nan, "float64"), WHOLE, "float64"),
    label_bools=label_kind(lambda draw: in_container(draw, LABELS > 0), WHOLE, "bool"),
    label_texts=label_kind(
        lambda draw: drawn(draw, np.array, pd.Series, pd.Categorical, list)(list("abcabc")),
        WHOLE,
        "str|object",
        "StringLookup",
    ),
    label_objects=label_kind(
        lambda draw: label_at(draw, drawn(draw, None, 1, 0.5), "object"), WHOLE, "object"
    ),
    label_dates=label_kind(lambda _: np.zeros(NUMBER, "datetime64[s]"), "numbers", "datetime64"),
    labels_too_few=label_kind(
        lambda draw: in_container(draw, LABELS[: draw(st.integers(0, NUMBER - 1))]),
        r"6 images but \d labels|labels of shape \(\d,\)",
    ),
    labels_too_many=label_kind(
        lambda draw: in_container(draw, LABELS.repeat(draw(st.integers(2, 3)))),
        r"6 images but 1\d labels|labels of shape \(1\d,\)",
    ),
    labels_2d=label_kind(lambda _: np.stack([LABELS, LABELS], axis=1), r"\(6, 2\)", r"\(batch,\)"),
    labels_3d=label_kind(lambda _: LABELS[:, None, None], r"\(6, 1, 1\)", r"\(batch,\)"),
    labels_scalar=label_kind(
        lambda draw: drawn(draw, np.int64(1), np.array(1)), r"\(\)", r"\(batch,\)|as many labels"
    ),
    labels_no_array=label_kind(
        lambda draw: drawn(draw, 1, "labels", {0, 1}, {"labels": LABELS}, iter(LABELS)),
        "Labels must be an array",
        "received (int|str|set|dict|iterator)",
    ),
    labels_ragged=label_kind(
        lambda draw: drawn(draw, tf.sparse.from_dense(LABELS), tf.ragged.constant([[0], [1, 2]])),
        "Labels must be an array",
        "received (Sparse|Ragged)Tensor",
    ),
    labels_of_several_lengths=label_kind(
        lambda _: [[0], [1, 2], [0], [1], [2], [0]], "Labels must form one array", "list"
    ),
    label_masked=label_kind(
        lambda draw: np.ma.masked_equal(LABELS, draw(st.integers(0, 2))), "2 masked", "everywhere"
    ),
    label_containers=lambda draw: (
        (
            IMAGES,
            drawn(
                draw,
                *(tf.constant, pd.Series, np.ndarray.tolist, tuple, pd.DataFrame),
                *(
                    lambda labels, t=t: labels.astype(t)
                    for t in ("uint8", "int32", "uint64", ">i4")
                ),
            )(LABELS),
        ),
        Right(),
    ),
)
LABELS_MISSING = kinds(
    NEED_LABELS,
    labels_missing=label_kind(lambda _: None, "need labels|Labels must be an array", "[Ll]abels"),
)


class Batches(keras.utils.PyDataset):
    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


FIRST, SECOND = (IMAGES[:3], LABELS[:3]), (IMAGES[3:], LABELS[3:])


def generated(*batches):
    """A pipeline of which TensorFlow knows no shape."""
    specs = (tf.TensorSpec(None), tf.TensorSpec(None, tf.int64))
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=specs)


def second_batch_kind(change, *said, forms=(generated, Batches)):
    """Spoils the second batch, whose images and labels `change` returns."""
    return lambda draw: ((drawn(draw, *forms)(FIRST, change(draw)),), said)


def pipeline_kind(make, *said):
    return lambda draw: ((make(draw),), said)


def spoilt_pixel(draw, value):
    images = SECOND[0].copy()
    images[draw(st.integers(0, 2)), 1, 2, 0] = value
    return images, SECOND[1]


WEIGHTS = np.ones(NUMBER, "float32")
NO_PAIRS = r"pairs of images and labels|must hold (images|dense)|need labels|must be an array"
PIPELINE_KINDS = {
    **kinds(
        TAKE_PIPELINES,
        unbatched=pipeline_kind(
            lambda _: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)),
            r"\(4, 4, 1\)",
            r"\(batch, height",
        ),
        batched_twice=pipeline_kind(
            lambda _: in_batches(3, IMAGES, LABELS).batch(2), r"4, 4, 1\)", r"\(batch, height"
        ),
        no_batches=pipeline_kind(
            lambda draw: drawn(draw, lambda d: d.take(0), lambda d: d.filter(lambda *_: False))(
                in_batches(3, IMAGES, LABELS)
            ),
            "no images",
            "empty",
        ),
        endless=pipeline_kind(
            lambda _: in_batches(3, IMAGES, LABELS).repeat(), "no end", r"\.take\("
        ),
        dictionaries=pipeline_kind(
            lambda draw: tf.data.Dataset.from_tensor_slices(
                {drawn(draw, "image", "images"): IMAGES, "label": LABELS}
            ).batch(3),
            "image|dict",
            NO_PAIRS,
        ),
        quadruples=pipeline_kind(
            lambda _: in_batches(3, IMAGES, LABELS, WEIGHTS, WEIGHTS),
            "TensorSpec.*TensorSpec.*TensorSpec.*TensorSpec|found",
            NO_PAIRS + "|expected to be",
        ),
        windows=pipeline_kind(
            lambda _: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).window(3),
            "DatasetSpec|_VariantDataset",
            NO_PAIRS,
        ),
        sparse_batches=pipeline_kind(
            lambda _: tf.data.Dataset.from_tensors((tf.sparse.from_dense(IMAGES), LABELS)),
            "SparseTensor",
            NO_PAIRS,
        ),
        ragged_batches=pipeline_kind(
            lambda _: tf.data.Dataset.from_tensors(
                (tf.RaggedTensor.from_row_lengths(IMAGES[0], [3, 1])[..., None], LABELS[:2])
            ),
            "Ragged|differ in size",
            NO_PAIRS + "|One size",
        ),
        pixels_of_bytes=pipeline_kind(
            lambda _: in_batches(3, (255 * IMAGES).astype("uint8"), LABELS),
            "uint8",
            r"\[0, 1\]",
        ),
        swapped_batches=pipeline_kind(
            lambda _: in_batches(3, LABELS, IMAGES), "int64", "floating point"
        ),
        iterators=pipeline_kind(
            lambda draw: drawn(draw, iter, tf.data.Dataset.as_numpy_iterator)(
                in_batches(3, IMAGES, LABELS)
            ),
            "received (Owned|Numpy)Iterator",
            "must be",
        ),
        functions=pipeline_kind(lambda _: lambda: iter([FIRST]), "received function", "must be"),
        lists_of_batches=pipeline_kind(lambda _: [FIRST, SECOND], "list|tuple", "one array"),
        second_nan=second_batch_kind(
            lambda draw: spoilt_pixel(draw, np.nan), "NaN .* 1 of 3", "finite", forms=[generated]
        ),
        second_grey_levels=second_batch_kind(
            lambda draw: spoilt_pixel(draw, 255), "to 255", r"\[0, 1\]", forms=[generated]
        ),
        second_size=second_batch_kind(
            lambda _: (SECOND[0][:, :3], SECOND[1]),
            r"\(3, 3, 4, 1\)",
            r"\(batch, 4, 4, 1\)",
            forms=[generated],
        ),
        second_rank=second_batch_kind(
            lambda _: (SECOND[0][..., 0], SECOND[1]),
            r"\(3, 4, 4\)",
            r"\(batch, height",
            forms=[generated],
        ),
        second_empty=second_batch_kind(
            lambda _: (IMAGES[:0], LABELS[:0]), "no images", r"\(0, 4, 4, 1\)", forms=[generated]
        ),
        partial_batch=lambda _: ((in_batches(4, IMAGES, LABELS),), Right(4)),
    ),
    **kinds(
        TAKE_PIPELINES - IGNORE_LABELS,
        # Keras' own data sets.
        py_dataset_nan=second_batch_kind(
            lambda draw: spoilt_pixel(draw, np.nan), "NaN .* 1 of 3", "finite", forms=[Batches]
        ),
        py_dataset_size=second_batch_kind(
            lambda _: (SECOND[0][:, :3], SECOND[1]), r"\(3, 3, 4, 1\)", "4, 4, 1", forms=[Batches]
        ),
        py_dataset_empty=pipeline_kind(lambda _: Batches(), "no images", "empty"),
        py_dataset_of_dictionaries=pipeline_kind(
            lambda _: Batches({"images": IMAGES}), "received dict", "must be an array"
        ),
        py_dataset=lambda _: ((Batches(FIRST, SECOND),), Right(3)),
        second_label=second_batch_kind(
            lambda draw: (SECOND[0], np.array([0, 1, drawn(draw, -1, 3, 9)])),
            "from .* to",
            r"\[0, 3\)",
        ),
        second_too_few_labels=second_batch_kind(
            lambda _: (SECOND[0], SECOND[1][:2]), "3 images but 2 labels"
        ),
        one_hot_batches=pipeline_kind(
            lambda _: in_batches(3, IMAGES, np.eye(3, dtype="int64")[LABELS]), r"\(3, 3\)", "argmax"
        ),
        batches_of_texts=pipeline_kind(
            lambda _: in_batches(3, IMAGES, np.array(list("abcabc"))), "object", "StringLookup"
        ),
        weighted=lambda _: ((in_batches(3, IMAGES, LABELS, WEIGHTS),), Right(3)),
    ),
    **kinds(
        (TAKE_PIPELINES & NEED_LABELS),
        batches_of_images=pipeline_kind(
            lambda draw: drawn(draw, in_batches(3, IMAGES), Batches(IMAGES[:3], IMAGES[3:])),
            "need labels|TensorSpec|NoneType",
            NO_PAIRS,
        ),
    ),
    **kinds(
        TRAINERS,
        generator_nan=second_batch_kind(
            lambda draw: spoilt_pixel(draw, np.nan),
            "NaN .* 1 of 3",
            "finite",
            forms=[lambda *batches: (batch for batch in batches)],
        ),
        generator_label=second_batch_kind(
            lambda _: (SECOND[0], SECOND[1] + 1),
            "from 1 to 3",
            r"\[0, 3\)",
            forms=[lambda *batches: (batch for batch in batches)],
        ),
        empty_generator=pipeline_kind(lambda _: (batch for batch in ()), "no images", "empty"),
        weights_of_no_number=lambda draw: (
            (in_batches(3, IMAGES, LABELS, WEIGHTS * np.float32(drawn(draw, np.nan, np.inf, -1))),),
            ["Sample weights must be finite and at least 0", "received values from (nan|inf|-1)"],
        ),
    ),
}
KINDS = {**IMAGE_KINDS, **LABEL_KINDS, **LABELS_MISSING, **PIPELINE_KINDS}
RIGHT_KINDS = {
    "float_types",
    "containers",
    "label_containers",
    "partial_batch",
    "py_dataset",
    "weighted",
}
CELLS = [
    pytest.param(entry, kind, id=f"{entry}-{kind}")
    for kind in KINDS
    for entry in sorted(KINDS[kind].entries)
    if not (kind in RIGHT_KINDS and entry in NO_RESULTS)
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your .PyDataset. class:UserWarning")
@pytest.mark.parametrize(("entry", "kind"), CELLS)
def test_data_give_the_right_result_or_are_named(entry, kind):
    @with_draws
    def check(draw):
        given, demanded = KINDS[kind].spoil(draw)
        if isinstance(demanded, Right):
            expected = expected_result(entry, demanded.batch_size)
            np.testing.assert_allclose(ENTRIES[entry](*given), expected, atol=1e-5)
            return
        with pytest.raises((ValueError, TypeError)) as caught:
            ENTRIES[entry](*given)
        assert_names(caught.value, demanded)


@pytest.mark.parametrize("entry", sorted(TAKE_PIPELINES))
def test_error_of_the_user_comes_through(entry):
    def batches():
        yield FIRST
        raise RuntimeError("the disk is gone")

    specs = (tf.TensorSpec((None, *SHAPE)), tf.TensorSpec((None,), tf.int64))
    data = tf.data.Dataset.from_generator(batches, output_signature=specs)
    with pytest.raises(Exception, match="the disk is gone"):
        ENTRIES[entry](data)


# --- The kinds of classifiers -------------------------------------------------------------


def functional(outputs):
    images = keras.Input(SHAPE)
    return keras.Model(images, outputs(LAYERS.Flatten()(images)))


def of_two_inputs():
    images = [keras.Input(SHAPE), keras.Input(SHAPE)]
    return keras.Model(images, LAYERS.Dense(3)(LAYERS.Flatten()(LAYERS.Add()(images))))


def with_bias(value):
    model = linear()
    model.layers[-1].bias.assign([value] * CLASSES)
    return model


class Unbuilt(keras.Model):
    def call(self, images):
        return keras.ops.mean(images, axis=(1, 2))


def of_bytes():
    images = keras.Input(SHAPE, dtype="uint8")
    return keras.Sequential([images, LAYERS.Rescaling(1 / 255), LAYERS.Flatten(), LAYERS.Dense(3)])


def channels_first():
    layers = [LAYERS.Conv2D(2, 2, data_format="channels_first"), LAYERS.Flatten(), LAYERS.Dense(3)]
    return keras.Sequential([keras.Input((1, 4, 4)), *layers])


LOGITS = "logits"
CLASSIFIERS = {
    "softmax": (lambda: linear(activation="softmax"), ["softmax", LOGITS]),
    "sigmoid": (lambda: linear(activation="sigmoid"), ["sigmoid", LOGITS]),
    "one_output": (lambda: linear(classes=1), ["at least two classes", r"\(batch, 1,?\)"]),
    "two_outputs": (
        lambda: functional(lambda flat: [LAYERS.Dense(3)(flat), LAYERS.Dense(3)(flat)]),
        ["must return one output", "returns 2"],
    ),
    "two_inputs": (of_two_inputs, ["must take one input", "takes 2"]),
    "images_as_output": (
        lambda: keras.Sequential([keras.Input(SHAPE), LAYERS.Conv2D(3, 3)]),
        [r"\(batch, num_classes\)", r"\(batch, 2, 2, 3\)"],
    ),
    "vectors": (
        lambda: keras.Sequential([keras.Input((16,)), LAYERS.Dense(3)]),
        ["must take images", r"\(None, 16\)"],
    ),
    "channels_first": (channels_first, ["channels_first", r"\(batch, height, width, channels\)"]),
    "unbuilt": (Unbuilt, ["has not been built", "Call it once"]),
    "nan": (lambda: with_bias(np.nan), ["finite logits", "nan"]),
    "infinity": (lambda: with_bias(np.inf), ["finite logits", "inf"]),
    "bytes": (of_bytes, ["inputs .* floating point", "uint8"]),
    "whole_numbers": (
        lambda: functional(lambda flat: keras.ops.cast(LAYERS.Dense(3)(flat), "int32")),
        ["outputs .* floating point", "int32"],
    ),
    "class": (lambda: keras.Sequential, ["must be a Keras model", "received type"]),
    "path": (lambda: "classifier.keras", ["must be a Keras model", "received str"]),
    "none": (lambda: None, ["must be a Keras model", "received NoneType"]),
    "layer": (lambda: LAYERS.Dense(3), ["must be a Keras model", "received Dense"]),
    "function": (lambda: len, ["must be a Keras model", "received builtin"]),
}
TAKE_CLASSIFIERS = {
    "ProtectedClassifier": keras_trn.ProtectedClassifier,
    "AdversariallyTrainedClassifier": baselines.AdversariallyTrainedClassifier,
    "BitDepthReduction": baselines.BitDepthReduction,
    "evaluate": lambda model: evaluate(IMAGES, LABELS, defence=model),
    "measure": lambda model: measure(IMAGES, LABELS, defences={"bare": model}),
    "cache": lambda model: cache(IMAGES, LABELS, classifier=model),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("entry", TAKE_CLASSIFIERS)
def test_unsuitable_classifiers_are_named(entry, kind):
    make, said = CLASSIFIERS[kind]
    with pytest.raises((ValueError, TypeError)) as caught:
        TAKE_CLASSIFIERS[entry](make())
    assert_names(caught.value, said)


@pytest.mark.parametrize("kind", ["two_outputs", "two_inputs", "bytes", "whole_numbers", "path"])
def test_attack_refuses_what_has_no_gradient(kind):
    with pytest.raises((ValueError, TypeError), match=r"classifier must|input"):
        ATTACK(CLASSIFIERS[kind][0](), IMAGES, LABELS)


def with_dropout_and_statistics():
    layers = [LAYERS.Flatten(), LAYERS.BatchNormalization(), LAYERS.Dropout(0.5), LAYERS.Dense(3)]
    return keras.Sequential([keras.Input(SHAPE), LAYERS.Rescaling(2, -1), *layers])


@pytest.mark.slow
def test_layers_of_training_run_in_inference_mode():
    model = with_dropout_and_statistics()
    expected = model(IMAGES, training=False)
    restorer = keras_trn.TwoStreamRestorationNetwork(width=2, depth=1)
    wrapped = keras_trn.ProtectedClassifier(model, restorer, UniformLabel())
    np.testing.assert_allclose(wrapped.predict(IMAGES, verbose=0), expected, atol=1e-5)
    right = np.mean(np.argmax(expected, axis=-1) == LABELS)
    assert measure(IMAGES, LABELS, defences={"bare": model})[0] == [NUMBER, right]


# --- The kinds of arguments ---------------------------------------------------------------

WRONG = {
    "zero": st.just(0),
    "negative": st.integers(-9, -1),
    "negative_fraction": st.floats(-9, -0.01),
    "fraction": st.floats(0.1, 0.9),
    "above_1": st.floats(1.01, 99),
    "whole_float": st.sampled_from([1.0, 2.0]),
    "nan": st.just(float("nan")),
    "infinity": st.sampled_from([float("inf"), float("-inf")]),
    "bool": st.booleans(),
    "too_large": st.integers(2**31, 2**40),
    "text": st.text("abcxyz0123", min_size=1, max_size=5).map("?".__add__),
    "bytes": st.just(b"linf"),
    "list": st.lists(st.just("unknown"), min_size=2, max_size=3),
    "complex": st.just(1j),
    "dictionary": st.just({"a": 1}),
    "class": st.sampled_from([attacks.FastGradientMethod, threat_models.Oblivious]),
    "none": st.none(),
    "numbers": st.just([3]),
}
COUNT = ["zero", "negative", "fraction", "whole_float", "nan", "bool", "text", "list"]
SHARE = ["negative", "negative_fraction", "above_1", "nan", "infinity", "bool", "text", "complex"]
SEED = ["negative", "fraction", "whole_float", "too_large", "bool", "text", "numbers"]
NAME = ["text", "bytes", "zero", "list", "dictionary"]
OBJECT = ["text", "zero", "numbers", "class", "dictionary"]


def compiled(**changes):
    make_protected().compile(**{"attack": ATTACK, **changes})


def argument(function, name, *given, **others):
    return lambda value: function(*given, **{**others, name: value})


PGD = attacks.ProjectedGradientDescent
DATA = (IMAGES, LABELS)
# By the entry and the argument: a call with a value of the argument, and the wrong kinds.
ARGUMENTS = {
    "FGSM epsilon": (attacks.FastGradientMethod, SHARE),
    "FGSM norm": (argument(attacks.FastGradientMethod, "norm", 0.1), NAME),
    "FGSM seed": (argument(attacks.FastGradientMethod, "seed", 0.1), SEED),
    "PGD steps": (argument(PGD, "steps", 0.1), COUNT),
    "PGD relative_step_size": (argument(PGD, "relative_step_size", 0.1), SHARE),
    "Square queries": (argument(attacks.Square, "queries", 0.1), COUNT),
    "APGD loss": (argument(attacks.AutoProjectedGradientDescent, "loss", 0.1), NAME),
    "Restarts attack": (attacks.Restarts, OBJECT),
    "Restarts restarts": (argument(attacks.Restarts, "restarts", ATTACK), COUNT),
    "Mixture attacks": (attacks.Mixture, ["zero", "numbers", "class"]),
    "auto_attack version": (argument(attacks.auto_attack, "version", epsilon=0.1), NAME),
    "auto_attack norm": (argument(attacks.auto_attack, "norm", "fast", 0.1), NAME),
    "attack epsilon": (
        lambda value: NeverRun(0.1)(classifier(), *DATA, epsilon=value),
        [kind for kind in SHARE if kind != "complex"],
    ),
    "attack seed": (lambda value: NeverRun(0.1)(classifier(), *DATA, seed=value), SEED),
    "attack classifier": (lambda value: ATTACK(value, *DATA), ["text", "zero", "list", "none"]),
    "Oblivious labels": (argument(threat_models.Oblivious, "labels"), NAME),
    "BPDA samples": (argument(threat_models.BPDA, "samples"), COUNT),
    "compile attack": (argument(compiled, "attack"), ["text", "zero", "class", "none"]),
    "compile threat_model": (argument(compiled, "threat_model"), [*NAME, "class"]),
    "compile benign_share": (argument(compiled, "benign_share"), SHARE),
    "compile fresh_share": (argument(compiled, "fresh_share"), SHARE),
    "compile optimizer": (argument(compiled, "optimizer"), ["none"]),
    "compile steps_per_execution": (argument(compiled, "steps_per_execution"), COUNT),
    "compile jit_compile": (argument(compiled, "jit_compile"), ["text", "fraction", "none"]),
    "compile run_eagerly": (argument(compiled, "run_eagerly"), ["text", "fraction", "none"]),
    "fit batch_size": (argument(fit, "batch_size", *DATA), COUNT[:-1]),
    "fit epochs": (argument(fit, "epochs", *DATA), COUNT[1:-1]),
    "fit steps_per_epoch": (argument(fit, "steps_per_epoch", *DATA), COUNT[:-1]),
    "fit validation_split": (argument(fit, "validation_split", *DATA), SHARE),
    "fit class_weight": (argument(fit, "class_weight", *DATA), ["zero", "list", "text"]),
    "evaluate_protected batch_size": (
        argument(evaluate_protected, "batch_size", *DATA),
        COUNT[:-1],
    ),
    "predict batch_size": (lambda value: protected().predict(IMAGES, value), COUNT[:-1]),
    "predict steps": (lambda value: protected().predict(IMAGES, steps=value), COUNT[:-1]),
    "restore batch_size": (lambda value: protected().restore(IMAGES, batch_size=value), COUNT),
    "calibrate benign_agreement": (argument(calibrate, "benign_agreement", IMAGES), SHARE),
    "calibrate attack": (argument(calibrate, "attack", IMAGES), OBJECT),
    "evaluate attacks": (argument(evaluate, "attacks", *DATA), ["text", "zero", "class"]),
    "evaluate threat_models": (
        argument(evaluate, "threat_models", *DATA),
        ["text", "bytes", "zero", "class"],
    ),
    "evaluate baselines": (argument(evaluate, "baselines", *DATA), ["text", "zero", "numbers"]),
    "evaluate epsilons": (argument(evaluate, "epsilons", *DATA), SHARE),
    "evaluate check_examples": (argument(evaluate, "check_examples", *DATA), COUNT),
    "evaluate seed": (argument(evaluate, "seed", *DATA), SEED),
    "evaluate epsilon": (
        argument(evaluate, "epsilon", *DATA, attacks=None),
        [kind for kind in SHARE if kind != "none"],
    ),
    "evaluate norm": (argument(evaluate, "norm", *DATA, attacks=None, epsilon=0.1), NAME),
    "evaluate cluster": (argument(evaluate, "cluster", *DATA), ["text", "zero", "class"]),
    "measure defences": (argument(measure, "defences", *DATA), ["text", "zero", "numbers"]),
    "measure attacks": (argument(measure, "attacks", *DATA), ["text", "zero", "class"]),
    "cache attack": (argument(cache, "attack", *DATA), ["text", "zero", "class", "none"]),
    "cache batch_size": (argument(cache, "batch_size", *DATA), COUNT),
    "cache rounds": (argument(cache, "rounds", *DATA), COUNT),
    "cache shard_size": (argument(cache, "shard_size", *DATA), COUNT),
    "cache seed": (argument(cache, "seed", *DATA), SEED),
    "from_preset name": (keras_trn.ProtectedClassifier.from_preset, [*NAME, "none"]),
    "network width": (argument(keras_trn.TwoStreamRestorationNetwork, "width"), COUNT),
    "protected restorer": (
        lambda value: keras_trn.ProtectedClassifier(classifier(), value),
        ["text", "zero", "class"],
    ),
    "protected class_names": (argument(make_protected, "class_names"), ["text", "zero", "numbers"]),
    "bit depth bits": (lambda value: baselines.BitDepthReduction(classifier(), value), COUNT),
}
EXPECTED = r"must|needs|supports|there are|Unknown|for \d classes|has no|expected"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "kind"),
    [
        pytest.param(call, kind, id=f"{name}-{kind}")
        for name, (call, wrong) in ARGUMENTS.items()
        for kind in wrong
    ],
)
def test_wrong_arguments_are_named(call, kind):
    @with_draws
    def check(draw):
        value = draw(WRONG[kind])
        with pytest.raises((ValueError, TypeError)) as caught:
            call(value)
        assert_names(caught.value, [re.escape(repr(value)), EXPECTED])


@pytest.mark.parametrize(
    ("call", "said"),
    {
        "no attacks": (lambda: evaluate(*DATA, attacks=[]), ["no attacks", "Pass `epsilon"]),
        "one attack twice": (
            lambda: evaluate(*DATA, attacks=[NeverRun(0.1)] * 2),
            ["same row", "Leave one out"],
        ),
        "one threat model twice": (
            lambda: measure(*DATA, threat_models=["oblivious"] * 2),
            ["same row", "oblivious"],
        ),
        "no models": (lambda: measure(*DATA, defences={}), ["defences.* is empty"]),
        "a name that is taken": (
            lambda: evaluate(*DATA, baselines={"bare": classifier()}),
            ["'bare'", "Choose another"],
        ),
        "other classes": (
            lambda: evaluate(*DATA, baselines={"other": linear(classes=4)}),
            ["'other'", r"\(\(4, 4, 1\), 4\)", "first defence"],
        ),
        "other images": (
            lambda: evaluate(*DATA, baselines={"other": linear((5, 5, 1))}),
            ["'other'", r"\(\(5, 5, 1\), 3\)", "first defence"],
        ),
        "fewer classes than labels": (
            lambda: evaluate(*DATA, defence=linear(classes=2)),
            [r"\[0, 2\)", "from 0 to 2"],
        ),
        "a range of epsilons": (
            lambda: evaluate(*DATA, attacks=NeverRun((0.1, 0.2))),
            [r"\(0\.1, 0\.2\)", "single epsilon"],
        ),
        "a range upside down": (lambda: NeverRun((0.2, 0.1)), [r"\(0\.2, 0\.1\)", "low <= high"]),
        "epsilons for other images": (
            lambda: NeverRun(0.1)(classifier(), *DATA, epsilon=[0.1] * 5),
            ["6 images but 5 epsilons"],
        ),
        "attacks of two balls": (
            lambda: attacks.AttackEnsemble([ATTACK, NeverRun(0.2)]),
            ["one norm and one epsilon", "epsilon=0.2"],
        ),
        "no gradient for an attack": (
            lambda: measure(*DATA, threat_models="blackbox"),
            ["'blackbox'", "FGSM"],
        ),
        "transfer from nowhere": (lambda: threat_models.get("transfer"), ["surrogate"]),
        "class weight of no class": (
            lambda: fit(*DATA, class_weight={3: 1.0}),
            ["class_weight", "from 0 to 2", "received 3"],
        ),
        "class weight of no number": (
            lambda: fit(*DATA, class_weight={0: float("nan")}),
            ["class_weight of class 0", "received nan"],
        ),
        "weights for other images": (
            lambda: fit(*DATA, sample_weight=np.ones(5)),
            ["6", "5"],
        ),
        "weights of pixels": (
            lambda: fit(*DATA, sample_weight=np.ones((6, 4))),
            [r"\(6, 4\)", r"\(batch,\)"],
        ),
        "weights of no number": (
            lambda: evaluate_protected(*DATA, sample_weight=np.full(6, np.nan)),
            ["nan", "finite"],
        ),
        "images alone for validation": (
            lambda: fit(*DATA, validation_data=(IMAGES,)),
            ["validation_data", "received 1"],
        ),
        "labels next to a pipeline": (
            lambda: fit(in_batches(3, *DATA), LABELS),
            ["`y` should not be passed"],
        ),
        "labels next to a pipeline to restore": (
            lambda: protected().restore(in_batches(3, IMAGES), LABELS),
            ["received labels and a `tf.data.Dataset`"],
        ),
        "an unknown argument": (lambda: fit(*DATA, learning_rate=0.1), ["'learning_rate'"]),
        "a preset by its path": (
            lambda: keras_trn.ProtectedClassifier.from_preset("presets/trn_digits.keras"),
            ["'presets/trn_digits.keras'", "there are .*'trn_digits'"],
        ),
        "the epsilon of given attacks": (
            lambda: evaluate(*DATA, epsilon=0.1),
            ["epsilon=0.1", "default attacks"],
        ),
        "a folder without a name": (lambda: cache(*DATA, folder=""), ["folder must be", "''"]),
        "a folder that is a number": (lambda: cache(*DATA, folder=3), ["expected str", "int"]),
    }.values(),
)
def test_arguments_that_do_not_fit_are_named(call, said):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert_names(caught.value, said)


def test_paths_of_something_else_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"must be the path of a file.*is a folder"):
        measure(*DATA, checkpoint=tmp_path)
    other = tmp_path / "other.json"
    other.write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"other\.json' holds the line '\[1, 2\]'"):
        measure(*DATA, checkpoint=other)
    # What the file system refuses is an `OSError`, as everywhere in Python.
    with pytest.raises(OSError, match=r"other\.json' cannot be made"):
        cache(*DATA, folder=other)
