"""Every public name is documented, and the examples of docstrings run."""

import functools
import importlib
import inspect
import operator
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import keras_trn
from experiments.page_blocks import find_blocks

DOCS = Path(__file__).parent.parent / "docs"
API = DOCS / "api"
PAGE = API / "index.md"


def names_of_docstrings():
    """What docs/api/index.md defines for all docstring examples."""
    names = {"__name__": "__main__"}
    find_blocks(PAGE.read_text(encoding="utf-8"))[0].run(names, str(PAGE))
    return names


def modules():
    names = [module.name for module in pkgutil.walk_packages(keras_trn.__path__, "keras_trn.")]
    return [keras_trn, *map(importlib.import_module, names)]


def is_public(name):
    return not name.startswith("_")


def documented_objects():
    """All public modules, classes, functions and methods, by their full names."""
    objects = {}
    for module in modules():
        objects[module.__name__] = module
        for name, value in vars(module).items():
            if not is_public(name) or getattr(value, "__module__", None) != module.__name__:
                continue
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            objects[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                for method_name, method in methods(value).items():
                    objects[f"{module.__name__}.{name}.{method_name}"] = method
    return objects


def methods(cls):
    """The public methods and properties that a class itself defines."""
    return {
        name: value
        for name, value in vars(cls).items()
        if is_public(name)
        and (inspect.isfunction(value) or isinstance(value, (classmethod, staticmethod, property)))
    }


def public_objects():
    """What is exported: all that `__all__` names, and what exported modules define."""
    objects = {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules()
        for name in getattr(module, "__all__", [])
        if is_public(name)
    }
    plain_modules = {
        name
        for name, value in objects.items()
        if inspect.ismodule(value) and not hasattr(value, "__path__")
    }
    return objects | {
        name: value
        for name, value in documented_objects().items()
        if name.rpartition(".")[0] in plain_modules
    }


def named(names):
    """The objects with these full names."""
    return [operator.attrgetter(name.removeprefix("keras_trn."))(keras_trn) for name in names]


@functools.cache
def hook():
    """What fills the API pages from the code, which it reads only once."""
    return runpy.run_path(str(DOCS / "_hooks/api.py"))


def built(page):
    """The page as the documentation builds it, with what the code itself says."""
    return hook()["expand"](page.read_text(encoding="utf-8"))


def shown_names_and_members():
    """What the API pages show: full names, and the members that a page picks."""
    pages = "\n".join(map(built, API.glob("*.md")))
    options = r"(?: {4}options:\n(?: {6}.*\n)*? {6}members: \[(.*)\])?"
    entries = re.findall(rf"^::: (\S+)\n{options}", pages, re.MULTILINE)
    return {name: re.findall(r"\w+", members) for name, members in entries}


DOCUMENTED = documented_objects()
PUBLIC = public_objects()
SHOWN = shown_names_and_members()
LISTED = re.findall(r"\]\[(keras_trn\.[\w.]+)\]", built(PAGE))
PUBLIC_CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
PUBLIC_CALLABLES = {name: value for name, value in PUBLIC.items() if callable(value)}
DOCSTRING_EXAMPLES = [
    pytest.param(name, block, id=f"{name}-{number}" if number else name)
    for name, value in DOCUMENTED.items()
    for number, block in enumerate(find_blocks(inspect.cleandoc(value.__doc__ or "")))
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "block"), DOCSTRING_EXAMPLES)
def test_example_of_a_docstring_runs(name, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block.run(names_of_docstrings(), f"<docstring of {name}>")


def test_examples_and_public_names_are_many():
    assert len(DOCSTRING_EXAMPLES) >= 20
    assert len(PUBLIC) >= 20


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_a_docstring(name):
    value = PUBLIC[name]
    assert (value.__doc__ or "").strip()
    if inspect.isclass(value):
        assert "__doc__" in vars(value) and vars(value)["__doc__"], "inherited, not its own"


@pytest.mark.parametrize("name", PUBLIC_CLASSES)
def test_public_methods_have_docstrings(name):
    """A method may inherit its docstring; what Keras calls, Keras describes."""
    cls = PUBLIC_CLASSES[name]
    own_classes = [base for base in cls.__mro__ if base.__module__.startswith("keras_trn")]
    foreign_classes = [base for base in cls.__mro__ if base not in own_classes]
    undocumented = {
        method_name
        for base in own_classes
        for method_name in methods(base)
        if not inspect.getdoc(getattr(cls, method_name))
        and not any(hasattr(foreign, method_name) for foreign in foreign_classes)
    }
    assert undocumented == set()


@pytest.mark.parametrize(
    "name", [name for name, value in PUBLIC_CALLABLES.items() if not hasattr(value, "is_check")]
)
def test_public_class_or_function_has_an_example(name):
    assert find_blocks(inspect.cleandoc(PUBLIC_CALLABLES[name].__doc__ or ""))


@pytest.mark.parametrize(
    "name", [name for name, value in PUBLIC.items() if not inspect.ismodule(value)]
)
def test_public_name_is_on_a_page_and_in_the_index(name):
    value = PUBLIC[name]
    for names in (SHOWN, LISTED):
        assert any(value is shown for shown in named(names))


@pytest.mark.parametrize("name", SHOWN)
def test_members_of_a_page_exist(name):
    (shown,) = named([name])
    assert [member for member in SHOWN[name] if not hasattr(shown, member)] == []
