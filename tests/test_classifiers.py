"""Any Keras classifier of images can be protected; what is none is refused."""

import keras
import numpy as np
import pytest

import keras_trn
from keras_trn.classifier_interface import describe_classifier

LAYERS = keras.layers


@keras.saving.register_keras_serializable(package="tests")
class SubclassedClassifier(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = LAYERS.Conv2D(4, 3, strides=2, activation="relu")
        self.head = LAYERS.Dense(10)

    def build(self, input_shape):
        self.convolution.build(input_shape)
        shape = self.convolution.compute_output_shape(input_shape)
        self.head.build((None, np.prod(shape[1:])))

    def call(self, images):
        features = self.convolution(images)
        return self.head(keras.ops.reshape(features, (-1, self.head.kernel.shape[0])))


def sequential():
    return keras.Sequential([keras.Input((8, 8, 1)), LAYERS.Flatten(), LAYERS.Dense(10)])


def sequential_built_by_a_call():
    classifier = keras.Sequential([LAYERS.Flatten(), LAYERS.Dense(10)])
    classifier(np.zeros((2, 8, 8, 1), "float32"))
    return classifier


def functional():
    images = keras.Input((8, 8, 1))
    features = LAYERS.Conv2D(4, 3, padding="same")(images)
    features = LAYERS.Add()([features, LAYERS.Conv2D(4, 1)(images)])
    return keras.Model(images, LAYERS.Dense(10)(LAYERS.Flatten()(features)))


def subclassed():
    classifier = SubclassedClassifier()
    classifier(np.zeros((2, 8, 8, 1), "float32"))
    return classifier


def with_batch_normalization_and_dropout():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            LAYERS.Conv2D(4, 3),
            LAYERS.BatchNormalization(),
            LAYERS.ReLU(),
            LAYERS.Dropout(0.5),
            LAYERS.Flatten(),
            LAYERS.Dense(10),
        ]
    )


def with_rescaling():
    return keras.Sequential(
        [keras.Input((8, 8, 1)), LAYERS.Rescaling(2, -1), LAYERS.Flatten(), LAYERS.Dense(10)]
    )


def of_any_image_size():
    return keras.Sequential(
        [
            keras.Input((None, None, 1)),
            LAYERS.Conv2D(4, 3),
            LAYERS.GlobalAveragePooling2D(),
            LAYERS.Dense(10),
        ]
    )


def with_a_softmax_layer_then_stripped():
    classifier = with_softmax()
    classifier.layers[-1].activation = keras.activations.linear
    return classifier


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "is_trained"),
    [
        (sequential, False),
        (sequential_built_by_a_call, False),
        (functional, False),
        (subclassed, True),
        (with_batch_normalization_and_dropout, True),
        (with_rescaling, False),
        (of_any_image_size, True),
        (with_a_softmax_layer_then_stripped, False),
    ],
)
def test_classifier_is_protected_and_survives_saving(make, is_trained, digits, protect, tmp_path):
    images, labels = (array[:32] for array in digits)
    protected = protect(make(), jit_compile=False)
    if is_trained:
        protected.fit(images, labels, verbose=0)
    protected.save(tmp_path / "protected.keras")
    loaded = keras.models.load_model(tmp_path / "protected.keras")
    expected = protected.predict(images, verbose=0)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), expected)


def with_softmax():
    return keras.Sequential(
        [keras.Input((8, 8, 1)), LAYERS.Flatten(), LAYERS.Dense(10, activation="softmax")]
    )


def with_one_output():
    return keras.Sequential([keras.Input((8, 8, 1)), LAYERS.Flatten(), LAYERS.Dense(1)])


def of_images():
    return keras.Sequential([keras.Input((8, 8, 1)), LAYERS.Conv2D(10, 3)])


def of_vectors():
    return keras.Sequential([keras.Input((64,)), LAYERS.Dense(10)])


def of_two_inputs():
    images = [keras.Input((8, 8, 1)), keras.Input((8, 8, 1))]
    return keras.Model(images, LAYERS.Dense(10)(LAYERS.Flatten()(LAYERS.Add()(images))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_softmax, "keras.activations.linear"),
        (with_one_output, "at least two classes"),
        (of_images, "one logit for each"),
        (of_vectors, r"must take images of shape"),
        (of_two_inputs, "takes 2"),
        (SubclassedClassifier, "has not been built"),
        (lambda: "resnet", "must be a Keras model"),
    ],
)
def test_what_is_no_classifier_of_images_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        keras_trn.ProtectedClassifier(make())


def test_labels_beyond_the_outputs_of_the_classifier_are_refused(digits, protect):
    classifier = keras.Sequential([keras.Input((8, 8, 1)), LAYERS.Flatten(), LAYERS.Dense(5)])
    with pytest.raises(ValueError, match=r"\[0, 5\), as many as the classifier has outputs"):
        protect(classifier).fit(*digits, verbose=0)


def test_logits_that_happen_to_be_small_are_no_probabilities():
    classifier = sequential()
    classifier.layers[-1].kernel.assign(0.01 * np.array(classifier.layers[-1].kernel))
    assert describe_classifier(classifier) == ((8, 8, 1), 10)


def test_image_shape_of_a_users_model_is_not_taken_at_its_word():
    classifier = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    classifier.image_shape = "8x8"
    assert describe_classifier(classifier) == ((8, 8, 1), 10)
