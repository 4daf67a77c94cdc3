"""Gives each page a description for search engines: its own, or its first sentence."""

import html
import re

_PARAGRAPH = re.compile(r"<p>(?P<text>.+?)</p>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")
_END_OF_SENTENCE = re.compile(r"(?<=[.?!:])\s")
_SHORTEST = 20


def on_page_content(content, page, config, files):
    """Sets the description where the page has none."""
    sentences = (
        _END_OF_SENTENCE.split(" ".join(html.unescape(_TAG.sub("", match["text"])).split()))[0]
        for match in _PARAGRAPH.finditer(content)
    )
    # The first line of a tutorial is `Level: beginner`.
    sentence = next((text for text in sentences if len(text) >= _SHORTEST), "")
    page.meta.setdefault("description", html.escape(sentence.rstrip(":")))
    return content
