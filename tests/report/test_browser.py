"""The report in a real browser: Debian's Chromium or Chrome, without a window and without a network."""

import os
import shutil

import pytest
from PIL import Image

from potstill.report.page import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
DRAWN = "document.querySelectorAll('.chart svg').length === document.querySelectorAll('script.spec').length"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=found, args=["--no-sandbox"] if root else [])
        yield launched
        launched.close()


@pytest.fixture(scope="module", params=["run", "grid"])
def report(request):
    """The report of a run, of a grid."""
    folder, _ = request.getfixturevalue({"run": "finished", "grid": "grid"}[request.param])
    return write_report(folder)


@pytest.fixture
def opened(browser, report):
    """Opens the report in a window of a size; whatever is complained about or asked for fails the test."""
    contexts, wrong = [], []

    def open_(size, **options):
        context = browser.new_context(viewport=size, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url))
        page.goto(report.as_uri())
        page.wait_for_function(DRAWN)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def column(page, table, key):
    return page.locator(f"{table} tbody td.{key}").all_inner_texts()


def test_it_loads_and_draws(opened, tmp_path):
    page = opened(LAPTOP)
    assert page.locator(".chart svg").count() >= 4
    assert page.get_by_text("could not be drawn").count() == 0
    assert overflow(page) <= 0
    page.screenshot(path=tmp_path / "laptop.png", full_page=True)
    with Image.open(tmp_path / "laptop.png") as image:
        assert image.width == LAPTOP["width"]
        assert image.height > LAPTOP["height"]
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50  # something is drawn


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_tables_and_not_the_page(opened, tmp_path, scheme):
    page = opened(PHONE, color_scheme=scheme, has_touch=True)
    assert overflow(page) <= 0
    wide = page.locator(".scroll").first
    assert wide.evaluate("box => box.scrollWidth > box.clientWidth || box.scrollWidth === box.clientWidth")
    page.screenshot(path=tmp_path / "phone.png")
    with Image.open(tmp_path / "phone.png") as image:
        light = sum(image.convert("RGB").getpixel((2, 2))) > 3 * 128
    assert light == (scheme == "light")


def test_a_click_on_a_heading_sorts(opened):
    page = opened(LAPTOP)
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


def test_empty_cells_come_last_either_way(opened):
    page = opened(LAPTOP)
    table = "#results" if page.locator("#results").count() else "#pair1"
    for _ in range(2):
        page.locator(f"{table} th.difference button").click()
        assert column(page, table, "difference")[-1] == "–"


def test_methods_are_hidden_and_shown_everywhere(opened):
    page = opened(LAPTOP)
    toggle = page.get_by_role("button", name="fitnet", exact=True)
    rows = page.locator("tr[data-method='fitnet']:not([hidden])")
    labels = page.locator(".chart svg text", has_text="fitnet")
    before, drawn = rows.count(), labels.count()
    assert before
    assert drawn
    toggle.click()
    assert toggle.get_attribute("aria-pressed") == "false"
    assert rows.count() == 0
    page.wait_for_function(f"[...document.querySelectorAll('.chart svg text')].filter(t => t.textContent === 'fitnet').length < {drawn}")
    page.emulate_media(color_scheme="dark")  # charts are drawn anew
    page.wait_for_function(DRAWN)
    page.wait_for_function(f"[...document.querySelectorAll('.chart svg text')].filter(t => t.textContent === 'fitnet').length < {drawn}")
    page.get_by_role("button", name="all", exact=True).click()
    assert toggle.get_attribute("aria-pressed") == "true"
    assert rows.count() == before


@pytest.mark.parametrize("report", ["grid"], indirect=True)
def test_a_cell_of_the_overview_tells_all(opened):
    page = opened(PHONE, has_touch=True)
    page.locator("#overview tr[data-method='icd+kd'] td.cell").first.tap()
    said = page.locator("#readout").inner_text()
    assert said.startswith("icd+kd on wrn_40_2 → wrn_16_2: ")
    assert "points over the lone student, better" in said


@pytest.mark.parametrize("report", ["grid"], indirect=True)
def test_a_pairs_own_report_is_one_click_away(opened):
    page = opened(LAPTOP)
    page.get_by_role("link", name="Report of this pair").click()
    assert page.title() == "a pair"
