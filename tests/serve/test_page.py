"""The inspection page in a real browser, against a real server on this machine."""

import csv
import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from helpers.browser import PHONE, watched_page
from helpers.serving import CALIBRATION, FakeDetector, encoded, grey, served, spot

from grad.detector.checkpoint import Origin, Update
from grad.predict.outputs import COLUMNS
from grad.serve.feedback import FeedbackFolder
from grad.serve.teaching import Teaching
from grad.system.errors import GradError

GOOD, BAD = 40, 230  # grey levels far below and above every threshold
LIMIT = CALIBRATION.unknown.image


@pytest.fixture(scope="module")
def address():
    with served(FakeDetector(), max_upload_mb=1) as url:
        yield url


@pytest.fixture
def open_page(browser, address):
    """Opens the page in a fresh profile, where nothing may go wrong and nothing else be loaded."""

    def open_it(url=address, path="", **options):
        allowed = (url, "blob:", "data:")
        return _Opened(watched_page(browser, allowed=allowed, **options), url + path)

    return open_it


class _Opened:
    """A watched page that has gone to its address."""

    def __init__(self, context, url):
        self.context, self.url = context, url

    def __enter__(self):
        page = self.context.__enter__()
        page.set_default_timeout(20_000)
        page.goto(self.url)
        return page

    def __exit__(self, *error):
        return self.context.__exit__(*error)


def choose(page, *files):
    """Choose files given as (name, bytes)."""
    page.set_input_files(
        "#files",
        [{"name": name, "mimeType": mime(name), "buffer": data} for name, data in files],
    )


def mime(name):
    return {"png": "image/png", "tif": "image/tiff", "jpg": "image/jpeg"}.get(name[-3:], "")


def verdict(page, word):
    """Wait until the verdict is this word."""
    page.locator("#word", has_text=re.compile(f"^{word}$")).wait_for()


def heat(page):
    """The heat map's pixels as (h, w, 4)."""
    size, data = page.evaluate(
        """() => {
            const c = document.getElementById("heat");
            const copy = document.createElement("canvas");
            copy.width = c.width; copy.height = c.height;
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(c, 0, 0);
            const d = context.getImageData(0, 0, c.width, c.height).data;
            return [[c.height, c.width], Array.from(d)];
        }"""
    )
    return np.array(data, dtype=np.uint8).reshape(*size, 4)


def test_a_chosen_file_gets_verdict_heat_map_and_a_place_in_the_history(open_page):
    with open_page() as page:
        page.locator("#model", has_text="cookie, pcb").wait_for()
        assert page.locator(".entry").count() == 0
        choose(page, ("spot.png", encoded(spot((240, 160)))))
        verdict(page, "Anomalous")  # by its brightest pixels, its score is low
        assert page.inner_text("#name") == "spot.png"
        assert float(page.inner_text("#score")) == pytest.approx(10 / 16, rel=0.1)
        assert float(page.inner_text("#threshold")) == pytest.approx(LIMIT, rel=1e-3)
        pixels = heat(page)
        assert pixels.shape == (160, 240, 4)
        assert pixels[:20, :30, 3].min() > 150 and pixels[80:, 120:, 3].max() < 80
        choose(page, ("dark.png", encoded(grey(20))))
        verdict(page, "Good")
        assert page.locator(".entry").count() == 2
        assert page.inner_text("#counts") == "1 of 2 anomalous"
        page.click(".entry >> nth=1")
        verdict(page, "Anomalous")
        assert page.locator("#picture").evaluate("e => e.naturalWidth") == 240


def test_the_threshold_moves_the_verdict_and_comes_back(open_page):
    # A little below the threshold, and above the typical map, from where lower limits are warmer.
    level = (LIMIT + CALIBRATION.unknown.pixel_typical) / 2
    assert CALIBRATION.unknown.pixel_typical < level < LIMIT
    with open_page() as page:
        choose(page, ("part.png", encoded(grey(round(25.5 * level)))))
        verdict(page, "Good")
        cold = heat(page)[..., 3].mean()
        page.locator("#slider").evaluate(
            "e => { e.value = 300; e.dispatchEvent(new Event('input')) }"
        )
        verdict(page, "Anomalous")
        assert float(page.inner_text("#threshold")) < level
        assert float(page.inner_text("#value")) > 0.5
        assert heat(page)[..., 3].mean() > cold
        assert page.locator(".entry").get_attribute("data-verdict") == "anomalous"
        assert not re.match("0.0 %", page.inner_text("#effect"))
        page.click("#reset")
        verdict(page, "Good")
        assert float(page.inner_text("#threshold")) == pytest.approx(LIMIT, rel=1e-3)
        page.fill("#number", str(0.9 * LIMIT))
        verdict(page, "Anomalous")


def test_the_class_chooses_the_threshold(open_page):
    between = (CALIBRATION.classes["cookie"].image + CALIBRATION.classes["pcb"].image) / 2
    with open_page() as page:
        page.locator("#class option").nth(2).wait_for(state="attached")
        page.select_option("#class", "cookie")
        choose(page, ("part.png", encoded(grey(round(25.5 * between)))))
        verdict(page, "Anomalous")
        page.select_option("#class", "pcb")
        verdict(page, "Good")


def test_the_opacity_slider_fades_the_heat_map(open_page):
    with open_page() as page:
        choose(page, ("part.png", encoded(grey(BAD))))
        verdict(page, "Anomalous")
        page.locator("#opacity").evaluate(
            "e => { e.value = 20; e.dispatchEvent(new Event('input')) }"
        )
        assert page.locator("#heat").evaluate("e => getComputedStyle(e).opacity") == "0.2"


def test_the_history_is_exported_survives_a_reload_and_is_cleared(open_page, tmp_path):
    with open_page() as page:
        files = [(f"part {i}.png", encoded(grey(level))) for i, level in enumerate((GOOD, BAD) * 3)]
        choose(page, *files, ('=1+1,"x".png', encoded(grey(GOOD))))
        page.locator(".entry").nth(6).wait_for()
        page.reload()
        page.locator(".entry").nth(6).wait_for()
        assert page.inner_text("#counts") == "3 of 7 anomalous"
        with page.expect_download() as download:
            page.click("#export")
        download.value.save_as(tmp_path / "list.csv")
        with (tmp_path / "list.csv").open(newline="") as file:
            rows = {row["name"]: row for row in csv.DictReader(file)}
        assert set(rows) == {name for name, _ in files} | {'\'=1+1,"x".png'}
        assert list(rows["part 1.png"]) == list(COLUMNS), "as grad predict writes them"
        assert rows["part 1.png"]["is_anomalous"] == "True"
        assert rows["part 1.png"]["regions"] == "1" and rows["part 0.png"]["regions"] == "0"
        assert rows["part 1.png"]["model_version"] == "0123456789ab"
        assert float(rows["part 1.png"]["score"]) == pytest.approx(BAD / 25.5, rel=1e-4)
        page.check("#decimal-comma")
        with page.expect_download() as download:
            page.click("#export")
        download.value.save_as(tmp_path / "list.csv")
        with (tmp_path / "list.csv").open(newline="", encoding="utf-8-sig") as file:
            commas = {row["name"]: row for row in csv.DictReader(file, delimiter=";")}
        assert commas["part 1.png"]["score"] == rows["part 1.png"]["score"].replace(".", ",")
        page.click(".entry >> nth=0")  # its picture was not kept, its thumbnail was
        page.locator("#picture").wait_for()
        page.click("#clear")
        page.reload()
        page.locator("#no-entries").wait_for()
        assert page.locator(".entry").count() == 0


def test_files_are_dropped_and_pasted(open_page):
    send = """(kind) => {
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 30;
        return new Promise((done) => canvas.toBlob((blob) => {
            const data = new DataTransfer();
            data.items.add(new File([blob], kind + ".png", { type: "image/png" }));
            const event = kind === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data });
            window.dispatchEvent(event);
            done();
        }));
    }"""
    with open_page() as page:
        for number, kind in enumerate(("drop", "paste")):
            page.evaluate(send, kind)
            page.locator(".entry").nth(number).wait_for()
            assert page.inner_text("#name") == f"{kind}.png"


def test_what_browsers_cannot_show_is_shown_by_the_server(open_page):
    deep = Image.fromarray(np.full((30, 50), 60_000, np.uint16))
    with open_page() as page:
        choose(page, ("deep.tif", encoded(deep, "TIFF")))
        verdict(page, "Anomalous")
        assert page.locator("#picture").evaluate("e => e.naturalWidth") == 50


def test_the_camera_is_captured_and_followed(open_page):
    with open_page() as page:
        page.locator("#model", has_text="cookie").wait_for()
        page.click("#camera")
        page.locator("#video").wait_for()
        page.click("#capture")
        page.locator(".entry").wait_for()
        assert page.inner_text("#name").startswith("camera-")
        assert page.locator("#picture").is_visible() and not page.locator("#video").is_visible()
        page.click("#capture")  # now "Back to camera"
        page.check("#live")
        page.locator("#video").wait_for()
        page.locator("#heat").wait_for()
        assert page.locator(".entry").count() == 1  # live pictures are not kept
        page.click("#camera")
        page.locator("#capture").wait_for(state="hidden")


def test_a_missing_camera_is_one_sentence(open_page):
    with open_page() as page:
        page.evaluate(
            """() => navigator.mediaDevices.getUserMedia = () =>
                Promise.reject(new DOMException("", "NotFoundError"))"""
        )
        page.click("#camera")
        page.locator("#problem", has_text="There is no camera").wait_for()


def test_refused_files_are_named_with_the_reason(browser, address):
    context = browser.new_context()  # not watched: browsers log every refused request
    page = context.new_page()
    page.goto(address)
    files = (
        ("broken.png", encoded(spot())[:80]),
        ("empty.jpg", b""),
        ("big.png", bytes(2_000_000)),
    )
    choose(page, *files, ("part.png", encoded(grey(GOOD))))
    verdict(page, "Good")
    lines = page.locator("#problem div")
    lines.nth(2).wait_for()
    said = dict(text.split(": ", 1) for text in lines.all_inner_texts())
    assert set(said) == {"broken.png", "empty.jpg", "big.png"}
    assert "can't be read" in said["broken.png"] and "1 MB" in said["big.png"]
    context.close()


def test_the_page_asks_for_the_token(browser):
    with served(FakeDetector(), token="open sesame") as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        for word in ("wrong", "open sesame"):
            page.locator("#token-dialog[open]").wait_for()
            page.fill("#token", word)
            page.click("#token-form button")
        choose(page, ("part.png", encoded(grey(BAD))))
        verdict(page, "Anomalous")
        page.reload()  # not asked again
        choose(page, ("part.png", encoded(grey(GOOD))))
        verdict(page, "Good")
        context.close()


def test_without_thresholds_the_page_scores(open_page):
    with served(FakeDetector(calibration=None)) as url, open_page(url) as page:
        page.locator("#banner", has_text="no thresholds").wait_for()
        choose(page, ("part.png", encoded(grey(51))))
        verdict(page, "Scored")
        assert float(page.inner_text("#score")) == pytest.approx(2.0)
        assert page.locator("#threshold-field").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(open_page, scheme):
    with open_page(color_scheme=scheme, **PHONE) as page:
        choose(page, *[(f"a-rather-long-name-{i}.png", encoded(grey(BAD))) for i in range(4)])
        page.locator(".entry").nth(3).wait_for()
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]


def test_the_documentation_of_the_api_needs_no_other_server(open_page):
    with open_page(path="docs") as page:
        page.locator(".opblock-summary-path", has_text="/predict").wait_for()


# ---- what people give back ------------------------------------------------------------------


class Moved:
    """A model file that is none: what the page saves is served from then on."""

    def move_threshold(self, scorer, class_name, image):
        moved = scorer.calibration.threshold(class_name).moved_to(image, "2026-11-28T10:11:12")
        known = scorer.calibration.with_threshold(class_name, moved)
        return scorer.with_calibration(known, Origin("fake", "1" * 12)), moved

    def set_region(self, scorer, class_name, roi):
        update = Update("now", class_name, (), (), 0, 0, 3.0, 3.0, region=True)
        info = replace(scorer.info, rois={class_name: roi}, updates=(update,))
        cut = scorer.with_calibration(scorer.calibration, Origin("fake", "3" * 12))
        cut.info = info
        return cut, info

    def learn_from(self, scorer, class_name, good, defects):
        if len(good) > 1:
            raise GradError("The model can't learn from two.")
        found = len(defects)
        update = Update("now", class_name, ("x",), ("0",), 1, 0, 3.0, 3.5, found, found)
        learned = scorer.with_calibration(scorer.calibration, Origin("fake", "2" * 12))
        return learned, update


@pytest.fixture
def teachable(tmp_path):
    """A server that keeps feedback in ``said`` and has a token."""
    teach = lambda inspector: Teaching(inspector, FeedbackFolder(tmp_path / "said"), Moved())  # noqa: E731
    with served(FakeDetector(), teach, token="sesame") as url:
        yield url


def enter(page):
    """Give the token, and choose a class."""
    page.evaluate("sessionStorage.setItem('grad-token', 'sesame')")
    page.reload()
    page.locator("#model", has_text="cookie").wait_for()
    page.select_option("#class", "cookie")


def kept(folder):
    return sorted(p.parent.relative_to(folder).as_posix() for p in folder.rglob("*.png"))


@pytest.fixture
def open_teachable(browser, teachable):
    """Opens that server's page, with the token."""

    @contextmanager
    def open_it(**options):
        context = browser.new_context(**options)  # not watched: the first request is refused
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.goto(teachable)
        enter(page)
        yield page
        context.close()

    return open_it


@pytest.mark.parametrize("options", [{}, PHONE])
def test_what_an_image_was_is_kept_and_can_change(open_teachable, tmp_path, options):
    with open_teachable(**options) as page:
        assert page.is_disabled("#was-good") and page.is_disabled("#learn")
        choose(page, ("part.png", encoded(grey(BAD))))
        verdict(page, "Anomalous")
        page.click("#was-good")
        page.locator("#was-good[aria-pressed=true]").wait_for()
        assert page.inner_text("#kept") == "cookie: 1 good, 0 defects"
        assert kept(tmp_path / "said") == ["cookie/good"]
        assert page.inner_text(".entry .note") == "was good"
        page.click("#was-defect")
        page.locator("#was-defect[aria-pressed=true]").wait_for()
        assert page.get_attribute("#was-good", "aria-pressed") == "false"
        assert page.inner_text("#kept") == "cookie: 0 good, 1 defect"
        assert kept(tmp_path / "said") == ["cookie/defect"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.click(".entry")  # nothing lies over it
        page.reload()  # what was said stays, the file does not
        page.locator(".entry .note", has_text="was a defect").wait_for()
        page.click(".entry")
        verdict(page, "Anomalous")
        assert page.is_disabled("#was-good")
        assert page.get_attribute("#was-defect", "aria-pressed") == "true"


def test_of_which_class_is_asked_for(open_teachable):
    with open_teachable() as page:
        page.select_option("#class", "")
        choose(page, ("part.png", encoded(grey(BAD))))
        verdict(page, "Anomalous")
        page.click("#was-good")
        page.locator("#problem", has_text="Of which class is it?").wait_for()
        assert page.get_attribute("#was-good", "aria-pressed") == "false"


def test_the_model_learns_from_one_button(open_teachable):
    with open_teachable() as page:
        choose(page, ("a.png", encoded(grey(BAD))))
        verdict(page, "Anomalous")
        page.click("#was-good")
        page.click("text=Learn from cookie")
        page.locator(
            "#learned", has_text="1 image, 1 false alarm among them; threshold 3.5, before 3"
        ).wait_for()
        choose(page, ("b.png", encoded(grey(GOOD))))
        verdict(page, "Good")
        page.click("#was-good")
        page.locator("#kept", has_text="cookie: 2 good").wait_for()
        page.click("#learn")
        page.locator("#problem", has_text="The model can't learn from two.").wait_for()
        assert page.is_enabled("#learn")


def test_a_moved_threshold_is_saved_for_everybody(open_teachable):
    with open_teachable() as page, open_teachable() as other:
        choose(page, ("part.png", encoded(grey(GOOD))))
        verdict(page, "Good")
        assert page.is_disabled("#save")
        limit = 0.9 * CALIBRATION.classes["cookie"].image
        page.fill("#number", f"{limit:.4f}")
        page.click("#save")
        page.locator("#effect", has_text="Moved by hand on 2026-11-28 10:11 UTC").wait_for()
        assert page.is_disabled("#save") and page.is_disabled("#reset")
        assert float(page.inner_text("#threshold")) == pytest.approx(limit, rel=1e-3)
        choose(other, ("part.png", encoded(grey(GOOD))))  # which sees that the model is another
        verdict(other, "Good")
        assert float(other.inner_text("#threshold")) == pytest.approx(limit, rel=1e-3)


def outline(page, *points, tap=False):
    """Click at points given as shares of the picture, which is 240 x 160."""
    box = page.locator("#picture").bounding_box()
    wide = min(box["width"], box["height"] * 1.5)
    left = box["x"] + (box["width"] - wide) / 2
    top = box["y"] + (box["height"] - wide / 1.5) / 2
    for x, y in points:
        (page.touchscreen.tap if tap else page.mouse.click)(left + x * wide, top + y * wide / 1.5)


def downloaded(page, tmp_path):
    """The picture of what is drawn, as bool."""
    with page.expect_download() as download:
        page.click("#region-download")
    assert download.value.suggested_filename == "roi.png"
    download.value.save_as(tmp_path / "roi.png")
    return np.asarray(Image.open(tmp_path / "roi.png").convert("L")) > 127


@pytest.mark.parametrize("options", [{}, PHONE])
def test_a_region_is_drawn_and_downloaded(open_page, tmp_path, options):
    tap = "has_touch" in options
    with open_page(**options) as page:
        assert page.is_disabled("#region-draw")
        choose(page, ("spot.png", encoded(spot((240, 160)))))
        verdict(page, "Anomalous")
        page.click("#region-draw")
        page.locator("#region-bar").wait_for()
        assert page.is_hidden("#region-save"), "nobody may change the model here"
        corners = [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75)]
        outline(page, *corners[:2], tap=tap)
        assert page.is_disabled("#region-close") and page.is_disabled("#region-download")
        outline(page, corners[2], (0.1, 0.9), tap=tap)
        page.click("#region-undo")
        outline(page, (0.25, 0.75), corners[0], tap=tap)  # the first one closes it
        assert page.is_disabled("#region-close")
        assert page.inner_text("#region-hint").startswith("What is grey will count in nothing")
        found = downloaded(page, tmp_path)
        wanted = np.zeros((160, 240), bool)
        wanted[40:120, 60:180] = True
        assert found.shape == (160, 240) and (found != wanted).sum() < 400
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.click("#region-undo")  # open again
        assert page.is_disabled("#region-download") and page.is_enabled("#region-close")
        choose(page, ("other.png", encoded(spot((240, 160)))))  # of the same size: it stays
        page.locator(".entry").nth(1).wait_for()
        page.click("#region-close")
        assert page.is_enabled("#region-download")
        choose(page, ("square.png", encoded(grey(GOOD))))
        verdict(page, "Good")
        page.locator("#region-bar").wait_for(state="hidden")


def test_a_region_is_drawn_by_keys_and_left(open_page, tmp_path):
    with open_page() as page:
        choose(page, ("spot.png", encoded(spot((240, 160)))))
        verdict(page, "Anomalous")
        page.focus("#region-draw")
        page.keyboard.press("Enter")
        page.locator("#region:focus").wait_for()
        page.keyboard.press("Enter")  # in the middle, (120, 80)
        for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
            for _ in range(10):  # of 240 / 50 pixels
                page.keyboard.press(key)
            page.keyboard.press("Enter")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        page.keyboard.press("Backspace")
        page.keyboard.press("Tab")
        page.click("#region-close")
        found = downloaded(page, tmp_path)
        wanted = np.zeros((160, 240), bool)
        wanted[80:128, 120:168] = True
        assert (found != wanted).sum() < 100
        page.keyboard.press("Escape")
        page.locator("#region-bar").wait_for(state="hidden")
        assert page.locator("#region").is_hidden() and page.inner_text("#region-hint") == ""
        page.locator("#region-draw:focus").wait_for()
        page.click("#region-draw")
        assert page.is_disabled("#region-undo"), "it begins anew"


def test_a_region_is_saved_in_the_model_and_the_image_judged_again(open_teachable):
    with open_teachable() as page:
        choose(page, ("spot.png", encoded(spot((240, 160)))))
        verdict(page, "Anomalous")
        page.click("#region-draw")
        outline(page, (0.5, 0.5), (0.9, 0.5), (0.9, 0.9), (0.5, 0.9))
        assert page.is_disabled("#region-save")
        page.click("#region-close")
        assert page.inner_text("#region-hint").endswith("for cookie.")
        page.click("#region-save")
        page.locator("#region-hint", has_text="Saved. Thresholds stay").wait_for()
        page.locator(".entry").nth(1).wait_for()
        assert page.locator("#region-bar").is_hidden()
        outside, within = heat(page)[140, 20], heat(page)[110, 170]
        assert outside.tolist() == [128, 128, 128, 178] and within[3] < 80
        page.click("#region-draw")  # what it can't take is said, and nothing is lost
        outline(page, (0.1, 0.5), (0.2, 0.5), (0.9, 0.5))
        page.click("#region-close")
        page.click("#region-save")
        page.locator("#problem", has_text="black everywhere").wait_for()
        assert page.is_enabled("#region-save")


def test_what_is_not_offered_is_not_shown(open_page):
    with open_page() as page:
        page.locator("#model", has_text="cookie, pcb").wait_for()
        for name in ("#said", "#save", "#teaching"):
            assert page.locator(name).is_hidden()
