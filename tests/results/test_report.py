import base64
import dataclasses
import hashlib
import re
import time
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jaxch5.errors import CheckpointError
from jaxch5.metrics import Best
from jaxch5.plots.embed import contact_sheet, picture_image
from jaxch5.results import report as module
from jaxch5.results.advice import Advice
from jaxch5.results.calibration import calibrate
from jaxch5.results.report import Example, Report, render, write_report
from jaxch5.task import SOFTMAX
from jaxch5.util.text import NO_NUMBER
from tests.pages import FAINT

EVIL = """<script>alert(1)</script>"'&{{ 7*7 }}"""
SCREENS = [(360, "light"), (360, "dark"), (1200, "light"), (1200, "dark")]


class Page(HTMLParser):
    """Parses a page into its elements, with their attributes, and its visible text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.texts, self._open = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)

    @property
    def titles(self):
        return [attrs["title"] for _, attrs in self.tags if "title" in attrs]

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def epochs(count=9):
    return [
        {
            "epoch": epoch,
            "phase": "frozen" if epoch < 3 else "unfrozen",
            "train_loss": 2.5 * 0.6**epoch + 0.2,
            "valid_loss": 1.4 * 0.7**epoch + 0.31,
            "accuracy": 1 - 0.4 * 0.7**epoch,
            "error_rate": 0.4 * 0.7**epoch,
            "seconds": 64.2,
            "images_per_second": 410.4,
        }
        for epoch in range(count)
    ]


def schedule(steps=1000):
    shape = np.sin(np.linspace(0.05, 3.1, steps))
    return shape[:, None] * np.array([1e-5, 1e-4, 1e-3]), 0.95 - 0.1 * shape


def running(**changes):
    rates, momentum = schedule()
    start = Report(
        title="pets-resnet50",
        data_line="5,912 pictures to train on and 1,478 to validate with, of 37 classes.",
        config='seed = 0\n\n[data]\npath = "~/pets"\n',
        records=epochs(),
        right=(1400, 1478),
        rates=rates.tolist(),
        momentum=momentum.tolist(),
        group_names=("stem", "stages", "head"),
        versions={"jax": "0.10.2"},
    )
    return dataclasses.replace(start, **changes)


@pytest.mark.parametrize(
    ("best", "tile"),
    [
        (Best(), "best accuracy, epoch 9"),
        (Best("error_rate", "lowest"), "best error rate, epoch 9"),
        (Best("train_loss", "lowest"), "best train loss, epoch 1"),
    ],
)
def test_the_best_epoch_is_named_by_the_score_that_decides(best, tile):
    """The report shows the score that chose the best epoch, not another score of that epoch."""
    records = [record | {"train_loss": 1.0 + record["epoch"]} for record in epochs()]
    report = running(records=records, task=dataclasses.replace(SOFTMAX, best=best))
    record = records[best.of(records)]
    assert f"<dt>{tile}</dt><dd>{best.shown(record)}</dd>" in render(report)


def cost(probabilities, labels):
    """Returns the mean cost of the answers, in euros."""
    return 12.5 * float((probabilities.argmax(axis=1) != labels).mean())


def test_a_metric_that_is_no_share_is_no_percentage():
    """A metric of one's own is shown as it is: in the tiles, the table of epochs and the curve."""
    records = [record | {"cost": 12.5 * record["error_rate"]} for record in epochs()]
    task = SOFTMAX.compared_by("cost", [cost])
    page = render(running(records=records, task=task))
    first, last = (f"{records[number]['cost']:.4f}" for number in (0, -1))
    assert f"<dt>cost</dt><dd>{last}</dd>" in page
    assert f"<dt>best cost, epoch 1</dt><dd>{first}</dd>" in page
    assert f"<td>{last}</td>" in page
    (row,) = [line for line in page.splitlines() if f"<td>{first}</td>" in line]
    assert f"<td>{100 * records[0]['accuracy']:.2f}\N{NO-BREAK SPACE}%</td>" in row
    assert f"from {records[0]['cost']:.3g} to" in page


def names_of(count):
    return [f"{'American ' * (number % 3 == 0)}breed no {number}" for number in range(count)]


@cache
def photograph(height=460, width=612):
    """Returns smooth colours with grain, about as hard to compress as a photograph."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[0:height, 0:width] / 90
    waves = np.sin(down[..., None] * rng.uniform(1, 3, 3) + across[..., None] * rng.normal(size=3))
    return (0.5 + 0.3 * waves + rng.normal(0, 0.04, (height, width, 3))).clip(0, 1)


@cache
def tiles():
    """Returns a contact sheet of different parts of `photograph`."""
    image, rng = Image.fromarray((255 * photograph()).astype(np.uint8)), np.random.default_rng(1)
    corners = zip(rng.integers(0, 500, 360), rng.integers(0, 400, 360), strict=True)
    return contact_sheet([image.crop((x, y, x + 61, y + 46)) for x, y in corners])


def finished(classes=37, names=None, **changes):
    rng = np.random.default_rng(0)
    names = names or names_of(classes)
    classes = len(names)
    confusion = np.diag(rng.integers(30, 42, classes))
    np.add.at(confusion, tuple(rng.integers(0, classes, (2, 3 * classes))), 1)
    found = confusion.diagonal() / confusion.sum(axis=1)
    confidences = rng.uniform(0.5, 1, 400)
    mistakes = [tuple(cell) for cell in np.argwhere(confusion).tolist()]
    examples = {cell: [Example(None, "not shown.jpg")] for cell in mistakes}
    for number, cell in enumerate(mistakes[:360]):
        examples[cell] = [Example(number, f"images/{number}.jpg")]
    done = running(
        finished=True,
        sample=[(picture_image(photograph(), one), one) for one in (names * 8)[:8]],
        counts=[(name, 160, 40) for name in names],
        confusion=confusion,
        classes=names,
        examples=examples,
        sheet=tiles(),
        class_table=[
            {"class": name, "precision": share, "recall": share, "f1": share, "support": 40}
            for name, share in zip(names, found, strict=True)
        ],
        top_losses=[
            {
                "picture": photograph(),
                "prediction": names[0],
                "actual": names[-1],
                "loss": 9.1234 - number,
                "probability": 0.0123,
                "confidence": 0.9,
                "suspect": number == 0,
                "reference": f"images/{names[-1]}_{number}.jpg",
            }
            for number in range(8)
        ],
        calibration=calibrate(confidences, rng.uniform(size=400) < confidences),
    )
    return dataclasses.replace(done, **changes)


@pytest.fixture(scope="module")
def page():
    return render(finished())


def test_every_part_has_its_place_and_its_link(page):
    tags = Page(page)
    sections = [attrs["id"] for attrs in tags.attributes("section")]
    assert len(sections) == 10
    links = [attrs["href"] for attrs in tags.attributes("a")]
    assert sorted(links[: len(sections) - 1]) == sorted(f"#{one}" for one in sections[1:])
    ids = [attrs["id"] for _, attrs in tags.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_the_numbers_are_there(page):
    text = Page(page).text
    last = epochs()[-1]
    for shown in (
        f"{last['train_loss']:.4f}",
        f"{last['valid_loss']:.4f}",
        f"{100 * last['error_rate']:.2f}\N{NO-BREAK SPACE}%",
        "9:38",
        "1:04",
        "loss 9.12",
        "1.2\N{NO-BREAK SPACE}%",
        "94.7\N{NO-BREAK SPACE}%",
        "(Wilson): 93.5\N{NO-BREAK SPACE}% to 95.8\N{NO-BREAK SPACE}%.",
        "breed no 36_7.jpg",
        'path = "~/pets"',
        "0.10.2",
        "training: from 2.7 to 0.242, lowest 0.242, highest 2.7.",
    ):
        assert shown in text, shown


def test_cells_are_shaded_by_their_share_of_the_row():
    counts = np.array([[8, 0], [1, 3]])
    source = render(running(confusion=counts, classes=["a", "b"]))
    cells = re.findall(
        r"<td(?: class=\"(.*?)\"><a href=.*?)?>(\d*)(?=<)", source[source.index("confusion sm") :]
    )
    assert ("hit l8", "8") in cells
    assert ("", "") in cells
    assert ("miss l2", "1") in cells
    assert ("hit l6", "3") in cells


def test_names_are_text_wherever_they_stand():
    changes = {
        "title": EVIL,
        "data_line": EVIL,
        "config": EVIL,
        "group_names": (EVIL, "b", "c"),
        "versions": {EVIL: EVIL},
        "records": [record | {"phase": EVIL} for record in epochs()],
    }
    source = render(finished(names=[EVIL, "other"], **changes))
    tags = Page(source)
    assert len(tags.attributes("script")) == 1
    assert "<script>alert" not in source
    assert tags.text.count(EVIL) > 10
    # A long name is cut in its middle; the element's title, a tooltip, has it in full.
    assert tags.titles.count(EVIL) > 10
    alts = [attrs["alt"] for attrs in tags.attributes("img")]
    assert f"A picture of other that was taken for {EVIL}" in alts


def test_a_recognized_picture_is_not_described_as_taken_for_its_own_class():
    """Screen readers read these texts aloud."""
    loss = finished(names=["cat", "dog"]).top_losses[0] | {"prediction": "dog"}
    tags = Page(render(finished(names=["cat", "dog"], top_losses=[loss])))
    assert "A picture of dog" in [attrs["alt"] for attrs in tags.attributes("img")]
    labels = [attrs["aria-label"] for attrs in tags.attributes("i")]
    assert any(label.startswith("cat, right: ") for label in labels)
    assert any(label.startswith("cat taken for dog: ") for label in labels)
    assert not any("cat taken for cat" in label for label in labels)


def test_bytes_that_are_no_text_are_shown_as_escapes(tmp_path):
    write_report(tmp_path / "report.html", running(title="caf\udce9"))
    assert "<h1>caf\\udce9</h1>" in (tmp_path / "report.html").read_text("utf-8")


def test_nothing_comes_from_elsewhere(page):
    assert "://" not in page
    for tag, attrs in Page(page).tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, name)
    assert not re.search(r"url\((?!data:)|@import", page)


def test_the_policy_lets_only_our_script_run(page):
    metas = Page(page).attributes("meta")
    policy = next(meta["content"] for meta in metas if "http-equiv" in meta)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r"\son\w+=", page)


@pytest.mark.parametrize("report", [Report("a", "b"), running(records=()), running()])
def test_what_is_missing_is_left_out(report):
    source = render(report)
    assert "Training is running" in source
    assert 'id="confusion"' not in source
    assert source.count("<section id=") - ('id="advice"' in source) == source.count(
        '<li><a href="#'
    )


def test_numbers_that_are_none():
    record = epochs(1)[0] | {"train_loss": float("nan"), "valid_loss": float("inf")}
    text = Page(render(running(records=[record]))).text
    assert "training: no finite value." in text
    assert "n/a" not in text
    assert NO_NUMBER in text


def test_steps_that_were_skipped_have_a_column():
    records = [record | {"skipped_steps": 17} for record in epochs()]
    assert "<td>17</td>" in render(running(records=records))


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(path, running(title="old"))

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match=r"report\.html: cannot be written: No space left"):
        write_report(path, running(title="new"))
    assert "<h1>old</h1>" in path.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", running())


def test_the_report_of_an_epoch_costs_little(tmp_path):
    rates, momentum = schedule(20_000)
    sample = [(picture_image(np.zeros((8, 8, 3)), "A picture."), "a")]
    report = running(
        records=epochs(100), rates=rates.tolist(), momentum=momentum.tolist(), sample=sample
    )
    write_report(tmp_path / "report.html", report)
    # Processor time is measured, since other tests may be using the processor too.
    times = []
    for _ in range(3):
        began = time.process_time()
        write_report(tmp_path / "report.html", report)
        times.append(time.process_time() - began)
    assert min(times) < 0.3


@pytest.mark.parametrize("classes", [2, 120])
def test_the_last_report_is_small_and_quick(tmp_path, classes):
    path = tmp_path / "report.html"
    report = finished(classes)
    began = time.process_time()
    write_report(path, report)
    assert time.process_time() - began < 5
    assert path.stat().st_size < 3e6


# Tests in a browser.


@pytest.fixture(scope="module")
def opened(chromium, tmp_path_factory):
    """Provides a function that opens a report in a tab, which records its errors and requests."""
    folder = tmp_path_factory.mktemp("reports")
    contexts = []

    def open_report(report, width=1200, scheme="light", **options):
        path = folder / f"{len(contexts)}.html"
        write_report(path, report)
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, **options
        )
        contexts.append(context)
        tab = context.new_page()
        tab.complaints, tab.requests = [], []
        tab.on("console", lambda message: tab.complaints.append(message.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (tab.complaints.append("dialog"), dialog.dismiss()))
        tab.on("request", lambda request: tab.requests.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield open_report
    for context in contexts:
        context.close()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_page_fits_its_screen_and_asks_for_nothing(opened, tmp_path, width, scheme):
    tab = opened(finished(), width, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
    assert tab.evaluate(FAINT, True) == []
    assert tab.complaints == []
    outside = [url for url in tab.requests if not url.startswith(("file:", "data:"))]
    assert outside == []
    assert len([url for url in tab.requests if url.startswith("file:")]) == 1


@pytest.mark.browser
@pytest.mark.parametrize("peak", [2e-3, 1.6e-4, 0.3])
@pytest.mark.parametrize("width", [390, 1000])
def test_the_marks_of_a_chart_are_within_it(opened, width, peak):
    """If all groups have the same rate, the axis of rates is linear and its labels may be long."""
    rates = (peak * schedule()[1]).tolist()
    tab = opened(running(rates=[[rate] * 3 for rate in rates]), width)
    outside = tab.evaluate(
        """[...document.querySelectorAll(".chart text")].filter(text => {
             const chart = text.closest("svg").getBoundingClientRect();
             const box = text.getBoundingClientRect();
             return box.left < chart.left || box.right > chart.right + 1;
           }).map(text => text.textContent)"""
    )
    assert tab.locator(".chart text").count() > 20
    assert outside == []


@pytest.mark.browser
def test_a_name_is_no_script_in_a_browser(opened):
    evil = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
    tab = opened(finished(names=[evil, "b"], title=evil, group_names=(evil, "b", "c")))
    assert tab.complaints == []
    assert tab.locator("h1").inner_text() == evil
    assert tab.get_by_title(evil).count() > 5
    assert tab.locator("img[src=x]").count() == 0


@pytest.mark.browser
def test_the_table_of_classes_is_sorted_by_keyboard(opened):
    tab = opened(finished(classes=12))
    names = tab.locator("table.sortable tbody th")
    scores = tab.locator("table.sortable tbody td:nth-child(4)")
    values = "cells => cells.map(cell => Number(cell.dataset.value))"
    assert scores.evaluate_all(values) == sorted(scores.evaluate_all(values))
    tab.get_by_role("button", name="recall").focus()
    tab.keyboard.press("Enter")
    heading = tab.locator("table.sortable thead th").nth(2)
    cells = tab.locator("table.sortable tbody td:nth-child(3)")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert cells.evaluate_all(values) == sorted(cells.evaluate_all(values))
    tab.keyboard.press("Space")
    assert heading.get_attribute("aria-sort") == "descending"
    assert cells.evaluate_all(values) == sorted(cells.evaluate_all(values), reverse=True)
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") is None
    by_number = sorted(
        names_of(12), key=lambda name: ("American" not in name, int(name.split()[-1]))
    )
    assert names.all_inner_texts() == by_number


@pytest.mark.browser
def test_without_script_the_table_is_plain(opened):
    tab = opened(finished(classes=5), java_script_enabled=False)
    assert tab.locator("table.sortable tbody tr").count() == 5
    assert tab.locator("button").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("classes", [2, 37, 200])
def test_the_labels_of_the_matrix_stay_in_sight(opened, classes):
    tab = opened(finished(classes), width=360)
    box = tab.locator(".matrix")
    box.scroll_into_view_if_needed()
    box.evaluate("box => { box.scrollTop = 1e6; box.scrollLeft = 1e6 }")
    left = box.bounding_box()["x"]
    label = tab.locator(".confusion tbody th").last.bounding_box()
    cell = tab.locator(".confusion tbody td").last.bounding_box()
    assert label["x"] >= left - 1
    assert label["x"] + label["width"] <= cell["x"] + 1
    assert cell["x"] + cell["width"] <= 360


@pytest.mark.browser
def test_where_the_network_looked_is_a_switch_away(opened):
    """One key press shows the maps of all pictures; a picture without a map stays visible."""
    black, white = np.zeros((96, 96, 3)), np.ones((96, 96, 3))
    losses = [loss | {"picture": black} for loss in finished().top_losses]
    losses = [loss | {"look": white} for loss in losses[:-1]] + losses[-1:]
    tab = opened(dataclasses.replace(finished(), top_losses=losses), 375)
    switch = tab.get_by_label("Show where the network looked")
    seen = tab.locator("#losses img:visible")
    looked = tab.get_by_alt_text("where the network looked")
    assert seen.count() == len(losses)
    assert not any(one.is_visible() for one in looked.all())
    switch.focus()
    tab.keyboard.press("Space")
    assert seen.count() == len(losses)
    assert sum(one.is_visible() for one in looked.all()) == len(losses) - 1
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    assert tab.complaints == []


def test_every_example_is_shown_or_named():
    """The contact sheet may become full within a cell."""
    counts, sheet = np.array([[8, 2], [0, 3]]), contact_sheet([Image.new("RGB", (40, 30))])
    examples = {(0, 1): [Example(0, "a/one.jpg"), Example(None, "a/two.jpg")]}
    page = render(running(confusion=counts, classes=["a", "b"], examples=examples, sheet=sheet))
    assert page.count('aria-label="a taken for b: a/one.jpg"') == 1
    assert page.count('<bdi title="a/two.jpg">two.jpg</bdi>') == 1
    assert '<bdi title="a/one.jpg">' not in page


@pytest.mark.browser
def test_a_cell_of_the_matrix_opens_its_pictures(opened):
    """A cell opens a dialog by pointer and keyboard; without scripts, it links to the pictures."""
    counts, names = np.array([[8, 2], [0, 3]]), ["a very long name of a class, which is cut", "b"]
    sheet = contact_sheet([Image.new("RGB", (40, 30))] * 2)
    examples = {(0, 1): [Example(0, "one.jpg"), Example(1, "two.jpg")]}
    report = running(confusion=counts, classes=names, examples=examples, sheet=sheet)
    tab = opened(report, 375)
    cell = tab.locator(".confusion td.miss a")
    cell.click()
    dialog = tab.get_by_role("dialog")
    assert dialog.locator("i:visible").count() == 2
    assert "a very long na…" in dialog.inner_text()
    assert "2 pictures, 20 %" in dialog.inner_text().replace("\N{NO-BREAK SPACE}", " ")
    tab.keyboard.press("Escape")
    assert not dialog.is_visible()
    cell.focus()
    tab.keyboard.press("Enter")
    tab.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    plain = opened(report, java_script_enabled=False)
    plain.locator(".confusion td.hit a").first.click()
    assert plain.locator("#m0-0").is_visible()


@pytest.mark.browser
def test_a_large_report_shows_what_matters_in_three_screens_and_at_once(opened):
    tab = opened(finished(10), 1280)
    assert tab.locator("#losses").evaluate("part => part.getBoundingClientRect().bottom") < 3 * 800
    large = opened(finished(120), 1280)
    large.locator(".confusion td.miss a").first.click()
    assert large.get_by_role("dialog").is_visible()


@pytest.mark.browser
def test_a_table_of_many_long_names_shows_its_last_column(opened):
    names = [f"german_shorthaired_{number}" for number in range(101)]
    tab = opened(finished(names=names), 1280)
    width = "box => [box.scrollWidth, box.clientWidth]"
    inner, outer = tab.locator("#classes .tall").evaluate(width)
    assert inner <= outer


@pytest.mark.browser
def test_a_name_of_ten_letters_is_not_broken_on_a_phone(opened):
    tab = opened(finished(names=["sunflowers", "b"]), 375)
    long, short = (tab.locator(".sample figcaption").nth(at).bounding_box() for at in (0, 1))
    assert long["height"] == short["height"]


def test_a_page_loads_itself_again_until_training_ends():
    refresh = 'http-equiv="refresh"'
    assert refresh in render(running(time="12:34:56"))
    assert "at 12:34:56" in render(running(time="12:34:56"))
    assert refresh not in render(finished(2))
    stopped = render(running(stopped="was interrupted", path="'a run'"))
    assert refresh not in stopped
    assert "Training was interrupted after epoch 9" in stopped
    assert "jaxch5 train --resume &#39;a run&#39;" in stopped


def test_a_class_without_pictures_has_no_score_and_comes_last():
    rows = [
        {"class": name, "precision": score, "recall": score, "f1": score, "support": support}
        for name, score, support in (("none", None, 0), ("good", 0.9, 9), ("bad", 0.2, 9))
    ]
    page = render(running(confusion=np.eye(3, dtype=int), classes="abc", class_table=rows))
    text = Page(page[page.index('id="classes"') :]).text
    assert text.index("bad") < text.index("good") < text.index("none")
    assert text.count(f"\n{NO_NUMBER}") + page.count(f">{NO_NUMBER}</td>") >= 3


def test_there_is_no_switch_where_no_map_is():
    assert 'id="looks"' not in render(finished())


def test_what_to_do_next_comes_first_and_is_text():
    advice = [Advice("<b>cats</b> are rare", "jaxch5 train --config 'a & b/config.toml'")]
    page = render(Report("run", "data", advice=advice, config="seed = 42"))
    assert "&lt;b&gt;cats&lt;/b&gt; are rare" in page
    assert "&#39;a &amp; b/config.toml&#39;</pre>" in page
    assert page.index('id="advice"') < page.index('id="configuration"')
    assert 'id="advice"' not in render(Report("run", "data", config="seed = 42"))
