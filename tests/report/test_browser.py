"""The report in a real browser: Debian's Chromium or Chrome, without a window and without a network."""

import os
import shutil

import pytest
from PIL import Image

from potstill.report.page import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
DRAWN = "document.querySelectorAll('.chart svg.marks').length === document.querySelectorAll('script.spec').length"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=found, args=["--no-sandbox"] if root else [])
        yield launched
        launched.close()


class Window:
    """A report in a window of a browser, with whatever it complains about or asks for."""

    def __init__(self, browser, path, size, **options):
        self.context = browser.new_context(viewport=size, offline=True, **options)
        self.context.set_default_timeout(120_000)  # a busy machine is no failure
        self.page, self.wrong = self.context.new_page(), []
        say = self.wrong.append
        self.page.on("console", lambda said: say(said.text) if said.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: say(str(error)))
        self.page.on("requestfailed", lambda request: say(request.url))
        self.page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else say(asked.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function(DRAWN)


# Loading is what takes time: a window per report and size, that all tests share.
@pytest.fixture(scope="module", params=["run", "grid"])
def report(request):
    """The report of a run, of a grid."""
    folder, _ = request.getfixturevalue({"run": "finished", "grid": "grid"}[request.param])
    return write_report(folder)


@pytest.fixture(scope="module")
def laptop(browser, report):
    return Window(browser, report, LAPTOP)


@pytest.fixture(scope="module")
def phone(browser, report):
    return Window(browser, report, PHONE, has_touch=True)


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def column(page, table, key):
    return page.locator(f"{table} tbody td.{key}").all_inner_texts()


def hidden_in_charts(page, drawn):
    """Waits until fewer texts than `drawn` of the charts are `fitnet`."""
    texts = "[...document.querySelectorAll('.chart svg.marks text')].filter(text => text.textContent === 'fitnet')"
    page.wait_for_function(f"{texts}.length < {drawn}")


def test_it_loads_and_draws(laptop, tmp_path):
    page = laptop.page
    assert page.locator(".chart svg.marks").count() >= 4
    assert page.get_by_text("could not be drawn").count() == 0
    assert overflow(page) <= 0
    page.screenshot(path=tmp_path / "laptop.png", full_page=True)
    with Image.open(tmp_path / "laptop.png") as image:
        assert image.width == LAPTOP["width"]
        assert image.height > LAPTOP["height"]
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50  # something is drawn
    assert not laptop.wrong


def test_a_click_on_a_heading_sorts(laptop):
    page = laptop.page
    table = "#results" if page.locator("#results").count() else "#pair1"
    heading = page.locator(f"{table} th.top1")
    written = column(page, table, "method")

    def means():
        return [float(text.split(" ")[0]) for text in column(page, table, "top1")]

    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert means()[1:] == sorted(means()[1:], reverse=True)
    assert column(page, table, "method")[0] == "teacher"  # it stays on top
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert means()[1:] == sorted(means()[1:])
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") is None
    assert column(page, table, "method") == written
    for _ in range(2):
        page.locator(f"{table} th.difference button").click()
        assert column(page, table, "difference")[-1] == "–"  # empty cells come last either way
    assert not laptop.wrong


def test_methods_are_hidden_and_shown_everywhere(laptop):
    page = laptop.page
    toggle = page.get_by_role("button", name="fitnet", exact=True)
    rows = page.locator("tr[data-method='fitnet']:not([hidden])")
    before, drawn = rows.count(), page.locator(".chart svg.marks text", has_text="fitnet").count()
    assert before
    assert drawn
    toggle.click()
    assert toggle.get_attribute("aria-pressed") == "false"
    assert rows.count() == 0
    hidden_in_charts(page, drawn)
    page.emulate_media(color_scheme="dark")  # charts are drawn anew
    page.wait_for_function(DRAWN)
    hidden_in_charts(page, drawn)
    page.get_by_role("button", name="all", exact=True).click()
    assert toggle.get_attribute("aria-pressed") == "true"
    assert rows.count() == before
    assert not laptop.wrong


def test_a_phone_scrolls_tables_and_not_the_page(phone, tmp_path):
    page = phone.page
    assert overflow(page) <= 0
    assert any(box.evaluate("box => box.scrollWidth > box.clientWidth") for box in page.locator(".scroll").all())
    for scheme, light in (("light", True), ("dark", False)):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=tmp_path / "phone.png")
        with Image.open(tmp_path / "phone.png") as image:
            assert (sum(image.convert("RGB").getpixel((2, 2))) > 3 * 128) == light
    assert not phone.wrong


@pytest.mark.parametrize("report", ["grid"], indirect=True)
def test_a_cell_of_the_overview_tells_all(phone):
    phone.page.locator("#overview tr[data-method='icd+kd'] td.cell").first.tap()
    said = phone.page.locator("#readout").inner_text()
    assert said.startswith("icd+kd on wrn_40_2 → wrn_16_2: ")
    assert "points over the lone student, better" in said


@pytest.mark.parametrize("report", ["grid"], indirect=True)
def test_a_pairs_own_report_is_one_click_away(browser, report):
    window = Window(browser, report, PHONE)
    window.page.get_by_role("link", name="Report of this pair").click()
    window.page.wait_for_url("**/pairs/*/report.html")
    assert window.page.title() == "a pair"
