"""The plots of a report."""

import numpy as np

from keras_trn.evaluation.tables import row_key
from keras_trn.visualization import import_figure
from keras_trn.visualization import show_image

# The worst case stands out; the others keep their colour from report to report.
_COLORS = {
    "oblivious": "tab:green",
    "transfer": "tab:olive",
    "bpda": "tab:orange",
    "whitebox_stopgrad": "tab:purple",
    "whitebox_full": "tab:red",
    "blackbox": "tab:blue",
}


def plot_accuracy(report):
    """Plots accuracy against epsilon, a line for each threat model.

    Args:
        report: A `keras_trn.evaluation.Report`.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = import_figure()(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    benign = report.cell("benign")["accuracy"]
    for (threat_model, labels, _), cells in _curves(report, report.evaluated).items():
        epsilons = [cell["epsilon"] for cell in cells]
        accuracies = [cell["accuracy"] for cell in cells]
        # One point says nothing of the way there.
        if len(cells) > 1:
            epsilons, accuracies = [0.0, *epsilons], [benign, *accuracies]
        predicted = labels == "predicted"
        axis.plot(
            epsilons,
            np.multiply(accuracies, 100),
            marker="o",
            markersize=4,
            color=_COLORS.get(threat_model),
            linestyle=":" if predicted else "-",
            label=f"{threat_model}, {cells[0]['attack']}" + (", predicted labels" * predicted),
        )
    _plot_bare(axis, report)
    _plot_worst(axis, report)
    axis.set_xlabel("epsilon")
    axis.set_ylabel(f"accuracy of {report.evaluated} (%)")
    axis.set_ylim(-2, 102)
    axis.grid(alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return figure


def _plot_bare(axis, report):
    bare = report.defences[0]
    if bare == report.evaluated:
        return
    for (threat_model, labels, _), cells in _curves(report, bare).items():
        if threat_model == "oblivious" and labels == "true":
            accuracies = [report.cell("benign", defence=bare), *cells]
            axis.plot(
                [0.0, *(cell["epsilon"] for cell in cells)],
                [100 * cell["accuracy"] for cell in accuracies],
                color="gray",
                linestyle="--",
                marker=".",
                label=f"{bare}, {cells[0]['attack']}",
            )


def _plot_worst(axis, report):
    """The worst case at each epsilon of the first attack's norm."""
    norm = next(cell["norm"] for cell in report.cells if cell.get("norm"))
    epsilons = {cell["epsilon"] for cell in report.cells if cell.get("norm") == norm}
    epsilons = sorted(epsilons)
    worst = [report.worst(norm=norm, epsilon=epsilon) for epsilon in epsilons]
    worst = np.array([report.cell("benign")["accuracy"], *worst], "float64")
    axis.plot([0.0, *epsilons], 100 * worst, color="black", linewidth=2, label="worst", zorder=1)


def _curves(report, defence):
    """Per threat model, the cells of the attack that was run at several epsilons."""
    attacked = [
        cell for cell in report.cells if cell["defence"] == defence and cell["attack"] != "benign"
    ]
    attacks = [(cell["attack"], cell["norm"]) for cell in report.cells if cell.get("norm")]
    curves = {}
    for cell in attacked:
        key = (cell["threat_model"], cell["labels"], cell.get("samples", 1))
        # An attack that only queries has no curve, and shows as a point.
        is_first = key not in curves and cell["threat_model"] == "blackbox"
        if (cell["attack"], cell["norm"]) == attacks[0] or is_first:
            curves.setdefault(key, []).append(cell)
    return {key: sorted(cells, key=lambda cell: cell["epsilon"]) for key, cells in curves.items()}


def plot_quality(report):
    """Plots PSNR and SSIM of adversarial and restored images.

    Args:
        report: A `keras_trn.evaluation.Report`.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    cells = [
        cell
        for cell in report.cells
        if cell["defence"] == report.evaluated and not cell.get("in_epsilon_sweep")
    ]
    figure = import_figure()(figsize=(8, 1 + 0.3 * len(cells)), layout="constrained")
    measures = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
    for axis, (measure, title) in zip(
        figure.subplots(1, 2, sharey=True), measures.items(), strict=True
    ):
        positions = np.arange(len(cells))
        for shift, state, color in ((-0.2, "attacked", "tab:red"), (0.2, "restored", "tab:green")):
            values = np.array([cell.get(f"{state}_{measure}") for cell in cells], "float64")
            # An exact copy would dwarf all others.
            values[values >= 99.95] = np.nan
            axis.barh(positions + shift, values, height=0.38, color=color, label=state)
        axis.set_yticks(positions, [_title(cell) for cell in cells])
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
    axis.margins(y=0.01)
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _title(cell):
    if cell["attack"] == "benign":
        return "benign"
    return ", ".join(row_key(cell))


def plot_pictures(report):
    """Shows adversarial and restored images, a row for each threat model.

    Above each image stands what the bare classifier takes it for, in red where
    that is wrong.

    Args:
        report: A `keras_trn.evaluation.Report` that was not read from a file.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    rows, columns = len(report.pictures), len(report.pictures[0].images)
    figure = import_figure()(figsize=(1.2 * columns + 1.2, 1.35 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, state in zip(axes[0], report.pictures[0].states, strict=True):
        axis.set_title(state, fontsize=10, pad=20)
    for row, picture in zip(axes, report.pictures, strict=True):
        for axis, *shown in zip(
            row, picture.images, picture.taken_for, picture.labels, strict=True
        ):
            show_image(axis, *shown)
        row[0].text(-0.2, 0.5, picture.title, transform=row[0].transAxes, ha="correct", va="center")
    return figure
