"""The report of an evaluation, which you can query, print, plot, save and load."""

import dataclasses
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import Self

import numpy as np
import pandas as pd

from keras_trn.digests import to_json
from keras_trn.evaluation import plots
from keras_trn.evaluation import robustbench
from keras_trn.evaluation import tables
from keras_trn.evaluation.checks import CheckResult
from keras_trn.evaluation.packing import unpack_bits
from keras_trn.evaluation.runs import SAME_EPSILON
from keras_trn.evaluation.runs import Cell
from keras_trn.evaluation.runs import missing_run_text
from keras_trn.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLES = {
    "summary": tables.summary_table,
    "accuracy": tables.accuracy_table,
    "quality": tables.quality_table,
    "checks": tables.checks_table,
}
# Attackers of the whole defence; others attack a part of it, or another classifier.
_KNOW_THE_DEFENCE = {
    "bpda",
    "whitebox_stopgrad",
    "whitebox_full",
    "fixed_randomness",
    "blackbox",
}


@dataclasses.dataclass
class PictureRow:
    """Holds a row of images to show, each with its state, predicted class and label.

    The plot shows the names of the predicted classes, or their numbers if there are no names.
    """

    title: str | None
    images: np.ndarray
    states: list[str]
    predicted: np.ndarray
    labels: np.ndarray
    class_names: list[str] | None = None


@dataclasses.dataclass(repr=False)
class Report:
    """Holds the results of `keras_trn.evaluate`.

    A report prints as tables, also in a notebook. Its JSON file has everything you need
    to repeat the evaluation. Its plots need matplotlib.

    A **cell** is the result of one defence under one attack and threat model: a dictionary
    with

    - `defence`, `threat_model`, `labels`, `attack`, `norm`, `epsilon`, `settings` of the
      attack, and `samples` of a random defence per gradient; `in_epsilon_sweep` if it only
      serves the plot of accuracy against epsilon;
    - `examples`, `accuracy`, and `agreement`, the share of images that get the class that the
      bare classifier predicts for the clean image, from 0 to 1;
    - `attacked_psnr`, `attacked_ssim`, `restored_psnr` and `restored_ssim`: how close
      adversarial and restored images are to the clean ones, PSNR in decibels;
    - `correct`, one bit for each image, packed into hexadecimal digits;
    - `forward_passes` and `backward_passes` per image through the defence, for an attack crafted
      for it, and the `seconds` of its run.

    Args:
        defences: Names of the defences, the bare classifier first.
        evaluated: Name of the evaluated defence, the subject of the tables of quality and of
            checks.
        cells: List of cells.
        checks: Results of the sanity checks of each defence.
        settings: Arguments of `evaluate`.
        environment: Versions and hardware.
        seconds: Duration of the evaluation.
        pictures: Rows of adversarial and restored images; not part of the JSON file.
        not_run: Threat models that could not run in full and have no cells: dictionaries
            with `defence`, `threat_model` and `reason`.

    Example:
        ```python
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
        report = keras_trn.evaluate(
            classifier, (images, labels), attack, check_examples=8, verbose=0
        )
        assert report.worst("bare") <= report.cell("FGSM")["accuracy"]
        report.to_json("report.json")
        assert str(keras_trn.evaluation.Report.from_json("report.json")) == str(report)
        ```
    """

    defences: list[str]
    evaluated: str
    cells: list[Cell]
    checks: dict[str, list[CheckResult]]
    settings: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    pictures: list[PictureRow] | None = None
    not_run: list[dict[str, str]] = dataclasses.field(default_factory=list)

    # --- Looking up ----------------------------------------------------------

    def cell(
        self,
        attack: str,
        threat_model: str | None = None,
        defence: str | None = None,
        labels: str = "true",
        epsilon: float | None = None,
    ) -> Cell:
        """Returns one cell.

        Args:
            attack: Name of the attack, as in the table; `"benign"` for none.
            threat_model: Name of the threat model; by default the first match in the report.
            defence: Name of the defence; by default the evaluated one.
            labels: `"true"` if the attacker knew the labels, or `"predicted"`.
            epsilon: An epsilon of the sweep, or the attack's own, which is the default.

        Raises:
            KeyError: If there is no such cell.
        """
        wanted: Cell = {"attack": attack, "defence": defence or self.evaluated}
        if attack != "benign":
            wanted["labels"] = labels
        if threat_model is not None:
            wanted["threat_model"] = threat_model
        for cell in self._cells_at(epsilon):
            if wanted.items() <= {name: cell.get(name) for name in wanted}.items():
                return cell
        if epsilon is not None:
            wanted["epsilon"] = epsilon
        rows = sorted({f"{cell['attack']!r} under {cell['threat_model']}" for cell in self.cells})
        raise KeyError(
            f"No cell with {wanted} in this report. Defences: {', '.join(self.defences)}; "
            f"attacks: {', '.join(rows)}. {' '.join(self._notes('accuracy'))}"
        )

    def _cells_at(self, epsilon: float | None) -> list[Cell]:
        """Returns the cells at an epsilon, the sweep first; by default those outside the sweep."""
        swept = [cell for cell in self.cells if cell.get("in_epsilon_sweep")]
        others = [cell for cell in self.cells if not cell.get("in_epsilon_sweep")]
        if epsilon is None:
            return others
        return [
            cell
            for cell in swept + others
            if math.isclose(cell["epsilon"], epsilon, rel_tol=SAME_EPSILON)
        ]

    def correct(self, cell: Cell) -> np.ndarray:
        """Returns which images were classified correctly: booleans of shape `(examples,)`."""
        return unpack_bits(cell["correct"], cell["examples"])

    @property
    def budgets(self) -> list[tuple[str, float]]:
        """Returns the attacks' pairs of norm and epsilon, L-infinity and the largest first."""
        attacked = [cell for cell in self.cells if cell["attack"] != "benign"]
        budgets = {
            (cell["norm"], cell["epsilon"]) for cell in attacked if not cell["in_epsilon_sweep"]
        }
        return sorted(budgets, key=lambda budget: (budget[0] != "linf", -budget[1]))

    def missing_threat_models(self, defence: str) -> list[str]:
        """Returns the threat models that did not run, so the worst case lacks them.

        Args:
            defence: Name of the defence.
        """
        return [row["threat_model"] for row in self.not_run if row["defence"] == defence]

    def worst(
        self,
        defence: str | None = None,
        norm: str | None = None,
        epsilon: float | None = None,
        threat_model: str | Collection[str] | None = None,
        labels: str | None = None,
    ) -> float | None:
        """Returns the accuracy in the worst case for each image.

        An image counts as correct only if it withstands every attack of the norm within this
        epsilon, under every threat model in the report. It must also be correct without attack.

        Args:
            defence: Name of the defence; by default the evaluated one.
            norm: `"linf"`, `"l2"` or `"l1"`; by default the norm of the first budget.
            epsilon: Largest epsilon to count; by default the largest of the norm.
            threat_model: Name of the only threat model to count, or several names; by default all.
            labels: `"true"` or `"predicted"`, to count only attacks on these labels.

        Returns:
            The accuracy, from 0 to 1; `None` if the report has no such attack on the defence.

        Raises:
            KeyError: If the report has no such defence, or no attack of the norm.
        """
        defence = self.evaluated if defence is None else defence
        if defence not in self.defences:
            raise KeyError(f"No defence {defence!r} in this report, only {self.defences}.")
        budgets = [budget for budget in self.budgets if norm in (None, budget[0])]
        if norm is None and not budgets:
            return None
        if not budgets:
            raise KeyError(f"No attack of norm {norm!r} in this report, only {self.budgets}.")
        norm, largest = budgets[0]
        within = (largest if epsilon is None else epsilon) * (1 + SAME_EPSILON)
        names = [threat_model] if isinstance(threat_model, str) else threat_model
        attacked = [
            cell
            for cell in self.cells
            if cell["defence"] == defence
            and cell["attack"] != "benign"
            and cell["norm"] == norm
            and cell["epsilon"] <= within
            and (names is None or cell["threat_model"] in names)
            and labels in (None, cell["labels"])
        ]
        if not attacked:
            return None
        cells = [self.cell("benign", defence=defence), *attacked]
        return float(np.all([self.correct(cell) for cell in cells], axis=0).mean())

    @property
    def warnings(self) -> list[CheckResult]:
        """Returns the sanity checks of the evaluated defence that gave a warning."""
        return [check for check in self.checks[self.evaluated] if check.status == "WARN"]

    # --- Saving --------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Returns all results in a form that JSON can hold.

        For each defence, `robustbench` holds the fields of RobustBench's result files, in
        percent. The field `external` is the worst case.
        """
        checks = {
            name: [dataclasses.asdict(check) for check in checks]
            for name, checks in self.checks.items()
        }
        return {
            "evaluated": self.evaluated,
            "defences": self.defences,
            "robustbench": {name: self._as_robustbench(name) for name in self.defences},
            "worst": [
                self._worst_row(name, *budget) for name in self.defences for budget in self.budgets
            ],
            "cells": self.cells,
            "checks": checks,
            "settings": self.settings,
            "environment": self.environment,
            "seconds": round(self.seconds, 1),
            "not_run": self.not_run,
        }

    def _worst_row(self, defence: str, norm: str, epsilon: float) -> dict[str, Any]:
        accuracy = self.worst(defence, norm, epsilon)
        row = {"defence": defence, "norm": norm, "epsilon": epsilon, "accuracy": accuracy}
        missing = self.missing_threat_models(defence)
        return {**row, "without": missing} if missing else row

    def _as_robustbench(self, defence: str) -> dict[str, Any]:
        fields = {"clean_acc": round(100 * self.cell("benign", defence=defence)["accuracy"], 2)}
        if not self.budgets:
            return fields
        norm, epsilon = self.budgets[0]
        worst = self.worst(defence, norm, epsilon)
        missing = "".join(f", without {name}" for name in self.missing_threat_models(defence))
        return {
            **fields,
            "external": None if worst is None else round(100 * worst, 2),
            "eps": epsilon,
            "norm": {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm],
            "footnote": "external: worst case per example over all attacks and threat models of "
            f"this report{missing}",
        }

    def to_json(self, path: str | Path) -> None:
        """Writes the report to a JSON file.

        Args:
            path: Path of the file.
        """
        write_text(path, to_json(self.to_dict(), indent=1) + "\n")

    def robustbench(
        self,
        path: str | Path | None = None,
        defence: str | None = None,
        norm: str | None = None,
        *,
        link: str = "",
        name: str = "",
        authors: str = "",
        additional_data: bool = False,
        dataset: str = "",
        venue: str = "",
        architecture: str = "",
        reported: str = "",
        footnote: str = "",
        unreliable: bool = False,
        number_forward_passes: int | None = None,
    ) -> dict[str, Any]:
        """Fills in RobustBench's model file.

        The accuracies are strings, in percent. `autoattack_acc` is the accuracy under the attack
        named AutoAttack and the threat model `whitebox_full`. `external` is the worst case of
        the report within the same epsilon, present only if it is lower. RobustBench does not
        accept random defences.

        Args:
            path: Path of a file to write; by default none.
            defence: Name of the defence; by default the evaluated one.
            norm: `"linf"` or `"l2"`; by default the norm of the first run of AutoAttack.
            link: Address of the paper.
            name: Title of the paper.
            authors: Its authors, separated by commas.
            additional_data: Whether training used data outside the data set.
            dataset: RobustBench's name of the data set, such as `"cifar10"`.
            venue: Where and when the paper appeared.
            architecture: The architecture of the classifier.
            reported: Robust accuracy in percent that the paper reports.
            footnote: A note for the readers of the leaderboard.
            unreliable: Whether AutoAttack is known to overestimate the robustness.
            number_forward_passes: Forward passes of the classifier for one prediction; by
                default the count of `evaluate`.

        Returns:
            The content of the file as a dictionary.

        Raises:
            ValueError: If the report has no run of AutoAttack on the defence under
                `whitebox_full`, or is too old to count forward passes.
        """
        defence = self.evaluated if defence is None else defence
        if number_forward_passes is None:
            number_forward_passes = self.settings.get("forward_passes", {}).get(defence)
        measured = robustbench.measured_fields(self, defence, norm)
        if number_forward_passes is None:
            raise ValueError(
                "This report does not have the classifier's forward passes per prediction. "
                "Pass `number_forward_passes`."
            )
        fields = {
            "link": link,
            "name": name,
            "authors": authors,
            "additional_data": additional_data,
            "number_forward_passes": number_forward_passes,
            "dataset": dataset,
            "venue": venue,
            "architecture": architecture,
            "eps": measured.pop("eps"),
            "clean_acc": measured.pop("clean_acc"),
            "reported": reported,
            **measured,
            "footnote": footnote,
            "unreliable": unreliable,
        }
        if path is not None:
            write_text(path, to_json(fields, indent=2) + "\n")
        return fields

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Reads a report that `to_json` wrote, without its pictures.

        Args:
            path: Path of the file.
        """
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        saved["checks"] = {
            name: [CheckResult(**check) for check in checks]
            for name, checks in saved["checks"].items()
        }
        # Older reports have no `not_run`.
        names = [field.name for field in dataclasses.fields(cls) if field.name in saved]
        return cls(**{name: saved[name] for name in names})

    # --- Showing -------------------------------------------------------------

    def table(self, name: str = "accuracy") -> pd.DataFrame:
        """Returns a table: accuracies in percent, PSNR in decibels, NaN if not measured.

        Args:
            name: `"summary"`, the worst case of each defence under each threat model;
                `"accuracy"` of all defences under each attack; `"quality"` of the
                images; or `"checks"`.

        Raises:
            ValueError: If there is no such table.

        Example:
            ```python
            attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
            report = keras_trn.evaluate(classifier, (images, labels), attack, verbose=0)
            assert report.table("accuracy")["bare"].between(0, 100).all()
            ```
        """
        if name not in TABLES:
            raise ValueError(f"table must be one of {', '.join(TABLES)}, received {name!r}.")
        return TABLES[name](self)

    def to_markdown(self, table: str = "accuracy") -> str:
        """Returns a table in Markdown, with notes on threat models that did not run.

        Args:
            table: Name of the table, see `table`.

        Raises:
            ValueError: If there is no such table.
        """
        return "\n\n".join([tables.to_markdown(self.table(table)), *self._notes(table)])

    def _notes(self, table: str) -> list[str]:
        """Returns sentences on missing threat models and on calibrations."""
        if table not in ("summary", "accuracy"):
            return []
        calibrated = [
            f"Calibrated: `{name}` keeps the class of at least {found['benign_agreement']:.1%} of "
            f"benign images, measured on {found['images']}, with gates at a threshold of "
            f"{found['gate_threshold']:g}."
            for name, found in self.settings.get("calibrations", {}).items()
        ]
        return [f"**Not run:** {missing_run_text(row)}" for row in self.not_run] + calibrated

    def _captions(self) -> dict[str, str]:
        share = f"Accuracy in percent of {self.cells[0]['examples']} images"
        summary = accuracy = f"{share}. No attack was run."
        if self.budgets:
            summary = (
                f"{share}: the worst case for each image over the attacks of each threat model "
                f"within {tables.budget_text(*self.budgets[0])}, and over all of them (`worst`)."
            )
            accuracy = f"{share}. `worst`: images that stay correct under all attacks."
            if not self._is_attacked_with_full_knowledge:
                accuracy += f" No attacker here knows everything about `{self.evaluated}`."
        has_passes = "passes" in self.table("quality")
        captions = {
            "summary": summary,
            "accuracy": accuracy,
            "quality": f"Images of `{self.evaluated}` compared with the clean ones, before and "
            "after restoration: PSNR in decibels, SSIM; agreement with the bare classifier's "
            "benign prediction in percent."
            + (" `passes`: forward and backward passes per image." if has_passes else ""),
            "checks": f"Sanity checks of `{self.evaluated}` under "
            f"{self.settings['checked_attack']}, on {self.settings['check_examples']} images.",
        }
        if len(self.defences) <= 2:
            # The table of accuracies shows the same numbers.
            del captions["summary"]
        return captions

    @property
    def _is_attacked_with_full_knowledge(self) -> bool:
        """Tells whether an attacker of the evaluated defence attacks all of it."""
        attackers = {
            cell["threat_model"] for cell in self.cells if cell["defence"] == self.evaluated
        }
        # The oblivious attacker attacks the bare classifier, which is the first defence.
        is_bare = self.evaluated == self.defences[0]
        return bool(attackers & _KNOW_THE_DEFENCE) or (is_bare and "oblivious" in attackers)

    def _repr_markdown_(self) -> str:
        return "\n\n".join(
            f"{self.to_markdown(table)}\n\n{caption}" for table, caption in self._captions().items()
        )

    def __repr__(self) -> str:
        return (
            f"Report(defences={self.defences!r}, evaluated={self.evaluated!r}, "
            f"cells=[{len(self.cells)} of them])"
        )

    def __str__(self) -> str:
        parts = []
        for table, caption in self._captions().items():
            notes = [note.replace("**", "") for note in self._notes(table)]
            parts.append("\n".join([tables.to_text(self.table(table)), *notes, caption]))
        return "\n\n".join(parts)

    def plot_accuracy(self) -> "Figure":
        """Plots accuracy against epsilon, with a line for each threat model.

        Raises:
            ValueError: If no attack was run.
        """
        return plots.plot_accuracy(self)

    def plot_defences(self) -> "Figure":
        """Plots accuracies as dots: a row for each defence, a colour for each threat model.

        Raises:
            ValueError: If no attack was run.
        """
        return plots.plot_defences(self)

    def plot_quality(self) -> "Figure":
        """Plots PSNR and SSIM of adversarial and restored images."""
        return plots.plot_quality(self)

    def plot_pictures(self) -> "Figure":
        """Shows adversarial and restored images, with a row for each threat model.

        The title of each image is the class that the bare classifier predicts, in red if wrong:
        the name from the defence's `class_names`, or else the number.

        Raises:
            ValueError: If the report was read from a file, which has no images.
        """
        if self.pictures is None:
            raise ValueError(
                "This report was read from a JSON file, which holds no images. Run "
                "`keras_trn.evaluate` again; with its `checkpoint` that takes seconds."
            )
        return plots.plot_pictures(self)
