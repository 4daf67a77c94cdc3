"""Puts the model card of each preset on the page with the marker `<!-- cards of presets -->`."""

from pathlib import Path

_ROOT = Path(__file__).parents[2]
_MARKER = "<!-- cards of presets -->"


def cards():
    """Returns the text of all cards, with the paths of their pictures as pages need them."""
    texts = [path.read_text("utf-8") for path in sorted(_ROOT.glob("keras_trn/presets/*.md"))]
    return "\n".join(texts).replace("(../../docs/", "(")


def on_page_markdown(markdown, page, config, files):
    """Replaces the marker of a page."""
    return markdown.replace(_MARKER, cards())
