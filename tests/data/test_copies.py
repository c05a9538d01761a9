"""Near copies are told from parts that lie alike."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from grad.data.copies import describe_look, find_near_copies
from grad.data.picture import Picture


def part(seed, noise=6.0):
    """An image of a part that always lies alike: the same rings, other noise and scratches."""
    y, x = np.mgrid[:96, :120]
    rings = 120 + 60 * np.sin(np.hypot(x - 60, y - 48) / 3)
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.normal(0, noise, (24, 30)).astype(np.float32)).resize((120, 96))
    values = rings + np.asarray(coarse) + rng.normal(0, 2, rings.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def as_jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return Image.open(file)


COPIES = {
    "jpeg": as_jpeg,
    "smaller": lambda image: image.resize((80, 64)),
    "brighter": lambda image: image.point(lambda value: min(255, value * 1.05)),
}


def looks(images):
    return [describe_look(Picture.from_image(image)) for image in images]


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_among_others_and_beside_them(kind):
    images = [part(seed) for seed in range(12)]
    copy = COPIES[kind](images[4])
    assert find_near_copies(looks([*images, copy])) == [(12, 4)]
    assert find_near_copies(looks(images), looks([part(50), copy])) == [(1, 4)]


@given(st.integers(0, 10**6), st.integers(2, 14))
def test_parts_that_lie_alike_are_no_copies(seed, count):
    images = looks(part(1000 * seed + number) for number in range(count))
    assert find_near_copies(images[: count // 2 + 1], images[count // 2 + 1 :]) == []
    assert find_near_copies(images) == []


def test_few_images_and_plain_ones_tell_nothing():
    assert find_near_copies([]) == []
    assert find_near_copies(looks([part(0), part(0)])) == []
    plain = looks([Image.new("RGB", (30, 30), (v, v, v)) for v in range(0, 200, 20)])
    assert find_near_copies(plain) == []
