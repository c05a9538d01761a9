import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.disk import needs_dev_full, replacing_on_a_full_disk
from helpers.images import FakeBackbone
from PIL import Image
from rich.console import Console

from grad.data.samples import Sample
from grad.features.compute import compute_features, default_cache
from grad.features.store import FeatureFile
from grad.system.errors import GradError
from grad.system.files import claimed, remove_leftovers

SIZE = 32


@pytest.fixture
def samples(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for name, count in (("a", 20), ("b", 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            path = tmp_path / name / f"{i:02}.png"
            Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)
            found.append(Sample(path, name, "train"))
    return found


@pytest.fixture
def compute(samples, tmp_path):
    def call(backbone, samples=samples, **options):
        return compute_features(samples, backbone, SIZE, cache=tmp_path / "cache", **options)

    return call


def listening_console():
    return Console(record=True, width=1000, file=open("/dev/null", "w"))


def test_batches_are_the_backbones_features(samples, compute):
    features = compute(FakeBackbone())
    batch = features.batch([21, 4])
    assert batch.shape == (2, 4, 4, 4) and batch.dtype == torch.float16
    assert batch.is_contiguous(memory_format=torch.channels_last)
    pixels = np.asarray(Image.open(samples[21].path)).astype(np.float32) / 255
    red = pixels[8:16, 24:32, 0].mean()
    assert batch[0, 0, 1, 3].item() == pytest.approx(red, abs=1e-3)
    assert features.samples == tuple(samples) and len(features) == 23


def test_each_image_is_seen_once_over_runs(compute):
    first = FakeBackbone()
    before = compute(first).batch(range(23))
    second = FakeBackbone()
    after = compute(second).batch(range(23))
    assert (first.images, second.images) == (23, 0)
    assert torch.equal(before, after)


@pytest.mark.parametrize("change", ["content", "backbone", "order"])
def test_whatever_changes_features_changes_the_key(change, samples, compute):
    compute(FakeBackbone())
    again = FakeBackbone()
    if change == "content":
        Image.new("RGB", (SIZE, SIZE)).save(samples[0].path)
        expected = 20
    elif change == "backbone":
        again.fingerprint = "other"
        expected = 23
    else:
        samples[0], samples[1] = samples[1], samples[0]
        expected = 20
    compute(again, samples)
    assert again.images == expected


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "record"])
def test_a_damaged_cache_is_made_again_and_said(damage, compute, tmp_path):
    before = compute(FakeBackbone()).batch(range(23))
    array = max((tmp_path / "cache").glob("*.npy"), key=lambda path: path.stat().st_size)
    if damage == "bit":
        content = bytearray(array.read_bytes())
        content[-1] ^= 1
        array.write_bytes(content)
    elif damage == "cut":
        array.write_bytes(array.read_bytes()[:-100])
    elif damage == "gone":
        array.unlink()
    else:
        array.with_suffix(".json").write_text("{")
    console, backbone = listening_console(), FakeBackbone()
    after = compute(backbone, console=console)
    assert backbone.images == 20
    assert torch.equal(before, after.batch(range(23)))
    assert str(array) in console.export_text()


def test_unreadable_images_are_named_skipped_and_counted(samples, compute):
    samples[2].path.write_bytes(b"no image")
    samples[22].path.write_bytes(samples[22].path.read_bytes()[:50])
    for _ in range(2):  # computed, and from the cache
        console = listening_console()
        features = compute(FakeBackbone(), console=console)
        assert features.skipped == (samples[2].path, samples[22].path)
        assert len(features) == 21 and samples[2] not in features.samples
        text = console.export_text()
        assert str(samples[2].path) in text and "a: 1 of 20 train images left out" in text
    kept = [i for i in range(23) if i not in (2, 22)]
    fresh = compute(FakeBackbone(), [samples[i] for i in kept])
    assert torch.equal(features.batch(range(21)), fresh.batch(range(21)))


def test_a_batch_of_unreadable_images_only(samples, compute):
    for sample in samples[:16]:
        sample.path.write_bytes(b"")
    assert len(compute(FakeBackbone())) == 7


def test_strict_and_wholly_unreadable_classes_are_errors(samples, compute):
    samples[0].path.write_bytes(b"")
    with pytest.raises(GradError, match=r"00\.png.*--strict"):
        compute(FakeBackbone(), strict=True)
    for sample in samples[20:]:
        sample.path.unlink()
    with pytest.raises(GradError, match="None of the 3 train images of class b"):
        compute(FakeBackbone())


def test_of_classes_keeps_rows_in_place(compute):
    features = compute(FakeBackbone())
    chosen = features.of_classes(["b"])
    assert {sample.class_name for sample in chosen.samples} == {"b"}
    assert torch.equal(chosen.batch([0, 2]), features.batch([20, 22]))


def test_nothing_temporary_is_left_and_a_failure_leaves_nothing(compute, tmp_path):
    class Failing(FakeBackbone):
        def __call__(self, images):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(Failing())
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} <= {".lock"}
    compute(FakeBackbone())
    names = sorted(path.suffix for path in (tmp_path / "cache").iterdir())
    assert [name for name in names if name not in (".key", ".lock")] == [
        ".json",
        ".json",
        ".npy",
        ".npy",
    ]
    record = next((tmp_path / "cache").glob("*.json"))
    assert set(json.loads(record.read_text())) == {"key", "crc32", "unreadable"}


def test_a_cache_that_cannot_be_written_is_a_sentence(samples, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GradError, match="--cache DIR"):
        compute_features(samples, FakeBackbone(), SIZE, cache=tmp_path / "file")


@needs_dev_full
def test_a_full_disk_is_a_sentence(samples, tmp_path, monkeypatch):
    monkeypatch.setattr("grad.features.store.replacing", replacing_on_a_full_disk)
    with pytest.raises(GradError, match="No space left on device"):
        compute_features(samples, FakeBackbone(), SIZE, cache=tmp_path / "cache")


def test_values_beyond_float16_stay_finite(compute):
    class Loud(FakeBackbone):
        fingerprint = "loud"

        def __call__(self, images):
            return super().__call__(images) * 1e9

    assert compute(Loud()).batch([0]).isfinite().all()


def test_default_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "grad" / "features"


def test_two_runs_at_once_compute_each_image_once(compute):
    """The second waits for the first to have written a file, and then finds it."""

    class Slow(FakeBackbone):
        def __call__(self, images):
            time.sleep(0.05)
            return super().__call__(images)

    backbones = [Slow(), Slow()]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(compute, backbones)
    assert backbones[0].images + backbones[1].images == 23
    assert torch.equal(first.batch(range(23)), second.batch(range(23)))


def test_what_a_killed_run_left_is_removed_and_in_nobodys_way(samples, compute, tmp_path):
    compute(FakeBackbone())
    cache = tmp_path / "cache"
    for record in cache.glob("*.json"):
        record.unlink()  # killed between the features and their record
    key = next(cache.glob("*.npy")).name
    (cache / f".{key}.lock").touch()
    (cache / f".{key}.4711.tmp").write_bytes(b"half")
    (cache / ".gone.npy.4711.tmp").write_bytes(b"half")
    again = FakeBackbone()
    compute(again)
    assert again.images == 23
    assert {path.suffix for path in cache.iterdir()} <= {".npy", ".json", ".key", ".lock"}


def test_the_temporary_file_of_a_living_writer_stays(tmp_path):
    temporary = tmp_path / ".a.npy.4711.tmp"
    temporary.touch()
    with claimed(tmp_path / "a.npy") as mine:
        assert mine
        remove_leftovers(tmp_path, ".npy")
        assert temporary.exists()
        with claimed(tmp_path / "a.npy", wait=False) as again:
            assert not again
    remove_leftovers(tmp_path, ".npy")
    assert [path.name for path in tmp_path.iterdir()] == [".a.npy.lock"]


def test_images_that_nobody_touched_are_not_read_again(samples, compute, monkeypatch):
    monkeypatch.setattr("grad.features.compute._SETTLED", 0.0)
    time.sleep(0.05)  # so that the images are older than the first run
    compute(FakeBackbone())
    with monkeypatch.context() as patch:
        patch.setattr("grad.features.compute._digest", None)
        again = FakeBackbone()
        compute(again)
        assert again.images == 0
    pixels = np.asarray(Image.open(samples[0].path))
    times = samples[0].path.stat()
    Image.fromarray(255 - pixels).save(samples[0].path)
    os.utime(samples[0].path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if unchanged
    compute(again)
    assert again.images == 20


def test_what_is_known_of_other_images_is_not_believed(samples, compute, tmp_path, monkeypatch):
    """The two files that remember a class's key, exchanged; both classes have as many images."""
    monkeypatch.setattr("grad.features.compute._SETTLED", -1.0)
    few = [*samples[:3], *samples[20:]]
    before = compute(FakeBackbone(), few).batch(range(6))
    one, other = (tmp_path / "cache").glob("*.key")
    texts = one.read_text(), other.read_text()
    one.write_text(texts[1])
    other.write_text(texts[0])
    assert torch.equal(compute(FakeBackbone(), few).batch(range(6)), before)


def test_images_changed_just_now_are_not_taken_for_known(compute, tmp_path, monkeypatch):
    """A change within the same tick of the clock would go unnoticed."""
    monkeypatch.setattr("grad.features.compute._SETTLED", 3600.0)
    compute(FakeBackbone())
    assert not list((tmp_path / "cache").glob("*.key"))


def test_a_cache_of_which_nothing_may_be_written_serves(compute, tmp_path, monkeypatch):
    before = compute(FakeBackbone()).batch(range(23))

    def refuses(path):
        raise AssertionError(f"{path} is written")

    monkeypatch.setattr("grad.features.compute.claimed", refuses)
    assert torch.equal(compute(FakeBackbone()).batch(range(23)), before)


def test_reading_takes_no_memory_that_stays(tmp_path):
    """A memory map would keep the pages that were read: 64 MiB here."""
    file, rows = FeatureFile(tmp_path, "key"), 256
    shape = (rows, 16, 16, 512)
    file.write(shape, ((np.full((1, *shape[1:]), i, np.float16), {}) for i in range(rows)))
    maps, _ = file.open()
    row = np.empty(shape[1:], np.float16)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    for i in range(rows):
        maps.read_into(i, row)
        assert row[0, 0, 0] == row[-1, -1, -1] == i
    assert resident() - before < 8 << 20


def test_a_file_cut_while_in_use_is_a_sentence(compute, tmp_path):
    features = compute(FakeBackbone())
    for array in (tmp_path / "cache").glob("*.npy"):
        os.truncate(array, 200)
    with pytest.raises(GradError, match=r"cached features .*\(it has been cut\): start again"):
        features.batch(range(23))


def test_the_digest_tells_features_apart(compute):
    features = compute(FakeBackbone())
    assert features.digest() == compute(FakeBackbone()).digest()
    assert features.subset([1, 0]).digest() != features.subset([0, 1]).digest()
    assert features.subset([1]).digest() != features.subset([0]).digest()
    other = FakeBackbone()
    other.fingerprint = "other"
    assert compute(other).digest() != features.digest()
