"""What the experiments share that train a preset and judge it on test images."""

import dataclasses

import keras

import keras_trn
from keras_trn import attacks
from keras_trn import threat_models
from keras_trn.experiments.common_setting import evaluation_pipeline
from keras_trn.logits import predicted_labels
from keras_trn.visualization import plot_restorations

SEED = 0
CHECK_EXAMPLES = 30
_BATCH_SIZE = 250


@dataclasses.dataclass
class Judgement:
    """How a preset is judged.

    Attributes:
        epsilon: Epsilon of the attacks in L∞.
        epsilons: Further epsilons of the first attack.
        class_names: What the classes are called.
        oblivious_examples: Number of test images for an attacker who does not know of the
            restorer.
        worst_examples: Number of them for attackers who do.
    """

    epsilon: float
    epsilons: tuple
    class_names: tuple
    oblivious_examples: int = 2000
    worst_examples: int = 200

    def run(self, protected, test, path, folder):
        """Writes two reports, and a picture.

        Args:
            protected: The protected classifier.
            test: Test images and labels, as a pair of arrays.
            path: Path of the JSON file of the first report. That for attackers who know
                of the restorer is written beside it under the name of `..._worst.json`.
            folder: Where finished cells are kept.
        """
        descent = attacks.ProjectedGradientDescent(self.epsilon)
        others = [
            attacks.FastGradientMethod(self.epsilon),
            attacks.BasicIterativeMethod(self.epsilon),
            attacks.MomentumIterativeMethod(self.epsilon),
        ]
        oblivious = [threat_models.Oblivious(), threat_models.Oblivious(labels="predicted")]
        keras_trn.evaluate(
            protected,
            evaluation_pipeline(*test, self.oblivious_examples, _BATCH_SIZE),
            [descent, *others],
            oblivious,
            epsilons=self.epsilons,
            check_examples=CHECK_EXAMPLES,
            backup=folder / "report.jsonl",
            seed=SEED,
        ).to_json(path)
        keras_trn.evaluate(
            protected,
            evaluation_pipeline(*test, self.worst_examples, _BATCH_SIZE),
            [descent, attacks.Square(self.epsilon, queries=200)],
            [*oblivious, "bpda", "whitebox_stopgrad", "whitebox_full", "blackbox"],
            check_examples=CHECK_EXAMPLES,
            backup=folder / "worst.jsonl",
            seed=SEED,
        ).to_json(path.with_name(f"{path.stem}_worst.json"))
        self._picture(protected, test, descent).savefig(path.with_suffix(".png"), dpi=110)

    def _picture(self, protected, test, attack):
        images, labels = (part[: self.worst_examples] for part in test)
        # What attacks and restorations do shows on images that the classifier gets right.
        is_right = predicted_labels(protected.classifier, images).numpy() == labels
        images, labels = (part[is_right][:5] for part in (images, labels))
        attack = attack.with_seed(SEED)
        return plot_restorations(protected, images, labels, attack, self.class_names)


def train_restorer(protect, classifier, train, epochs, folder, **compile_arguments):
    """Trains a restorer, or goes on with it.

    Args:
        protect: Function that puts a restorer in front of a classifier.
        classifier: The classifier.
        train: Pipeline of training images.
        epochs: Number of epochs.
        folder: Where the progress is kept.
        **compile_arguments: The arguments of `ProtectedClassifier.compile`.

    Returns:
        A protected classifier that was never compiled: it is saved without the optimizer,
        which is twice as large as the model.
    """
    keras.utils.set_random_seed(SEED)
    protected = protect(classifier)
    protected.compile(**compile_arguments)
    backup = keras.callbacks.BackupAndRestore(folder / "restorer", double_checkpoint=True)
    protected.fit(train, epochs=epochs, callbacks=[backup], verbose=2)
    preset = protect(classifier)
    preset.set_weights(protected.get_weights())
    return preset
