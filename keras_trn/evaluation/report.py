"""What an evaluation found, to print, to plot, to save and to read again."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from keras_trn.evaluation import plots
from keras_trn.evaluation import tables
from keras_trn.evaluation.checkpoint import plain
from keras_trn.evaluation.checks import CheckResult
from keras_trn.evaluation.examples import unpack

TABLES = ("summary", "accuracy", "quality", "checks")
_WHO_KNOW = {"bpda", "whitebox_stopgrad", "whitebox_full", "blackbox"}


def not_run_text(missing):
    """Says what was not run, and why.

    Args:
        missing: A dictionary with `defence`, `threat_model` and `reason`.

    Returns:
        The end of a sentence.

    Example:
        ```python
        from keras_trn.evaluation.report import not_run_text

        missing = {"defence": "a", "threat_model": "bpda", "reason": "there was no time"}
        assert not_run_text(missing) == "`bpda` on `a`, as there was no time."
        ```
    """
    return f"`{missing['threat_model']}` on `{missing['defence']}`, as {missing['reason']}."


@dataclasses.dataclass
class Picture:
    """A row of images to show.

    Args:
        title: What stands at its start.
        images: Array of images.
        states: What each is: `"attacked"` or `"restored"`.
        taken_for: The class that each is taken for.
        labels: The class that each is of.
    """

    title: str
    images: np.ndarray
    states: list
    taken_for: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(repr=False)
class Report:
    """The result of `keras_trn.evaluate`.

    Prints as tables, shows as tables in a notebook, and goes to JSON with all
    that is needed to make it again.

    A **cell** is the result of one defence under one attack and threat model: a
    dictionary with

    - `defence`, `threat_model`, `labels`, `attack`, `norm`, `epsilon`,
      `settings` of the attack, `samples` of a random defence per gradient;
      `in_epsilon_sweep` for one that is only there for accuracy against epsilon;
    - `examples`, `accuracy`, and `agreement`, the share of images that are
      classified as the bare classifier classifies the clean image, from 0 to 1;
    - `attacked_psnr` and `attacked_ssim`, how close the adversarial images are to the
      clean ones; `restored_psnr` and `restored_ssim`, how close the restored ones are;
      PSNR in decibels;
    - `correct`, one bit for each image, packed to hexadecimal digits;
    - `seconds` that its run took.

    Args:
        defences: Names of the defences, the bare classifier first. The tables of
            quality and of checks are about the one that was to be judged.
        evaluated: Name of the defence that was to be judged.
        cells: List of cells.
        checks: Dictionary from the names of defences to the results of their
            sanity checks.
        settings: What `evaluate` was called with.
        environment: Versions and hardware.
        seconds: How long the evaluation took.
        not_run: What could not be run in full and was left out of the cells: a list of
            dictionaries with `defence`, `threat_model` and `reason`.
        pictures: Rows of adversarial and restored images, to be shown; not part of the
            JSON file.

    Example:
        ```python
        train, validation, test = keras_trn.datasets.load("digits")
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
        report = keras_trn.evaluate(
            classifier, test.take(1), [attack], check_examples=8, verbose=0
        )
        assert report.worst("bare") <= report.cell("FGSM")["accuracy"]
        report.to_json("report.json")
        assert str(keras_trn.evaluation.Report.from_json("report.json")) == str(report)
        ```
    """

    defences: list
    evaluated: str
    cells: list
    checks: dict
    settings: dict
    environment: dict
    seconds: float
    pictures: list[Picture] | None = None
    not_run: list = dataclasses.field(default_factory=list)

    # --- Looking up ----------------------------------------------------------

    def cell(self, attack, threat_model=None, defence=None, labels="true", epsilon=None):
        """Returns one cell.

        Args:
            attack: Name of the attack, as in the table; `"benign"` for none.
            threat_model: Name of the threat model; by default the first in the
                report that fits.
            defence: Name of the defence; by default the one that was judged.
            labels: Whether the attacker knew the `"true"` labels or took the
                `"predicted"` ones.
            epsilon: Epsilon of a cell of the curve; by default the attack's own.

        Returns:
            The dictionary of its measurements, see above.

        Raises:
            KeyError: If there is no such cell.
        """
        wanted = {"attack": attack, "defence": defence or self.evaluated}
        wanted["in_epsilon_sweep"] = epsilon is not None
        if attack == "benign":
            wanted.pop("in_epsilon_sweep")
        else:
            wanted["labels"] = labels
        if threat_model is not None:
            wanted["threat_model"] = threat_model
        if epsilon is not None:
            wanted["epsilon"] = epsilon
        for cell in self.cells:
            if all(cell.get(name) == value for name, value in wanted.items()):
                return cell
        rows = sorted({f"{cell['attack']!r} under {cell['threat_model']}" for cell in self.cells})
        raise KeyError(
            f"No cell with {wanted} in this report. Defences: {', '.join(self.defences)}; "
            f"attacks: {', '.join(rows)}. {' '.join(self._notes('accuracy'))}"
        )

    def correct(self, cell):
        """Returns which images a cell's defence got right.

        Args:
            cell: A cell of this report.

        Returns:
            A boolean array of shape `(examples,)`.
        """
        return unpack(cell["correct"], cell["examples"])

    @property
    def budgets(self):
        """The pairs of norm and epsilon that the attacks were run at, largest first."""
        budgets = {
            (cell["norm"], cell["epsilon"])
            for cell in self.cells
            if cell["attack"] != "benign" and not cell["in_epsilon_sweep"]
        }
        return sorted(budgets, key=lambda budget: (budget[0] != "linf", -budget[1]))

    def without(self, defence):
        """Returns what was not run on a defence, and so is missing from its worst case.

        Args:
            defence: Name of the defence.

        Returns:
            A list of names of threat models.
        """
        return [
            missing["threat_model"] for missing in self.not_run if missing["defence"] == defence
        ]

    def worst(self, defence=None, norm=None, epsilon=None, threat_model=None, labels=None):
        """Returns the share of images that stayed right under all that was run.

        An image counts as right only if it was right without attack and under every
        attack of the norm and of at most this epsilon, under every threat model. What
        could not be run, see `without`, is not counted.

        Args:
            defence: Name of the defence; by default the one that was judged.
            norm: `"linf"` or `"l2"`; by default that of the first budget.
            epsilon: By default the largest that was run with the norm.
            threat_model: Name of the only threat model to count; by default all.
            labels: `"true"` or `"predicted"`, to count only attacks on these labels.

        Returns:
            The accuracy, from 0 to 1; `None` where the defence was not attacked within
            this budget, as a defence must not shine by not having been tried.

        Raises:
            KeyError: If there is no such defence, or nothing was run with the norm.
        """
        defence = self.evaluated if defence is None else defence
        if defence not in self.defences:
            raise KeyError(f"No defence {defence!r} in this report, only {self.defences}.")
        budgets = [budget for budget in self.budgets if norm in (None, budget[0])]
        if not budgets:
            raise KeyError(f"No attack of norm {norm!r} in this report, only {self.budgets}.")
        norm, largest = budgets[0]
        epsilon = largest if epsilon is None else epsilon
        of_defence = [cell for cell in self.cells if cell["defence"] == defence]
        attacked = [
            cell
            for cell in of_defence
            if cell["attack"] != "benign"
            and cell["norm"] == norm
            and cell["epsilon"] <= epsilon
            and threat_model in (None, cell["threat_model"])
            and labels in (None, cell["labels"])
        ]
        if not attacked:
            return None
        benign = [cell for cell in of_defence if cell["attack"] == "benign"]
        return float(np.all([self.correct(cell) for cell in benign + attacked], axis=0).mean())

    @property
    def warnings(self):
        """The checks of the judged defence that did not pass."""
        return [check for check in self.checks[self.evaluated] if check.status == "WARN"]

    # --- Saving --------------------------------------------------------------

    def to_dict(self):
        """Returns all that was found, as JSON can hold it.

        `robustbench` holds for each defence what RobustBench's result files hold,
        under their names and in percent, where it fits: `external` is `worst`.
        """
        return {
            "evaluated": self.evaluated,
            "defences": self.defences,
            "robustbench": {name: self._as_robustbench(name) for name in self.defences},
            "worst": [
                {
                    "defence": name,
                    "norm": norm,
                    "epsilon": epsilon,
                    "accuracy": accuracy,
                    **({"without": self.without(name)} if self.without(name) else {}),
                }
                for name in self.defences
                for norm, epsilon in self.budgets
                for accuracy in [self.worst(name, norm, epsilon)]
            ],
            "cells": self.cells,
            "checks": {
                name: [dataclasses.asdict(check) for check in checks]
                for name, checks in self.checks.items()
            },
            "settings": self.settings,
            "environment": self.environment,
            "seconds": round(self.seconds, 1),
            "not_run": self.not_run,
        }

    def _as_robustbench(self, name):
        fields = {"clean_acc": round(100 * self.cell("benign", defence=name)["accuracy"], 2)}
        if self.budgets:
            norm, epsilon = self.budgets[0]
            worst = self.worst(name, norm, epsilon)
            without = "".join(f", without {missing}" for missing in self.without(name))
            fields |= {
                "external": None if worst is None else round(100 * worst, 2),
                "eps": epsilon,
                "norm": {"linf": "Linf", "l2": "L2"}[norm],
                "footnote": "external: worst case per example over all attacks and threat "
                f"models of this report{without}",
            }
        return fields

    def to_json(self, path):
        """Writes the report to a JSON file.

        Args:
            path: Where to write it.
        """
        text = json.dumps(self.to_dict(), indent=1, default=plain)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path):
        """Reads a report that `to_json` wrote.

        Args:
            path: The JSON file.

        Returns:
            The report, without its pictures.
        """
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        saved["checks"] = {
            name: [CheckResult(**check) for check in checks]
            for name, checks in saved["checks"].items()
        }
        # Reports of before this was looked into have no `not_run`.
        names = [field.name for field in dataclasses.fields(cls) if field.name in saved]
        return cls(**{name: saved[name] for name in names})

    # --- Showing -------------------------------------------------------------

    def to_markdown(self, table="accuracy"):
        """Returns a table in Markdown, and below it what it lacks.

        Args:
            table: `"summary"`, the worst case of each defence under each threat model;
                `"accuracy"` of all defences under each attack; `"quality"` of the
                restored images; or `"checks"`.

        Raises:
            ValueError: If there is no such table.
        """
        return "\n\n".join([tables.to_markdown(self._table(table)), *self._notes(table)])

    def _table(self, table):
        if table not in TABLES:
            raise ValueError(f"table must be one of {', '.join(TABLES)}, received {table!r}.")
        return getattr(tables, f"{table}_table")(self)

    def _notes(self, table):
        """What a table of accuracies lacks, and how gates were calibrated, in sentences."""
        if table not in ("summary", "accuracy"):
            return []
        calibrated = [
            f"Calibrated: `{name}` keeps the class of at least {found['benign_agreement']:.1%} of "
            f"benign images, measured on {found['images']}, with gates at a threshold of "
            f"{found['gate_threshold']:g}."
            for name, found in self.settings.get("calibrations", {}).items()
        ]
        return [f"**Not run:** {not_run_text(missing)}" for missing in self.not_run] + calibrated

    def _captions(self):
        examples = self.cells[0]["examples"]
        attackers = {
            cell["threat_model"] for cell in self.cells if cell["defence"] == self.evaluated
        }
        unknown = "" if attackers & _WHO_KNOW else f" No attacker here knows `{self.evaluated}`."
        norm, epsilon = self.budgets[0]
        summary = {
            "summary": f"Accuracy in percent of {examples} images: the worst case for each image "
            f"over the attacks of each threat model within {tables.budget_text(norm, epsilon)}, "
            "and over all of them (`worst`)."
        }
        # Of one defence, the next table tells it as well.
        return (summary if len(self.defences) > 2 else {}) | {
            "accuracy": f"Accuracy in percent of {examples} images. `worst`: images that stay "
            f"right under all of it.{unknown}",
            "quality": f"Images of `{self.evaluated}` against the clean ones, before and after "
            "restoration: PSNR in decibels, SSIM; agreement with the bare classifier's benign "
            "prediction in percent.",
            "checks": f"Sanity checks of `{self.evaluated}` under "
            f"{self.settings['checked_attack']}, on {self.settings['check_examples']} images.",
        }

    def _repr_markdown_(self):
        return "\n\n".join(
            f"{self.to_markdown(table)}\n\n{caption}" for table, caption in self._captions().items()
        )

    def __repr__(self):
        return (
            f"Report(defences={self.defences!r}, evaluated={self.evaluated!r}, "
            f"cells=[{len(self.cells)} of them])"
        )

    def __str__(self):
        parts = []
        for table, caption in self._captions().items():
            notes = [note.replace("*", "") for note in self._notes(table)]
            parts.append("\n".join([tables.to_text(self._table(table)), *notes, caption]))
        return "\n\n".join(parts)

    def plot_accuracy(self):
        """Plots accuracy against epsilon, a line for each threat model.

        Returns:
            A matplotlib figure.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        return plots.plot_accuracy(self)

    def plot_quality(self):
        """Plots PSNR and SSIM of adversarial and restored images.

        Returns:
            A matplotlib figure.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        return plots.plot_quality(self)

    def plot_pictures(self):
        """Shows adversarial and restored images, a row for each threat model.

        Returns:
            A matplotlib figure.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the report was read from a file, which has no images.
        """
        if self.pictures is None:
            raise ValueError(
                "This report was read from a JSON file, which holds no images. Run "
                "`keras_trn.evaluate` again; with its `checkpoint` that takes seconds."
            )
        return plots.plot_pictures(self)
