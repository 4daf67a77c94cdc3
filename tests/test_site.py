"""The documentation builds strictly, links to what is there, and works in a real browser."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote
from urllib.parse import urldefrag
from urllib.parse import urljoin
from urllib.parse import urlsplit

import matplotlib.image
import pytest
from bs4 import BeautifulSoup

from tests.tutorials import sources

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="the extra `docs` is not installed")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
WIDTHS = {"desktop": 1280, "phone": 390}
HEIGHT = 900
RESULTS = ["results/", *sorted(f"results/{path.stem}/" for path in ROOT.glob("docs/results/*.md"))]
TUTORIALS = sorted(ROOT.glob("tutorials/*.ipynb"))
MAX_PAGE_BYTES = 1_000_000
# Fetched once, in the background.
SEARCH_INDEX = "search/search_index.json"
MAX_LOAD_MILLISECONDS = 2000
# Plain flags, so that the browser asks no host of its own for anything.
BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and does not tell of it."""

    def log_message(self, *arguments):
        pass


def build(folder, **environment):
    """Builds the site strictly, by the documented command."""
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", **environment},
        check=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, without an address of its own."""
    folder = tmp_path_factory.mktemp("site")
    build(folder, SITE_URL="", REPO_URL="")
    return folder


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served."""
    handler = functools.partial(QuietHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("There is no Chromium.")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER_FLAGS)
        yield browser
        browser.close()


def pages(site):
    """The paths of all pages, from the root of the site."""
    paths = [path.relative_to(site) for path in sorted(site.rglob("index.html"))]
    return [path.as_posix().removesuffix("index.html") for path in paths]


@functools.cache
def soup(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


# --- What is written ------------------------------------------------------------------


def test_links_and_anchors_lead_somewhere(site):
    """Includes links of notebooks and of plain HTML, which the strict build does not check."""
    documents = {page: soup(site / page / "index.html") for page in pages(site)}
    anchors = {
        page: {tag["id"] for tag in document.find_all(id=True)}
        for page, document in documents.items()
    }
    broken = []
    for page, document in documents.items():
        for tag in document.find_all("a", href=True):
            target, anchor = urldefrag(urljoin(f"http://site/{page}", tag["href"]))
            if urlsplit(target).netloc != "site":
                continue
            path = unquote(urlsplit(target).path.removeprefix("/"))
            # `#` alone and `__`... are of the theme.
            is_there = path in documents or (site / path).is_file()
            knows_anchor = not anchor or anchor.startswith("__") or anchor in anchors.get(path, [])
            if not (is_there and knows_anchor):
                broken.append(f"{page}: {tag['href']}")
    assert broken == []


def test_addresses_come_from_the_environment(site, tmp_path):
    own = "https://docs.example.org/a/"
    build(tmp_path, SITE_URL=own, REPO_URL="https://example.org/b")
    page = soup(tmp_path / "glossary/index.html")
    assert page.find("link", rel="canonical")["href"] == f"{own}glossary/"
    assert page.find("a", href="https://example.org/b")
    assert f"<loc>{own}glossary/</loc>" in (tmp_path / "sitemap.xml").read_text()
    card = page.find("meta", property="og:image")["content"]
    pixels = matplotlib.image.imread(tmp_path / card.removeprefix(own))
    assert pixels.shape[:2] == (630, 1200)
    assert pixels[..., 3:].min(initial=1) == 1, "The card is transparent."
    for notebook in TUTORIALS:
        # A notebook that is downloaded alone links to the site.
        copy = (tmp_path / "tutorials" / notebook.stem / notebook.name).read_text()
        links = re.findall(r"\]\(([^)]*(?:\.md|\.ipynb|/))(?:#[^)]*)?\)", copy)
        assert links
        for link in links:
            assert link.startswith(own), (notebook.name, link)
            assert (tmp_path / link.removeprefix(own) / "index.html").is_file(), link
    without = soup(site / "glossary/index.html")
    assert not without.find("link", rel="canonical")
    assert not without.find("meta", property="og:image")


def test_pictures_have_alternative_texts(site):
    without = [
        f"{page}: {image.get('src', '')[:60]}"
        for page in pages(site)
        for image in soup(site / page / "index.html").find_all("img")
        if not image.get("alt", "").strip() or "No description" in image["alt"]
    ]
    assert without == []


def test_tutorials_can_be_downloaded(site):
    for notebook in TUTORIALS:
        copy = site / "tutorials" / notebook.stem / notebook.name
        assert copy.read_bytes() == notebook.read_bytes()


def test_tutorials_begin_and_end_as_one_course():
    for notebook in TUTORIALS:
        first, *_, last = sources(notebook)
        for part in ("**Level**", "**Time**", "**Data**", "**Install**", "You will"):
            assert part in first, notebook.name
        assert last.startswith("## Where to go next"), notebook.name


def test_tutorials_show_no_log_lines_and_no_errors(site):
    for page in pages(site):
        if re.fullmatch(r"tutorials/\d\d_\w+/", page):
            text = soup(site / page / "index.html").get_text()
            assert "Traceback (most recent call last)" not in text, page
            assert "WARNING:" not in text and "I0000" not in text, page


# --- In the browser -------------------------------------------------------------------


@pytest.fixture(scope="module")
def visits(site, address, browser):
    """What the browser meets on each page, by its path.

    Each page is loaded once: that takes much longer than to look at it.
    """
    context = browser.new_context()
    visits = {path: visit(context.new_page(), address, path) for path in pages(site)}
    context.close()
    return visits


def visit(page, address, path):
    """Returns the problems of a page, and the texts that begin its first screen on each device."""
    problems, sizes = [], []

    def finished(response):
        if not response.url.startswith((address, "data:")):
            problems.append(f"asks another host: {response.url}")
        if response.status >= 400:
            problems.append(f"{response.status}: {response.url}")
        if not response.url.endswith(SEARCH_INDEX):
            sizes.append(int(response.headers.get("content-length", 0)))

    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.on("response", finished)
    page.set_viewport_size({"width": WIDTHS["desktop"], "height": HEIGHT})
    page.goto(address + path, wait_until="networkidle")
    texts = {}
    for device, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": HEIGHT})
        texts[device] = first_texts(page)
        needed = page.evaluate("document.scrollingElement.scrollWidth")
        if needed > width:
            problems.append(f"is {needed} pixels wide on a {device}")
    # A picture for another width would be fetched now.
    page.wait_for_load_state("networkidle")
    page.close()
    if sum(sizes) > MAX_PAGE_BYTES:
        problems.append(f"weighs {sum(sizes)} bytes")
    return problems, texts


def first_texts(page):
    """Returns the first paragraphs, outside of lists and code, as far as the screen shows them."""
    paragraphs = page.locator("article p, article .jp-RenderedHTMLCommon p")
    return [
        paragraph.inner_text().strip()
        for paragraph in (paragraphs.nth(n) for n in range(min(4, paragraphs.count())))
        if (box := paragraph.bounding_box()) and box["y"] + box["height"] < HEIGHT
    ]


def test_every_page_loads_and_fits(visits):
    """No error, no failed request, no other host, nothing too wide, nothing too heavy."""
    assert {path: problems for path, (problems, _) in visits.items() if problems} == {}


@pytest.mark.parametrize("device", WIDTHS)
def test_first_screen_of_each_page_says_what_it_is_for(visits, device):
    """A sentence of several words, outside of lists and code, without scrolling."""
    without = [
        path
        for path, (_, texts) in visits.items()
        if not any(len(text.split()) >= 6 and text[-1] in ".:!" for text in texts[device])
    ]
    assert without == []


@pytest.mark.parametrize("device", WIDTHS)
def test_key_columns_of_results_are_visible(address, browser, device):
    """Nobody has to scroll to the figures that count."""
    page = browser.new_page(viewport={"width": WIDTHS[device], "height": HEIGHT})
    columns = {path: ("defence", "benign", "worst", "full knowledge") for path in RESULTS}
    columns["should-you-use-this/"] = ("choice", "benign", "full knowledge", "no knowledge")
    for path in columns:
        page.goto(address + path)
        tables = page.locator("table", has=page.locator("th", has_text="full knowledge"))
        assert tables.count() > 0, path
        for table in tables.all():
            for column in columns[path]:
                box = table.locator("th", has_text=column).bounding_box()
                assert box["x"] >= 0 and box["x"] + box["width"] <= WIDTHS[device], (path, column)
    page.close()


def test_first_page_loads_quickly(address, browser):
    page = browser.new_page()
    page.goto(address, wait_until="load")
    milliseconds = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    page.close()
    assert 0 < milliseconds < MAX_LOAD_MILLISECONDS


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("FusionBlock", "api/layers/"),
        ("purification", "glossary/"),
        ("denoiser", "glossary/"),
        ("robustbench", "comparison/"),
        ("limitations", "should-you-use-this/"),
        ("troubleshooting", "sharp-bits/"),
        ("ResNet", "comparison/"),
        ("AutoAttack", "guides/autoattack/"),
        ("keras_trn.attacks.Square", "api/attacks/"),
    ],
)
def test_search_finds(address, browser, words, found):
    page = browser.new_page()
    page.goto(address)
    page.locator("input.md-search__input").click()
    page.keyboard.type(words)
    results = page.locator(".md-search-result__link")
    results.first.wait_for()
    page.wait_for_function(
        "found => [...document.querySelectorAll('.md-search-result__link')].slice(0, 8)"
        ".some(link => link.href.includes(found))",
        arg=f"/{found}",
    )
    assert "¶" not in page.locator(".md-search-result__list").inner_text()
    page.close()


def test_every_page_has_a_description(site):
    described = {
        page: soup(site / page / "index.html").find("meta", {"name": "description"})
        for page in pages(site)
    }
    assert {page for page, tag in described.items() if not tag or len(tag["content"]) < 20} == set()


def test_navigation_leads_through_the_site(address, browser):
    page = browser.new_page(viewport={"width": 1280, "height": HEIGHT})
    page.goto(address)
    for tab in ["Getting started", "Tutorials", "Guides", "Results", "Presets", "Glossary", "API"]:
        with page.expect_navigation():
            page.locator(".md-tabs__link", has_text=tab).click()
        assert page.locator(".md-tabs__item--active").inner_text().strip() == tab
    page.close()


def test_dark_mode_darkens_and_stays(address, browser):
    page = browser.new_page(color_scheme="light")
    page.goto(address)

    def brightness():
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(float, re.findall(r"[\d.]+", colour)[:3]))

    light = brightness()
    page.locator("label[title='Switch to dark mode']").click()
    assert brightness() < light / 2
    page.goto(address + "method/")
    assert brightness() < light / 2
    page.close()
