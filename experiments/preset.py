"""What the experiments share that train a preset and judge it on test images."""

import dataclasses

import keras

import keras_trn
from experiments.common_setting import evaluation_pipeline
from experiments.filter_strengths import choose_strengths
from keras_trn import attacks
from keras_trn import threat_models
from keras_trn.logits import predicted_labels
from keras_trn.visualization import plot_restorations

SEED = 0
CHECK_EXAMPLES = 30
_BATCH_SIZE = 250


@dataclasses.dataclass
class TestEvaluation:
    """How a preset is judged.

    Attributes:
        epsilon: Epsilon of the attacks in L∞.
        epsilons: Further epsilons of the first attack.
        class_names: What the classes are called.
        oblivious_examples: Number of test images for attackers who do not know of the
            restorer.
        worst_examples: Number of them for attackers who do, beside those who do not.
        queries: Number of queries of the attacker who only asks.
    """

    epsilon: float
    epsilons: tuple
    class_names: tuple
    oblivious_examples: int = 2000
    worst_examples: int = 1000
    queries: int = 100

    def choose_strengths(self, classifier, validation, path, folder):
        """Chooses how strong the filters among the baselines are, on validation images.

        Args:
            classifier: A classifier that was not trained on them.
            validation: Validation images and labels, as a pair of arrays.
            path: Path of the JSON file of the first report; beside it are written a JSON
                file and a table of what the filters are worth, `..._filters`.
            folder: Where finished cells are kept.

        Returns:
            A dictionary of strengths, by the name of the filter.
        """
        return choose_strengths(
            classifier,
            validation,
            self.epsilon,
            path.with_name(f"{path.stem}_filters.json"),
            folder / "reports.jsonl",
        )

    def run(self, protected, other, baselines, test, path, folder):
        """Writes three reports, and two pictures.

        Args:
            protected: The protected classifier.
            other: Another classifier, for attacks that transfer.
            baselines: Dictionary of other defences of the same classifier.
            test: Test images and labels, as a pair of arrays.
            path: Path of the JSON file of the report on attackers who do not know of the
                restorer. Beside it are written that on attackers who do, under the name
                of `..._worst.json`, and that on one step on all test images,
                `..._all.json`.
            folder: Where finished cells are kept.
        """
        descent = attacks.ProjectedGradientDescent(self.epsilon)
        fast = attacks.FastGradientMethod(self.epsilon)
        iterative = [
            attacks.BasicIterativeMethod(self.epsilon),
            attacks.MomentumIterativeMethod(self.epsilon),
        ]
        oblivious = [threat_models.Oblivious(), threat_models.Oblivious(labels="predicted")]
        transfer = [
            threat_models.Transfer(other),
            threat_models.Transfer(other, labels="predicted"),
        ]

        def evaluate(suffix, examples, some_attacks, some_threat_models, epsilons=()):
            report = keras_trn.evaluate(
                protected,
                evaluation_pipeline(*test, examples, _BATCH_SIZE),
                some_attacks,
                some_threat_models,
                baselines=baselines,
                epsilons=epsilons,
                check_examples=CHECK_EXAMPLES,
                checkpoint=folder / "reports.jsonl",
                seed=SEED,
            )
            report.to_json(path.with_name(f"{path.stem}{suffix}.json"))
            return report

        report = evaluate(
            "",
            self.oblivious_examples,
            [descent, fast, *iterative],
            [*oblivious, *transfer],
            self.epsilons,
        )
        report.plot_accuracy().savefig(path.with_name(f"{path.stem}_accuracy.png"), dpi=110)
        knowing = ["bpda", "whitebox_stopgrad", "whitebox_full", "blackbox"]
        square = attacks.Square(self.epsilon, queries=self.queries)
        evaluate("_worst", self.worst_examples, [descent, square], [*oblivious, *knowing])
        evaluate("_all", len(test[0]), [fast], oblivious)
        self._picture(protected, test, descent).savefig(path.with_suffix(".png"), dpi=110)

    def _picture(self, protected, test, attack):
        images, labels = (part[:200] for part in test)
        # What attacks and restorations do shows on images that the classifier gets right.
        is_right = predicted_labels(protected.classifier, images).numpy() == labels
        images, labels = (part[is_right][:5] for part in (images, labels))
        attack = attack.with_seed(SEED)
        return plot_restorations(protected, images, labels, attack, self.class_names)


def train_defence(make, classifier, train, epochs, folder, **compile_arguments):
    """Trains a defence of a classifier, or goes on with it.

    Args:
        make: Function that makes the defence from a classifier.
        classifier: The classifier.
        train: Pipeline of training images.
        epochs: Number of epochs.
        folder: Where the progress is kept, and nothing else.
        **compile_arguments: The arguments of the defence's `compile`.

    Returns:
        A defence that was never compiled: it is saved without the optimizer, which is
        twice as large as the model.
    """
    keras.utils.set_random_seed(SEED)
    defence = make(classifier)
    defence.compile(**compile_arguments)
    backup = keras.callbacks.BackupAndRestore(folder, double_checkpoint=True)
    defence.fit(train, epochs=epochs, callbacks=[backup], verbose=2)
    trained = make(classifier)
    trained.set_weights(defence.get_weights())
    return trained
