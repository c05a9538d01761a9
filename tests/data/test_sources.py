import sys

import numpy as np
import pytest
import torch
from helpers.tiny_model import picture, pixels
from PIL import Image

from grad.data.images import UnreadableImage
from grad.data.sources import count_items, find_items, items_of
from grad.system.errors import GradError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("parts/b.png", "parts/a.png", "parts/deep/er/c.PNG", "other/d.png"):
        picture(tmp_path / name)
    (tmp_path / "parts/notes.txt").write_text("no image")
    picture(tmp_path / "parts/.hidden/e.png")
    (tmp_path / "parts/.f.png").write_bytes(b"")
    return tmp_path


def names(items):
    return [item.name for item in items]


def keys(items):
    return [item.key for item in items]


def test_folders_are_searched_to_the_bottom_in_order(folder):
    assert names(find_items(["parts"])) == ["parts/a.png", "parts/b.png", "parts/deep/er/c.PNG"]
    assert keys(find_items(["parts"])) == ["a.png", "b.png", "deep/er/c.PNG"]
    assert count_items(["parts", "other/d.png"]) == 4


def test_keys_are_below_the_folder_that_holds_everything(folder):
    expected = ["parts/a.png", "parts/b.png", "parts/deep/er/c.PNG", "other/d.png"]
    assert keys(find_items(["parts", str(folder / "other")])) == expected
    assert keys(find_items(["parts/a.png"])) == ["a.png"]
    assert keys(find_items([str(folder / "parts/../other")])) == ["d.png"]


def test_patterns(folder):
    assert names(find_items(["parts/*.png"])) == ["parts/a.png", "parts/b.png"]
    assert keys(find_items(["parts/**/*.[pP]*"])) == ["a.png", "b.png", "deep/er/c.PNG"]
    picture(folder / "odd[1].png")
    assert names(find_items(["odd[1].png"])) == ["odd[1].png"]  # a file that is there is no pattern
    with pytest.raises(GradError, match=r"The pattern parts/\*.bmp fits no image"):
        list(find_items(["parts/*.bmp"]))


def test_lists(folder):
    lines = ["parts/b.png\n", "\n", "gone.png\n", "other\n"]
    items = list(find_items(["-"], lines))
    assert names(items) == ["parts/b.png", "gone.png", "other/d.png"]
    assert keys(items)[0] == (folder / "parts/b.png").as_posix().lstrip("/")
    with pytest.raises(UnreadableImage, match="there is no such file"):
        items[1].picture()
    assert count_items(["-"]) is None


def test_a_region_of_interest_is_no_image_unless_named(folder):
    picture(folder / "parts/roi.png")
    assert names(find_items(["parts/roi.png"])) == ["parts/roi.png"]
    for found in (find_items(["parts"]), find_items(["parts/*.png"]), items_of("parts")):
        assert "parts/b.png" in (listed := names(found)) and "parts/roi.png" not in listed
    assert names(find_items(["-"], ["other"])) == ["other/d.png"]


def test_links_are_followed_but_not_in_circles(folder):
    (folder / "parts/loop").symlink_to(folder / "parts")
    (folder / "parts/side").symlink_to(folder / "other")
    found = names(find_items(["parts"]))
    assert "parts/side/d.png" in found and len(found) == 4


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "There is no file or folder nowhere"),
        ("nowhere.mp4", "There is no file nowhere.mp4"),
        ("empty", "The folder empty holds no images"),
    ],
)
def test_what_is_not_there_is_named(folder, path, words):
    (folder / "empty").mkdir()
    with pytest.raises(GradError, match=words):
        list(find_items([path]))


def test_anything_in_memory_becomes_items(folder):
    array = pixels()
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    one = [array, tensor, Image.fromarray(array), "parts/a.png", folder / "parts/a.png"]
    for source in one:
        assert len(list(items_of(source))) == 1
    batch = np.stack([array, array])
    for source in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2)):
        assert names(items_of(source)) == ["image 0", "image 1"]
    nested = names(items_of([array, "parts", [tensor, batch]]))
    expected = ["image 0", *names(find_items(["parts"])), "image 2 0", "image 2 1 0", "image 2 1 1"]
    assert nested == expected


@pytest.mark.parametrize("source", [3, None, b"bytes", {"a": 1}, [3.5]])
def test_what_is_no_image_is_refused(source):
    with pytest.raises(GradError, match="give a path, a Pillow image, a numpy array, a tensor"):
        list(items_of(source))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 4), np.nan, np.float32), "it holds NaN"),
        (np.full((4, 4, 3), 2.0), "its values go from 2 to 2, GRAD takes 0 to 1"),
        (np.zeros((4, 4, 3), np.int64), "its dtype is int64"),
        (np.zeros((3, 4, 5), np.uint8), r"its shape is \(3, 4, 5\), GRAD takes \(h, w\)"),
        (np.zeros((0, 4, 3), np.uint8), "it has no pixels"),
        (np.zeros(4, np.uint8), r"its shape is \(4,\)"),
    ],
)
def test_an_array_that_is_no_picture_is_one_sentence(array, words):
    (item,) = items_of(array)
    with pytest.raises(GradError, match=f"^image can't be used: .*{words}"):
        item.picture()


def test_a_tensor_of_another_shape_is_refused():
    with pytest.raises(GradError, match=r"a tensor of shape \(5, 4, 3\): give \(3, h, w\)"):
        list(items_of(torch.zeros(5, 4, 3)))  # channels last is numpy's


class FakeCapture:
    """A camera of frames that say their number in blue, unplugged after some of them."""

    frames = 3

    def __init__(self, source):
        self.source, self.count = source, 0

    def isOpened(self):
        return self.source != 9

    def read(self):
        self.count += 1
        if self.count > self.frames:
            return False, None
        frame = np.zeros((6, 8, 3), np.uint8)
        frame[..., 0] = self.count  # OpenCV has blue first
        return True, frame

    def set(self, *arguments):
        pass

    def release(self):
        FakeCapture.released = self.source


@pytest.fixture
def camera(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)


def test_a_camera_gives_pictures_until_it_is_unplugged(camera):
    found = []
    with pytest.raises(
        GradError, match=r"^camera:2 gives no more pictures after 3: check its cable"
    ):
        for item in find_items(["camera:2"]):
            found.append(item)
    assert names(found) == [f"camera:2 frame {number}" for number in range(3)]
    assert keys(found) == [f"camera-2/{number:06}" for number in range(3)]
    values = [int(item.picture().tensor()[2, 0, 0]) for item in found]
    assert values == [1, 2, 3] and int(found[0].picture().tensor()[0].max()) == 0
    assert FakeCapture.released == 2


def test_a_camera_that_is_left_is_released(camera):
    items = find_items(["rtsp://somewhere/1"])
    next(items)
    items.close()
    assert FakeCapture.released == "rtsp://somewhere/1"


def test_a_camera_that_is_not_there(camera):
    with pytest.raises(GradError, match="The camera camera:9 can't be opened"):
        next(find_items(["camera:9"]))


def test_without_opencv_a_video_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(GradError, match=r"needs OpenCV.*pip install 'grad-anomaly\[video\]'"):
        next(find_items(["camera:0"]))


def test_a_video_is_its_frames(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter("a clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for level in (40, 120, 200):
        writer.write(np.full((48, 64, 3), (0, 0, level), np.uint8))  # red
    writer.release()
    items = list(find_items(["a clip.avi"]))
    assert names(items) == [f"a clip.avi frame {number}" for number in range(3)]
    assert keys(items) == [f"a-clip.avi/{number:06}" for number in range(3)]
    means = [item.picture().tensor().float().mean(dim=(1, 2)) for item in items]
    for mean, level in zip(means, (40, 120, 200), strict=True):
        torch.testing.assert_close(mean, torch.tensor([level, 0.0, 0.0]), atol=4.0, rtol=0)
    assert count_items(["a clip.avi"]) is None


def test_a_file_that_is_no_video(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(GradError, match=r"The video .*a\.mp4 (can't be opened|holds no picture)"):
        list(find_items([str(tmp_path / "a.mp4")]))
