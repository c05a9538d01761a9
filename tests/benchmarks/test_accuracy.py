"""The paper's tables: their rows, what is kept of them, how they are shown, and the rivals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accuracy import command as bench_accuracy
from accuracy import methods, render
from accuracy.rows import Row, Table
from accuracy.runner import Runner
from accuracy.store import Result, Store, data_digest
from accuracy.tables import PLUS, TABLES
from others.memory_bank import MemoryBank, neighbourhoods
from others.uniad import UniAD, neighbours
from rich.console import Console

from grad.data.demo import demo_dataset
from grad.data.samples import Sample
from grad.detector.training.loop import fit
from grad.detector.training.schedule import Schedule
from grad.features.features import Features
from grad.features.store import MapsInMemory
from grad.model.grad import GRAD
from grad.train.options import TrainOptions
from grad.train.plan import make_plan

ROWS = [pytest.param(row, id=f"{t.number} {row.name}") for t in TABLES.values() for row in t.rows]


def make_features(classes=("a", "b"), each=5, shape=(6, 6, 8), seed=0):
    """A map of its own for each class, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(len(classes), *shape, generator=generator)
    maps = patterns.repeat_interleave(each, dim=0)
    maps = maps + 0.05 * torch.randn(maps.shape, generator=generator)
    samples = tuple(
        Sample(Path(f"{name}{i}.png"), name, "train") for name in classes for i in range(each)
    )
    places = tuple((0, i) for i in range(len(samples)))
    return Features(samples, (), (MapsInMemory(maps),), places)


def make_result(image=0.9, classes=("a", "b"), **changes):
    metrics = {"image_auroc": image, "pixel_auroc": 0.8, "pixel_ap": 0.4, "aupro_30": None}
    summary = {"classes": dict.fromkeys(classes, metrics), "mean": metrics, "reasons": {}}
    values = Result({}, summary, 8, 3_400_000, 900_000_000, 1.0, 1.0, 0.1, {})
    return replace(values, **changes)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_makes_a_valid_model(row):
    options = replace(TrainOptions(preset="grad-tiny"), **row.overrides)
    plan = make_plan(options, torch.device("cpu"))
    if row.method == "grad" and plan.preset == "grad-tiny":
        GRAD.from_preset(channels=4, height=2, width=2, **plan.model_options())


def test_the_rivals_of_table_1_are_compared_at_equal_entries():
    rows = {row.name: row.overrides for row in TABLES[1].rows}
    assert len(rows) == 13
    for part, counts in (("local", (64, 256)), ("global", (16, 64))):
        for count in counts:
            grid = rows[f"{part} grid, {count}"]
            assert grid[f"{part}_resolution"] ** 2 == count
            for rival in ("vector quantisation", "attention"):
                assert rows[f"{part} {rival}, {count}"][f"{part}_entries"] == count
    assert all(
        (row["refine"], row["jitter"]) == ("none", "off")
        for name, row in rows.items()
        if name != PLUS.name
    )


def test_names_are_unique_and_the_last_part_is_the_whole_model():
    for table in TABLES.values():
        assert len({row.name for row in table.rows}) == len(table.rows)
    assert TABLES[5].rows[-2].overrides == {}
    assert sorted(TABLES) == list(range(1, 10))


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Calls the command line on one class of the demo set with what makes it quick."""
    cache = tmp_path_factory.mktemp("cache")
    options = "--classes cookie --backbone tf_efficientnet_lite0 --image-size 64 --device cpu"
    quick = "--preset grad-tiny --epochs 1 --batch-size 16 --precision float32 --workers 1"

    def call(out, *arguments):
        fixed = ["--data", str(demo_dataset().root), *options.split(), *quick.split()]
        return bench_accuracy.main([*fixed, "--cache", str(cache), "--out", str(out), *arguments])

    return call


def test_a_table_is_written_and_done_rows_are_not_done_again(
    command, tmp_path, monkeypatch, capsys
):
    trained = []

    def counted(model, *arguments, **options):
        trained.append(model)
        return fit(model, *arguments, **options)

    monkeypatch.setattr(methods, "fit", counted)
    assert command(tmp_path, "--table", "9", "--seeds", "0") == 0
    assert len(trained) == 4
    assert command(tmp_path, "--table", "9", "5", "--seeds", "0,1") == 0
    assert len(trained) == 4 * 2 + 4 * 2  # the whole model and grad-plus are in both tables
    text = (tmp_path / "table-9.md").read_text()
    assert "| by cosine |" in text and "98.7 / 97.8" in text and "±" in text
    assert "1 classes here are others" in text
    kept = json.loads((tmp_path / "table-5.json").read_text())
    assert [len(row["results"]) for row in kept["rows"]] == [2] * 6
    seeds = [result["settings"]["seed"] for result in kept["rows"][0]["results"]]
    assert seeds == [0, 1]
    assert "table 5, local, seed 1" in capsys.readouterr().out


def test_an_interrupted_table_goes_on(command, tmp_path, monkeypatch, capsys):
    calls = []

    def interrupted(model, *arguments, **options):
        calls.append(1)
        result = fit(model, *arguments, **options)
        return replace(result, interrupted=len(calls) == 2)

    monkeypatch.setattr(methods, "fit", interrupted)
    assert command(tmp_path, "--table", "9", "--seeds", "0") == 130
    assert "goes on" in capsys.readouterr().err
    assert not (tmp_path / "table-9.md").exists()
    assert command(tmp_path, "--table", "9", "--seeds", "0") == 0
    assert len(calls) == 5


def test_tables_by_class_separate_and_few_shot(command, tmp_path, monkeypatch):
    few = Table(7, "t", (Row("two", {"few_shot": 2}, equal_steps=True),))
    classes = Table(2, "t", TABLES[2].rows[1:], "classes", metrics=("image_auroc",))
    monkeypatch.setattr(bench_accuracy, "TABLES", {7: few, 2: classes})
    assert command(tmp_path, "--table", "7", "2", "--seeds", "3") == 0
    result = json.loads((tmp_path / "table-7.json").read_text())["rows"][0]["results"][0]
    assert result["epochs"] == 2  # 31 images are two steps, two images are one
    assert result["settings"]["few_shot"] == 2
    text = (tmp_path / "table-2.md").read_text()
    assert "| cookie |" in text and "GRAD separate | grad-plus unified | UniAD unified" in text


def test_wrong_seeds_are_named(command, tmp_path, capsys):
    for seeds in ("a", "1,1", "-1"):
        assert command(tmp_path, "--table", "9", f"--seeds={seeds}") == 2
        assert "--seeds" in capsys.readouterr().err


def test_a_key_holds_what_a_row_depends_on(tmp_path):
    options = TrainOptions(
        data=demo_dataset().root, backbone="tf_efficientnet_lite0", device="cpu", epochs=3
    )
    runner = Runner(options, tmp_path, Console(quiet=True))

    def settings(row, seed=0, **changes):
        changed = replace(options, **row.overrides, **changes, seed=seed)
        return runner.settings(row, make_plan(changed, runner.plan.device))

    row = Row("plain")
    assert settings(row) == settings(Row("same under another name", {"local": "grid"}))
    others = [
        settings(row, seed=1),
        settings(row, epochs=4),
        settings(Row("vq", {"local": "vq"})),
        settings(Row("uniad", method="uniad")),
        settings(Row("steps", equal_steps=True)),
    ]
    assert all(other != settings(row) for other in others)
    bank = Row("bank", method="memory bank")
    assert settings(bank, epochs=4) == settings(bank)


def test_the_digest_sees_every_image(tmp_path):
    dataset = demo_dataset().select(["cookie"])
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(dataset.test[-1].path.read_bytes() + b"0")
    changed = replace(dataset, test=(*dataset.test[:-1], replace(dataset.test[-1], path=copy)))
    assert data_digest(dataset) == data_digest(demo_dataset().select(["cookie"]))
    assert data_digest(dataset) != data_digest(changed)


def test_a_damaged_record_is_not_used(tmp_path):
    store = Store(tmp_path)
    store.put({"settings": {"a": 1}, "b": 2})
    assert store.get({"a": 1}) == {"settings": {"a": 1}, "b": 2}
    assert store.get({"a": 2}) is None
    store.path({"a": 1}).write_text("{")
    assert store.get({"a": 1}) is None


def test_means_and_deviations_are_in_per_cent():
    assert render.spread([0.5]) == "50.0"
    assert render.spread([0.5, 0.6]) == "55.0 ± 7.1"
    assert render.spread([0.5, None]) == render.spread([None]) == "-"


def test_paper_figures_stand_beside_ours():
    table = Table(1, "t", (Row("one", paper=(97.0, None)), Row("two")))
    results = [(row, [make_result(), make_result(0.8)]) for row in table.rows]
    text = render.markdown(table, results, {"command": "c"})
    assert "| one | 85.0 ± 7.1 | 80.0 ± 0.0 | 40.0 ± 0.0 | - | 97.0 / - | 2 |" in text
    assert "the 2 classes here are others" in text and "- command: c" in text


def test_nothing_is_said_of_other_classes_where_they_are_the_papers():
    results = [(Row("one"), [make_result(classes=render.CLASSES["MVTec AD"])])]
    table = Table(2, "t", (results[0][0],), "classes", metrics=("image_auroc", "pixel_auroc"))
    text = render.markdown(table, results, {})
    assert "here are others" not in text
    assert "| capsule | 90.0 / 80.0 | 96.9 / - |" in text
    assert "| mean | 90.0 / 80.0 |" in text


def test_the_table_of_cost_counts_like_the_paper():
    row = TABLES[6].rows[1]
    text = render.markdown(TABLES[6], [(row, [make_result()])], {})
    assert "| GRAD-S (grad-s) | 3.4 | 0.9 | 8 | 6.2, 5.1, 100 | 90.0 |" in text


def test_the_bank_keeps_pixels_of_every_class_and_finds_the_nearest():
    features = make_features()
    bank = MemoryBank.from_features(features, entries=40, seed=1)
    assert bank.entries.shape == (80, 8)
    pixels = neighbourhoods(features.batch(range(10)))
    assert (torch.cdist(bank.entries, pixels).amin(dim=1) < 1e-3).all()
    image = features.batch([3]).float()
    expected = torch.cdist(neighbourhoods(image), bank.entries).amin(dim=1).view(1, 6, 6)
    torch.testing.assert_close(bank(image), expected, rtol=1e-3, atol=1e-3)
    everything = MemoryBank.from_features(features, entries=10_000)
    assert len(everything.entries) == 360 and everything(image).max() < 1e-2


def test_uniad_learns_what_is_normal():
    features = make_features(shape=(16, 16, 8))
    torch.manual_seed(0)
    model = UniAD(8, 16, 16)
    result = fit(model, features, Schedule(epochs=12, batch_size=5, learning_rate=1e-3))
    assert result.history.loss[-1] < 0.6 * result.history.loss[0]
    good = features.batch([0]).float()
    defect = good.clone()
    defect[:, :, 4:8, 4:8] += 3
    _, score = model.loss_and_score(torch.cat([good, defect]))
    assert score.shape == (2, 8, 8)
    assert score[1, 2:4, 2:4].mean() > 2 * score[0, 2:4, 2:4].mean()


def test_uniad_is_blind_to_a_tokens_neighbourhood():
    """In evaluation mode what one token holds reaches no token whose queries can't see it."""
    near = neighbours(9, 9, 7)
    assert near[40].sum() == 49 and near[0].sum() == 16 and torch.equal(near, near.T)
    torch.manual_seed(0)
    attention = UniAD(8, 18, 18).eval().encoder[0].attention
    tokens = torch.randn(1, 81, 256)
    changed = tokens.clone()
    changed[0, 40] += 1
    before, after = (attention(tokens, keys, keys) for keys in (tokens, changed))
    moved = (before - after).abs().amax(dim=2)[0] > 1e-6
    assert torch.equal(moved, ~near[40])


def test_uniads_size_is_the_papers():
    model = UniAD(272, 28, 28)  # all four maps of an EfficientNet-b4
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(7.5e6, rel=0.05)


def test_uniads_jitter_is_relative_to_a_tokens_norm():
    torch.manual_seed(0)
    tokens = torch.randn(64, 10, 100) * torch.logspace(-1, 1, 10)[:, None]
    noise = UniAD._jittered(tokens) - tokens
    ratio = noise.std(dim=(0, 2)) / (tokens.norm(dim=2).mean(dim=0) / 100)
    torch.testing.assert_close(ratio, torch.full((10,), 20.0), rtol=0.05, atol=0)


def test_flops_are_those_of_matrix_products():
    features = make_features()
    bank = MemoryBank.from_features(features, 40)
    assert methods.count_flops(bank, features) == 2 * 36 * 80 * 8
    model = UniAD(8, 6, 6)
    weights = sum(p.numel() for n, p in model.named_parameters() if n.endswith("weight"))
    vectors = sum(p.numel() for n, p in model.named_parameters() if "norm.weight" in n)
    products = 12 * 2 * 2 * 9 * 9 * 256  # of attention: twelve times, scores and values
    assert methods.count_flops(model, features) == 2 * 9 * (weights - vectors) + products
