"""CIFAR-10: the preset `trn_cifar10`."""

import functools

from experiments.recipe import ESTIMATE
from experiments.recipe import ClassifierRecipe
from experiments.recipe import Recipe
from experiments.recipes import color_images
from experiments.recipes.fashion_mnist import preset_evaluations
from experiments.training import restorer_attacks
from keras_trn import attacks

EPSILON = 8 / 255
ATTACKS = restorer_attacks((0.0, 2 * EPSILON), (0.0, 1.5))

RECIPE = Recipe(
    data="cifar10",
    load=functools.partial(color_images.load, variation=color_images.mirror),
    epsilon=EPSILON,
    classifier=ClassifierRecipe(color_images.make_classifier, epochs=(34, 12)),
    surrogate=ClassifierRecipe(color_images.make_surrogate, epochs=(12, 8)),
    train_classifier=color_images.train_classifier,
    classifier_batch_size=128,
    smallest_classifier_steps=1500,
    restorer={"width": 16, "depth": 3},
    # At the first restoration (position 1), the gradient costs one forward pass less.
    gradient_map={
        "width": 32,
        "depth": 4,
        "position": 1,
        "restored_loss_weight": 1.0,
        **ESTIMATE,
    },
    attacks=ATTACKS,
    # The cheapest attacks.
    fresh_attacks=ATTACKS[:2],
    # Training the first restorer alone costs a third of the passes.
    first_epochs=12,
    epochs=14,
    smallest_steps=600,
    # The pixel loss at an epsilon of 8/255 is a third of the loss at 0.1.
    pixel_weight=30.0,
    # For the squared differences of APE-GAN it is a tenth.
    ape_gan_pixel_weight=100.0,
    # One step from a random point: Wong et al., arXiv 2001.03994.
    adversarial_attacks=[attacks.ProjectedGradientDescent(EPSILON, steps=1)],
    adversarial_epochs=12,
    preset="trn_cifar10",
    half_precision=True,
    classifiers_table=True,
    class_names=tuple(
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    ),
    evaluations=preset_evaluations(EPSILON, (4 / 255, 16 / 255), examples=1000),
)
