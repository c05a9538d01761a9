import numpy as np
import pytest
import torch
from PIL import Image

from grad.data.picture import Picture
from grad.export.resize import resize

SIZES = [(256, 256), (64, 64), (1, 1), (100, 333), (512, 448), (777, 1023), (40, 3000), (2000, 3)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("side", [64, 224])
def test_every_pixel_is_pillows(size, side):
    """Noise holds all values, so also those whose sum is just at a half."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = np.asarray(Picture.from_array(pixels).resize((side, side)).rgb())
    actual = resize(torch.from_numpy(pixels)[None], side)
    assert actual.dtype == torch.float32
    assert torch.equal(actual[0].byte().permute(1, 2, 0), torch.from_numpy(expected.copy()))


def test_images_of_a_batch_stay_apart():
    pixels = np.random.default_rng(1).integers(0, 256, (3, 50, 80, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    together = resize(images, 64)
    for index in range(3):
        assert torch.equal(resize(images[index : index + 1], 64)[0], together[index])


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_plain_images_stay_plain(value):
    images = torch.full((1, 97, 131, 3), value, dtype=torch.uint8)
    assert (resize(images, 64) == value).all()


def test_the_order_of_the_passes_does_not_depend_on_pillow():
    """From version 13 on it takes columns first where the height shrinks by more."""
    pixels = np.random.default_rng(2).integers(0, 256, (300, 60, 3), dtype=np.uint8)
    image, kind = Image.fromarray(pixels), Image.Resampling.BILINEAR
    rows_first = np.asarray(image.resize((64, 300), kind).resize((64, 64), kind))
    assert (np.asarray(Picture.from_image(image).resize((64, 64)).rgb()) == rows_first).all()
