"""Hardens defences on a GPU, in Keras on JAX.

`KERAS_BACKEND=jax python -m experiments.hardening_on_jax FOLDER restorer`

trains the restorer in a folder from `experiments.packing`, or continues its training, and writes
`restorer.weights.h5` there. You need not install TensorFlow or `keras_trn`.
"""

import functools
import io
import json
import sys
import types
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import keras
import numpy as np
from PIL import Image

Images = jax.Array
Labels = jax.Array
# The probability of each class: shape (images, classes).
SoftLabels = jax.Array
# The measurements of each epoch.
Log = list[dict[str, float]]
# Half precision is faster on a GPU. The weights stay float32.
DTYPE = "mixed_bfloat16" if jax.default_backend() == "gpu" else "float32"
SEED = 0


class State(NamedTuple):
    """Holds everything that a training step changes, as lists in Keras' order of variables."""

    trainable: Any
    others: Any
    optimizer: Any
    # The moving average of `trainable` and `others`, which validation evaluates.
    average: Any


class Step(NamedTuple):
    """Holds the inputs of one training step."""

    images: Images
    labels: Labels
    number: jax.Array
    key: jax.Array


# From variables, images and the mode to logits, restored images, and the other variables.
Defend = Callable[..., tuple[jax.Array, Images, Any]]


def import_autoencoder() -> Any:
    """Imports only the restorer, because the package requires Keras' TensorFlow backend."""
    package = types.ModuleType("keras_trn")
    package.__path__ = [str(Path(__file__).parents[1] / "keras_trn")]
    # In these modules, only checks and annotations mention TensorFlow.
    tensorflow = mock.MagicMock(Tensor=np.ndarray)
    with mock.patch.dict(sys.modules, keras_trn=package, tensorflow=tensorflow):
        from keras_trn.restoration_autoencoder import RestorationAutoencoder
    return RestorationAutoencoder


def load_images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the images of one split: uint8 of shape (images, height, width, channels)."""
    with np.load(path) as split:
        encoded = np.split(split["encoded"], split["ends"][:-1])
        labels = split["labels"]
    decoded = [np.asarray(Image.open(io.BytesIO(image.tobytes()))) for image in encoded]
    images = np.stack(decoded)
    return images.reshape(*images.shape[:3], -1), labels


def make_defence(folder: Path, name: str, settings: dict[str, Any]) -> tuple[keras.Model, Defend]:
    """Makes the network to train, and a function that runs it with its classifier, if any."""
    if name != "restorer":
        architecture = json.dumps(settings["classifiers"][name])
        network = in_half_precision(keras.models.model_from_json(architecture))

        def classify(trainable: Any, others: Any, images: Images, training: bool) -> Any:
            logits, others = network.stateless_call(trainable, others, images, training=training)
            return logits.astype("float32"), images, others

        return network, classify
    trained = keras.saving.load_model(folder / "classifier.keras", compile=False)
    classifier = in_half_precision(trained)
    frozen = [
        [variable.value for variable in variables]
        for variables in (classifier.trainable_variables, classifier.non_trainable_variables)
    ]
    restorer = import_autoencoder()(**settings["restorer"], dtype=DTYPE)
    restorer.build((None, *classifier.input_shape[1:]))

    def restore_and_classify(trainable: Any, others: Any, images: Images, training: bool) -> Any:
        restored, others = restorer.stateless_call(trainable, others, images, training=training)
        logits, _ = classifier.stateless_call(*frozen, restored, training=False)
        return logits.astype("float32"), restored, others

    return restorer, restore_and_classify


def in_half_precision(model: keras.Model) -> keras.Model:
    """Copies a float32 model to the training precision."""

    def copy_layer(layer: keras.Layer) -> keras.Layer:
        return layer.from_config({**layer.get_config(), "dtype": DTYPE})

    copied = keras.models.clone_model(model, clone_function=copy_layer)
    copied.set_weights(model.get_weights())
    return copied


class HardenedTraining:
    """Trains a network against projected gradient descent from random points.

    Args:
        network: The network to train: a restorer, or a classifier.
        defend: Function that applies it, with the classifier behind a restorer.
        settings: The fields of `experiments.recipe.HardeningOnJax`, with `epsilon`.
        examples: Number of training images.
        classes: Number of classes.
    """

    def __init__(
        self,
        network: keras.Model,
        defend: Defend,
        settings: dict[str, Any],
        examples: int,
        classes: int,
    ) -> None:
        self.classes = classes
        self.network = network
        self.defend = defend
        self.settings = settings
        self.steps_per_epoch = examples // settings["batch_size"]
        steps = settings["epochs"] * self.steps_per_epoch
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0,
            steps - steps // 20,
            warmup_target=settings["learning_rate"],
            warmup_steps=steps // 20,
        )
        self.optimizer = keras.optimizers.AdamW(
            schedule, weight_decay=settings["weight_decay"], global_clipnorm=1.0
        )
        self.optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        self.optimizer.build(network.trainable_variables)

    def start(self) -> State:
        """Returns the state before the first step."""
        network = self.network
        groups = (
            network.trainable_variables,
            network.non_trainable_variables,
            self.optimizer.variables,
        )
        trainable, others, optimizer = ([part.value for part in group] for group in groups)
        return State(trainable, others, optimizer, (trainable, others))

    @functools.partial(jax.jit, static_argnums=0)
    def epoch(
        self, state: State, images: Images, labels: Labels, number: jax.Array, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Trains for one epoch, and returns the mean measurements."""
        order_key, key = jax.random.split(key)
        steps, size = self.steps_per_epoch, self.settings["batch_size"]
        order = jax.random.permutation(order_key, len(images))[: steps * size].reshape(steps, size)

        def take_step(state: State, taken: tuple) -> tuple[State, dict[str, jax.Array]]:
            step, chosen, step_key = taken
            batch = images[chosen].astype("float32") / 255
            return self.step(state, Step(batch, labels[chosen], step, step_key))

        numbers = number * steps + jnp.arange(steps)
        keys = jax.random.split(key, steps)
        state, measured = jax.lax.scan(take_step, state, (numbers, order, keys))
        return state, jax.tree.map(jnp.mean, measured)

    def step(self, state: State, step: Step) -> tuple[State, dict[str, jax.Array]]:
        """Attacks the network in its current state, and trains it on the result."""
        settings = self.settings
        augment_key, attack_key = jax.random.split(step.key)
        augment_key, mix_key = jax.random.split(augment_key)
        clean = augment(step.images, augment_key, settings["largest_shift"])
        soft_labels = jax.nn.one_hot(step.labels, self.classes)
        clean, soft_labels = cutmix(clean, soft_labels, mix_key, settings["cutmix_share"])
        epochs = step.number / self.steps_per_epoch
        share = jnp.minimum((epochs + 0.1) / max(settings["warmup_epochs"], 0.1), 1.0)
        benign = int(settings["benign_share"] * len(clean))
        adversarial = attack(
            # In inference mode, the attack would miss the network that learns in this step.
            lambda images: self.defend(state.trainable, state.others, images, training=True)[0],
            clean[benign:],
            soft_labels[benign:],
            share * settings["epsilon"],
            settings["step_size"],
            settings["attack_steps"],
            attack_key,
        )
        images = jnp.concatenate([clean[:benign], adversarial])

        def loss_of(trainable: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            logits, restored, others = self.defend(trainable, state.others, images, training=True)
            errors = jnp.abs(restored - clean).mean()
            loss = cross_entropies(logits, soft_labels).mean() + settings["pixel"] * errors
            return loss, (logits, others)

        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (logits, others)), gradients = gradient(state.trainable)
        trainable, optimizer = self.optimizer.stateless_apply(
            state.optimizer, gradients, state.trainable
        )
        average = self.averaged(state.average, (trainable, others), step.number)
        is_right = logits.argmax(-1) == soft_labels.argmax(-1)
        measured = {
            "loss": loss,
            "benign_accuracy": is_right[:benign].mean(),
            "robust_accuracy": is_right[benign:].mean(),
        }
        return State(trainable, others, optimizer, average), measured

    def averaged(self, average: Any, variables: Any, number: jax.Array) -> Any:
        """Moves the average of the variables; copies states of random generators."""
        momentum = jnp.minimum(self.settings["momentum"], (1 + number) / (10 + number))

        def move(mean: jax.Array, value: jax.Array) -> jax.Array:
            is_real = jnp.issubdtype(value.dtype, jnp.floating)
            return momentum * mean + (1 - momentum) * value if is_real else value

        return jax.tree.map(move, average, variables)

    @functools.partial(jax.jit, static_argnums=0)
    def validate(self, average: Any, images: Images, labels: Labels) -> dict[str, jax.Array]:
        """Evaluates the averaged weights under an attack of more steps than in training."""

        def classify(images: Images) -> jax.Array:
            return self.defend(*average, images, training=False)[0]

        clean = images.astype("float32") / 255
        steps = self.settings["validation_steps"]
        epsilon = self.settings["epsilon"]
        soft_labels = jax.nn.one_hot(labels, self.classes)
        adversarial = attack(
            classify, clean, soft_labels, epsilon, 2.5 / steps, steps, jax.random.key(SEED)
        )
        attacked = {"val_benign_accuracy": clean, "val_robust_accuracy": adversarial}
        return {
            name: (classify(images).argmax(-1) == labels).mean()
            for name, images in attacked.items()
        }

    def save_average(self, state: State, path: Path) -> None:
        """Writes the averaged weights, which every backend of Keras can read."""
        trainable, others = state.average
        network = self.network
        for variable, value in zip(network.trainable_variables, trainable, strict=True):
            variable.assign(value)
        for variable, value in zip(network.non_trainable_variables, others, strict=True):
            variable.assign(value)
        network.save_weights(path)


def augment(images: Images, key: jax.Array, largest_shift: int) -> Images:
    """Shifts images by some pixels, with reflected edges, and mirrors every second one."""
    shift_key, mirror_key = jax.random.split(key)
    margin = (largest_shift, largest_shift)
    padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)), mode="reflect")
    corners = jax.random.randint(shift_key, (len(images), 2), 0, 2 * largest_shift + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    shifted = jax.vmap(crop)(padded, corners)
    is_mirrored = jax.random.bernoulli(mirror_key, shape=(len(images), 1, 1, 1))
    return jnp.where(is_mirrored, shifted[:, :, ::-1], shifted)


def cutmix(
    images: Images, soft_labels: SoftLabels, key: jax.Array, cutmix_share: float
) -> tuple[Images, SoftLabels]:
    """Pastes a rectangle of another image into some images, and mixes their labels by area.

    Source: CutMix, arXiv 1905.04899. With averaged weights it delays robust overfitting,
    arXiv 2111.05328.
    """
    size = images.shape[1:3]
    area_key, center_key, choice_key = jax.random.split(key, 3)
    sides = jnp.sqrt(jax.random.uniform(area_key, (len(images), 1))) * jnp.asarray(size)
    centers = jax.random.uniform(center_key, (len(images), 2)) * jnp.asarray(size)
    is_mixed = jax.random.bernoulli(choice_key, cutmix_share, (len(images), 1, 1))
    rows, columns = (
        jnp.abs(jnp.arange(size[axis]) + 0.5 - centers[:, axis, None]) < sides[:, axis, None] / 2
        for axis in range(2)
    )
    is_foreign = is_mixed & rows[:, :, None] & columns[:, None, :]
    share = is_foreign.mean((1, 2))[:, None]
    others = jnp.roll(images, 1, axis=0), jnp.roll(soft_labels, 1, axis=0)
    images = jnp.where(is_foreign[..., None], others[0], images)
    return images, (1 - share) * soft_labels + share * others[1]


def attack(
    classify: Callable[[Images], jax.Array],
    clean: Images,
    soft_labels: SoftLabels,
    epsilon: float | jax.Array,
    step_size: float,
    steps: int,
    key: jax.Array,
) -> Images:
    """Runs projected gradient descent from random points; `step_size` is relative to epsilon."""

    def loss_of(images: Images) -> jax.Array:
        return cross_entropies(classify(images), soft_labels).sum()

    def ascend(_: int, images: Images) -> Images:
        moved = images + step_size * epsilon * jnp.sign(jax.grad(loss_of)(images))
        return jnp.clip(jnp.clip(moved, clean - epsilon, clean + epsilon), 0, 1)

    start = clean + jax.random.uniform(key, clean.shape, minval=-1, maxval=1) * epsilon
    return jax.lax.fori_loop(0, steps, ascend, jnp.clip(start, 0, 1))


def cross_entropies(logits: jax.Array, soft_labels: SoftLabels) -> jax.Array:
    """Returns the cross-entropy of each image."""
    return -(soft_labels * jax.nn.log_softmax(logits)).sum(-1)


def harden(folder: Path, name: str) -> None:
    """Trains a defence, or continues its training, and writes the best average of its weights.

    Args:
        folder: Folder from `experiments.packing`.
        name: `restorer`, or the name of a classifier in the folder.
    """
    settings = json.loads((folder / "settings.json").read_text())
    for field in ("epochs", "cutmix_share"):
        settings[field] = settings[field][name]
    if name != "restorer":
        settings["pixel"] = 0.0
    keras.utils.set_random_seed(SEED)
    network, defend = make_defence(folder, name, settings)
    images, labels = map(jnp.asarray, load_images(folder / "train.npz"))
    validation = load_images(folder / "validation.npz")
    validation = tuple(jnp.asarray(part[: settings["validation_images"]]) for part in validation)
    training = HardenedTraining(network, defend, settings, len(images), int(labels.max()) + 1)
    state, log = training.start(), []
    backup = folder / f"{name}.backup.npz"
    if backup.exists():
        state, log = load_backup(backup, state)
    for number in range(len(log), settings["epochs"]):
        key = jax.random.fold_in(jax.random.key(SEED), number)
        state, measured = training.epoch(state, images, labels, jnp.asarray(number), key)
        measured |= training.validate(state.average, *validation)
        log.append({name: round(float(value), 4) for name, value in measured.items()})
        print(name, number + 1, log[-1], flush=True)
        if is_best(log):
            training.save_average(state, folder / f"{name}.weights.h5")
        save_backup(backup, state, log)
    (folder / f"{name}.json").write_text(json.dumps(log, indent=1))


def save_backup(path: Path, state: State, log: Log) -> None:
    """Writes everything that the next epoch needs, in one atomic step."""
    unfinished = path.with_name(f"unfinished {path.name}")
    np.savez(unfinished, *jax.tree.leaves(state), log=json.dumps(log))
    unfinished.replace(path)


def load_backup(path: Path, state: State) -> tuple[State, Log]:
    """Reads a state of the same structure, and the log."""
    structure = jax.tree.structure(state)
    with np.load(path) as saved:
        leaves = [jnp.asarray(saved[f"arr_{number}"]) for number in range(structure.num_leaves)]
        return jax.tree.unflatten(structure, leaves), json.loads(str(saved["log"]))


def is_best(log: Log) -> bool:
    """Tells whether the last epoch has the highest robust accuracy on validation images."""
    *earlier, last = (measured["val_robust_accuracy"] for measured in log)
    return all(last > value for value in earlier)


def main(folder: str, names: Iterable[str]) -> None:
    """Hardens the named defences in turn."""
    for name in names:
        harden(Path(folder), name)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
