"""The page in a real browser, clicked and looked at: run by `nox -s browser`, which leaves screenshots behind."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from grok_conformance.harness.__main__ import main

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
CANDIDATES = ("tests/conformance/broken_port.py", "numpy_float64")
LARGEST_BYTES = 1_000_000
SCREENSHOT_BYTES = 200_000
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", "build/screenshots"))
FIRST_SCREEN = ViewportSize(width=1000, height=640)
DESK, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
SIZES = (DESK, PHONE)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(f"no browser: install one of {', '.join(BROWSERS)} (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Judge two candidates, one with two faults, and return the page of the run."""
    path = tmp_path_factory.mktemp("run") / "run.html"
    options = [word for candidate in CANDIDATES for word in ("--candidate", candidate)]
    statuses: list[int] = []  # in a thread of its own: the browser's event loop is this one's
    worker = threading.Thread(target=lambda: statuses.append(main(["run", *options, "--html", str(path), "--quiet"])))
    worker.start()
    worker.join()
    assert statuses == [1]
    return path


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    context = browser.new_context(viewport=DESK, offline=True)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert problems == []


def save(page: Page, name: str, *, whole: bool = False) -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path, full_page=whole)
    return path


def test_the_page_is_one_small_file(report: Path) -> None:
    assert report.stat().st_size < LARGEST_BYTES


def test_the_first_screen_names_both_faults_and_their_layers(page: Page) -> None:
    page.set_viewport_size(FIRST_SCREEN)
    for fault in ("scales_interleaved in layer 0", "gelu_erf in layer 1"):
        found = page.get_by_role("listitem").filter(has_text=fault)
        box = found.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < FIRST_SCREEN["height"]
    assert save(page, "first_screen").stat().st_size < SCREENSHOT_BYTES


def test_a_click_on_the_map_shows_errors_tokens_and_diagnosis(page: Page) -> None:
    page.get_by_role("button", name="moe.expert_hidden, layer 1, float32").click()
    details = page.locator("article:not([hidden]) .details")
    assert details.locator("h4").inner_text() == "moe.expert_hidden, layer 1, float32"
    assert "likely gelu_erf" in details.inner_text()
    assert details.locator("svg rect").count() == 12
    assert details.locator("th").all_inner_texts() == [
        "index", "observed", "exact", "expected", "error", "fence", "times",
    ]  # fmt: skip
    assert details.locator("tr").count() > 2
    page.get_by_role("button", name="moe.expert_hidden, layer 0, float32").click()
    assert "within its fence" in details.inner_text()
    page.get_by_role("button", name="attention.output, layer 0, float32").click()
    assert not re.search(r"\de\+", details.inner_text())  # figures that a person can use


def test_a_link_leads_to_the_cell_that_was_looked_at(page: Page, report: Path) -> None:
    page.get_by_role("button", name="moe.expert_hidden, layer 1, float32").click()
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert page.locator("article:not([hidden]) .details h4").inner_text() == "moe.expert_hidden, layer 1, float32"
    page.goto(f"{report.as_uri()}#candidate=numpy_float64")
    assert page.locator("article:not([hidden]) h2").inner_text() == "numpy_float64"


def test_commands_and_links_are_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="moe.expert_hidden, layer 1, float32").click()
    page.get_by_role("button", name="copy the command", exact=True).click()
    page.wait_for_function("navigator.clipboard.readText().then((words) => words.endsWith('moe.expert_hidden'))")
    page.get_by_role("button", name="copy a link to this").click()
    page.wait_for_function("navigator.clipboard.readText().then((words) => words === location.href)")


def test_the_list_of_cases_is_filtered_by_status_and_by_name(page: Page) -> None:
    rows = page.locator("article:not([hidden]) tr[data-case]:visible")
    every, failing = rows.count(), page.locator('article:not([hidden]) tr[data-status="fail"]').count()
    assert every >= failing > 0
    page.locator("article:not([hidden]) .filter").get_by_role("button", name=f"fail {failing}").click()
    assert rows.count() == failing
    page.locator("article:not([hidden]) .filter input").fill("single_token")
    assert 0 < rows.count() < failing
    assert all("single_token" in case for case in rows.evaluate_all("rows => rows.map((row) => row.dataset.case)"))
    page.locator("article:not([hidden]) .filter input").fill("no such case")
    assert rows.count() == 0
    assert page.locator("article:not([hidden]) .none").is_visible()


def test_layers_that_pass_are_one_column_until_they_are_asked_for(page: Page) -> None:
    page.get_by_role("button", name="numpy_float64", exact=True).click()
    cells = page.locator("article:not([hidden]) .map button:visible")
    folded = cells.count()
    page.get_by_role("button", name="show each layer that passes").click()
    assert cells.count() > folded
    page.get_by_role("button", name="fold the layers that pass").click()
    assert cells.count() == folded


def test_a_cell_tells_the_command_that_shows_it_again(page: Page) -> None:
    page.locator("article:not([hidden]) .map button.wrong").first.click()
    command = page.locator("article:not([hidden]) pre").first.inner_text()
    assert re.match(rf"pytest --conformance-candidate {CANDIDATES[0]} --conformance-case '?[a-z_]+/", command)


def test_the_other_candidate_is_a_click_away(page: Page) -> None:
    assert page.locator("article:not([hidden]) h2").inner_text() == CANDIDATES[0]
    page.get_by_role("button", name="numpy_float64", exact=True).click()
    assert page.locator("article:not([hidden]) h2").inner_text() == "numpy_float64"
    assert page.locator("article:not([hidden]) .wrong").count() == 0


def test_the_map_is_walked_by_keyboard_with_one_tab_stop(page: Page) -> None:
    cells = page.locator("article:not([hidden]) .map button")
    assert page.locator('article:not([hidden]) .map button[tabindex="0"]').count() == 1
    cells.first.click()
    title = page.locator("article:not([hidden]) .details h4")
    assert title.inner_text().startswith("embedding")
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == "embedding, float32"
    page.get_by_role("button", name="attention.norm, layer 0, bfloat16").click()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == "attention.query, layer 1, bfloat16"
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_the_map_can_be_read_in_light_and_dark(scheme: str, page: Page) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    save(page, scheme, whole=True)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) >= 5
    assert min(contrasts.values()) >= 4.5, contrasts  # WCAG 2.1 AA


CONTRASTS = """() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((x) => x / 255)
      .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = {};
  const measure = (name, front, back) => {
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    found[name] = (a + 0.05) / (b + 0.05);
  };
  for (const cell of document.querySelectorAll("article:not([hidden]) .map button")) {
    const style = getComputedStyle(cell);
    measure(cell.classList[0], style.color, style.backgroundColor);
  }
  const ground = getComputedStyle(document.body).backgroundColor;
  for (const name of ["body", ".faint", ".status.fail", ".status.pass", ".choose"])
    measure(name, getComputedStyle(document.querySelector(name)).color, ground);
  return found;
}"""


@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size["width"]))
def test_nothing_scrolls_the_page_sideways(size: ViewportSize, page: Page) -> None:
    page.set_viewport_size(size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    save(page, f"width_{size['width']}", whole=True)


def test_on_a_phone_the_map_scrolls_with_a_hint_and_the_panel_opens_in_view(page: Page) -> None:
    hint = page.locator("article:not([hidden]) .hint")
    assert not hint.is_visible()
    page.set_viewport_size(PHONE)
    page.wait_for_function("!document.querySelector('article:not([hidden]) .hint').hidden")
    cell = page.get_by_role("button", name="moe.expert_hidden, layer 1, float32")
    cell.click()
    box = page.locator("article:not([hidden]) .details h4").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < PHONE["height"] / 2
    page.get_by_role("button", name="back to the map").click()
    box = cell.bounding_box()
    assert box is not None
    assert 0 <= box["y"] < PHONE["height"]


def test_the_printed_page_holds_the_details_of_every_failing_cell(page: Page) -> None:
    wrong = page.locator("article:not([hidden]) .wrong").count()
    page.emulate_media(media="print", color_scheme="light")
    assert page.locator("article:not([hidden]) .failing section:visible").count() == wrong > 0
    assert page.locator(".details:visible").count() == 0
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.pdf(path=SCREENSHOTS / "print.pdf", format="A4", print_background=True)
    save(page, "print", whole=True)
