"""grad check: what a folder holds, what is wrong with it, and how to mend it."""

import re
import shutil

import numpy as np
import pytest
from helpers.images import make_images
from helpers.tiny_model import picture
from PIL import Image, ImageFilter

from grad.check.__main__ import main
from grad.data.demo import demo_dataset
from grad.data.images import UnreadableImage
from grad.data.survey import image_facts

SIZE = 64


@pytest.fixture
def data(tmp_path):
    make_images(tmp_path / "data", classes=("one", "two"), train=12, test=3, size=SIZE)
    return tmp_path / "data"


@pytest.fixture
def check(data, capsys, monkeypatch):
    """Calls the command line; gives its exit code, output with single spaces, and error."""

    monkeypatch.setenv("COLUMNS", "400")  # so that no path in a table is broken

    def call(*arguments, folder=data):
        code = main([str(folder), "--image-size", str(SIZE), *arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, " ".join(captured.out.split()), captured.err

    return call


def save(path, pixels, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).convert(mode).save(path, **options)
    return path


def noise(seed, size=(SIZE, SIZE)):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def test_a_folder_that_is_right(check, data):
    code, out, err = check("--calibration-share", "0.25")
    assert (code, err) == (0, "")
    assert f"{data} (mvtec)" in out
    assert "64 x 64" in out and "RGB" in out
    assert "one model for 2 classes: 18 good images to learn from, 6 for thresholds, 13 to" in out
    assert "from one 3, two 3 good images, for false-alarm rates of one 5.0%, two 5.0%." in out
    assert "Odd" not in out and "Wrong" not in out


def test_all_images_serve_for_thresholds_where_none_is_kept_out(check):
    code, out, _ = check("--false-alarm-rate", "0.01")
    assert code == 0
    assert "24 good images to learn from, the same for thresholds" in out
    assert "needs at least 99 images for thresholds (one 12, two 12)" in out


def test_the_demo_set_is_right(check):
    code, out, _ = check(folder=demo_dataset().root)
    assert code == 0
    assert "black and white" in out and "2 classes: 131 good images" in out


def test_classes_and_rate_are_picked(check):
    code, out, _ = check("--classes", "two", "--false-alarm-rate", "0.2")
    assert code == 0
    assert "--classes two would train one model for 1 class: 12 good" in out
    assert "one" not in out.split("would train")[0].split("class")[2]
    assert "the same for thresholds" in out and "by rank alone" not in out


def test_every_error_is_listed_not_the_first_alone(check, data):
    shutil.rmtree(data / "one/train/good")
    save(data / "two/ground_truth/dark/two0_mask.png", np.zeros((8, 8, 3), np.uint8), "L")
    save(data / "two/ground_truth/dark/extra_mask.png", noise(0), "L")
    mask = data / "two/ground_truth/dark/two1_mask.png"
    mask.write_bytes(mask.read_bytes()[:60])
    code, out, err = check()
    assert code == 2
    assert err == f"--data {data} can't be trained: 4 things are wrong, see above.\n"
    for words in (
        "Class one in",
        "has no good training images",
        "two0_mask.png has 8 x 8 pixels",
        "extra_mask.png has no image",
        "two1_mask.png can't be read",
    ):
        assert words in out, words
    assert "would train" not in out


def test_unreadable_images(check, data):
    broken = data / "one/train/good/one0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (data / "one/test/good/one0.png").write_text("no picture")
    code, out, _ = check()
    assert code == 0
    assert "Odd: one: 2 of 18 images can't be read and would be left out, the first is" in out
    assert "one0.png (" in out and "23 good images to learn from" in out
    for path in (data / "one/train/good").glob("*.png"):
        path.write_bytes(b"")
    code, out, err = check()
    assert code == 2 and "1 thing is wrong" in err
    assert "Wrong: one: none of 12 training images can be read" in out


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_copies_are_found_by_content(check, data, suffix):
    """Also of another name and format."""
    source = Image.open(data / "one/train/good/one3.png")
    source.save(data / f"two/test/good/copy.{suffix}")
    source.save(data / f"one/train/good/twice.{suffix}")
    Image.open(data / "two/test/dark/two0.png").save(data / f"two/test/good/good.{suffix}")
    code, out, _ = check()
    assert code == 0
    assert "1 picture of the test set is trained on too, the first is" in out
    assert f"two/test/good/copy.{suffix} = {data}/one/train/good/one3.png" in out
    assert "1 test picture is good and defective at once" in out
    assert "1 training picture is there repeatedly" in out


def test_near_copies_are_named(check, data):
    source = Image.open(data / "one/train/good/one3.png")
    source.save(data / "one/train/good/saved-again.jpg", quality=95)
    source.point(lambda value: 0.9 * value).save(data / "one/test/good/darker.png")
    code, out, _ = check()
    assert code == 0
    train, test = data / "one/train/good", data / "one/test/good"
    assert "one: near copies among the training images: 1, the first is" in out
    assert f"{train}/saved-again.jpg of {train}/one3.png" in out
    assert "one: near copies of training images among the test images: 1" in out
    assert f"{test}/darker.png of {train}/" in out


def test_odd_sizes(check, data):
    save(data / "one/train/good/tiny.png", noise(1, (8, 8)))
    save(data / "two/train/good/huge.png", noise(2, (640, 600)))
    save(data / "two/test/good/long.png", noise(3, (64, 200)))
    _, out, _ = check()
    assert "8 x 8 to 64 x 64" in out and "64 x 64 to 600 x 640" in out
    assert "tiny.png, 8 x 8 pixels, is enlarged" in out
    assert "huge.png, 600 x 640 pixels, is shrunk" in out and "about 10 pixels vanish" in out
    assert "long.png, 200 x 64 pixels, is squeezed" in out


def test_odd_colours_masks_and_counts(check, data):
    for path in (data / "one/test/good").glob("*.png"):
        Image.open(path).convert("L").save(path)
    save(data / "two/ground_truth/dark/two0_mask.png", np.zeros((SIZE, SIZE, 3), np.uint8), "L")
    for index in range(4, 12):
        (data / f"two/train/good/two{index}.png").unlink()
    shutil.rmtree(data / "two/test/good")
    _, out, _ = check()
    assert "one: test images are grey, training images RGB" in out
    assert "two: 1 mask without a single pixel" in out
    assert "two: only 4 good training images" in out
    assert "two: no good test images" in out


def test_a_plain_folder(check, data):
    code, out, _ = check(folder=data / "one/train/good")
    assert code == 0
    assert "(folder)" in out and "0 to test on" in out


def test_further_images_for_thresholds(check, data, tmp_path):
    for name in ("one", "two"):
        for index in range(2):
            save(tmp_path / f"more/{name}/{index}.png", noise(index))
    code, out, _ = check("--validation", str(tmp_path / "more"))
    assert code == 0 and "24 good images to learn from, 4 for thresholds" in out
    shutil.rmtree(tmp_path / "more/two")
    code, out, _ = check("--validation", str(tmp_path / "more"))
    assert code == 2 and "Wrong: --validation" in out and "no images of class two" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "is empty"),
        (["file.txt"], "is a file"),
        (["texts"], "has no layout"),
        (["data", "--classes", "nine"], "choose among one, two"),
        (["data", "--classes", ","], "--classes names no class"),
        (["data", "--image-size", "8"], "--image-size 8"),
        (["data", "--image-size", "big"], "--image-size"),
        (["data", "--calibration-share", "0.9"], "--calibration-share 0.9"),
        (["data", "--false-alarm-rate", "1"], "--false-alarm-rate 1"),
        (["data", "--workers", "0"], "--workers 0"),
        ([], "data"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments, words, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for path in ("file.txt", "texts/a.txt"):
        (tmp_path / path).write_text("text")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and words in captured.err, captured.err


def test_a_folder_without_permission(check, data, monkeypatch):
    """As root sees none, the refusal comes from a stand-in."""
    iterate = type(data).iterdir

    def refuse(path):
        if path.name == "good" and path.parent.parent.name == "one":
            raise PermissionError(13, "Permission denied")
        return iterate(path)

    monkeypatch.setattr(type(data), "iterdir", refuse)
    code, out, err = check()
    assert code == 2 and "one/train/good can't be read: Permission denied" in out
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "grey"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("CMYK", "CMYK"), ("1", "black and white")],
)
def test_facts_of_images(tmp_path, mode, kind):
    suffix = "tif" if mode == "CMYK" else "png"
    facts = image_facts(save(tmp_path / f"x.{suffix}", noise(0, (5, 7)), mode))
    assert (facts.size, facts.kind) == ((5, 7), kind)


def test_facts_of_deep_images(tmp_path):
    Image.fromarray(np.full((5, 7), 40000, np.uint16)).save(tmp_path / "x.png")
    assert image_facts(tmp_path / "x.png").kind == "16-bit grey"
    Image.fromarray(np.full((5, 7), np.nan, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UnreadableImage, match="NaN"):
        image_facts(tmp_path / "x.tif")


def test_equal_pictures_have_equal_digests(tmp_path):
    pixels = noise(0)[:, :, :1].repeat(3, axis=2)
    grey = image_facts(save(tmp_path / "grey.png", pixels, "L"))
    colour = image_facts(save(tmp_path / "colour.bmp", pixels))
    other = image_facts(save(tmp_path / "other.png", 255 - pixels))
    assert grey.digest == colour.digest != other.digest


def test_small_defects_in_large_images_are_for_tiles(tmp_path, capsys):
    for number in range(12):
        picture(tmp_path / "big" / f"{number}.png", number, (2000, 3000))
    assert main([str(tmp_path / "big")]) == 0
    assert "look at it in tiles, --tile 448" in shown(capsys)


def test_images_of_several_shapes_are_named(tmp_path, capsys):
    for number in range(12):
        picture(tmp_path / "mixed" / f"{number}.png", number, (100, 100 if number else 180))
    assert main([str(tmp_path / "mixed")]) == 0
    assert "mixed: images have several shapes, from 100 x 100" in shown(capsys)


def test_the_proposed_command_can_be_pasted(tmp_path, capsys):
    for number in range(12):
        picture(tmp_path / "a folder" / f"{number}.png", number, (100, 100))
    assert main([str(tmp_path / "a folder")]) == 0
    assert f"grad train --data '{tmp_path}/a folder' would train" in shown(capsys)


def test_dark_data_of_12_bits_are_named(check, data):
    for path in data.rglob("*/good/*.png"):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        Image.fromarray(grey).save(path)
    _, out, _ = check()
    assert "White of 16-bit images is 4095" in out and "nearly black" not in out
    _, out, _ = check("--white-level", "65535")
    assert "White of 16-bit images is 65535" in out
    assert re.search(r"one: the brightest value of all 16-bit grey images is \d\.\d%", out)


def test_dark_colours_are_named(check, data):
    """As of 12 bits in files of 16, of which Pillow reads the upper 8."""
    for path in (data / "one").rglob("t*/*/*.png"):
        Image.fromarray(np.asarray(Image.open(path).convert("RGB")) // 16).save(path)
    _, out, _ = check()
    assert re.search(r"one: the brightest value of all RGB images is \d\.\d% of white", out)


def test_masks_with_grey_edges_are_named(check, data):
    _, clean, _ = check()
    assert "many values between" not in clean
    for path in (data / "one/ground_truth").rglob("*.png"):
        Image.open(path).convert("L").filter(ImageFilter.GaussianBlur(3)).save(path)
    _, out, _ = check()
    assert "one: 3 masks with many values between black and white" in out


def shown(capsys):
    return " ".join(capsys.readouterr().out.split())
