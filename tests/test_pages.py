"""What the pages show is what the committed commands make."""

import itertools
import json
import re
from pathlib import Path

import numpy as np

import keras_trn
from experiments.page_blocks import find_blocks
from experiments.page_outputs import OUTPUT
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


def test_output_in_a_list_is_indented_like_its_block():
    block = "    ```python\n    print('a')\n    ```\n"
    page = f"- An item:\n\n{block}\n    <!-- output -->\n    <!-- end of output -->\n"
    filled = with_outputs(page)
    assert filled.endswith(
        "    <!-- output -->\n\n    ```text\n    a\n    ```\n\n    <!-- end of output -->\n"
    )
    assert with_outputs(filled) == filled


def pages_of_the_documented_command():
    text = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    command = re.search(r"-m experiments\.page_outputs(.*?)\n```", text, re.DOTALL)[1]
    return {page for pattern in re.findall(r"\S+\.md", command) for page in ROOT.glob(pattern)}


def test_example_that_prints_shows_what_the_documented_command_writes():
    # The report of the README and of the home page comes from `results/`.
    for page in set(ROOT.glob("docs/**/*.md")) - {ROOT / "docs/index.md"}:
        text = page.read_text(encoding="utf-8")
        blocks = find_blocks(text)
        ends = [*(block.end for block in blocks), len(text)]
        for block, (start, end) in zip(blocks, itertools.pairwise(ends), strict=True):
            if re.search(r"^ *print\(", block.code, re.MULTILINE):
                output = OUTPUT.search(text, start, end)
                assert output, f"{page}:{block.line} prints, and shows no output"
                assert re.search("```text\n.*\\w|^ *\\|", output[0], re.MULTILINE), page
                assert page in pages_of_the_documented_command()


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
    assert image_sizes.table(measured) + "\n" == table
