"""Trains and evaluates all defences of one data set.

`python -m experiments.run fashion_mnist results/trn_fashion_mnist.json`

It trains the classifier, a surrogate for transferred attacks, the restorer and the baselines, and
chooses the strengths of the filters on validation images. It writes reports on the test images,
plots and tables next to the given path. It adds the preset to the package if the recipe names one.
A work folder next to the path lets an interrupted run continue.
"""

import functools
import importlib
import shutil
import sys
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_trn
from experiments.filters import choose_strengths
from experiments.filters import first_batches
from experiments.filters import make_filters
from experiments.half_precision import store_as_float16
from experiments.recipe import ClassifierRecipe
from experiments.recipe import Data
from experiments.recipe import MakePipeline
from experiments.recipe import Recipe
from experiments.training import SEED
from experiments.training import copy_weights
from experiments.training import load_or_train
from experiments.training import make_single_stream
from experiments.training import train_defence
from experiments.writing import write_results
from keras_trn import losses
from keras_trn import threat_models
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.tables import markdown_table
from keras_trn.presets import FOLDER
from keras_trn.presets import preset_path


class Experiment:
    """Runs a recipe on its data, and keeps finished models in a folder."""

    def __init__(self, recipe: Recipe, path: Path, data: Data | None = None) -> None:
        self.recipe = recipe
        self.path = path
        self.folder = path.with_suffix(".work")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = data or recipe.load(recipe)

    def result_path(self, ending: str) -> Path:
        """Returns the path of the results with another ending, such as `_worst.json`."""
        return self.path.with_name(self.path.stem + ending)

    def train_classifier(
        self, planned: ClassifierRecipe, name: str, make_pipeline: MakePipeline
    ) -> keras.Model:
        """Trains a classifier, or continues its training."""

        def train() -> keras.Model:
            keras.utils.set_random_seed(SEED)
            pipeline = make_pipeline(self.recipe.classifier_batch_size)
            return self.recipe.train_classifier(self.recipe, planned, pipeline, self.folder / name)

        return load_or_train(self.folder / f"{name}.keras", train)

    def train_defence(
        self,
        name: str,
        make: Callable[[], keras.Model],
        make_pipeline: Callable[[], tf.data.Dataset],
        epochs: int,
        **arguments: Any,
    ) -> keras.Model:
        """Trains a defence with the restorer's settings, or continues its training."""
        recipe = self.recipe
        arguments = {
            "learning_rate": recipe.learning_rate,
            "attack": list(recipe.fresh_attacks or recipe.attacks),
            **arguments,
        }
        folder = self.folder / name
        return load_or_train(
            self.folder / f"{name}.keras",
            lambda: train_defence(make, make_pipeline, epochs, recipe, folder, **arguments),
        )

    def restorer_pipeline(self, classifier: keras.Model) -> Callable[[], tf.data.Dataset]:
        """Returns a function that makes the training pipeline of restorers, cached if planned."""
        if self.recipe.fresh_attacks is None:
            return functools.partial(self.data.train, self.recipe.batch_size)
        keras.utils.set_random_seed(SEED)
        examples = keras_trn.cache_adversarial_examples(
            classifier,
            self.data.ordered,
            list(self.recipe.attacks),
            self.folder / "examples",
            batch_size=self.recipe.batch_size,
            rounds=1,
            seed=SEED,
        )
        return lambda: examples

    def train_restorer(
        self, classifier: keras.Model, make_pipeline: Callable[[], tf.data.Dataset]
    ) -> keras_trn.ProtectedClassifier:
        """Trains gradient map and restorer; returns the model to ship."""
        recipe = self.recipe
        loss = losses.RestorationLoss(pixel=recipe.pixel_weight)
        make = functools.partial(recipe.protect, classifier)
        if recipe.starts_from_preset(make_pipeline(), recipe.batch_size):
            make = functools.partial(self._protect_from_preset, classifier)
        elif recipe.first_epochs:
            first = self.train_defence(
                "first restorer",
                lambda: keras_trn.ProtectedClassifier(
                    classifier, recipe.protect(classifier).gradient_map.first_restorer
                ),
                make_pipeline,
                recipe.first_epochs,
                loss=loss,
                fresh_share=0.0,
            )
            make = functools.partial(self._protect_with, classifier, first.restorer)
        protected = self.train_defence("restorer", make, make_pipeline, recipe.epochs, loss=loss)
        if not recipe.half_precision:
            return protected
        shipped = self.folder / "shipped.keras"
        shutil.copy(self.folder / "restorer.keras", shipped)
        store_as_float16(shipped)
        return keras.saving.load_model(shipped, compile=False)

    def _protect_with(
        self, classifier: keras.Model, first_restorer: keras.Model
    ) -> keras_trn.ProtectedClassifier:
        protected = self.recipe.protect(classifier)
        protected.gradient_map.first_restorer.set_weights(first_restorer.get_weights())
        return protected

    def _protect_from_preset(self, classifier: keras.Model) -> keras_trn.ProtectedClassifier:
        trained = keras.saving.load_model(preset_path(self.recipe.start_from), compile=False)
        return copy_weights(trained, self.recipe.protect(classifier))

    def train_baselines(
        self, protected: keras_trn.ProtectedClassifier, make_pipeline: Callable[[], tf.data.Dataset]
    ) -> dict[str, keras.Model]:
        """Trains the learned baselines: three restorers of equal size, and a classifier."""
        recipe = self.recipe
        classifier = protected.classifier
        # The single stream is the control for the second one, so it trains for as many epochs.
        restorers = {
            "single stream": (
                losses.RestorationLoss(pixel=recipe.pixel_weight),
                recipe.first_epochs + recipe.epochs,
            ),
            "HGD": (losses.RepresentationGuidedLoss(), recipe.epochs),
            "APE-GAN": (
                losses.AdversarialLoss(pixel=recipe.ape_gan_pixel_weight, adversarial=0.3),
                recipe.epochs,
            ),
        }
        trained = {
            name: self.train_defence(
                name,
                lambda: keras_trn.ProtectedClassifier(classifier, make_single_stream(protected)),
                make_pipeline,
                epochs,
                loss=loss,
            )
            for name, (loss, epochs) in restorers.items()
        }
        trained["adversarial training"] = self.train_defence(
            "adversarial training",
            lambda: keras_trn.baselines.AdversariallyTrainedClassifier(classifier),
            lambda: recipe.augment(self.data.train(recipe.batch_size)),
            recipe.adversarial_epochs,
            learning_rate=recipe.adversarial_learning_rate,
            attack=list(recipe.adversarial_attacks),
        )
        return trained

    def evaluate(
        self,
        protected: keras_trn.ProtectedClassifier,
        surrogate: keras.Model,
        baselines: Mapping[str, keras.Model],
    ) -> None:
        """Writes the reports on the test images, and their plots."""
        recipe = self.recipe
        for plan in recipe.evaluations:
            report = keras_trn.evaluate(
                protected,
                first_batches(self.data.test, plan.examples, recipe.evaluation_batch_size),
                list(plan.attacks),
                make_threat_models(plan.threat_models, surrogate),
                baselines=baselines,
                epsilons=plan.epsilons,
                check_examples=recipe.check_examples,
                checkpoint=self.folder / "reports.jsonl",
                seed=SEED,
            )
            report.to_json(self.result_path(f"{plan.suffix}.json"))
            for name in plan.plots:
                figure = getattr(report, f"plot_{name}")()
                path = self.result_path(f"{plan.suffix}_{name}.png")
                figure.savefig(path, dpi=110, bbox_inches="tight")
        if recipe.class_names is not None:
            self.plot_restorations(protected)

    def plot_restorations(self, protected: keras_trn.ProtectedClassifier) -> None:
        """Writes a picture of correctly classified test images."""
        images, labels = (part[:200] for part in self.data.test)
        is_correct = protected.classifier.predict(images, verbose=0).argmax(-1) == labels
        attack = self.recipe.evaluations[0].attacks[0].with_seed(SEED)
        figure = keras_trn.visualization.plot_restorations(
            protected,
            images[is_correct][:5],
            labels[is_correct][:5],
            attack,
            self.recipe.class_names,
        )
        figure.savefig(self.path.with_suffix(".png"), dpi=110)

    def write_classifiers(self, classifier: keras.Model, surrogate: keras.Model) -> None:
        """Writes the accuracies of both classifiers on validation images."""
        images, labels = self.data.validation
        results = {"data": self.recipe.data, "seed": SEED, "environment": describe_environment()}
        rows = []
        for key, title, model in (
            ("make_classifier", "protected", classifier),
            ("make_other_classifier", "for transfer", surrogate),
        ):
            accuracy = float((model.predict(images, verbose=0).argmax(-1) == labels).mean())
            results[key] = {
                "parameters": model.count_params(),
                "validation_accuracy": accuracy,
                "validation_images": len(labels),
            }
            rows.append((title, f"{model.count_params():,}", f"{accuracy:.1%}"))
        header = ("classifier", "weights", "accuracy on validation images")
        table = markdown_table(header, rows, "lrr")
        write_results(self.result_path("_classifiers.json"), results, table)

    def run(self, presets: Path = FOLDER) -> None:
        """Runs the missing steps, and writes results and preset."""
        recipe = self.recipe
        classifier, surrogate = (
            self.train_classifier(getattr(recipe, name), name, self.data.train)
            for name in ("classifier", "surrogate")
        )
        if recipe.classifiers_table:
            self.write_classifiers(classifier, surrogate)
        # Choose strengths with a classifier that has not seen the validation images.
        held_out = classifier
        if self.data.train_without_validation is not None:
            held_out = self.train_classifier(
                recipe.classifier,
                "classifier without validation",
                self.data.train_without_validation,
            )
        make_pipeline = self.restorer_pipeline(classifier)
        protected = self.train_restorer(classifier, make_pipeline)
        strengths = choose_strengths(
            held_out,
            self.data.validation,
            recipe.epsilon,
            self.result_path("_filters.json"),
            self.folder / "reports.jsonl",
        )
        baselines = {
            **make_filters(protected.classifier, strengths),
            **self.train_baselines(protected, make_pipeline),
        }
        self.evaluate(protected, surrogate, baselines)
        if recipe.preset is not None:
            name = "shipped" if recipe.half_precision else "restorer"
            shutil.copy(self.folder / f"{name}.keras", presets / f"{recipe.preset}.keras")


def make_threat_models(names: Sequence[str], surrogate: keras.Model) -> list[Any]:
    """Makes threat models; `oblivious` and `transfer` with true and with predicted labels."""
    made: dict[str, list[Any]] = {
        "oblivious": [threat_models.Oblivious(), threat_models.Oblivious(labels="predicted")],
        "transfer": [
            threat_models.Transfer(surrogate),
            threat_models.Transfer(surrogate, labels="predicted"),
        ],
    }
    return [one for name in names for one in made.get(name, [name])]


def main(name: str, path: str) -> None:
    """Runs the recipe of this name."""
    recipe = importlib.import_module(f"experiments.recipes.{name}").RECIPE
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    Experiment(recipe, Path(path)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
