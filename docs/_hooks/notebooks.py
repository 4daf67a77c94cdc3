"""Fits the tutorials into the site: their links, and the alternative texts of their pictures.

In a notebook links lead to files, such as `../docs/method.md`, so that they work in JupyterLab
and in a browser of the repository alike. An alternative text is in the metadata of the cell
that makes the picture, under the name that nbconvert's older templates read.
"""

import html
import json
import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError

_LINK = re.compile(r'href="(?P<path>[^":#]+\.(?:md|ipynb))(?P<anchor>#[^"]*)?"')
_NO_ALTERNATIVE_TEXT = re.compile(r'alt="No description has been provided for this image"')


def on_page_content(content, page, config, files):
    """Corrects links and alternative texts of a notebook that was turned into HTML."""
    if not page.file.src_uri.endswith(".ipynb"):
        return content
    alternative_texts = iter(_alternative_texts(Path(page.file.abs_src_path)))
    content = _NO_ALTERNATIVE_TEXT.sub(lambda _: f'alt="{next(alternative_texts, "")}"', content)
    return _LINK.sub(lambda match: _link(match, page, files), content)


def _alternative_texts(path):
    """The texts of all pictures of a notebook, in their order."""
    return [
        html.escape(cell["metadata"].get("alt", ""))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if "remove_cell" not in cell["metadata"].get("tags", [])
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def _link(match, page, files):
    folder = posixpath.dirname(page.file.src_uri)
    path = posixpath.normpath(posixpath.join(folder, match["path"]))
    # The folder of the tutorials is next to the folder of the documentation, and linked into it.
    target = files.get_file_from_path(path.removeprefix("docs/"))
    if target is None:
        raise PluginError(f"{page.file.src_uri} has a link to {match['path']}: no such page.")
    return f'href="{target.url_relative_to(page.file)}{match["anchor"] or ""}"'
