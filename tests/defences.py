"""Every defence that learns, in its smallest size."""

import keras_trn

ATTACK = keras_trn.attacks.FastGradientMethod(epsilon=0.2, seed=0)


def two_streams(**kwargs):
    return keras_trn.TwoStreamRestorationNetwork(width=4, depth=1, **kwargs)


def single_stream(**kwargs):
    return keras_trn.SingleStreamRestorationNetwork(width=4, depth=1, **kwargs)


def _protected(classifier, dtype):
    gradient_map = keras_trn.gradient_maps.EstimatedLabel(width=4, depth=1)
    return keras_trn.ProtectedClassifier(classifier, two_streams(dtype=dtype), gradient_map)


def _single_stream(classifier, dtype):
    return keras_trn.ProtectedClassifier(classifier, single_stream(dtype=dtype))


def _adversarial_training(classifier, dtype):
    return keras_trn.baselines.AdversariallyTrainedClassifier(classifier)


# How each one is made, and the arguments of `compile` that set it apart.
LEARNED = {
    "protected": (_protected, {}),
    "single_stream": (_single_stream, {}),
    "HGD": (_single_stream, {"loss": keras_trn.losses.RepresentationGuidedLoss}),
    "APE-GAN": (_single_stream, {"loss": keras_trn.losses.AdversarialLoss}),
    "adversarial_training": (_adversarial_training, {}),
}


def learned(name, classifier, optimizer="adam", attack=ATTACK, dtype=None, **compile_kwargs):
    """Makes and compiles a defence that learns."""
    make, own = LEARNED[name]
    defence = make(classifier, dtype)
    own = {key: make_value() for key, make_value in own.items()}
    compile_kwargs.setdefault("jit_compile", False)
    defence.compile(optimizer, attack=attack, **own, **compile_kwargs)
    return defence
