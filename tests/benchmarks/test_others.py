"""Peers: measured alike, each in its own process, and reported where they fail."""

import json

import pytest
import torch
from others import command as bench_peers
from others import from_anomalib
from others.base import PeerOptions, measure
from others.from_anomalib import LAYERS, Stages

from grad.data.demo import demo_dataset
from grad.features.backbone import load_backbone

OPTIONS = PeerOptions("tf_efficientnet_lite0", None, image_size=64, seconds=0.5, coreset=0.02)


class Darkness:
    """Scores an image by how far its pixels are from grey."""

    image_size = 32

    def __init__(self):
        self.means = torch.nn.Linear(3, 1, bias=False)

    def fit(self, samples):
        self.classes = {sample.class_name for sample in samples}
        assert all(sample.split == "train" for sample in samples)
        return f"{len(samples)} images"

    def predict(self, images):
        maps = (images - 0.5).abs().mean(dim=1)[:, ::2, ::2]
        return maps, maps.amax(dim=(1, 2))

    def module(self):
        return self.means


def subset(name="cookie", each=6):
    dataset = demo_dataset().select([name])
    defects = [s for s in dataset.test if s.anomalous][:each]
    good = [s for s in dataset.test if not s.anomalous][:each]
    return dataset.train[:8], (*good, *defects)


def test_a_peer_is_measured_on_maps_of_the_images_size():
    train, test = subset()
    found = measure(Darkness, train, test, [("cookie",)], OPTIONS)
    assert found["note"] == "8 images"
    assert found["megabytes"] == pytest.approx(12e-6)
    assert found["peak_megabytes"] > 50 and found["images_per_s"] > 0
    assert set(found["summary"]["classes"]) == {"cookie"}
    assert 0 <= found["summary"]["mean"]["pixel_auroc"] <= 1


def test_separate_models_see_their_own_class_only():
    made = []

    def make():
        made.append(Darkness())
        return made[-1]

    parts = [subset(name, 4) for name in ("cookie", "pcb")]
    train, test = ((*parts[0][i], *parts[1][i]) for i in (0, 1))
    found = measure(make, train, test, [("cookie",), ("pcb",)], OPTIONS)
    assert [peer.classes for peer in made] == [{"cookie"}, {"pcb"}]
    assert found["megabytes"] == pytest.approx(24e-6)


def test_the_command_shows_ours_and_what_failed(tmp_path, capsys, monkeypatch):
    """Children are real processes; the second call reads what the first one kept."""
    arguments = ["--data", str(demo_dataset().root), "--classes", "cookie", "--device", "cpu"]
    arguments += ["--backbone", "tf_efficientnet_lite0", "--image-size", "64", "--settings"]
    arguments += ["unified", "--peers", "memory bank,Dinomaly", "--out", str(tmp_path)]
    assert bench_peers.main(arguments) == 0
    text = (tmp_path / "peers.md").read_text()
    assert "| memory bank | unified |" in text
    assert "not run: needs --vit-weights FILE" in text
    records = json.loads((tmp_path / "peers.json").read_text())
    assert records[0]["summary"]["mean"]["image_auroc"] > 0.7
    monkeypatch.setattr(bench_peers, "_in_child", None)  # would raise where it is called
    arguments[arguments.index("memory bank,Dinomaly")] = "memory bank"
    assert bench_peers.main(arguments) == 0


def test_unknown_names_are_refused(tmp_path, capsys):
    arguments = ["--data", str(demo_dataset().root), "--out", str(tmp_path)]
    assert bench_peers.main([*arguments, "--peers", "PatchCor"]) == 2
    assert "PatchCor" in capsys.readouterr().err
    assert bench_peers.main([*arguments, "--settings", "together"]) == 2
    assert "together" in capsys.readouterr().err


def test_the_extractor_gives_our_backbones_maps():
    backbone = load_backbone("tf_efficientnet_lite0")
    images = torch.rand(2, 3, 64, 64)
    normalised = (images - backbone.mean) / backbone.std
    maps = Stages(backbone, 2)(normalised)
    assert list(maps) == list(LAYERS[1:])
    fine, coarse = maps.values()
    assert fine.shape == (2, 40, 8, 8) and coarse.shape == (2, 112, 4, 4)
    torch.testing.assert_close(fine, backbone(images)[:, :40])


def test_the_isometry_leaves_cosines_and_distances_as_they_are():
    backbone = load_backbone("tf_efficientnet_lite0")
    images = torch.rand(2, 3, 64, 64)
    plain, wide = Stages(backbone, 3)(images), Stages(backbone, 3, (64, 128, 256))(images)
    for name, channels in zip(LAYERS, (64, 128, 256), strict=True):
        a, b = plain[name], wide[name]
        assert b.shape[1] == channels
        torch.testing.assert_close((a[0] - a[1]).norm(dim=0), (b[0] - b[1]).norm(dim=0))
        cosines = [torch.cosine_similarity(x[0], x[1], dim=0) for x in (a, b)]
        torch.testing.assert_close(*cosines)


@pytest.mark.parametrize("name", ["PatchCore", "PaDiM", "Reverse Distillation"])
def test_anomalibs_peers_run_on_our_features(name):
    pytest.importorskip("anomalib")
    train, test = subset()
    found = measure(lambda: from_anomalib.PEERS[name](OPTIONS), train, test, [("cookie",)], OPTIONS)
    assert found["summary"]["mean"]["image_auroc"] is not None
    assert found["megabytes"] > 1
