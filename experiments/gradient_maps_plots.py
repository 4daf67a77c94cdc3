"""The tables and the plot of the comparison of gradient maps."""

import numpy as np

from keras_trn.visualization import new_figure

# What the tables about single attacks show beside each other.
COMPARED = (
    "bare",
    "single stream",
    "EstimatedLabel, map zeroed",
    "EstimatedLabel",
    "EstimatedLabel, label known",
)
_COLORS = dict(zip(COMPARED, ("gray", "tab:blue", "tab:olive", "tab:red", "black"), strict=True))
_CURVE = "PGD-20"


def variants_table(runs):
    """Writes a table with a row for each variant: what it costs, and its means over attacks.

    Args:
        runs: List of dictionaries of the results.

    Returns:
        A text in Markdown. A number after ± is half the range of the seeds.
    """
    lines = [
        "| variant | parameters | backward passes | ms per image | agreement, benign (%) "
        "| agreement, attacked (%) | PSNR, PGD-20 (dB) | PSNR, BIM-20 (dB) | PSNR, MIM-20 (dB) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for variant in _variants(runs)[1:]:
        of_variant = _of(runs, variant)
        first = of_variant[0]
        attacks = [key for key in _keys(runs) if key[0] not in ("benign", "noise")]
        agreements = [np.mean([_value(run, k, "agreement") for k in attacks]) for run in of_variant]
        cells = [
            f"{first['parameters']:,}",
            first["backward_passes"],
            f"{np.median([run['milliseconds_per_image'] for run in of_variant]):.2f}",
            _show(runs, variant, ("benign", None, None, 0.0), "agreement", 100),
            _with_range(100 * np.array(agreements)),
            *(
                _show(runs, variant, (attack, "oblivious", "linf", 0.1), "restored_psnr")
                for attack in ("PGD-20", "BIM-20", "MIM-20")
            ),
        ]
        lines.append(f"| {variant} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def attacks_table(runs, measure, factor=1):
    """Writes a table with a row for each attack and a column for each compared variant.

    Args:
        runs: List of dictionaries of the results.
        measure: What is shown: `"agreement"` or `"restored_psnr"`.
        factor: What it is multiplied by.

    Returns:
        A text in Markdown. A number after ± is half the range of the seeds.
    """
    compared = [name for name in COMPARED if measure == "agreement" or name != "bare"]
    lines = [
        f"| attack | {' | '.join(compared)} |",
        "|---|" + "---:|" * len(compared),
    ]
    for key in _keys(runs):
        cells = " | ".join(_show(runs, variant, key, measure, factor) for variant in compared)
        lines.append(f"| {_title(key)} | {cells} |")
    return "\n".join(lines) + "\n"


def plot_gradient_maps(runs):
    """Plots how much each variant restores, and how it holds out as epsilon grows.

    Args:
        runs: List of dictionaries of the results.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(figsize=(11, 4.4))
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _plot_gains(left, runs)
    _plot_agreement(right, runs)
    return figure


def _plot_gains(axis, runs):
    """A dot for each seed: PSNR above the single stream's with the same seed."""
    variants = [name for name in _variants(runs) if name not in ("bare", "single stream")]
    attacks = {"PGD-20": "o", "BIM-20": "s", "MIM-20": "^", "FGSM": "x"}
    for row, variant in enumerate(variants):
        for shift, (attack, marker) in zip(
            np.linspace(-0.25, 0.25, len(attacks)), attacks.items(), strict=True
        ):
            key = (attack, "oblivious", "linf", 0.1)
            baselines = {run["seed"]: run for run in _of(runs, "single stream")}
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


def _plot_agreement(axis, runs):
    """Agreement with the benign prediction against epsilon, and the range of the seeds."""
    for variant in COMPARED:
        of_variant = _of(runs, variant)
        keys = [("benign", None, None, 0.0)]
        keys += sorted((k for k in _keys(runs) if _is_on_curve(k)), key=lambda key: key[3])
        values = np.array([[100 * _value(run, k, "agreement") for k in keys] for run in of_variant])
        epsilons = [key[3] for key in keys]
        color = _COLORS[variant]
        axis.plot(epsilons, values.mean(axis=0), marker="o", markersize=4, color=color)
        axis.fill_between(epsilons, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2)
        axis.lines[-1].set_label(variant)
    axis.set_xlabel("epsilon of PGD-20")
    axis.set_ylabel("agreement with the benign prediction (%)")
    axis.set_ylim(-2, 102)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="center right")


def _is_on_curve(key):
    return key[:3] == (_CURVE, "oblivious", "linf")


def _variants(runs):
    return list(dict.fromkeys(run["variant"] for run in runs))


def _of(runs, variant):
    return [run for run in runs if run["variant"] == variant]


def _key(cell):
    return cell["attack"], cell["threat_model"], cell["norm"], cell["epsilon"]


def _keys(runs):
    return [_key(cell) for cell in runs[0]["cells"]]


def _title(key):
    attack, threat_model, norm, epsilon = key
    if attack == "benign":
        return attack
    norm = {"linf": "L∞", "l2": "L2"}[norm]
    transferred = ", transferred" if threat_model == "transfer" else ""
    return f"{attack}{transferred}, {norm} {epsilon:g}"


def _value(run, key, measure):
    """One number of a run; NaN where it does not apply."""
    (value,) = [cell[measure] for cell in run["cells"] if _key(cell) == key]
    return np.nan if value is None else value


def _show(runs, variant, key, measure, factor=1):
    values = [factor * _value(run, key, measure) for run in _of(runs, variant)]
    return _with_range(np.array(values))


def _with_range(values):
    """The mean of the seeds, and half their range."""
    if np.isnan(values).any():
        return "-"
    return f"{values.mean():.1f} ± {np.ptp(values) / 2:.1f}"
