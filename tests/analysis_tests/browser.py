"""A headless chromium for tests; they skip, with the reason, where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARTEFACTS = Path(__file__).parents[2] / "build" / "artefacts"
"""Where pictures of what tests saw are kept; git ignores it."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str:
    """Path of a chromium on this machine; skips the test where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium on this machine; install one (Debian: apt-get install chromium) for the browser tests")


@contextmanager
def open_browser() -> Iterator["Browser"]:
    """A headless browser without a profile."""
    executable = find_chromium()
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def keep_screenshot(page: "Page", name: str, *, full_page: bool = False) -> Path:
    """A picture of the page as it stands, kept as ``build/artefacts/NAME.png`` after the test."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    path = ARTEFACTS / f"{name}.png"
    page.screenshot(path=path, full_page=full_page)
    return path


def file_url(path: Path) -> str:
    return path.resolve().as_uri()
