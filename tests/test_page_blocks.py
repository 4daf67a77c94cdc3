"""The blocks of a page are found where they are, and run like a reader would run them."""

import subprocess

import pytest

from experiments.page_blocks import find_blocks

BLOCK = "```python\na = 1\n```\n"


def test_blocks_of_python_are_found_with_their_lines():
    indented = "    ```python\n    if a:\n        b\n    ```"
    page = f"Text.\n\n```python\na = 1\n```\n\n```\nno\n```\n\n{indented}"
    found = [(block.line, block.code) for block in find_blocks(page)]
    assert found == [(4, "a = 1\n"), (12, "if a:\n    b\n")]


def test_block_knows_its_heading_but_no_comment_of_code():
    page = f"{BLOCK}\n# Title\n\n```bash\n# A comment\n```\n\n{BLOCK}\n### `fit`\n\n{BLOCK}"
    assert [block.heading for block in find_blocks(page)] == ["", "Title", "`fit`"]


def test_block_after_a_comment_with_a_reason_is_not_run():
    assert find_blocks(f"<!-- not run: needs a GPU -->\n{BLOCK}") == []
    assert len(find_blocks(f"<!-- not run: needs a GPU -->\n{BLOCK}\n{BLOCK}")) == 1
    assert len(find_blocks(f"<!-- not run: needs a GPU -->\nText.\n{BLOCK}")) == 1
    assert len(find_blocks(f"<!-- not run: needs a GPU -->\nText.\n<!-- other -->\n{BLOCK}")) == 1
    assert len(find_blocks(f"<!-- not run: -->\n{BLOCK}")) == 1


def test_blocks_share_their_names_and_return_what_they_print():
    first, second = find_blocks(f"{BLOCK}\n```python\nprint(a + 1)\n```\n")
    names = {}
    assert [first.run(names, "page.md"), second.run(names, "page.md")] == ["", "2\n"]


def test_fresh_process_knows_no_names():
    page = f"{BLOCK}\n<!-- fresh process -->\n\n```python\nprint('a' in globals())\n```\n"
    first, second = find_blocks(page)
    names = {}
    first.run(names, "page.md")
    assert second.run(names, "page.md") == "False\n"


def test_failure_of_a_fresh_process_is_raised():
    (block,) = find_blocks("<!-- fresh process -->\n```python\n1 / 0\n```\n")
    with pytest.raises(subprocess.CalledProcessError):
        block.run({}, "page.md")


def test_traceback_of_a_block_points_to_its_line():
    (block,) = find_blocks("Text.\n\n```python\na = 1\na / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        block.run({}, "page.md")
    last = error.traceback[-1]
    assert (str(last.path), last.lineno + 1) == ("page.md:4", 5)
    assert str(last.statement) == "a / 0"
