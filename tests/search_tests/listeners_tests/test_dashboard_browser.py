"""Ray's dashboard during a search, in a real headless browser: log in, the job, its named actors, the metrics."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.analysis_tests.browser import keep_screenshot, open_browser

pytestmark = [pytest.mark.browser, pytest.mark.long]
PAGE_MS = 60_000


@pytest.fixture
def search(tmp_path: Path):
    """A search that runs: its process and its dashboard's address."""
    from tests.analysis_tests.browser import find_chromium

    find_chromium()
    command = [sys.executable, "-m", "search.run", "--space", "ad_smoke", "--num-samples", "500", "--concurrency", "1"]
    # A URL with a password, of which nothing may be seen anywhere.
    command += [
        "--study-storage",
        f"sqlite:///{tmp_path / 'study.db'}?cache=hushhush",
        "--output",
        str(tmp_path / "seen"),
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        told = iter(process.stdout.readline, "")  # ends where the search does
        line = next((each for each in told if each.startswith("dashboard: ")), "")
        found = re.match(r"dashboard: (http://\S+) \(its token is in (.+)\)$", line)
        assert found, line + process.stderr.read()
        assert any(each.startswith("highest so far: AUC ") for each in told), process.stderr.read()
        yield found[1], Path(found[2]), process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)


def metrics(driver: int) -> str:
    """What Prometheus would read at the addresses that Ray writes down for the session that process `driver` began."""
    (file,) = Path("/tmp/ray").glob(f"session_*_{driver}/prom_metrics_service_discovery.json")
    return "\n".join(_read(target) for entry in json.loads(file.read_text()) for target in entry["targets"])


def _read(target: str) -> str:
    """The page of one of Ray's exporters; empty where it does not listen (yet), as Prometheus would note too."""
    try:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=300) as answer:
            return answer.read().decode()
    except urllib.error.URLError:
        return ""


def test_the_dashboard_shows_the_search_under_its_name(search):
    address, token_file, driver = search
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"{address}/#/jobs")
        dialog = page.locator("[role=dialog]")
        dialog.wait_for(timeout=PAGE_MS)
        assert "seen: python -m search.run" not in page.inner_text("body")
        dialog.locator("input").fill(token_file.read_text().strip())
        dialog.get_by_role("button", name="submit").click()
        dialog.wait_for(state="detached", timeout=PAGE_MS)
        page.goto(f"{address}/#/jobs")
        page.get_by_text("seen: python -m search.run").first.wait_for(timeout=PAGE_MS)
        kept = [keep_screenshot(page, "dashboard-jobs")]
        assert "hushhush" not in page.content()
        page.goto(f"{address}/#/actors")
        page.get_by_text(re.compile(r"ad_smoke \d{5} num_embeddings=\d+")).first.wait_for(timeout=PAGE_MS)
        kept.append(keep_screenshot(page, "dashboard-actors"))
    for picture in kept:
        assert picture.stat().st_size > 10_000
    page_of_metrics = ""
    while "ray_search_best_auc{" not in page_of_metrics:  # exported every ten seconds; the test's time limit ends this
        page_of_metrics = metrics(driver)
        time.sleep(0.5)
    best = re.search(r'^ray_search_best_auc\{.*run="seen".*\} (\S+)', page_of_metrics, re.M)
    assert best, "of another search on this machine"
    assert 0 < float(best[1]) <= 1
    assert re.search(r'^ray_search_trials\{.*state="running".*\} 1', page_of_metrics, re.M)
