"""Fills the API reference from the code, so that a new public name needs no change of a page.

`<!-- entries of keras_trn.attacks -->` becomes an entry for each public name of the module that the
page does not have yet. `<!-- summary of keras_trn.attacks -->` becomes a table of these names with
the first lines of their docstrings.
"""

import functools
import re
from pathlib import Path

import griffe

_MARKER = re.compile(r"^<!-- (?P<kind>entries|summary) of (?P<module>keras_trn[\w.]*) -->$", re.M)
_ENTRY = re.compile(r"^::: (\S+)$", re.M)


@functools.cache
def _package():
    return griffe.load("keras_trn", search_paths=[Path(__file__).parents[2]])


def _public(name):
    """Returns the public classes, functions and attributes of a module by their full names."""
    module = _package() if name == "keras_trn" else _package()[name.removeprefix("keras_trn.")]
    # Without `__all__`, a module exports what it defines.
    exported = module.exports or {
        member for member, value in module.members.items() if not value.is_alias
    }
    members = {
        member: _member(module, member)
        for member in sorted(map(str, exported), key=str.casefold)
        if not member.startswith("_")
    }
    return {
        f"{name}.{member}": value
        for member, value in members.items()
        # What the package exports itself has its entry under the shorter name.
        if not value.is_module and (name == "keras_trn" or member not in _package().exports)
    }


def _member(module, name):
    """Returns a member of a module; a function hides the module of its name."""
    member = module[name]
    return member[name] if member.is_module and name in member.members else member


def _entries(name, page):
    shown = set(_ENTRY.findall(page))
    return "\n\n".join(
        f"::: {member}" + ("\n    options:\n      members: false" if value.is_class else "")
        for member, value in _public(name).items()
        if member not in shown
    )


def _summary(name, page):
    rows = [
        f"| [`{member.removeprefix(f'{name}.')}`][{member}] | {_first_line(value)} |"
        for member, value in _public(name).items()
    ]
    return "\n".join(["| Name | Description |", "|---|---|", *rows])


def _first_line(value):
    return value.docstring.value.split("\n", 1)[0].rstrip(".") if value.docstring else ""


def expand(markdown):
    """Returns a page with its markers replaced."""
    makers = {"entries": _entries, "summary": _summary}
    return _MARKER.sub(lambda match: makers[match["kind"]](match["module"], markdown), markdown)


def on_page_markdown(markdown, page, config, files):
    """Replaces the markers of a page."""
    return expand(markdown)
