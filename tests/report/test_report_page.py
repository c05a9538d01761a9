"""The report's page in a browser."""

import re

import pytest
from helpers.browser import PHONE, watched_page
from helpers.reports import HOSTILE, MadeRun

from grad.report.gallery import Gallery

COUNTS = ("true-negatives", "false-positives", "false-negatives", "true-positives")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = MadeRun(tmp_path_factory.mktemp("report"), classes=("bolt", "cap"), images=40)
    run.write()
    return run


@pytest.fixture
def page(browser, run):
    with watched_page(browser, viewport={"width": 1300, "height": 900}) as page:
        page.goto((run.folder / "report.html").as_uri())
        yield page


def counts(page):
    return tuple(int(page.locator(f"#{name}").inner_text()) for name in COUNTS)


def expected(records, limit):
    """(TN, FP, FN, TP) with ``score > limit``."""
    table = [(r.anomalous, r.score > limit) for r in records]
    return tuple(table.count(key) for key in ((0, 0), (0, 1), (1, 0), (1, 1)))


def of_class(run, name):
    return [record for record in run.records if record.class_name == name]


def test_counts_begin_at_the_calibrated_thresholds(page, run):
    each = [expected(of_class(run, name), run.limit(name)) for name in ("bolt", "cap")]
    assert counts(page) == tuple(map(sum, zip(*each, strict=True)))
    assert 0 < counts(page)[1] < 40 and 0 < counts(page)[2] < 40
    row = page.locator("#threshold-table tbody tr").first.inner_text().split("\t")
    assert row[0] == "bolt" and row[3] == "15 images"


def test_keys_on_the_slider_change_the_counts_and_the_button_brings_them_back(page):
    before = counts(page)
    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    for _ in range(6):
        page.keyboard.press("PageUp")
    assert counts(page)[1] < before[1] and counts(page)[2] > before[2]
    recall = page.locator("#recall").inner_text()
    assert recall == f"{100 * counts(page)[3] / 40:.1f} %"
    assert "defects found" in slider.get_attribute("aria-valuetext")
    page.keyboard.press("End")
    assert counts(page) == (40, 0, 40, 0)
    page.keyboard.press("Home")
    assert counts(page) == (0, 40, 0, 40)
    page.get_by_role("button", name="Back to the model's threshold").click()
    assert counts(page) == before


def test_dragging_moves_one_class_alone(page, run):
    page.locator("#class").select_option("cap")
    slider = page.locator("#threshold-slider")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    y = box["y"] + 100
    page.mouse.move(box["x"] + box["width"] * 0.3, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=5)
    page.mouse.up()
    limit = float(page.locator("#threshold-number").input_value())
    assert limit != pytest.approx(run.limit("cap"), abs=0.01)
    assert counts(page) == expected(of_class(run, "cap"), limit)
    page.locator("#class").select_option("")
    assert page.locator("#histogram-note").is_visible()
    page.get_by_role("button", name="Back to the model's threshold").click()
    assert not page.locator("#histogram-note").is_visible()
    page.locator("#class").select_option("bolt")
    original = run.limit("bolt")
    assert counts(page) == expected(of_class(run, "bolt"), original)


def test_a_threshold_may_be_typed(page, run):
    page.locator("#class").select_option("bolt")
    for typed in ("1.205", "0", "99"):
        page.locator("#threshold-number").fill(typed)
        assert counts(page) == expected(of_class(run, "bolt"), float(typed))
    page.locator("#threshold-number").fill("")
    assert counts(page) == expected(of_class(run, "bolt"), 99)


def test_a_finger_drags_the_threshold(browser, run):
    with watched_page(browser, **PHONE) as page:
        page.goto((run.folder / "report.html").as_uri())
        before = counts(page)
        slider = page.locator("#threshold-slider")
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] * 0.9, box["y"] + 150)
        assert counts(page) != before


def cards(page):
    return page.locator("#gallery > li")


def shown_kinds(page):
    return set(cards(page).evaluate_all("cards => cards.map((card) => card.dataset.kind)"))


def test_filters_show_what_they_say(page):
    negatives, alarms, missed, found = counts(page)
    chip = lambda name: page.locator("#kinds label", has_text=name)  # noqa: E731
    for name, count, kinds in (
        ("missed defects", missed, {"missed"}),
        ("false alarms", alarms, {"false-alarm"}),
        ("correct", negatives + found, {"correct-good", "correct-bad"}),
    ):
        assert chip(name).locator("b").inner_text() == str(count)
        chip(name).click()
        assert page.locator("#shown-count").inner_text() == f"{count} images of all classes"
        assert shown_kinds(page) == kinds
    chip("false alarms").click()
    page.locator("#class").select_option("cap")
    assert shown_kinds(page) == {"false-alarm"}
    assert cards(page).count() == counts(page)[1]
    assert all("cap" in text for text in page.locator(".card-text").all_text_contents())


def test_a_moved_threshold_sorts_the_images_anew(page):
    page.locator("#kinds label", has_text="missed").click()
    before = cards(page).count()
    page.get_by_role("slider", name="Threshold").focus()
    page.keyboard.press("End")
    assert before < 40 == cards(page).count()


def values(page):
    return [float(text) for text in page.locator(".card-head b").all_text_contents()]


def test_images_are_sorted_by_value(page):
    assert values(page) == sorted(values(page), reverse=True)
    page.get_by_label("Sort").select_option("most normal")
    assert values(page) == sorted(values(page))
    page.get_by_label("Sort").select_option("nearest to the threshold")
    assert abs(values(page)[0] - 0.5) < abs(values(page)[-1] - 0.5)


def test_heat_maps_are_coloured_where_the_map_is_high(page):
    card = cards(page).first
    card.scroll_into_view_if_needed()
    page.locator("#gallery .mask-line").first.wait_for()
    inside, outside = page.evaluate(
        """() => {
          const canvas = document.querySelector("#gallery canvas");
          const { data, width } = canvas.getContext("2d").getImageData(0, 0, 48, 48);
          const at = (x, y) => [...data.slice(4 * (y * width + x), 4 * (y * width + x) + 4)];
          return [at(18, 18), at(40, 40)];
        }"""
    )
    assert inside[3] > 120 and inside[0] > inside[2]  # opaque, from red to yellow
    assert outside[3] == 0
    page.locator("#heat-opacity").fill("0")
    assert page.locator("#gallery canvas").first.evaluate("c => getComputedStyle(c).opacity") == "0"
    line = page.locator("#gallery .mask-line").first
    assert line.evaluate("c => getComputedStyle(c).visibility") == "visible"
    page.get_by_label("true defect").uncheck()
    assert line.evaluate("c => getComputedStyle(c).visibility") == "hidden"


def test_the_viewer_shows_one_image_after_the_other_and_gives_the_focus_back(page):
    cards(page).first.locator("button").click()
    viewer = page.get_by_role("dialog")
    first = viewer.locator("dd").first.inner_text()
    page.keyboard.press("ArrowRight")
    assert viewer.locator("dd").first.inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert viewer.locator("dd").first.inner_text() == first
    assert viewer.get_by_role("button", name="Previous image").is_disabled()
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert cards(page).first.locator("button").evaluate("button => button.matches(':focus')")


def test_headings_sort_the_metrics(page):
    rows = page.locator("#metrics-table tbody th")
    assert rows.all_inner_texts() == ["bolt", "cap"]
    name = page.locator("#metrics-table").get_by_role("button", name="class")
    name.focus()
    page.keyboard.press("Enter")
    assert rows.all_inner_texts() == ["cap", "bolt"]
    assert page.locator("#metrics-table th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.locator("#metrics-table").get_by_role("button", name="AP", exact=False).first.click()
    assert page.locator("#metrics-table th[aria-sort]").inner_text().startswith("AP")


def test_curves_agree_with_the_metrics(page):
    text = page.locator("#curves-legend button").first.inner_text()
    auroc, precision = re.search(r"AUROC ([\d.]+), AP ([\d.]+)", text).groups()
    cells = page.locator("#metrics-table tbody tr").first.locator("td").all_inner_texts()
    assert [auroc, precision] == cells[:2]
    dot = page.locator("#roc .dot").first
    before = dot.get_attribute("cx"), dot.get_attribute("cy")
    page.get_by_role("slider", name="Threshold").focus()
    page.keyboard.press("End")
    assert (dot.get_attribute("cx"), dot.get_attribute("cy")) != before


def test_the_switch_changes_the_theme(browser, run):
    with watched_page(browser, color_scheme="dark") as page:
        page.goto((run.folder / "report.html").as_uri())
        colour = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
        dark = colour()
        page.get_by_role("button", name="Light").click()
        light = colour()
        page.get_by_role("button", name="Dark").click()
        assert dark == colour() != light


@pytest.mark.parametrize(
    "options",
    [
        {"classes": ("bolt", HOSTILE), "notes": (HOSTILE,)},
        {"calibrated": False},
        {"defects": False},
        {"masks": False, "history": False},
        {"classes": ("one",)},
        {"separate": True, "dims": 1},
        {"images": 0},
        {"images": 0, "calibrated": False, "history": False},
        {"dims": 3},
        {"tested": False, "defects": False, "images": 40},
        {"classes": tuple(f"class number {i} of many" for i in range(30)), "images": 2},
    ],
    ids=lambda options: ",".join(options),
)
def test_every_kind_of_run_opens_and_fits_a_small_phone(options, browser, tmp_path):
    """The page is watched: an error in its script or a request fails the test."""
    path = MadeRun(tmp_path, **options).write()
    with watched_page(browser, **PHONE | {"viewport": {"width": 360, "height": 740}}) as page:
        page.goto(path.as_uri())
        for section in page.locator("section").all():
            section.scroll_into_view_if_needed()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.locator("b", has_text=re.compile("^x$")).count() == 0
        if page.locator("#class").count():
            page.locator("#class").select_option(index=1)
        if "tested" in options:
            assert page.locator("#drift-plot circle").count() == 40
            assert not page.locator("#recall").is_visible()
            assert page.locator("#kinds label").all_inner_texts() == [
                "all 40",
                f"above the threshold {counts(page)[1]}",
                f"below {counts(page)[0]}",
            ]
        elif options.get("defects") is False:
            assert page.locator("#recall-note").inner_text() == "recall: 0 of 0 defects found"
        if HOSTILE in options.get("classes", ()):
            assert HOSTILE in page.locator("#metrics-table tbody th").all_inner_texts()


def test_a_thousand_images_are_drawn_as_they_come_into_view(browser, tmp_path):
    path = MadeRun(tmp_path, images=500, gallery=Gallery(limit=1000)).write()
    with watched_page(browser, viewport={"width": 1300, "height": 900}) as page:
        page.goto(path.as_uri())
        assert page.locator("#kinds b").first.inner_text() == "1000"
        assert cards(page).count() == 48
        page.locator("#show-more").click()
        assert cards(page).count() == 144
        page.locator("#show-all").click()
        assert cards(page).count() == 1000 and not page.locator("#more").is_visible()
        cards(page).last.scroll_into_view_if_needed()
        cards(page).last.locator("canvas").wait_for()
        assert 0 < page.locator("#gallery canvas").count() < 500
