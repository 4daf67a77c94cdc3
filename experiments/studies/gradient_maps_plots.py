"""Makes the tables and the plot of the comparison of gradient maps."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from keras_trn.evaluation.tables import markdown_table
from keras_trn.visualization import new_figure

Runs = list[dict[str, Any]]

ITERATIVE = ("PGD-20", "BIM-20", "MIM-20")

# The columns of the tables about single attacks, and their colors.
COMPARED = {
    "bare": "gray",
    "single stream": "tab:blue",
    "EstimatedLabel, map zeroed": "tab:olive",
    "EstimatedLabel": "tab:red",
    "EstimatedLabel, label known": "black",
}


def as_frame(runs: Runs) -> pd.DataFrame:
    """Makes a row for each cell, with the columns of its run and a title for its attack."""
    cells = pd.DataFrame([{**run, **cell} for run in runs for cell in run["cells"]])
    norms = cells["norm"].map({"linf": "L∞", "l2": "L2"})
    transferred = cells["threat_model"].map({"transfer": ", transferred"}).fillna("")
    attacked = cells["attack"] + transferred + ", " + norms + cells["epsilon"].map(" {:g}".format)
    return cells.assign(title=attacked.fillna(cells["attack"]))


def variants_table(runs: Runs) -> str:
    """Makes a table with the cost and the means over attacks of each variant.

    A number after ± is half the range of the seeds.
    """
    header = [
        "variant",
        "parameters",
        "backward passes",
        "ms per image",
        "agreement, benign (%)",
        "agreement, attacked (%)",
        *(f"PSNR, {attack} (dB)" for attack in ITERATIVE),
    ]
    rows = []
    frame = as_frame(runs)
    for variant, cells in frame[frame["variant"] != "bare"].groupby("variant", sort=False):
        costs = cells.groupby("seed").first()
        attacked = cells[~cells["attack"].isin(["benign", "noise"])]
        row = [
            variant,
            f"{costs['parameters'].iloc[0]:,.0f}",
            f"{costs['backward_passes'].iloc[0]:.0f}",
            f"{costs['milliseconds_per_image'].median():.2f}",
            with_range(100 * cells[cells["attack"] == "benign"]["agreement"]),
            with_range(100 * attacked.groupby("seed")["agreement"].agg(lambda v: np.mean(list(v)))),
            *(
                with_range(cells[cells["title"] == f"{attack}, L∞ 0.1"]["restored_psnr"])
                for attack in ITERATIVE
            ),
        ]
        rows.append(row)
    return markdown_table(header, rows, "l" + "r" * (len(header) - 1))


def attacks_table(runs: Runs, measure: str, factor: float = 1) -> str:
    """Makes a table of `agreement` or `restored_psnr`: a row per attack, a column per variant."""
    compared = [name for name in COMPARED if measure == "agreement" or name != "bare"]
    rows = [
        [title, *(with_range(factor * cells[cells["variant"] == one][measure]) for one in compared)]
        for title, cells in as_frame(runs).groupby("title", sort=False)
    ]
    return markdown_table(["attack", *compared], rows, "l" + "r" * len(compared))


def with_range(values: Iterable[float]) -> str:
    """Formats the mean of the seeds and half their range."""
    seeds = np.array(values, float)
    if np.isnan(seeds).any():
        return "-"
    return f"{seeds.mean():.1f} ± {np.ptp(seeds) / 2:.1f}"


def plot_gradient_maps(runs: Runs) -> Any:
    """Plots the restoration of each variant, and its agreement against epsilon."""
    figure = new_figure(figsize=(11, 4.4))
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    frame = as_frame(runs)
    _plot_gains(left, frame)
    _plot_agreement(right, frame)
    return figure


def _plot_gains(axis: Any, frame: pd.DataFrame) -> None:
    """Draws a dot for each seed: the gain in PSNR over the single stream of the same seed."""
    markers = {"PGD-20": "o", "BIM-20": "s", "MIM-20": "^", "FGSM": "x"}
    variants = [v for v in frame["variant"].unique() if v not in ("bare", "single stream")]
    for shift, (attack, marker) in zip(np.linspace(-0.25, 0.25, 4), markers.items(), strict=True):
        of_attack = frame[frame["title"] == f"{attack}, L∞ 0.1"]
        psnr = of_attack.pivot(index="seed", columns="variant", values="restored_psnr")
        for row, variant in enumerate(variants):
            gains = (psnr[variant] - psnr["single stream"]).dropna()
            axis.plot(
                gains,
                [row + shift] * len(gains),
                marker,
                color=COMPARED.get(variant, "tab:purple"),
                label=attack if row == 0 else None,
                markersize=5,
            )
    axis.axvline(0, color="tab:blue", linewidth=1)
    axis.set_yticks(range(len(variants)), variants)
    axis.invert_yaxis()
    axis.set_xlabel("PSNR above the single stream of equal size (dB), epsilon 0.1")
    axis.grid(axis="x", alpha=0.3)
    legend = axis.legend(
        frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=4
    )
    for handle in legend.legend_handles:
        handle.set_color("gray")


def _plot_agreement(axis: Any, frame: pd.DataFrame) -> None:
    """Draws agreement with the benign prediction against epsilon, with the range of seeds."""
    descent = (frame["attack"] == "PGD-20") & (frame["norm"] == "linf")
    curve = frame[(frame["attack"] == "benign") | descent & (frame["threat_model"] == "oblivious")]
    for variant, color in COMPARED.items():
        cells = curve[curve["variant"] == variant].groupby("epsilon")["agreement"]
        mean, low, high = (100 * values for values in (cells.mean(), cells.min(), cells.max()))
        axis.plot(mean.index, mean, marker="o", markersize=4, color=color, label=variant)
        axis.fill_between(mean.index, low, high, color=color, alpha=0.2)
    axis.set_xlabel("epsilon of PGD-20")
    axis.set_ylabel("agreement with the benign prediction (%)")
    axis.set_ylim(-2, 102)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="center right")
