"""Makes the pictures of README.md and of the pages from the present product.

make pictures             trains on the demo set, minutes
make pictures RUN=DIR     takes such a run that is there
"""

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.browser import launch, watched_page  # noqa: E402

IMAGES = ROOT / "docs/images"
COOKIES = ROOT / "grad/data/demo/cookie/test"


def save(picture: Image.Image, name: str) -> None:
    """Small, as the repository keeps every one of them."""
    picture.convert("RGB").quantize(256, kmeans=1).save(IMAGES / name, optimize=True)


def shoot(page, name: str, top: str, bottom: str) -> None:
    """From the top of one element of a page to the bottom of another, over the page's width."""
    page.wait_for_timeout(1500)  # pictures are drawn as they come into view
    page.evaluate("scrollTo(0, 0)")
    first, last = (page.locator(one).bounding_box() for one in (top, bottom))
    height = last["y"] + last["height"] - first["y"]
    clip = {"x": 0, "y": first["y"], "width": page.viewport_size["width"], "height": height}
    data = page.screenshot(clip=clip, full_page=True)
    save(Image.open(io.BytesIO(data)), name)


def report(browser, run: Path) -> None:
    """The report's thresholds, and its images in the dark."""
    address, size = (run / "report.html").resolve().as_uri(), {"width": 1180, "height": 4000}
    with watched_page(browser, viewport=size) as page:
        page.goto(address)
        shoot(page, "report.png", ".page-head", "#thresholds .card >> nth=0")
    with watched_page(browser, viewport=size, color_scheme="dark") as page:
        page.goto(address)
        page.locator("#order").select_option("nearest")
        page.locator("#images").scroll_into_view_if_needed()
        shoot(page, "report-images.png", "#images", "#gallery li:nth-child(14)")


def inspection(browser, run: Path) -> None:
    """The inspection page with a broken cookie."""
    command = [sys.executable, "-m", "grad.serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://\S+", server.stdout.readline())[0]
            options = {"allowed": (address, "blob:", "data:")}
            with watched_page(browser, viewport={"width": 1120, "height": 740}, **options) as page:
                page.goto(address)
                page.locator("#class option[value=cookie]").wait_for(state="attached")
                page.select_option("#class", "cookie")
                files = [*sorted(COOKIES.glob("good/*"))[:4], *sorted(COOKIES.glob("defect/*"))[:4]]
                for number, file in enumerate(files, 1):
                    page.set_input_files("#files", file)
                    page.locator(f".entry >> nth={number - 1}").wait_for()
                page.wait_for_timeout(500)
                save(Image.open(io.BytesIO(page.screenshot())), "serve.png")
        finally:
            server.terminate()


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(sys.argv[1]) if sys.argv[1:] else Path(folder, "demo-grad-plus")
        if not sys.argv[1:]:
            command = [sys.executable, "-m", "grad.train", "--out", str(run)]
            subprocess.run(command, check=True)
        save(Image.open(run / "examples/overview.png"), "demo.png")
        for browser in launch():
            report(browser, run)
            inspection(browser, run)


if __name__ == "__main__":
    main()
