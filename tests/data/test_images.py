import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from grad.data.images import (
    UnreadableImage,
    image_size,
    image_suffixes,
    load_image,
    load_mask,
    load_picture,
)
from grad.data.mosaic import Mosaic
from grad.data.picture import Picture
from grad.data.tiling import Tiling
from grad.system.errors import GradError

SIZE = (20, 30)  # H, W


def gradient(size=SIZE, top=255, dtype=np.uint8):
    """A horizontal ramp from 0 to ``top``, with its upper left pixel at ``top``."""
    ramp = np.linspace(0, top, size[1]).astype(dtype)
    grey = np.repeat(ramp[None], size[0], axis=0)
    grey[0, 0] = top
    return grey


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_eight_bit_modes_agree(tmp_path, mode):
    grey = Image.fromarray(gradient())
    path = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png")
    (grey.convert("RGB") if mode == "YCbCr" else grey).convert(mode).save(path)
    tensor = load_image(path, SIZE)
    assert tensor.shape == (3, *SIZE)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    expected = torch.from_numpy(gradient() / 255.0).float().expand(3, *SIZE)
    # Dithering leaves two levels of mode 1, but the mean of the image.
    if mode == "1":
        assert set(tensor.unique().tolist()) == {0.0, 1.0}
        assert abs(tensor.mean() - expected.mean()) < 0.05
    else:
        torch.testing.assert_close(tensor, expected, atol=3 / 255, rtol=0)


def test_colours_keep_their_channels(tmp_path):
    Image.new("RGB", (4, 4), (255, 51, 0)).save(tmp_path / "a.png")
    tensor = load_image(tmp_path / "a.png", (2, 2))
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([1.0, 0.2, 0.0]))


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_alpha_is_dropped(tmp_path, mode):
    image = Image.new("RGBA", (4, 4), (255, 51, 0, 0))
    if mode == "P":
        image = Image.new("P", (4, 4), 7)
        image.putpalette([0, 0, 0] * 7 + [255, 51, 0])
        image.save(tmp_path / "a.png", transparency=bytes([255] * 7 + [0]))
    else:
        image.save(tmp_path / "a.png")
    tensor = load_image(tmp_path / "a.png", (4, 4))
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([1.0, 0.2, 0.0]))


@pytest.mark.parametrize(
    ("suffix", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32)]
)
def test_sixteen_bits_are_scaled_by_65535_and_keep_their_precision(tmp_path, suffix, dtype):
    values = gradient(top=65535, dtype=dtype)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    tensor = load_image(tmp_path / f"a.{suffix}", SIZE)
    expected = torch.from_numpy(values / 65535.0).float().expand(3, *SIZE)
    torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=0)


def test_big_endian_sixteen_bits(tmp_path):
    values = gradient(top=65535, dtype=np.uint16)
    header = f"P5 {SIZE[1]} {SIZE[0]} 65535\n".encode()
    (tmp_path / "a.pgm").write_bytes(header + values.astype(">u2").tobytes())
    tensor = load_image(tmp_path / "a.pgm", SIZE)
    torch.testing.assert_close(tensor[0], torch.from_numpy(values / 65535.0).float())


def test_floating_point_is_taken_as_it_is(tmp_path):
    Image.fromarray(gradient(top=1, dtype=np.float32)).save(tmp_path / "a.tif")
    torch.testing.assert_close(
        load_image(tmp_path / "a.tif", SIZE)[2], torch.from_numpy(gradient(top=1, dtype=np.float32))
    )


@pytest.mark.parametrize("value", [2.0, -1.0, float("nan")])
def test_floating_point_outside_the_unit_range_is_refused(tmp_path, value):
    Image.fromarray(np.full(SIZE, value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match="GRAD takes 0 to 1"):
        load_image(tmp_path / "a.tif", SIZE)


def test_resize_is_bilinear_with_antialiasing_as_torchvision_does_it(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (97, 60, 3), np.uint8)
    image = Image.fromarray(values)
    image.save(tmp_path / "a.png")
    transforms = pytest.importorskip("torchvision.transforms.functional")
    expected = transforms.to_tensor(transforms.resize(image, [24, 32]))
    # Pillow resizes rows or columns first, as its version has it: a grey level apart at most.
    loaded = load_image(tmp_path / "a.png", (24, 32))
    torch.testing.assert_close(loaded, expected, rtol=0, atol=1.01 / 255)


def test_size_is_height_and_width(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", (8, 12)).shape == (3, 8, 12)
    assert load_mask(tmp_path / "a.png", (8, 12)).shape == (8, 12)
    assert image_size(tmp_path / "a.png") == (40, 50)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, suffix):
    image = Image.new("RGB", (30, 20))
    image.paste((255, 255, 255), (0, 0, 15, 20))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: the left half is on top
    path = tmp_path / f"a.{suffix}"
    image.save(path, exif=exif)
    assert image_size(path) == (30, 20)
    tensor = load_image(path, (30, 20))
    assert tensor[:, :12].min() > 0.9
    assert tensor[:, 18:].max() < 0.1


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif"])
def test_truncated_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImage, match=rf"a\.{suffix} can't be read: "):
        load_image(path, SIZE)
    with pytest.raises(UnreadableImage):
        load_mask(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"no image", "no image that Pillow knows"),
        (None, "no such file"),
    ],
)
def test_no_image_at_all(tmp_path, content, reason):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    for read in (image_size, load_mask, lambda p: load_image(p, SIZE)):
        with pytest.raises(UnreadableImage, match=reason):
            read(path)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(UnreadableImage, match="million pixels; cut it into tiles"):
        load_image(tmp_path / "a.png", SIZE)


def test_error_survives_the_way_from_a_worker_process():
    error = pickle.loads(pickle.dumps(UnreadableImage(Path("a.png"), "the file is empty")))
    assert str(error) == "The image a.png can't be read: the file is empty; replace or remove it."
    assert error.path == Path("a.png")


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "1", "I;16"])
def test_mask_is_true_above_zero(tmp_path, mode):
    values = np.array([[0, 0, 1], [2, 255, 0]], np.uint8)
    image = Image.fromarray(values)
    if mode == "1":
        image = Image.fromarray(values > 0)
    elif mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    elif mode == "P":
        image = Image.frombytes("P", (3, 2), values.tobytes())
        image.putpalette([level for index in range(256) for level in (index, 0, 0)])
    else:
        image = image.convert(mode)
    image.save(tmp_path / "mask.png")
    mask = load_mask(tmp_path / "mask.png")
    assert mask.dtype == torch.bool
    assert mask.tolist() == (values > 0).tolist()


def test_mask_is_resized_to_the_nearest_pixel(tmp_path):
    values = np.zeros((8, 8), np.uint8)
    values[2:4, 4:8] = 1
    Image.fromarray(values).save(tmp_path / "mask.png")
    larger = load_mask(tmp_path / "mask.png", (16, 24))
    assert larger.tolist() == np.kron(values, np.ones((2, 3))).astype(bool).tolist()


@pytest.mark.parametrize("name", ["mask.png", "mask.jpg"])
def test_half_of_a_masks_brightest_leaves_its_soft_edges_out(tmp_path, name):
    sharp = np.zeros((64, 64), bool)
    sharp[16:40, 24:48] = True
    Image.fromarray(sharp).convert("L").filter(ImageFilter.GaussianBlur(2)).save(tmp_path / name)
    half = load_mask(tmp_path / name, rule="half").numpy()
    assert (half ^ sharp).sum() < 0.03 * sharp.sum()
    assert load_mask(tmp_path / name).sum() > 1.3 * sharp.sum()


def test_half_of_a_masks_brightest_takes_masks_of_0_and_1(tmp_path):
    values = np.eye(4, dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    assert load_mask(tmp_path / "mask.png", rule="half").tolist() == (values > 0).tolist()


@pytest.mark.parametrize("rule", ["any", "half"])
def test_a_black_mask_marks_nothing(tmp_path, rule):
    Image.new("L", (3, 2)).save(tmp_path / "mask.png")
    assert not load_mask(tmp_path / "mask.png", rule=rule).any()


def test_suffixes_are_those_that_pillow_decodes():
    suffixes = image_suffixes()
    assert {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm"} <= suffixes
    assert not {".txt", ".csv", ".pdf", ".eps", ".h5", ".mpg"} & suffixes


@pytest.mark.parametrize("size", [(1, 1_500_000), (1_500_000, 1), (3, 900_000)])
def test_narrow_images_are_resized_within_little_memory(size, monkeypatch):
    """Widened first, a picture of 1 x 1,500,000 pixels would take a gigabyte."""
    made = []
    original = Image.Image.resize

    def resize(image, size, *rest):
        made.append(size[0] * size[1])
        return original(image, size, *rest)

    picture = Picture.from_image(Image.new("RGB", size, (10, 200, 30)))
    monkeypatch.setattr(Image.Image, "resize", resize)
    pixels = picture.resize((224, 224)).tensor()
    assert max(made) <= 2**25
    assert pixels.flatten(1).unique(dim=1).flatten().tolist() == [10, 200, 30]


def test_narrow_images_are_not_widened_into_tiles():
    with pytest.raises(GradError, match="too narrow for --tile 100"):
        Mosaic.of_image(Tiling(100), (3_000_000, 1), 224)


def test_a_jpeg_of_endless_scans_is_unreadable(tmp_path):
    path = tmp_path / "scans.jpg"
    Image.new("RGB", (64, 64), (1, 2, 3)).save(path, progressive=True)
    data = path.read_bytes()
    start = data.index(b"\xff\xda", data.index(b"\xff\xc2"))
    scan = data[start : data.index(b"\xff", start + 20)]
    path.write_bytes(data[:start] + 5_000 * scan + data[start:])
    with pytest.raises(UnreadableImage, match="scans"):
        load_picture(path)
