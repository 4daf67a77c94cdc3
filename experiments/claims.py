"""Checks the documentation's claims about the results.

`python -m experiments.claims results` writes `results/claims.md`: a table of the claims, the
figures that decide them, and whether they hold. New results may change any of it.
"""

import functools
import json
import operator
import sys
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from keras_trn.evaluation import Report
from keras_trn.evaluation.packing import unpack_bits
from keras_trn.evaluation.tables import markdown_table

# The figure, and whether the claim holds.
Finding = tuple[str, bool]
FILTERS = ("JPEG", "bit depth", "median", "total variation")
RESTORERS = ("protected", "single stream", "HGD", "APE-GAN")
BASELINES = (*FILTERS, *RESTORERS[1:], "adversarial training")
ATTACKS = ("PGD-20", "FGSM", "BIM-20", "MIM-20")
ITERATIVE = ("PGD-20", "BIM-20", "MIM-20")


class Results:
    """Loads the JSON files of a folder by name."""

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

    def oblivious(
        self, name: str, attacks: Iterable[str] = ATTACKS, defence: str = "protected", **where: Any
    ) -> list[dict[str, Any]]:
        """Returns the cells of some oblivious attacks."""
        report = self.report(name)
        return [report.cell(attack, "oblivious", defence, **where) for attack in attacks]


# From the results and the name of a report.
Check = Callable[[Results, str], Finding]


def benign_cost(at_most: float) -> Check:
    """Claims that protection costs at most this many points of benign accuracy."""

    def check(results: Results, name: str) -> Finding:
        benign = results.summary(name, "benign")
        cost = benign["bare"] - benign["protected"]
        return f"{benign['bare']:.1f} - {benign['protected']:.1f}", cost <= at_most + 1e-6

    return check


def falls(attacks: Iterable[str]) -> Check:
    """Claims that the attacks leave the bare classifier at most one percent."""

    def check(results: Results, name: str) -> Finding:
        cells = results.oblivious(name, attacks, "bare")
        largest = max(cell["accuracy"] for cell in cells)
        return f"{largest:.1%}", largest <= 0.01

    return check


def keeps(measure: str, at_least: float, attacks: Iterable[str] = ATTACKS, **where: Any) -> Check:
    """Claims that accuracy or agreement is large enough under each of the attacks."""

    def check(results: Results, name: str) -> Finding:
        smallest = min(cell[measure] for cell in results.oblivious(name, attacks, **where))
        return f"{smallest:.1%}", smallest >= at_least

    return check


def ahead(column: str, leader: str, others: Iterable[str], suffix: str = "") -> Check:
    """Claims that one defence keeps more images than each of the others."""

    def check(results: Results, name: str) -> Finding:
        figures = results.summary(name + suffix, column)
        best = max((one for one in others if one in figures), key=lambda one: figures[one])
        figure = f"{figures[leader]:.1f}; {best} {figures[best]:.1f}"
        return figure, figures[leader] > figures[best]

    return check


def worst_below(limit: float) -> Check:
    """Claims that every restorer keeps less than this percentage of the images."""

    def check(results: Results, name: str) -> Finding:
        figures = results.summary(f"{name}_worst", "worst")
        largest = max(figures[one] for one in RESTORERS)
        return f"{largest:.1f}", largest < limit

    return check


def leaves_nothing(results: Results, name: str) -> Finding:
    """Counts the images that withstand all attackers of a report."""
    worst = results.report(name).worst()
    return f"{100 * worst:.1f}%", worst == 0


def psnr(rises: bool) -> Check:
    """Claims that restoring brings images closer to the clean ones, or that it never does."""

    def check(results: Results, name: str) -> Finding:
        cells = results.oblivious(name)
        gains = [cell["restored_psnr"] - cell["attacked_psnr"] for cell in cells]
        return f"{min(gains):+.1f} to {max(gains):+.1f} dB", all((g > 0) == rises for g in gains)

    return check


def complete(results: Results, name: str) -> Finding:
    """Checks that the tables have every baseline and every threat model."""
    reports = [results.report(name + suffix) for suffix in ("", "_worst", "_all")]
    threat_models = {cell["threat_model"] for report in reports for cell in report.cells}
    expected = {"oblivious", "transfer", "bpda", "whitebox_stopgrad", "whitebox_full", "blackbox"}
    holds = threat_models == {None, *expected} and all(
        report.defences == ["bare", "protected", *BASELINES] for report in reports
    )
    images = [report.cell("benign")["examples"] for report in reports]
    return f"{', '.join(map(str, images))} images", holds


def second_stream(labels: str) -> Check:
    """Claims that the second stream helps, in the mean over the attacks."""

    def check(results: Results, name: str) -> Finding:
        means = []
        for defence in ("protected", "single stream"):
            cells = results.oblivious(name, defence=defence, labels=labels)
            means.append(sum(cell["accuracy"] for cell in cells) / len(cells))
        return f"{means[0]:.1%}; single stream {means[1]:.1%}", means[0] > means[1]

    return check


def map_helps(baseline: str) -> Check:
    """Claims that each seed with the map beats each seed without by more than a decibel."""

    def check(results: Results, name: str) -> Finding:
        def psnr(variant: str, attack: str) -> list[float]:
            return [
                cell["restored_psnr"]
                for run in results.study(name)["runs"]
                for cell in run["cells"]
                if run["variant"] == variant
                and (cell["attack"], cell["threat_model"]) == (attack, "oblivious")
                and (cell["norm"], cell["epsilon"]) == ("linf", 0.1)
            ]

        gains = [min(psnr("EstimatedLabel", a)) - max(psnr(baseline, a)) for a in ITERATIVE]
        return f"at least {min(gains):+.1f} dB", min(gains) > 1

    return check


def label_leaks(results: Results, name: str) -> Finding:
    """Checks that a restorer trained on true labels reads them from perturbations."""
    rows = [r for r in results.study(name)["rows"] if r["defence"] == "trained on the truth"]
    benign, attacked = (row["accuracy_where_wrong_before"] for row in rows[:2])
    return f"{benign:.1%} without attack, {attacked:.1%} under it", attacked > benign + 0.3


def costs_at_most(limit: float, *keys: str) -> Check:
    """Claims that a ratio of a benchmark is at most a limit; the keys lead to the ratio."""

    def check(results: Results, name: str) -> Finding:
        ratio = functools.reduce(operator.getitem, keys, results.study(name))
        return f"{ratio:.2f}", ratio <= limit

    return check


def time_over_operations(limit: float, images: str) -> Check:
    """Claims that protection multiplies times hardly more than it multiplies operations."""

    def check(results: Results, name: str) -> Finding:
        restoring = results.study(name)["restoring"]
        times = restoring[images]["over_bare"]["protected"]
        ratio = times / restoring["operations_over_bare"]["protected"]
        return f"{ratio:.2f}", ratio <= limit

    return check


def two_workers_share(efficiency: float) -> Check:
    """Claims that two workers craft nearly twice as fast as one."""

    def check(results: Results, name: str) -> Finding:
        reached = results.study(name)["workers"]["crafting"]["speedup"] / 2
        return f"{reached:.2f}", reached >= efficiency

    return check


def guard_keeps_classes(results: Results, name: str) -> Finding:
    """Compares the accuracies of both restorers with the hardened one's, for each attacker."""
    pairs = list(
        zip(
            *(_of_guard(results, name, part) for part in ("hardened restorer", "both")), strict=True
        )
    )
    figure = ", ".join(f"{100 * cell['accuracy']:.1f}%" for _, cell in pairs)
    return figure, all(first["accuracy"] == second["accuracy"] for first, second in pairs)


def guard_returns_images(results: Results, name: str) -> Finding:
    """Compares the PSNR of attacked and restored images, for each attacker."""
    cells = [cell for cell in _of_guard(results, name, "both") if cell["threat_model"]]
    pairs = [(cell["attacked_psnr"], cell["restored_psnr"]) for cell in cells]
    figure = ", ".join(f"{attacked:.1f} -> {restored:.1f} dB" for attacked, restored in pairs)
    return figure, all(restored > attacked for attacked, restored in pairs)


def mixing_costs(points: float) -> Check:
    """Checks what the worst case pays, at least, for a point of benign accuracy."""

    def check(results: Results, name: str) -> Finding:
        first, *others = results.study(name)["mixing"]
        paid = [
            (first["worst"] - row["worst"]) / (row["benign"] - first["benign"]) for row in others
        ]
        return f"at least {min(paid):.1f} points", min(paid) >= points

    return check


def _of_guard(results: Results, name: str, defence: str) -> list[dict[str, Any]]:
    return [cell for cell in results.study(name)["cells"] if cell["defence"] == defence]


def attacks_respect_proofs(results: Results, name: str) -> Finding:
    """Counts the images of a certified method that an attack breaks in spite of a proof."""
    survives = _withstand_all(results.report(name), "interval bounds")
    proofs = results.study(f"{name}_proofs")["test"]
    proved = unpack_bits(proofs["certified"], len(survives))
    broken = int((proved & ~survives).sum())
    return f"{broken} of {proved.sum()} proved images broken", broken == 0


def _withstand_all(report: Report, defence: str) -> np.ndarray:
    """Returns which images a defence classifies correctly under every attack, and without one."""
    cells = [cell for cell in report.cells if cell["defence"] == defence]
    return np.all([report.correct(cell) for cell in cells], axis=0)


def lead_is_within_chance(results: Results, name: str) -> Finding:
    """Compares the worst cases on the same images, with the exact test of McNemar."""
    own, other = (
        _withstand_all(results.report(name), defence)
        for defence in ("protected", "adversarial training")
    )
    only_own, only_other = int((own & ~other).sum()), int((other & ~own).sum())
    probability = scipy.stats.binomtest(only_own, only_own + only_other).pvalue
    return f"{only_own} and {only_other} images, p = {probability:.2f}", probability > 0.05


def _survivors(results: Results, name: str) -> dict[tuple[str, str], list[Any]]:
    """Returns who survives, by model and attack: the authors' implementation and our own."""
    study = results.study(name)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in study["cells"]:
        survive = unpack_bits(cell["survivors"], study["settings"]["images"])
        found.setdefault((cell["model"], cell["attack"]), {})[cell["implementation"]] = survive
    return {key: [of["authors"], of["keras_trn"]] for key, of in found.items()}


def attacks_are_as_strong(points: float) -> Check:
    """Claims that each attack leaves about as many images as the authors' implementation."""

    def check(results: Results, name: str) -> Finding:
        pairs = _survivors(results, name).values()
        largest = max(100 * abs(theirs.mean() - own.mean()) for theirs, own in pairs)
        return f"at most {largest:.1f} points apart", largest <= points + 1e-6

    return check


def ensembles_agree(at_least: float) -> Check:
    """Claims that both implementations of the ensemble leave nearly the same images."""

    def check(results: Results, name: str) -> Finding:
        pairs = [
            pair for (_, attack), pair in _survivors(results, name).items() if attack == "standard"
        ]
        smallest = min((theirs == own).mean() for theirs, own in pairs)
        return f"{smallest:.1%}", smallest >= at_least

    return check


def _of_form(results: Results, name: str, form: str) -> list[dict[str, Any]]:
    """Returns the cells of one form of AutoAttack, one for each defence."""
    names = {"fast": "AutoAttack fast", "standard": "AutoAttack"}
    return [cell for cell in results.study(name)["cells"] if cell["attack"] == names[form]]


def fast_form_suffices(points: float) -> Check:
    """Claims that the fast form of AutoAttack leaves about as many images as the standard one."""

    def check(results: Results, name: str) -> Finding:
        pairs = zip(*(_of_form(results, name, form) for form in ("fast", "standard")), strict=True)
        largest = max(100 * (fast["accuracy"] - full["accuracy"]) for fast, full in pairs)
        return f"at most {largest:.1f} points apart", largest <= points + 1e-6

    return check


def standard_form_costs_its_passes(limit: float) -> Check:
    """Claims that the standard AutoAttack takes hardly longer than its passes."""

    def check(results: Results, name: str) -> Finding:
        cells = _of_form(results, name, "standard")
        ratios = [cell["seconds"] / cell["seconds_of_passes"] for cell in cells]
        return " and ".join(f"{ratio:.2f}" for ratio in ratios), max(ratios) <= limit

    return check


def square_is_faster_than_art(times: float, points: float) -> Check:
    """Claims that Square is faster than ART's with equal queries, and breaks as many images."""

    def check(results: Results, name: str) -> Finding:
        own, art = (results.study(name)["measured"][one] for one in ("keras_trn", "ART"))
        speedup = art["second_seconds"] / own["second_seconds"]
        more = 100 * (own["accuracy"] - art["accuracy"])
        figure = f"{speedup:.1f} times as fast, {more:+.1f} points"
        return figure, speedup >= times and more <= points + 1e-6

    return check


OTHERS = (*RESTORERS, *FILTERS)
HARDENED = {
    "In the worst case it keeps more than adversarial training": ahead(
        "worst", "protected", ["adversarial training"]
    ),
    "Without an attack it is ahead of adversarial training": ahead(
        "benign", "protected", ["adversarial training"]
    ),
    "Its lead over adversarial training in the worst case is within chance": lead_is_within_chance,
}
CERTIFIED = {"No attack breaks an image with a proof": attacks_respect_proofs}
AUTO_ATTACK = {
    "Each attack of AutoAttack is within a point of the authors'": attacks_are_as_strong(1),
    "Both ensembles leave the same images, for at least 98%": ensembles_agree(0.98),
}
# By the name of the results that decide them.
CLAIMS: dict[str, dict[str, Check]] = {
    "trn_fashion_mnist": {
        "The tables have every baseline and threat model": complete,
        "Protection costs at most half a point": benign_cost(0.5),
        "PGD leaves the bare classifier at most 1%": falls(["PGD-20"]),
        "Under each oblivious attack at least 92% keep their class": keeps(
            "agreement", 0.92, labels="predicted"
        ),
        "Restored images are closer to the clean ones": psnr(rises=True),
        "Under oblivious attacks it is ahead of the single stream": ahead(
            "oblivious", "protected", ["single stream"]
        ),
        "Without knowledge and under transfer, adversarial training keeps the most": ahead(
            "worst", "adversarial training", OTHERS
        ),
        "Against attackers with full knowledge, the single stream keeps more": ahead(
            "worst", "single stream", ["protected"], "_worst"
        ),
        "No plain restorer keeps 15% under an attacker with full knowledge": worst_below(15),
    },
    "trn_cifar10": {
        "The tables have every baseline and threat model": complete,
        "Protection costs at most a point": benign_cost(1.0),
        "PGD leaves the bare classifier at most 1%": falls(["PGD-20"]),
        "At least 85% are correct under each oblivious attack, true labels": keeps(
            "accuracy", 0.85
        ),
        "Under oblivious attacks it keeps the most images": ahead(
            "oblivious", "protected", BASELINES
        ),
        "Under transferred attacks the single stream keeps more": ahead(
            "transfer", "single stream", ["protected"]
        ),
        "Under transferred attacks adversarial training keeps the most": ahead(
            "transfer", "adversarial training", OTHERS
        ),
        "The second stream helps, true labels": second_stream("true"),
        "The second stream helps, predicted labels": second_stream("predicted"),
        "Restored images are farther from the clean ones": psnr(rises=False),
        "Square breaks more images with any plain restorer than without": ahead(
            "blackbox", "bare", RESTORERS, "_worst"
        ),
        "No plain restorer keeps 5% under an attacker with full knowledge": worst_below(5),
    },
    "trn_hardened_fashion_mnist": {
        **HARDENED,
        "In the worst case it keeps more than adversarial training of a larger network": ahead(
            "worst", "protected", ["adversarial training, larger network"]
        ),
        "Without an attack it is ahead of adversarial training of a larger network": ahead(
            "benign", "protected", ["adversarial training, larger network"]
        ),
    },
    "trn_hardened_cifar10": HARDENED,
    "certified_fashion_mnist": CERTIFIED,
    "certified_cifar10": CERTIFIED,
    "auto_attack_linf": AUTO_ATTACK,
    "auto_attack_l2": AUTO_ATTACK,
    "auto_attack_forms": {
        "The fast form keeps at most a point more than the standard one": fast_form_suffices(1),
        "The standard form takes at most 1.2 times its passes": standard_form_costs_its_passes(1.2),
    },
    "square_comparison": {
        "Square is at least twice as fast as ART's, and leaves at most a point more": (
            square_is_faster_than_art(2, 1)
        ),
    },
    "guard_fashion_mnist": {
        "Both restorers classify as the hardened one alone": guard_keeps_classes,
        "Their images are closer to the clean ones than the attacked images": guard_returns_images,
        "Mixing costs at least 4 points for each point of benign accuracy": mixing_costs(4),
    },
    "trn_svhn_cropped": {
        "Attacks of several steps leave the bare classifier at most 1%": falls(ITERATIVE),
        "At least 60% are correct again under each, predicted labels": keeps(
            "accuracy", 0.6, ITERATIVE, labels="predicted"
        ),
    },
    "defences_digits": {
        "Under oblivious attacks it leads among the restorers": ahead(
            "oblivious", "protected", RESTORERS[1:]
        ),
        "Under transferred attacks it does not": ahead("transfer", "single stream", ["protected"]),
    },
    "quickstart_digits": {
        "At least 94% are correct under each oblivious attack, true labels": keeps(
            "accuracy", 0.94
        ),
    },
    "attack_it_yourself_digits": {
        "All attackers together leave nothing": leaves_nothing,
    },
    "gradient_maps_fashion_mnist": {
        "Under PGD, BIM and MIM, the map restores better than a single stream": map_helps(
            "single stream"
        ),
        "Under them, it restores better than zeros in its place": map_helps(
            "EstimatedLabel, map zeroed"
        ),
    },
    "benchmark": {
        "PGD-20 takes at most 1.1 times its passes": costs_at_most(
            1.1, "attacks", "over_passes", "keras_trn"
        ),
        "An image takes at most 1.2 times what its operations say": time_over_operations(
            1.2, "one_image"
        ),
        "128 images take at most 1.2 times what their operations say": time_over_operations(
            1.2, "batch"
        ),
        "Two workers craft with an efficiency of at least 0.85": two_workers_share(0.85),
        "Evaluating takes at most 1.15 times the attack's passes": costs_at_most(
            1.15, "evaluating", "evaluation_over_passes"
        ),
        "More images take at most 1.1 times the memory to craft": costs_at_most(
            1.1, "memory", "crafting", "growth"
        ),
        "More images take at most 1.1 times the memory to evaluate": costs_at_most(
            1.1, "memory", "evaluating", "growth"
        ),
    },
    "label_leak_fashion_mnist": {
        "A restorer that learns true labels reads them from attacks": label_leaks,
    },
}


def to_markdown(results: Results, claims: Mapping[str, Mapping[str, Check]] = CLAIMS) -> str:
    """Makes the table of the claims."""
    rows = []
    for name, checks in claims.items():
        for text, check in checks.items():
            figure, holds = check(results, name)
            rows.append([f"`{name}`", text, figure, "yes" if holds else "**no**"])
    return markdown_table(["results", "claim", "figure", "holds"], rows, "llll") + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "claims.md").write_text(to_markdown(Results(folder)), encoding="utf-8")
