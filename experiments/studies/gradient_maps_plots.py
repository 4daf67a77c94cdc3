"""The tables and the plot of the comparison of gradient maps."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_trn.visualization import import_figure

Runs = list[dict[str, Any]]
# Attack, threat model, norm and epsilon of a cell.
Key = tuple[str, str | None, str | None, float]

# The columns of the tables about single attacks.
COMPARED = (
    "bare",
    "single stream",
    "EstimatedLabel, map zeroed",
    "EstimatedLabel",
    "EstimatedLabel, label known",
)
_COLORS = dict(zip(COMPARED, ("gray", "tab:blue", "tab:olive", "tab:red", "black"), strict=True))
_NORMS = {"linf": "L∞", "l2": "L2"}
_BENIGN: Key = ("benign", None, None, 0.0)


def variants_table(runs: Runs) -> str:
    """Makes a table with a row for each variant: its cost, and its means over attacks.

    A number after ± is half the range of the seeds.
    """
    lines = [
        "| variant | parameters | backward passes | ms per image | agreement, benign (%) "
        "| agreement, attacked (%) | PSNR, PGD-20 (dB) | PSNR, BIM-20 (dB) | PSNR, MIM-20 (dB) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    attacked = [key for key in _keys(runs) if key[0] not in ("benign", "noise")]
    for variant in _variants(runs)[1:]:
        of_variant = _of(runs, variant)
        first = of_variant[0]
        agreements = [
            np.mean([_value(run, k, "agreement") for k in attacked]) for run in of_variant
        ]
        cells = [
            f"{first['parameters']:,}",
            first["backward_passes"],
            f"{np.median([run['milliseconds_per_image'] for run in of_variant]):.2f}",
            _show(of_variant, _BENIGN, "agreement", 100),
            _with_range(100 * np.array(agreements)),
            *(
                _show(of_variant, (attack, "oblivious", "linf", 0.1), "restored_psnr")
                for attack in ("PGD-20", "BIM-20", "MIM-20")
            ),
        ]
        lines.append(f"| {variant} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def attacks_table(runs: Runs, measure: str, factor: float = 1) -> str:
    """Makes a table of `agreement` or `restored_psnr`: a row per attack, a column per variant."""
    compared = [name for name in COMPARED if measure == "agreement" or name != "bare"]
    lines = [f"| attack | {' | '.join(compared)} |", "|---|" + "---:|" * len(compared)]
    for key in _keys(runs):
        cells = (_show(_of(runs, variant), key, measure, factor) for variant in compared)
        lines.append(f"| {_title(key)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot_gradient_maps(runs: Runs) -> Any:
    """Plots how much each variant restores, and its agreement as epsilon grows."""
    figure = import_figure()(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _plot_gains(left, runs)
    _plot_agreement(right, runs)
    return figure


def _plot_gains(axis: Any, runs: Runs) -> None:
    """Draws a dot for each seed: PSNR above the single stream's with the same seed."""
    variants = [name for name in _variants(runs) if name not in ("bare", "single stream")]
    baselines = {run["seed"]: run for run in _of(runs, "single stream")}
    attacks = {"PGD-20": "o", "BIM-20": "s", "MIM-20": "^", "FGSM": "x"}
    shifts = np.linspace(-0.25, 0.25, len(attacks))
    for row, variant in enumerate(variants):
        for shift, (attack, marker) in zip(shifts, attacks.items(), strict=True):
            key = (attack, "oblivious", "linf", 0.1)
            gains = [
                _value(run, key, "restored_psnr")
                - _value(baselines[run["seed"]], key, "restored_psnr")
                for run in _of(runs, variant)
            ]
            axis.plot(
                gains,
                [row + shift] * len(gains),
                marker,
                color=_COLORS.get(variant, "tab:purple"),
                label=attack if row == 0 else None,
                markersize=5,
            )
    axis.axvline(0, color="tab:blue", linewidth=1)
    axis.set_yticks(range(len(variants)), variants)
    axis.invert_yaxis()
    axis.set_xlabel("PSNR above the single stream of equal size (dB), epsilon 0.1")
    axis.grid(axis="x", alpha=0.3)
    legend = axis.legend(
        frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(attacks)
    )
    for handle in legend.legend_handles:
        handle.set_color("gray")


def _plot_agreement(axis: Any, runs: Runs) -> None:
    """Draws agreement with the benign prediction against epsilon, and the range of the seeds."""
    curve = [key for key in _keys(runs) if key[:3] == ("PGD-20", "oblivious", "linf")]
    keys = [_BENIGN, *sorted(curve, key=lambda key: key[3])]
    epsilons = [key[3] for key in keys]
    for variant, color in _COLORS.items():
        values = np.array(
            [[100 * _value(run, key, "agreement") for key in keys] for run in _of(runs, variant)]
        )
        mean = values.mean(axis=0)
        axis.plot(epsilons, mean, marker="o", markersize=4, color=color, label=variant)
        axis.fill_between(epsilons, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2)
    axis.set_xlabel("epsilon of PGD-20")
    axis.set_ylabel("agreement with the benign prediction (%)")
    axis.set_ylim(-2, 102)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="center right")


def _variants(runs: Runs) -> list[str]:
    return list(dict.fromkeys(run["variant"] for run in runs))


def _of(runs: Runs, variant: str) -> Runs:
    return [run for run in runs if run["variant"] == variant]


def _key(cell: dict[str, Any]) -> Key:
    return cell["attack"], cell["threat_model"], cell["norm"], cell["epsilon"]


def _keys(runs: Runs) -> list[Key]:
    return [_key(cell) for cell in runs[0]["cells"]]


def _title(key: Key) -> str:
    attack, threat_model, norm, epsilon = key
    if norm is None:
        return attack
    transferred = ", transferred" if threat_model == "transfer" else ""
    return f"{attack}{transferred}, {_NORMS[norm]} {epsilon:g}"


def _value(run: dict[str, Any], key: Key, measure: str) -> float:
    """Returns one number of a run; NaN where it does not apply."""
    (value,) = [cell[measure] for cell in run["cells"] if _key(cell) == key]
    return np.nan if value is None else value


def _show(runs: Iterable[dict[str, Any]], key: Key, measure: str, factor: float = 1) -> str:
    return _with_range(np.array([factor * _value(run, key, measure) for run in runs]))


def _with_range(values: np.ndarray) -> str:
    """Formats the mean of the seeds and half their range."""
    if np.isnan(values).any():
        return "-"
    return f"{values.mean():.1f} ± {np.ptp(values) / 2:.1f}"
