"""Every example in the documentation runs, and every public name is documented."""

import importlib
import inspect
import json
import pkgutil
import re
import textwrap
from pathlib import Path

import keras
import pytest

import keras_trn
from experiments.studies.first_example import first_block

ROOT = Path(__file__).parent.parent
# The home page has the first block of the README, and nothing else to run.
MARKDOWN_FILES = [
    ROOT / "README.md",
    *sorted(set(ROOT.glob("docs/**/*.md")) - {ROOT / "docs/index.md"}),
    *sorted(ROOT.glob("keras_trn/presets/*.md")),
]
PAGES_WITH_THE_FIRST_EXAMPLE = [ROOT / "README.md", ROOT / "docs/index.md"]
_FENCED_PYTHON = re.compile(
    r"^(?P<indent>[ ]*)```python\b[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_NOT_RUN = re.compile(r"<!-- not run: \S.*?-->\s*\Z", re.DOTALL)


def examples(text):
    """Finds the fenced blocks of Python in a text, but those marked as not run.

    Returns:
        A list of pairs: the number of the block's first line in the text, and its code.
    """
    return [
        (text.count("\n", 0, match.start("code")) + 1, textwrap.dedent(match["code"]))
        for match in _FENCED_PYTHON.finditer(text)
        if not _NOT_RUN.search(text, 0, match.start())
    ]


def run(code, name, first_line, namespace):
    """Runs a block such that a traceback points to its line in the text."""
    exec(compile("\n" * (first_line - 1) + code, name, "exec"), namespace)


def docstring_namespace():
    """What docs/api/index.md defines for all docstring examples."""
    (_, code), *_ = examples((ROOT / "docs/api/index.md").read_text(encoding="utf-8"))
    namespace = {"__name__": "__main__"}
    exec(code, namespace)
    return namespace


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


DOCUMENTED = documented_objects()
PUBLIC = public_objects()
PUBLIC_CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
PUBLIC_CALLABLES = {name: value for name, value in PUBLIC.items() if callable(value)}
DOCSTRING_EXAMPLES = [
    pytest.param(name, line, code, id=f"{name}-{number}" if number else name)
    for name, value in DOCUMENTED.items()
    for number, (line, code) in enumerate(examples(inspect.cleandoc(value.__doc__ or "")))
]


# --- Examples run ---------------------------------------------------------------------


@pytest.mark.parametrize(("name", "line", "code"), DOCSTRING_EXAMPLES)
def test_example_of_a_docstring_runs(name, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(code, f"<docstring of {name}>", line, docstring_namespace())


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", MARKDOWN_FILES, ids=[str(path.relative_to(ROOT)) for path in MARKDOWN_FILES]
)
def test_examples_of_a_page_run_in_order(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    keras.utils.set_random_seed(0)
    namespace = {"__name__": "__main__"}
    for line, code in examples(path.read_text(encoding="utf-8")):
        run(code, str(path), line, namespace)
    if path.name == "README.md":
        # What a newcomer sees first is a defence that works.
        report = namespace["report"]
        assert report.cell("benign", defence="protected")["accuracy"] > 0.95
        assert report.cell("PGD-5", "oblivious", defence="protected")["accuracy"] > 0.9
        assert report.cell("PGD-5", "oblivious", defence="bare")["accuracy"] < 0.4


def test_the_table_below_the_first_example_is_that_of_the_code_above():
    shown = json.loads((ROOT / "results/first_example.json").read_text(encoding="utf-8"))
    settings = shown["settings"]["checked_attack_settings"]
    blocks = [first_block(p.read_text(encoding="utf-8")) for p in PAGES_WITH_THE_FIRST_EXAMPLE]
    assert blocks[0] == blocks[1]
    assert len(examples(PAGES_WITH_THE_FIRST_EXAMPLE[1].read_text(encoding="utf-8"))) == 1
    assert f"epsilon={settings['epsilon']}, steps={settings['steps']}" in blocks[0]


# --- Examples are found ---------------------------------------------------------------


def test_blocks_of_python_are_found_with_their_lines():
    indented = "    ```python\n    if a:\n        b\n    ```"
    text = f"Text.\n\n```python\na = 1\n```\n\n```\nno\n```\n\n{indented}"
    assert examples(text) == [(4, "a = 1\n"), (12, "if a:\n    b\n")]


def test_block_after_a_comment_with_a_reason_is_not_run():
    block = "```python\na = 1\n```\n"
    assert examples(f"<!-- not run: needs a GPU -->\n{block}") == []
    assert len(examples(f"<!-- not run: needs a GPU -->\n{block}\n{block}")) == 1
    assert len(examples(f"<!-- not run: needs a GPU -->\nText.\n{block}")) == 1
    assert len(examples(f"<!-- not run: -->\n{block}")) == 1


def test_traceback_of_an_example_points_to_its_line():
    with pytest.raises(ZeroDivisionError) as error:
        run("a = 1\na / 0\n", "page.md", 4, {})
    assert error.traceback[-1].lineno + 1 == 5


# --- Everything is documented ---------------------------------------------------------


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
    assert examples(inspect.cleandoc(PUBLIC_CALLABLES[name].__doc__ or ""))
