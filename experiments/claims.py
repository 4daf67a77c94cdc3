"""Checks what the documentation claims about the results.

`python -m experiments.claims results` writes `results/claims.md`: a table of the claims, the
figures that decide them, and whether they hold. A rerun may change any of it.
"""

import functools
import json
import sys
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_trn.evaluation import Report

# The figure, and whether the claim holds.
Finding = tuple[str, bool]
FILTERS = ("JPEG", "bit depth", "median", "total variation")
RESTORERS = ("protected", "single stream", "HGD", "APE-GAN")
BASELINES = (*FILTERS, *RESTORERS[1:], "adversarial training")
ATTACKS = ("PGD-20", "FGSM", "BIM-20", "MIM-20")
ITERATIVE = ("PGD-20", "BIM-20", "MIM-20")


class Results:
    """The JSON files of a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cache  # noqa: B019
    def report(self, name: str) -> Report:
        """Loads a report."""
        return Report.from_json(self.folder / f"{name}.json")

    def study(self, name: str) -> Any:
        """Loads the figures of a study."""
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))

    def summary(self, name: str, column: str) -> dict[str, float]:
        """Returns a column of a report's summary by defence, in percent."""
        lines = self.report(name).to_markdown("summary").splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        index = rows[0].index(column)
        figures = {row[0]: row[index] for row in rows[2:] if len(row) == len(rows[0])}
        return {name: float(figure) for name, figure in figures.items() if figure != "-"}

    def cells(
        self, name: str, attacks: Iterable[str] = ATTACKS, defence: str = "protected", **where: Any
    ) -> list[dict[str, Any]]:
        """Returns the cells of some oblivious attacks."""
        return [self.report(name).cell(attack, "oblivious", defence, **where) for attack in attacks]


Check = Callable[[Results], Finding]


def benign_cost(name: str, points: float) -> Check:
    """Protection costs at most so many points of benign accuracy."""

    def check(results: Results) -> Finding:
        benign = results.summary(name, "benign")
        cost = benign["bare"] - benign["protected"]
        return f"{benign['bare']:.1f} - {benign['protected']:.1f}", cost <= points + 1e-6

    return check


def extreme(
    name: str,
    measure: str,
    at_least: float | None = None,
    at_most: float | None = None,
    **where: Any,
) -> Check:
    """The smallest value under some attacks is large enough, or the largest is small enough."""

    def check(results: Results) -> Finding:
        values = [cell[measure] for cell in results.cells(name, **where)]
        if at_most is not None:
            return f"{max(values):.1%}", max(values) <= at_most
        return f"{min(values):.1%}", min(values) >= at_least

    return check


def ahead(name: str, column: str, leader: str, others: Iterable[str], points: float = 0) -> Check:
    """One defence keeps more images than each of the others, by more than some points."""

    def check(results: Results) -> Finding:
        figures = results.summary(name, column)
        best = max((one for one in others if one in figures), key=lambda one: figures[one])
        figure = f"{figures[leader]:.1f}; {best} {figures[best]:.1f}"
        return figure, figures[leader] > figures[best] + points

    return check


def all_below(
    name: str, column: str, defences: Iterable[str], bound: float | Iterable[str]
) -> Check:
    """All these defences keep fewer images than a bound, in percent, or than each of others."""

    def check(results: Results) -> Finding:
        figures = results.summary(name, column)
        limit = bound if isinstance(bound, float) else min(figures[other] for other in bound)
        largest = max(figures[one] for one in defences)
        return f"{largest:.1f}; limit {limit:.1f}", largest < limit

    return check


def psnr_rises(name: str, rises: bool) -> Check:
    """Restored images are closer to the clean ones than attacked ones; or farther, under all."""

    def check(results: Results) -> Finding:
        gains = [cell["restored_psnr"] - cell["attacked_psnr"] for cell in results.cells(name)]
        return f"{min(gains):+.1f} to {max(gains):+.1f} dB", all((g > 0) == rises for g in gains)

    return check


def complete(name: str) -> Check:
    """The tables have every baseline and every threat model."""

    def check(results: Results) -> Finding:
        reports = [results.report(name + suffix) for suffix in ("", "_worst", "_all")]
        threat_models = {cell["threat_model"] for report in reports for cell in report.cells}
        expected = {"oblivious", "transfer", "bpda", "whitebox_stopgrad", "whitebox_full"}
        holds = threat_models == {None, "blackbox", *expected} and all(
            report.defences == ["bare", "protected", *BASELINES] for report in reports
        )
        images = [report.cell("benign")["examples"] for report in reports]
        return f"{', '.join(map(str, images))} images", holds

    return check


def second_stream(labels: str) -> Check:
    """The second stream helps on CIFAR-10, in the mean over the attacks."""

    def check(results: Results) -> Finding:
        means = []
        for defence in ("protected", "single stream"):
            cells = results.cells("trn_cifar10", defence=defence, labels=labels)
            means.append(sum(cell["accuracy"] for cell in cells) / len(cells))
        return f"{means[0]:.1%}; single stream {means[1]:.1%}", means[0] > means[1]

    return check


def map_helps(baseline: str) -> Check:
    """Each seed with the map restores better than each seed without, by a decibel."""

    def check(results: Results) -> Finding:
        def psnr(variant: str, attack: str) -> list[float]:
            return [
                cell["restored_psnr"]
                for run in results.study("gradient_maps_fashion_mnist")["runs"]
                for cell in run["cells"]
                if run["variant"] == variant
                and (cell["attack"], cell["threat_model"]) == (attack, "oblivious")
                and (cell["norm"], cell["epsilon"]) == ("linf", 0.1)
            ]

        gains = [min(psnr("EstimatedLabel", a)) - max(psnr(baseline, a)) for a in ITERATIVE]
        return f"at least {min(gains):+.1f} dB", min(gains) > 1

    return check


def label_leaks(results: Results) -> Finding:
    """A restorer that learns the truth reads it from perturbations crafted with it."""
    rows = [
        row
        for row in results.study("label_leak_fashion_mnist")["rows"]
        if row["defence"] == "trained on the truth"
    ]
    benign, attacked = (row["accuracy_where_wrong_before"] for row in rows[:2])
    return f"{benign:.1%} without attack, {attacked:.1%} under it", attacked > benign + 0.3


FASHION, CIFAR, SVHN = "trn_fashion_mnist", "trn_cifar10", "trn_svhn_cropped"
PREDICTED = {"labels": "predicted"}
CLAIMS: list[tuple[str, Check]] = [
    ("Fashion-MNIST: the tables have every baseline and threat model", complete(FASHION)),
    ("Fashion-MNIST: protection costs at most half a point", benign_cost(FASHION, 0.5)),
    (
        "Fashion-MNIST: PGD leaves the bare classifier at most 1%",
        extreme(FASHION, "accuracy", at_most=0.01, attacks=["PGD-20"], defence="bare"),
    ),
    (
        "Fashion-MNIST: under each oblivious attack at least 92% keep their class",
        extreme(FASHION, "agreement", at_least=0.92, **PREDICTED),
    ),
    ("Fashion-MNIST: restored images are closer to the clean ones", psnr_rises(FASHION, True)),
    (
        "Fashion-MNIST: under oblivious attacks the single stream is close behind",
        ahead(FASHION, "oblivious", "protected", ["single stream"]),
    ),
    (
        "Fashion-MNIST: in the worst case adversarial training keeps the most images",
        ahead(FASHION, "worst", "adversarial training", [*RESTORERS, *FILTERS]),
    ),
    (
        "Fashion-MNIST: attackers who know leave the protected classifier the fewest of all restorers",
        all_below(f"{FASHION}_worst", "worst", ["protected"], RESTORERS[1:]),
    ),
    (
        "Fashion-MNIST: every restorer falls to an attacker who knows",
        all_below(f"{FASHION}_worst", "worst", RESTORERS, 15.0),
    ),
    ("CIFAR-10: the tables have every baseline and threat model", complete(CIFAR)),
    ("CIFAR-10: protection costs at most a point", benign_cost(CIFAR, 1.0)),
    (
        "CIFAR-10: PGD leaves the bare classifier at most 1%",
        extreme(CIFAR, "accuracy", at_most=0.01, attacks=["PGD-20"], defence="bare"),
    ),
    (
        "CIFAR-10: at least 85% are correct under each oblivious attack",
        extreme(CIFAR, "accuracy", at_least=0.85),
    ),
    (
        "CIFAR-10: under oblivious attacks it is three points ahead of every filter",
        ahead(CIFAR, "oblivious", "protected", FILTERS, 3),
    ),
    (
        "CIFAR-10: under oblivious attacks it brings back the most images",
        ahead(CIFAR, "oblivious", "protected", BASELINES),
    ),
    (
        "CIFAR-10: under transferred attacks the single stream keeps more",
        ahead(CIFAR, "transfer", "single stream", ["protected"]),
    ),
    (
        "CIFAR-10: under transferred attacks adversarial training keeps the most",
        ahead(CIFAR, "transfer", "adversarial training", [*RESTORERS, *FILTERS]),
    ),
    ("CIFAR-10: the second stream helps, true labels", second_stream("true")),
    ("CIFAR-10: the second stream helps, predicted labels", second_stream("predicted")),
    ("CIFAR-10: restored images are farther from the clean ones", psnr_rises(CIFAR, False)),
    (
        "CIFAR-10: Square breaks more images with any restorer than without",
        all_below(f"{CIFAR}_worst", "blackbox", RESTORERS, ["bare"]),
    ),
    (
        "CIFAR-10: every restorer falls to an attacker who knows",
        all_below(f"{CIFAR}_worst", "worst", RESTORERS, 5.0),
    ),
    (
        "SVHN: attacks of several steps leave the bare classifier at most 1%",
        extreme(SVHN, "accuracy", at_most=0.01, attacks=ITERATIVE, defence="bare"),
    ),
    (
        "SVHN: at least 60% come back under each of them",
        extreme(SVHN, "accuracy", at_least=0.6, attacks=ITERATIVE, **PREDICTED),
    ),
    (
        "Digits: under oblivious attacks it leads among the restorers",
        ahead("defences_digits", "oblivious", "protected", RESTORERS[1:]),
    ),
    (
        "Digits: under BPDA it does not lead",
        all_below("defences_digits", "bpda", ["protected"], ["single stream"]),
    ),
    (
        "Quickstart: at least 94% are correct under each oblivious attack",
        extreme("quickstart_digits", "accuracy", at_least=0.94),
    ),
    ("The gradient map restores better than a single stream", map_helps("single stream")),
    ("It restores better than with a zeroed map", map_helps("EstimatedLabel, map zeroed")),
    ("A restorer that learns true labels reads them from attacks", label_leaks),
]


def to_markdown(results: Results, claims: Iterable[tuple[str, Check]] = CLAIMS) -> str:
    """Makes the table of the claims."""
    lines = ["| claim | figure | holds |", "| --- | --- | --- |"]
    for text, check in claims:
        figure, holds = check(results)
        lines.append(f"| {text} | {figure} | {'yes' if holds else '**no**'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "claims.md").write_text(to_markdown(Results(folder)), encoding="utf-8")
