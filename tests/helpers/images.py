"""A backbone without weights, and images as files."""

import numpy as np
import torch
from PIL import Image

from grad.data.samples import Sample


class FakeBackbone:
    """Stride 8, four channels: block means of the colours, and of red times green.

    ``images`` counts what it has seen.
    """

    channels, fingerprint = 4, "fake"

    def __init__(self):
        self.images = 0

    def feature_size(self, image_size):
        return image_size // 8, image_size // 8

    def __call__(self, images):
        self.images += len(images)
        both = torch.cat([images, images[:, :1] * images[:, 1:2]], dim=1)
        return torch.nn.functional.avg_pool2d(both, 8)


def make_images(root, *, classes=("a", "b", "c"), train=0, test=4, size=24):
    """Coloured noise as files in MVTec AD's layout; a defect is a dark square, with its mask.

    Returns the samples of the test images.
    """
    rng, samples = np.random.default_rng(0), []
    square = np.zeros((size, size), bool)
    square[size // 4 : size // 2, size // 4 : size // 2] = True

    def save(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        return path

    for number, name in enumerate(classes):

        def noise(number=number):
            return rng.normal(80 + 50 * number, 12, (size, size, 3))

        for i in range(train):
            save(root / name / "train/good" / f"{name}{i}.png", noise())
        for i in range(test + number):
            path = save(root / name / "test/good" / f"{name}{i}.png", noise())
            samples.append(Sample(path, name, "test"))
        for i in range(test):
            mask = save(root / name / "ground_truth/dark" / f"{name}{i}_mask.png", 255 * square)
            path = root / name / "test/dark" / f"{name}{i}.png"
            save(path, noise() - 60 * square[:, :, None])
            samples.append(Sample(path, name, "test", True, "dark", mask))
    return samples
