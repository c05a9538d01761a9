"""Networks of their own for classes that a model learned after its training.

A network that is trained on changes for all classes, and few exemplars don't keep it from
forgetting (benchmarks/results/update.md). So a class that is learned later gets a copy, which
is trained on instead, and all others keep theirs. An image goes to the network of the class that it
looks most like, so that nobody has to name the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grad.model.gaussians import nearest_centre, whitening


class Branches(nn.Module):
    """Which images go to which network, and the further networks.

    Args:
        channels: C of the features.
        networks: the further ones (:class:`grad.model.grad.GRAD`), without branches themselves.

    Attributes:
        centre: (G, C), where the images of each class lie: features' means over the image.
        spread: (C, C), directions in which images of one class differ, as a whitening.
        network: (G,) int64, of each class: 0 for the model's own, n for the n-th further one.
    """

    centre: Tensor
    spread: Tensor
    network: Tensor

    def __init__(self, channels: int, networks: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(0, channels))
        self.register_buffer("spread", torch.eye(channels))
        self.register_buffer("network", torch.zeros(0, dtype=torch.int64))
        self.networks = nn.ModuleList(networks)

    def of_images(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the network that each image goes to, (B,) int64."""
        means = features.float().mean(dim=(2, 3))
        with torch.autocast(features.device.type, enabled=False):
            return self.network[nearest_centre(means, self.centre, self.spread)]

    def rescored(self, features: Tensor, score: Tensor) -> Tensor:
        """Score maps in which those of images that go to a further network are by it.

        Args:
            features: (B, C, H, W).
            score: (B, H, W) by the model's own network.
        """
        index = self.of_images(features)
        for number, network in enumerate(self.networks, start=1):
            chosen = index == number
            if features.device.type == "cpu" and not torch.compiler.is_compiling():
                if chosen.any():
                    score = score.index_put((chosen,), self._score(network, features[chosen]))
            else:  # a graph has one way for all images, and a GPU is not waited for
                other = self._score(network, features)
                score = torch.where(chosen[:, None, None], other, score)
        return score

    def place(self, means: Sequence[Tensor], network: Sequence[int]) -> None:
        """Set where classes lie, and which network each has.

        Args:
            means: of each class in order its images' means, (n, C) float32.
            network: of each class.
        """
        centres = [of_class.mean(dim=0) for of_class in means]
        within = torch.cat([m - c for m, c in zip(means, centres, strict=True)])
        self.centre = torch.stack(centres)
        self.spread = whitening(within.T @ within / len(within))
        self.network = torch.tensor(network, device=self.centre.device)

    def _score(self, network: Any, features: Tensor) -> Tensor:
        score: Tensor = network.loss_and_score(features)[1]
        return score

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        """Take the number of classes from the values that come."""
        if prefix + "centre" in state_dict:
            centre = state_dict[prefix + "centre"]
            self.centre = self.centre.new_zeros(centre.shape)
            self.network = self.network.new_zeros(len(centre))
        super()._load_from_state_dict(state_dict, prefix, *rest)
