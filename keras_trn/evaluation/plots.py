"""The plots of a report."""

import itertools
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from keras_trn.evaluation import tables
from keras_trn.evaluation.runs import Cell
from keras_trn.visualization import make_image_grid
from keras_trn.visualization import new_figure
from keras_trn.visualization import show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_trn.evaluation.report import Report

# A threat model has the same colour in every report; the worst case is black.
_COLORS = {
    "oblivious": "tab:green",
    "transfer": "tab:olive",
    "transfer_from_estimator": "tab:cyan",
    "transfer_without_map": "tab:pink",
    "bpda": "tab:orange",
    "whitebox_stopgrad": "tab:purple",
    "whitebox_full": "tab:red",
    "fixed_randomness": "tab:brown",
    "blackbox": "tab:blue",
}
# The colours of all other threat models, in turn.
_OTHER_COLORS = ("navy", "gold", "teal", "magenta", "yellowgreen", "salmon")
# What the attackers know, in words, where the name of the threat model does not say it.
_KNOWLEDGE = {
    "oblivious": "no knowledge",
    "bpda": "approximate gradient",
    "whitebox_stopgrad": "map held constant",
    "whitebox_full": "full knowledge",
    "blackbox": "queries",
}
_TO_THE_RIGHT: dict[str, Any] = {
    "loc": "center left",
    "bbox_to_anchor": (1.02, 0.5),
    "frameon": False,
}


def plot_accuracy(report: "Report") -> "Figure":
    """Plots accuracy against epsilon, a line for each threat model."""
    _check_attacked(report)
    figure = new_figure(figsize=(7, 4.2))
    axis = figure.subplots()
    benign, bare = report.cell("benign"), report.defences[0]
    colors = _colors(report)
    for (threat_model, labels, _), cells in _curves(report, report.evaluated).items():
        is_predicted = labels == "predicted"
        _plot_curve(
            axis,
            # A single point does not show how accuracy falls on the way.
            [benign, *cells] if len(cells) > 1 else cells,
            f"{threat_model}, {cells[0]['attack']}" + ", predicted labels" * is_predicted,
            color=colors[threat_model],
            linestyle=":" if is_predicted else "-",
            marker="o",
            markersize=4,
        )
    oblivious = [
        cells for key, cells in _curves(report, bare).items() if key[:2] == ("oblivious", "true")
    ]
    for cells in oblivious if bare != report.evaluated else []:
        cells = [report.cell("benign", defence=bare), *cells]
        label = f"{bare}, {cells[1]['attack']}"
        _plot_curve(axis, cells, label, color="gray", linestyle="--", marker=".")
    norm = next(cell["norm"] for cell in report.cells if cell.get("norm"))
    epsilons = sorted({cell["epsilon"] for cell in report.cells if cell.get("norm") == norm})
    worst = [
        {"epsilon": epsilon, "accuracy": report.worst(norm=norm, epsilon=epsilon)}
        for epsilon in epsilons
    ]
    _plot_curve(axis, [benign, *worst], "worst", color="black", linewidth=2, zorder=1)
    axis.set_xlabel("epsilon")
    axis.set_xticks([0.0, *epsilons], ["0", *map(tables.epsilon_text, epsilons)])
    axis.set_ylabel(f"accuracy of {report.evaluated} (%)")
    axis.set_ylim(-2, 102)
    axis.grid(alpha=0.3)
    axis.legend(**_TO_THE_RIGHT)
    return figure


def _check_attacked(report: "Report") -> None:
    if not report.budgets:
        raise ValueError("There is nothing to plot: no attack of this report was run.")


def _plot_curve(axis: "Axes", cells: list[Cell], label: str, **style: Any) -> None:
    accuracies = np.array([cell["accuracy"] for cell in cells], "float64")
    axis.plot([cell["epsilon"] for cell in cells], 100 * accuracies, label=label, **style)


def _curves(report: "Report", defence: str) -> Mapping[tuple[str, str, int], list[Cell]]:
    """Returns, for each threat model, the cells of the attack of the epsilon sweep."""
    attacked = [cell for cell in report.cells if cell["attack"] != "benign"]
    first = attacked[0]["attack"], attacked[0]["norm"]
    curves: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in attacked:
        if cell["defence"] != defence:
            continue
        key = (cell["threat_model"], cell["labels"], cell.get("samples", 1))
        # An attack that only queries is not in the sweep, and is plotted as a point.
        is_point = key not in curves and cell["threat_model"] == "blackbox"
        if (cell["attack"], cell["norm"]) == first or is_point:
            curves.setdefault(key, []).append(cell)
    return {key: sorted(cells, key=lambda cell: cell["epsilon"]) for key, cells in curves.items()}


def _colors(report: "Report") -> dict[str, str]:
    """Returns a colour for each threat model, the known ones first, others in report order."""
    attacked = [cell for cell in report.cells if cell["attack"] != "benign"]
    found = dict.fromkeys(cell["threat_model"] for cell in attacked)
    known = {name: color for name, color in _COLORS.items() if name in found}
    others = [name for name in found if name not in known]
    return {**known, **dict(zip(others, itertools.cycle(_OTHER_COLORS)))}


def plot_defences(report: "Report") -> "Figure":
    """Plots accuracies as dots: a row for each defence, a colour for each threat model."""
    _check_attacked(report)
    norm, epsilon = report.budgets[0]
    colors = _colors(report)
    positions = np.arange(len(report.defences))
    height = 0.8 + 0.3 * len(report.defences) + 0.2 * math.ceil((len(colors) + 2) / 2)
    figure = new_figure(figsize=(5, height))
    axis = figure.subplots()

    def plot_dots(accuracies: Sequence[float | None], label: str, **style: Any) -> None:
        axis.plot(100 * np.array(accuracies, "float64"), positions, "o", label=label, **style)

    benign = [report.cell("benign", defence=name)["accuracy"] for name in report.defences]
    worst = [report.worst(name, norm, epsilon) for name in report.defences]
    for position, ends in enumerate(zip(worst, benign, strict=True)):
        # Without a worst case, one end is NaN, and there is no line.
        percent = 100 * np.array(ends, "float64")
        axis.plot(percent, [position] * 2, color="silver", linewidth=1, zorder=1)
    plot_dots(benign, "benign", color="gray", markerfacecolor="white")
    for threat_model, color in colors.items():
        accuracies = [report.worst(name, norm, epsilon, threat_model) for name in report.defences]
        words = _KNOWLEDGE.get(threat_model)
        label = f"{words} ({threat_model})" if words else threat_model
        plot_dots(accuracies, label, color=color, markersize=5)
    # The ring leaves the threat model visible that the worst case comes from.
    plot_dots(worst, "worst", color="black", markerfacecolor="none", markersize=10)
    axis.set_yticks(positions, report.defences)
    axis.set_ylim(len(positions) - 0.5, -0.5)
    axis.set_xlim(-3, 103)
    axis.set_xlabel(f"accuracy (%), {tables.budget_text(norm, epsilon)}")
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, columnspacing=1, frameon=False)
    return figure


def plot_quality(report: "Report") -> "Figure":
    """Plots PSNR and SSIM of adversarial and restored images."""
    table = tables.quality_table(report)
    keys = [[text for text in row if text != "-"] for row in table.iloc[:, :3].to_numpy()]
    positions = np.arange(len(table))
    figure = new_figure(figsize=(8, 1 + 0.3 * len(table)))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, measure, unit in zip(axes, ("PSNR", "SSIM"), (" (dB)", ""), strict=True):
        for shift, state, color in ((-0.2, "attacked", "tab:red"), (0.2, "restored", "tab:green")):
            values = table[f"{measure} {state}"]
            axis.barh(positions + shift, values, height=0.38, color=color, label=state)
        axis.set_yticks(positions, [", ".join(key) for key in keys])
        axis.set_xlabel(measure + unit)
        axis.grid(axis="x", alpha=0.3)
    axes[-1].margins(y=0.01)
    axes[-1].invert_yaxis()
    axes[-1].legend(**_TO_THE_RIGHT)
    return figure


def plot_pictures(report: "Report") -> "Figure":
    """Shows adversarial and restored images, a row for each threat model."""
    pictures = report.pictures or []
    figure, axes = make_image_grid(
        len(pictures), pictures[0].states, width=1.2, height=1.35, margin=1.2
    )
    for row, picture in zip(axes, pictures, strict=True):
        shown = zip(row, picture.images, picture.predicted, picture.labels, strict=True)
        for axis, image, predicted, label in shown:
            name = None if picture.class_names is None else picture.class_names[predicted]
            show_image(axis, image, predicted, label, name)
        row[0].text(-0.2, 0.5, picture.title, transform=row[0].transAxes, ha="right", va="center")
    return figure
