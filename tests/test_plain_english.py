"""No text has words that read as translated."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATTERNS = ["README.md", "SECURITY.md", "docs/**/*.md", "docs/_hooks/*.py", "tutorials/*.ipynb"]
PATTERNS += ["docs/images/*.svg"]
PATTERNS += ["keras_trn/**/*.py", "keras_trn/**/*.md", "experiments/**/*.py"]
# The changelog has to give old names.
TEXTS = sorted(
    {path for pattern in PATTERNS for path in ROOT.glob(pattern)} - {ROOT / "docs/changelog.md"}
)
WORDS = re.compile(
    r"\b(worth|beside|those of|ours|mend(s|ed)?|to be had|flatters?|leads? away|led away"
    r"|judg(e|es|ed|ing)|as it is|as they are|stands|a merit|to be believed)\b",
    re.IGNORECASE,
)


def find_words(text):
    """Lists the words, also where a line breaks inside one of them."""
    return [match.group() for match in WORDS.finditer(re.sub(r"\s+", " ", text))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_plain_english(path):
    text = path.read_text(encoding="utf-8")
    # Pictures and styles in the outputs of notebooks are no text.
    lines = [line for line in text.splitlines() if len(line) < 5000]
    assert find_words("\n".join(lines)) == []


def test_words_are_found():
    assert find_words("The figures are those\n of others, ours included.") == ["those of", "ours"]
    assert find_words("The labels of others, our own included.") == []
