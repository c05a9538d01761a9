import pytest
from rich.console import Console

from grad.report.console import show_verdicts
from grad.score.records import ImageRecord
from grad.score.rules import choose_thresholds
from grad.score.thresholds import calibrate
from grad.score.verdicts import judge, judge_all

GOOD = {"a": [1.0, 1.1, 1.2, 1.3], "b": [5.0, 5.5, 6.0, 6.5]}
SOURCES = {"a": "folds", "b": "training"}


def record(name, anomalous, score, maximum=None):
    maximum = score if maximum is None else maximum
    return ImageRecord("x.png", name, anomalous, "cut", None, score, maximum)


RECORDS = [
    record("a", False, 1.0),
    record("a", False, 50.0),
    record("a", False, 1.0, maximum=90.0),
    record("a", True, 80.0),
    record("b", True, 5.0),
    record("b", True, 900.0),
]


@pytest.fixture
def calibration():
    return calibrate(GOOD, GOOD, SOURCES, 0.1)


def shown(calibrations, records, width=200):
    console = Console(record=True, width=width, quiet=False, file=None)
    with console.capture() as capture:
        show_verdicts(judge_all(calibrations, records), console)
    return capture.get()


def test_what_thresholds_do(calibration):
    section = judge(dict.fromkeys("ab", calibration), RECORDS)
    a, b = section["classes"]["a"], section["classes"]["b"]
    assert a["image"] == calibration.classes["a"].image
    assert a["counts"] == {
        "true_positives": 1,
        "false_negatives": 0,
        "false_positives": 2,
        "true_negatives": 1,
    }, "a marked pixel is as bad as a high score"
    assert (a["recall"], a["false_alarm_rate"]) == (1.0, pytest.approx(2 / 3))
    assert (b["recall"], b["false_alarm_rate"]) == (0.5, None)
    assert section["all"]["recall"] == pytest.approx(2 / 3)
    assert (section["method"], section["asked_rate"]) == ("good", 0.1)
    assert section["unknown"]["image"] == calibration.unknown.image
    assert sum(section["unknown"]["counts"].values()) == len(RECORDS)


def test_a_single_class_needs_no_threshold_for_classes_not_stated():
    one = calibrate({"a": GOOD["a"]}, {"a": GOOD["a"]}, {"a": "held out"})
    assert judge({"a": one}, RECORDS)["unknown"] is None
    both = {"a": one, "b": calibrate({"b": GOOD["b"]}, {"b": GOOD["b"]}, {"b": "held out"})}
    assert judge(both, RECORDS)["unknown"] is None, "two models"


def test_f1_from_test_images(calibration):
    made = choose_thresholds(calibration, RECORDS, "f1")
    assert made.method == "f1"
    assert made.classes["a"].image == 65.0, "between 50 and 80"
    assert "3 good and 1 defective test images" in made.classes["a"].note
    assert made.classes["b"].image == calibration.classes["b"].image, "no good test images"
    assert made.classes["b"].note.startswith("no F1")
    assert judge(dict.fromkeys("ab", made), RECORDS)["asked_rate"] is None
    assert choose_thresholds(made, RECORDS, "good") == calibration
    assert choose_thresholds(made, RECORDS, None) == made


def test_other_choices(calibration):
    assert choose_thresholds(calibration, [], None, 0.2) == calibration.at_rate(0.2)
    assert choose_thresholds(calibration, [], 7.0).classes["a"].image == 7.0
    assert choose_thresholds(calibration, [], "good") == calibration


def test_what_is_shown(calibration):
    text = shown(dict.fromkeys("ab", calibration), RECORDS)
    assert "false-alarm rate of 10.00%" in text
    assert "2 of 3" in text and "66.7%" in text and "1 of 2" in text and "50%" in text
    assert "a from 20.0% on" in text, "the lowest rate that four images support by rank"
    assert "10.0%" in text and "fitted" in text
    assert "The model knew the good images of b" in text
    ranked = shown(dict.fromkeys("ab", calibration.at_rate(0.2)), RECORDS)
    assert "1.3% to 52.7%" in ranked, "Beta(1, 4)"
    assert "Fitted" not in ranked
    supported = shown(dict.fromkeys("ab", calibration.at_rate("auto")), RECORDS)
    assert "rates that the good images support" in supported and "5.0%" in supported
    f1 = shown(dict.fromkeys("ab", choose_thresholds(calibration, RECORDS, "f1")), RECORDS)
    assert "no test of them any more" in f1
    assert "as given" in shown(dict.fromkeys("ab", calibration.fixed(3.0)), RECORDS)


def test_a_class_that_was_not_trained_on_is_said(calibration):
    section = judge(dict.fromkeys("abc", calibration), [*RECORDS, record("c", True, 900.0)])
    assert section["classes"]["c"]["source"] is None
    assert section["classes"]["c"]["image"] == calibration.unknown.image
    text = shown(dict.fromkeys("abc", calibration), [*RECORDS, record("c", True, 900.0)])
    assert "Not trained on" in text and ": c." in text


@pytest.mark.parametrize("found, said", [(0, True), (1, True), (2, False)])
def test_thresholds_that_find_hardly_a_defect_are_called_that(calibration, found, said):
    of_a = [record("a", True, 900.0 if i < found else 0.5) for i in range(20)]
    text = shown(dict.fromkeys("ab", calibration), [*of_a, record("b", True, 900.0)])
    assert ("Of a hardly a defect is found. Try --tile" in " ".join(text.split())) is said


def test_found_and_missed_at_three_rates_come_first_and_fit_80_columns(calibration):
    good = [1.0 + i / 100 for i in range(199)]
    long = calibrate({"a": good}, {"a": good}, {"a": "held out"})
    names = ("nut", "metal_nut_brass", "transistor")
    calibrations = {name: long for name in names}
    defects = [record(name, True, score) for name in names for score in (2.0, 2.85, 2.92, 9.0)]
    text = shown(calibrations, defects, width=80)
    first = text.split("Thresholds for")[0].splitlines()
    assert "found and missed with 1%, 5% and 10%" in first[1]
    rows = [line.split() for line in first if line.startswith(names)]
    assert [row[0] for row in rows] == list(names), "class names are whole"
    assert rows[0][1:] == ["1", "3", "0", "2", "2", "0", "3", "1", "0"]
    all_of_them = next(line for line in first if line.startswith("all"))
    assert all_of_them.split()[1:] == ["3", "9", "0", "6", "6", "0", "9", "3", "0"]
    assert max(map(len, first)) <= 80
    one = [line.split() for line in text.splitlines() if line.startswith("class not stated")]
    assert not one, "of a single class it is that of the class"


def test_without_test_images_there_are_thresholds_alone(calibration):
    text = shown(dict.fromkeys("ab", calibration), [])
    assert "missed" not in text and "found" not in text and "class not stated" in text


def test_names_are_shown_as_they_are_and_move_no_cursor(calibration):
    name = "[bold]a[/x]\x1b[2J"
    said = shown({name: calibration}, [record(name, True, 0.0)])
    assert said.count(r"[bold]a[/x]\x1b[2J") >= 2 and "\x1b" not in said
