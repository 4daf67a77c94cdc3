"""What the pages show is what the committed commands make."""

import json
from pathlib import Path

import numpy as np

import keras_trn
from experiments.page_outputs import with_outputs
from experiments.studies import image_sizes
from experiments.studies import landing_strip

ROOT = Path(__file__).parent.parent
PLACE = "<!-- output -->\n{}<!-- end of output -->\n"


def test_what_a_block_prints_is_written_below_it():
    page = "```python\na = 2\n```\n\n```python\nprint(a + 1)\n```\n\n" + PLACE.format("stale\n")
    filled = with_outputs(page)
    assert filled.endswith(PLACE.format("\n```text\n3\n```\n\n"))
    assert "stale" not in filled
    assert with_outputs(filled) == filled


def test_block_that_is_not_run_prints_nothing():
    page = "<!-- not run: needs a GPU -->\n\n```python\n1 / 0\n```\n\n```python\nprint('a')\n```\n"
    assert "\n```text\na\n```\n" in with_outputs(page + PLACE.format(""))


def test_printed_table_becomes_a_table_of_the_page():
    page = "```python\nprint('| a |\\n| --- |')\n```\n" + PLACE.format("")
    assert with_outputs(page).endswith(PLACE.format("\n| a |\n| --- |\n\n"))


def test_photographs_are_the_first_correct_ones_of_each_class():
    labels = np.array([0, 1, 0, 2, 1, 3])
    is_correct = np.array([False, True, True, True, True, False])
    assert landing_strip.first_of_each_class(labels, is_correct, 4) == [1, 2, 3]


def test_photographs_of_the_landing_page_are_restored_by_the_preset_it_names():
    shown = json.loads((ROOT / "results/landing_strip.json").read_text(encoding="utf-8"))
    assert shown["preset"] in keras_trn.list_presets()
    page = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert f"`{shown['preset']}`" in page and f"PGD of {shown['attack']['steps']} steps" in page
    # The text below them says so.
    for state, is_right in (("image", True), ("attacked", False), ("restored", True)):
        classes = [said["class"] for said in shown["predicted"][state]]
        pairs = zip(classes, shown["labels"], strict=True)
        assert all((one == label) == is_right for one, label in pairs)


def test_table_of_image_sizes_is_that_of_the_committed_measurement():
    measured = json.loads((ROOT / "results/image_sizes.json").read_text(encoding="utf-8"))
    table = (ROOT / "results/image_sizes.md").read_text(encoding="utf-8")
    assert image_sizes.table(measured["rows"]) + "\n" == table
