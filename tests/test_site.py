"""The site of the documentation builds and can be searched, and all of its pages are readable."""

import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

import jaxch5 as jx
from tests.pages import FAINT

ROOT = Path(jx.__file__).parent.parent
# Returns the page's width if that exceeds the window's, and the pictures that are not shown.
FAULTS = """() => {
  const faults = [], width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth > width)
    faults.push(`${document.documentElement.scrollWidth} pixels wide`)
  for (const image of document.images)
    if (!image.complete || !image.naturalWidth) faults.push(`not shown: ${image.src}`)
  return faults
}"""
# Chooses a colour scheme as the theme does, but without transitions.
CHOOSE = """([scheme, primary]) => Object.assign(document.body.dataset,
  {mdColorScheme: scheme, mdColorPrimary: primary, mdColorSwitching: ""})"""
SCHEMES = [("default", "white"), ("slate", "black")]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_every_page_can_be_reached():
    """Every page is in the menu; the generator gives no warning about pages that are not."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = {page for page in leaves(settings["nav"]) if page.endswith(".md")}
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    notebooks = {f"notebooks/{notebook.stem}.md" for notebook in ROOT.glob("notebooks/*.ipynb")}
    assert listed == pages | notebooks


def leaves(tree):
    if isinstance(tree, str):
        return [tree]
    return [leaf for branch in getattr(tree, "values", lambda: tree)() for leaf in leaves(branch)]


def test_examples_are_shown_as_code(site):
    """Examples are shown as code; in running text, `>>>` would become nested quotations."""
    # The generator takes a section headed `Example:` for running text, so `docs/examples.py`
    # changes this heading.
    for page in site.rglob("*.html"):
        assert "<blockquote>" not in page.read_text(encoding="utf-8"), page
    data = (site / "reference" / "data.html").read_text(encoding="utf-8")
    assert 'id="jaxch5.data.sources.folder.from_folder"' in data


@pytest.mark.browser
def test_search_finds_a_word_and_leads_to_it(address, new_tab):
    tab = new_tab(1280)
    tab.goto(address)
    tab.get_by_role("textbox", name="Search").click()
    tab.keyboard.type("one_cycle_momentum")
    tab.locator(".md-search-result__link").first.click()
    tab.wait_for_url("**/reference/optimization.html*")
    assert tab.get_by_role("heading", name="one_cycle_momentum").is_visible()
    assert not tab.complaints


@pytest.mark.slow
@pytest.mark.browser
def test_every_page_can_be_read(site, address, new_tab):
    """Every page fits a phone and a desktop, and has enough contrast in the light and dark schemes.

    All pictures are shown, nothing is missing, and nothing is requested from other servers.
    """
    tab = new_tab(1280, reduced_motion="reduce")
    # On each page that is opened, the theme indexes the site for the search, which takes seconds;
    # here it gets a short index.
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    few = index | {"docs": index["docs"][:1]}
    tab.route("**/search_index.json", lambda route: route.fulfill(json=few))
    missing, faults = [], {}
    tab.on("response", lambda reply: reply.status >= 400 and missing.append(reply.url))
    for page in sorted(site.rglob("*.html")):
        name = str(page.relative_to(site))
        tab.goto(address + name)
        for width in (1280, 375):
            tab.set_viewport_size({"width": width, "height": 800})
            found = tab.evaluate(FAULTS)
            for scheme in SCHEMES:
                tab.evaluate(CHOOSE, scheme)
                found += [f"{scheme[0]}, {text}" for text in tab.evaluate(FAINT, False)]
            if found:
                faults[name, width] = found
    assert not faults
    assert not missing
    assert not tab.complaints
    assert all(url.startswith((address, "data:")) for url in tab.requests)
