"""Headless Chromium for tests of pages; ``conftest.py`` makes the fixture from it.

    with watched_page(browser, color_scheme="dark") as page:
        page.goto(url)

The page has Playwright's synchronous interface. Leaving the block fails where the page wrote an
error to its console, raised one, or asked for anything that it may not load.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# Nothing that would ask the network for something on Chromium's own account.
FLAGS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A camera that shows a test picture, and that every page may use.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


def launch() -> Iterator:
    """Chromium with an empty profile; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def watched_page(browser, *, allowed: tuple[str, ...] = ("file:", "data:", "blob:"), **options):
    """A page in a fresh profile; fails in the end if anything went wrong in it.

    Args:
        browser: the fixture.
        allowed: beginnings of the addresses that the page may load.
        options: of Playwright's ``new_context``: ``viewport``, ``color_scheme``, ``**PHONE``, ...
    """
    context = browser.new_context(**options)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda said: said.type in ("error", "warning") and wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: r.url.startswith(allowed) or wrong.append(f"asked for {r.url}"))
    try:
        yield page
    finally:
        context.close()
    assert not wrong, "\n".join(wrong)
