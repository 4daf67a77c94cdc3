"""Each task is done, and each page runs, by copying the blocks of a page in their order."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import keras
import pytest

from experiments.page_blocks import find_blocks
from keras_trn import threat_models
from keras_trn.evaluation import checks

ROOT = Path(__file__).parent.parent
# The home page has the first block of the README, and nothing else to run.
PAGES = [
    str(path.relative_to(ROOT))
    for path in (
        ROOT / "README.md",
        *sorted(set(ROOT.glob("docs/**/*.md")) - {ROOT / "docs/index.md"}),
        *sorted(ROOT.glob("keras_trn/presets/*.md")),
    )
    if find_blocks(path.read_text(encoding="utf-8"))
]

START = "docs/getting-started.md"
HARDEN = "docs/guides/harden-a-restorer.md"
EVALUATE = "docs/guides/evaluate-and-report.md"
WRITE = "docs/guides/write-an-attack-or-a-baseline.md"
SCALE_OUT = "docs/guides/scale-out.md"

# The page of each task, the section that ends it, and what then holds.
TASKS = {
    "protect": (
        START,
        "Put a restorer in front",
        "protected.restorer.built and protected.classifier is classifier",
    ),
    "train": (
        START,
        "Train",
        "protected.optimizer.iterations > 0 and 'val_adversarial_accuracy' in history.history",
    ),
    "calibrate": (
        START,
        "Limit the loss of benign accuracy",
        "calibration.benign_after >= 0.99",
    ),
    "save and load in a fresh process": (
        START,
        "Save and load",
        'f\'{report.cell("benign")["accuracy"]:.1%}\' in printed',
    ),
    "harden": (
        HARDEN,
        "Check that it holds",
        "hardened.threat_model.name == 'whitebox_full' and report.evaluated == 'protected'",
    ),
    "evaluate": (
        EVALUATE,
        "Evaluate a defence in one call",
        "report.worst() <= report.cell('PGD-10', 'whitebox_full')['accuracy']",
    ),
    "read the report": (
        EVALUATE,
        "Save, plot and share the report",
        "again.worst() == report.worst() and report.checks['protected']",
    ),
    "write an attack": (
        WRITE,
        "An attack",
        "wrong.mean() > (classifier.predict(images, verbose=0).argmax(-1) != labels).mean()",
    ),
    "write a baseline": (
        WRITE,
        "Both in a report",
        "report.cell(attack.name, 'oblivious', defence='mean')['examples'] == len(images)",
    ),
    "scale out": (
        SCALE_OUT,
        "Craft and evaluate on many machines",
        "report.cell('PGD-5', 'bpda')['examples'] == 360",
    ),
}

# Tracing attackers and sanity checks takes most of the time. These pages run all epochs and default
# attackers, and one of them all checks. Elsewhere, one epoch, one check, and the attackers who know
# nothing or everything show that a page runs.
PAGES_IN_FULL = ("README.md", "docs/evaluating.md")
PAGE_WITH_ALL_CHECKS = "docs/evaluating.md"
EPOCHS = re.compile(r"\bepochs=\d+")


def attackers_who_know_all(samples):
    return [threat_models.WhiteboxFull(samples=samples), threat_models.Blackbox(samples=samples)]


def one_check(examination):
    return [checks.outputs_are_logits(examination)]


class Reader:
    """Copies the blocks of a page into a program: in their order, and each of them once."""

    def __init__(self, page, folder):
        self.page, self.folder = page, folder
        self.blocks = find_blocks((ROOT / page).read_text(encoding="utf-8"))
        self.names = {"__name__": "__main__"}
        self.copied, self.printed = 0, ""

    def copy(self, last_section=None):
        """Copies the blocks up to the end of a section, or else of the page."""
        sections = [block.heading for block in self.blocks]
        assert last_section is None or last_section in sections
        last = max(n for n, section in enumerate(sections) if last_section in (None, section))
        while self.copied <= last:
            self.printed = self._run(self.blocks[self.copied])
            self.copied += 1

    def _run(self, block):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("MPLBACKEND", "Agg")
            if self.page != PAGE_WITH_ALL_CHECKS:
                patch.setattr("keras_trn.evaluation.evaluator.run_checks", one_check)
            if self.page not in PAGES_IN_FULL:
                block = dataclasses.replace(block, code=EPOCHS.sub("epochs=1", block.code))
                defaults = "keras_trn.evaluation.default_threat_models._adaptive"
                patch.setattr(defaults, attackers_who_know_all)
            return block.run(self.names, self.page)


@pytest.fixture(scope="module")
def reader_of(tmp_path_factory, ray_of_this_machine):
    """Finds the reader of a page, who goes on where the last test left off."""
    readers = {}

    def reader_of(page):
        if page == SCALE_OUT:
            ray_of_this_machine()
        if page not in readers:
            keras.utils.set_random_seed(0)
            readers[page] = Reader(page, tmp_path_factory.mktemp("page"))
        return readers[page]

    return reader_of


@pytest.fixture(scope="module")
def ray_of_this_machine():
    """Lets a page start Ray, and shuts it down in the end; skips the test without Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # A worker imports TensorFlow before it registers, which takes long on a busy computer.
        patch.setenv("RAY_worker_register_timeout_seconds", "240")
        # One core, and so one worker, as on a laptop: it shows as well that the page runs.
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 1}')
        yield lambda: pytest.importorskip("ray", reason="Ray is not installed")
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_task_is_done_by_copying_blocks(task, reader_of):
    page, last_section, expectation = TASKS[task]
    reader = reader_of(page)
    reader.copy(last_section)
    assert eval(expectation, {**reader.names, "printed": reader.printed}), expectation


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page_runs_to_its_end(page, reader_of):
    reader_of(page).copy()


@pytest.mark.slow
def test_first_example_is_a_defence_that_works(reader_of):
    """What a newcomer sees first."""
    reader = reader_of("README.md")
    reader.copy()
    report = reader.names["report"]
    assert report.cell("benign", defence="protected")["accuracy"] > 0.95
    assert report.cell("PGD-5", "oblivious", defence="protected")["accuracy"] > 0.9
    assert report.cell("PGD-5", "oblivious", defence="bare")["accuracy"] < 0.4
    assert report.cell("benign", defence="hardened")["accuracy"] > 0.95
    assert report.worst("hardened") > 0.6 > report.worst("protected")
    assert rows(report.cells) == rows(shown_report()["cells"])


def test_table_below_the_first_example_is_of_the_code_above():
    settings = shown_report()["settings"]["checked_attack_settings"]
    readme, home = (
        find_blocks((ROOT / page).read_text(encoding="utf-8"))
        for page in ("README.md", "docs/index.md")
    )
    assert [home[0].code] == [block.code for block in home] == [readme[0].code]
    assert f"epsilon={settings['epsilon']}, steps={settings['steps']}" in home[0].code


def shown_report():
    return json.loads((ROOT / "results/first_example.json").read_text(encoding="utf-8"))


def rows(cells):
    return [(cell["threat_model"], cell["attack"], cell["defence"]) for cell in cells]
