"""Fits the tutorials into the site: links, width, alternative texts, styles, search titles.

In a notebook links lead to files, such as `../docs/method.md`, so that they work in JupyterLab
and in a browser of the repository alike. A notebook that is downloaded alone has no such files:
its links lead to the site, if the site knows its address. An alternative text is in the metadata
of the cell that makes the picture, under the name that nbconvert's older templates read.

Each notebook comes with the same half a megabyte of styles of JupyterLab. The rules that it uses
move to one file, which a browser loads once.
"""

import html
import json
import posixpath
import re
from pathlib import Path
from urllib.parse import urljoin

from mkdocs.exceptions import PluginError
from mkdocs.utils import get_relative_url

_LINK = re.compile(r'href="(?P<path>[^":#]+\.(?:md|ipynb))(?P<anchor>#[^"]*)?"')
_MARKDOWN_LINK = re.compile(r"\]\((?P<path>[^():#]+\.(?:md|ipynb))(?P<anchor>#[^)]*)?\)")
# JupyterLab's; the small ones stay, as one of them is malformed and would spoil what follows.
_LARGE_STYLE = re.compile(r"<style[^>]*>([^<]{100000,})</style>\s*")
_RULE = re.compile(r"([^{}]+)\{[^{}]*\}")
_NOT = re.compile(r":not\([^)]*\)")
_CLASS = re.compile(r"\.([A-Za-z_][\w-]*)")
_CLASSES = re.compile(r'class="([^"]*)"')
_STYLE_SHEET = "stylesheets/notebook.css"
# The sign of a permanent link would be a part of the titles in search; the style sheet draws it.
_PERMANENT_LINK = re.compile(r'(<a class="anchor-link"[^>]*)>¶</a>')
_NO_ALTERNATIVE_TEXT = re.compile(r'alt="No description has been provided for this image"')

_styles = set()
_classes = set()
# The text of each notebook to download, by its path in the site.
_downloads = {}


def on_page_content(content, page, config, files):
    """Corrects links and alternative texts of a notebook that was turned into HTML."""
    if not page.file.src_uri.endswith(".ipynb"):
        return content
    # The tables of a report need the width of the navigation, which the overview replaces.
    page.meta["hide"] = ["navigation"]
    alternative_texts = iter(_alternative_texts(Path(page.file.abs_src_path)))
    content = _NO_ALTERNATIVE_TEXT.sub(lambda _: f'alt="{next(alternative_texts, "")}"', content)
    content = _PERMANENT_LINK.sub(r'\1 aria-label="Permanent link"></a>', content)
    content = _LINK.sub(lambda match: _link(match, page, files), content)
    if config.site_url:
        source = Path(page.file.abs_src_path)
        _downloads[page.url + source.name] = _MARKDOWN_LINK.sub(
            lambda match: _markdown_link(match, page, config, files),
            source.read_text(encoding="utf-8"),
        )
    return _move_styles(content, page, config)


def _move_styles(content, page, config):
    """Replaces the styles of a notebook by a link to the file that all of them share."""
    _styles.update(_LARGE_STYLE.findall(content))
    for names in _CLASSES.findall(content):
        _classes.update(names.split())
    address = get_relative_url(_STYLE_SHEET, page.url)
    return f'<link rel="stylesheet" href="{address}">\n{_LARGE_STYLE.sub("", content)}'


def on_post_build(config):
    """Writes the notebooks to download, and the styles that they share and use."""
    for path, text in _downloads.items():
        Path(config.site_dir, path).write_text(text, encoding="utf-8")
    styles = "\n".join(sorted(_styles))
    styles = _RULE.sub(lambda rule: rule[0] if _is_used(rule[1]) else "", styles)
    Path(config.site_dir, _STYLE_SHEET).write_text(styles, encoding="utf-8")


def _is_used(selectors):
    """Tells whether a selector has only classes of the notebooks; `:root` is in no notebook."""
    selectors = _NOT.sub("", selectors)
    return ":root" not in selectors and any(
        _classes.issuperset(_CLASS.findall(selector)) for selector in selectors.split(",")
    )


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
    target = _target(match, page, files)
    return f'href="{target.url_relative_to(page.file)}{match["anchor"] or ""}"'


def _markdown_link(match, page, config, files):
    address = urljoin(config.site_url, _target(match, page, files).url)
    return f"]({address}{match['anchor'] or ''})"


def _target(match, page, files):
    """Returns the page of the site that a link of a notebook leads to."""
    folder = posixpath.dirname(page.file.src_uri)
    path = posixpath.normpath(posixpath.join(folder, match["path"]))
    # The folder of the tutorials is next to the folder of the documentation, and linked into it.
    target = files.get_file_from_path(path.removeprefix("docs/"))
    if target is None:
        raise PluginError(f"{page.file.src_uri} has a link to {match['path']}: no such page.")
    return target
