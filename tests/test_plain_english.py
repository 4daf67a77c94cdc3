"""No text has words that read as translated, and no page has long sentences."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATTERNS = ["README.md", "SECURITY.md", "docs/**/*.md", "docs/_hooks/*.py", "tutorials/*.ipynb"]
PATTERNS += ["docs/images/*.svg"]
PATTERNS += ["keras_trn/**/*.py", "keras_trn/**/*.md", "experiments/**/*.py", "tests/*.py"]
# The changelog has to give old names.
TEXTS = sorted(
    {path for pattern in PATTERNS for path in ROOT.glob(pattern)}
    # The first repeats the changelog, and this file lists the words.
    - {ROOT / "docs/changelog.md", Path(__file__).resolve()}
)
WORDS = re.compile(
    r"\b(worth|beside|those of|ours|mend(s|ed)?|to be had|flatters?|leads? away|led away"
    r"|judg(e|es|ed|ing)|as it is|as they are|stands|a merit|to be believed)\b",
    re.IGNORECASE,
)
PROSE = ["README.md", "CHANGELOG.md", "docs/**/*.md", "keras_trn/presets/*.md"]
PAGES = sorted({path for pattern in PROSE for path in ROOT.glob(pattern)})
# The rule is 22 words. Names in code count as words, so a few more pass.
MOST_WORDS = 25
NO_PROSE = re.compile(
    r"\A---\n.*?\n---\n"  # Front matter.
    r"|^ *```.*?^ *```"
    r"|^ *\|.*?$"  # Rows of tables.
    r"|^#.*?$"  # Headings.
    r"|<[^>]+>"  # HTML and comments.
    r"|\]\([^)]*\)|\]\[[^]]*\]"  # Targets of links.
    r"|\{ \.[^}]*\}"  # Classes of links and pictures.
    r"|\*\*",
    re.DOTALL | re.MULTILINE,
)
# A blank line, an item of a list, and a picture begin a paragraph.
PARAGRAPH = re.compile(r"\n\s*(?:[-*]|\d+\.) |\n\s*\n|!\[")
END_OF_SENTENCE = re.compile(r"(?<=[.!?:])\s+(?=[A-Z`*\[])")


def find_words(text):
    """Lists the words, also where a line breaks inside one of them."""
    return [match.group() for match in WORDS.finditer(re.sub(r"\s+", " ", text))]


def find_long_sentences(page):
    """Lists the sentences with too many words, without code, tables and link targets."""
    paragraphs = PARAGRAPH.split(NO_PROSE.sub("", page))
    sentences = [" ".join(s.split()) for p in paragraphs for s in END_OF_SENTENCE.split(p)]
    return [s for s in sentences if len(re.findall(r"[A-Za-z0-9][\w'.%/-]*", s)) > MOST_WORDS]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_plain_english(path):
    text = path.read_text(encoding="utf-8")
    # Pictures and styles in the outputs of notebooks are no text.
    lines = [line for line in text.splitlines() if len(line) < 5000]
    assert find_words("\n".join(lines)) == []


def test_words_are_found():
    assert find_words("The figures are those\n of others, ours included.") == ["those of", "ours"]
    assert find_words("The labels of others, our own included.") == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_are_short(path):
    assert find_long_sentences(path.read_text(encoding="utf-8")) == []


def test_long_sentences_are_found():
    long = "Here" + MOST_WORDS * " [word](link.md)" + "."
    page = f"# Title\n\n```text\n{long}\n```\n\n| {long} |\n\n- Short. {long}\n- **Also** short."
    assert find_long_sentences(page) == [long.replace("](link.md)", "")]
