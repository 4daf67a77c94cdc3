"""Writes the results as tables in Markdown."""

from collections.abc import Mapping
from typing import Any

from keras_trn.evaluation.tables import markdown_table

Results = Mapping[str, Any]
# What was measured, its value, what it is compared with, the value of that, and the ratio.
Row = tuple[str, str, str, str, float]


def comparisons(results: Results) -> str:
    """Compares each measurement with what it needs."""
    rows = [
        *_of_attacks(results),
        *_of_predictions(results),
        *_of_training(results),
        *_of_evaluation(results),
        *_of_workers(results),
        *_of_memory(results),
    ]
    return markdown_table(
        ("measured", "", "compared with", "", "ratio"),
        [(*row[:-1], f"{row[-1]:.2f}") for row in rows],
        "lrlrr",
    )


def _passes(results: Results) -> str:
    return f"its {results['settings']['steps']} forward and backward passes"


def _of_attacks(results: Results) -> list[Row]:
    seconds = results["attacks"]["seconds"]
    steps = results["settings"]["steps"]
    return [
        (
            f"PGD-{steps} of {package}, {results['settings']['batch_size']} images",
            _seconds(seconds[package]),
            _passes(results),
            _seconds(seconds["passes"]),
            over,
        )
        for package, over in results["attacks"]["over_passes"].items()
    ]


def _of_predictions(results: Results) -> list[Row]:
    rows: list[Row] = []
    operations = results["restoring"]["operations_over_bare"]["protected"]
    for key in ("one_image", "batch"):
        measured = results["restoring"][key]
        seconds, over = measured["seconds"], measured["over_bare"]["protected"]
        images = _count(measured["images"])
        rows += [
            (
                f"protected prediction, {images}",
                _seconds(seconds["protected"]),
                "bare prediction",
                _seconds(seconds["bare"]),
                over,
            ),
            (
                f"its time over the bare one's, {images}",
                f"{over:.2f}",
                "its operations over the bare one's",
                f"{operations:.2f}",
                over / operations,
            ),
        ]
    return rows


def _of_training(results: Results) -> list[Row]:
    training = results["training"]
    return [
        (
            f"step of `fit`, {results['settings']['batch_size']} images",
            _seconds(training["seconds_of_step"]),
            "the passes that it needs",
            _seconds(sum(training["seconds_of_passes"].values())),
            training["step_over_passes"],
        )
    ]


def _of_evaluation(results: Results) -> list[Row]:
    evaluating = results["evaluating"]
    return [
        (
            f"evaluating PGD-{results['settings']['steps']}, {_count(evaluating['images'])}",
            _seconds(evaluating["seconds"]["evaluation"]),
            _passes(results),
            _seconds(evaluating["seconds"]["passes"]),
            evaluating["evaluation_over_passes"],
        )
    ]


def _of_workers(results: Results) -> list[Row]:
    return [
        (
            f"{name}, 2 workers of one core",
            _rate(work["two_workers"]),
            "1 worker",
            _rate(work["one_worker"]),
            work["speedup"],
        )
        for name, work in results["workers"].items()
    ]


def _of_memory(results: Results) -> list[Row]:
    few, many = map(_count, results["memory"]["images"])
    rows: list[Row] = []
    for name in ("crafting", "evaluating"):
        measured = results["memory"][name]
        small, large = measured["mebibytes"]
        rows.append(
            (f"peak memory, {name} {many}", f"{large} MiB", few, f"{small} MiB", measured["growth"])
        )
    return rows


PARTS = {
    "bare": "the classifier alone",
    "protected": "**protected**, all together",
    "classifier_passes": "passes of the classifier for the gradient map",
    "gradient": "the forward and backward pass among them",
    "first_restoration": "first restoration, for the gradient map",
    "two_streams": "the two streams",
    "residual_blocks": "the residual blocks in them",
    "fusion_blocks": "the fusion blocks in them",
    "pixel_shuffles": "all pixel shuffles",
}


def parts(results: Results) -> str:
    """Compares the time of each part of a prediction with its operations."""
    restoring = results["restoring"]
    columns = [
        restoring["operations_over_bare"],
        restoring["batch"]["over_bare"],
        restoring["one_image"]["over_bare"],
    ]
    return markdown_table(
        ("part", "operations", f"time, {restoring['batch']['images']} images", "time, 1 image"),
        [(title, *(f"{column[name]:.2f}" for column in columns)) for name, title in PARTS.items()],
        "lrrr",
    )


def imagenet(results: Results) -> str:
    """Shows how long ImageNet takes on some numbers of workers."""
    hours = results["imagenet"]["hours"].items()
    rows = [(workers, f"{number:,.0f}", f"{number / 24:,.1f}") for workers, number in hours]
    return markdown_table(("workers of one core", "hours", "days"), rows, "rrr")


def assumption_of_imagenet(results: Results) -> str:
    """Says from which figures the hours are computed, and what is assumed."""
    given = results["imagenet"]
    return (
        f"Computed for {given['images']:,} images of 224 x 224, a {given['classifier']} and "
        f"PGD-{given['steps']}. One image takes {given['billion_multiply_adds_per_image']:,.0f} "
        f"billion multiply-adds, and {given['seconds_per_image']:.1f} seconds on one core: "
        f"{given['seconds_per_billion_multiply_adds']:.3f} seconds for a billion. The assumption: "
        "any number of workers keeps the efficiency that two had on one machine, "
        f"{given['efficiency']:.0%}."
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _count(images: int) -> str:
    return "1 image" if images == 1 else f"{images:,} images"


def _rate(run: Results) -> str:
    return f"{run['images_per_second']:.0f} images/s"
