"""Gives each page a description for search engines: its own, or its first sentence."""

import html
import re

_FIRST_PARAGRAPH = re.compile(r"<p>(?P<text>.+?)</p>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")
_END_OF_SENTENCE = re.compile(r"(?<=[.?!:])\s")


def on_page_content(content, page, config, files):
    """Sets the description where the page has none."""
    paragraphs = (
        _TAG.sub("", match["text"]).strip() for match in _FIRST_PARAGRAPH.finditer(content)
    )
    text = next((text for text in paragraphs if text), "")
    sentence = _END_OF_SENTENCE.split(" ".join(html.unescape(text).split()))[0]
    page.meta.setdefault("description", html.escape(sentence.rstrip(":")))
    return content
