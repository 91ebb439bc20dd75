"""The report in a real browser, on a desk and on a phone."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.analysis_tests.browser import file_url, keep_screenshot, open_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser]

DESK, PHONE = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module", params=["synthetic", "trained"])
def page_path(
    request: pytest.FixtureRequest, browser: "Browser", tmp_path_factory: pytest.TempPathFactory
) -> Path:  # the browser comes first: without one nothing is drawn
    output = tmp_path_factory.mktemp("pages") / f"{request.param}.html"
    output.write_text(request.getfixturevalue(f"{request.param}_page"), encoding="utf-8")
    return output


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_is_quiet_whole_and_fits(browser: "Browser", page_path: Path, size: tuple[int, int]) -> None:
    said: list[str] = []
    requested: list[str] = []
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    try:
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(f"failed: {request.url[:100]}"))
        page.on("request", lambda request: requested.append(request.url[:100]))
        page.goto(file_url(page_path))
        assert said == []
        assert [url for url in requested if not url.startswith("data:")] == [file_url(page_path)]
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        # Every picture was decoded and has a size; none is wider than what holds it, unless that scrolls.
        pictures = page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.width])")
        assert len(pictures) > 10
        assert all(complete and natural > 100 and shown > 100 for complete, natural, shown in pictures)
        # What is wider than the screen lies in a frame that scrolls and can be reached with the keyboard.
        assert (
            page.evaluate(
                """[...document.querySelectorAll('main *')]
                   .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX == 'auto')
                   .filter(e => e.tabIndex < 0).length"""
            )
            == 0
        )
        kept = keep_screenshot(page, f"report-{page_path.stem}-{size[0]}", full_page=True)
        assert kept.stat().st_size > 50_000
    finally:
        page.close()


def test_sections_are_reached_by_their_links(browser: "Browser", page_path: Path) -> None:
    page = browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]})
    try:
        page.goto(file_url(page_path))
        page.click("nav a:last-child >> text=What to do next")
        assert page.locator("h2", has_text="What to do next").bounding_box()["y"] < PHONE[1]  # type: ignore[index]
        assert page.evaluate("location.hash") == f"#s{page.locator('section').count()}"
    finally:
        page.close()


def test_the_page_can_be_read_without_scripts(browser: "Browser", page_path: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    try:
        page = context.new_page()
        page.goto(file_url(page_path))
        assert page.locator("section").count() == page.locator("nav a").count() >= 8
        assert page.locator("h1").inner_text().startswith("Search ")
    finally:
        context.close()
