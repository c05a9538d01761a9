"""Two processes do together what one does alone. Run as a script, this file is one of the two."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
import unittest.mock
from pathlib import Path

import pytest
import torch
from helpers.features import make_features
from helpers.images import FakeBackbone, make_images
from safetensors.torch import load_file, save_file
from torch import nn

from grad.detector.training.batch_norm import synchronized
from grad.detector.training.loop import fit, make_optimizer
from grad.detector.training.schedule import Schedule
from grad.detector.training.step import TrainingStep
from grad.features.compute import compute_features
from grad.model.grad import GRAD
from grad.model.measure import measure_features, measure_residuals
from grad.score.dataset import evaluate, left_out_scores
from grad.score.records import Recorder
from grad.system import distributed
from grad.system.errors import GradError, raise_once
from grad.train.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SIZE = 64


# What each process does. Alone, the tests do the same.


def make_model(jitter="pixel"):
    torch.manual_seed(0)
    return GRAD.from_preset("grad-tiny", 6, 3, 3, jitter=jitter)


def normalized(network, images):
    """Output for this process's images, their gradient and everything that was learned."""
    part = distributed.shard(images).clone().requires_grad_()
    output = network(part)
    weight = torch.arange(images.numel(), dtype=images.dtype).view_as(images).cos()
    (output * distributed.shard(weight)).sum().backward()
    gradients = [distributed.sum_(p.grad.clone()) for p in network.parameters()]
    return output.detach(), part.grad, gradients, list(network.buffers())


def normalize(count):
    """Batch norms over this many images, then the same in evaluation mode."""
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Tanh(), nn.Sequential(nn.BatchNorm2d(3))).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.linspace(-0.5, 1, 3)
    if distributed.size() > 1:
        synchronized(network)
    generator = torch.Generator().manual_seed(count)
    images = 3 + torch.randn(count, 3, 4, 5, generator=generator, dtype=torch.float64)
    output, grad, gradients, buffers = normalized(network.train(), images)
    network.eval()
    rows = distributed.shared((output, grad, network(images[:2]).detach()))
    outputs, grads, evaluated = zip(*rows, strict=True)
    found = [torch.cat(outputs), torch.cat(grads), evaluated[0], *gradients, *buffers]
    return {f"normalize {count} {i}": value for i, value in enumerate(found)}


def step(jitter, counts):
    """Steps on batches of these sizes, in float64: losses and the parameters afterwards."""
    model = make_model(jitter).double().train()
    optimizer = make_optimizer(model, Schedule())
    train = TrainingStep(model, optimizer, clip=0.1)
    features = make_features(sum(counts))
    torch.manual_seed(5)
    found, first = {}, 0
    for count in counts:
        batch = distributed.shard(range(first, first + count))
        loss = train(features.batch(batch).double(), count)
        found[f"step {jitter} loss {first}"] = loss
        first += count
    return found | {f"step {jitter} {name}": v for name, v in model.state_dict().items()}


def train_apart():
    """Without joint batch statistics every process must still end with the same model."""
    model = make_model()
    fit(model, make_features(9), Schedule(epochs=2, batch_size=4), sync_batch_norm=False)
    own = torch.cat([value.double().flatten() for value in model.state_dict().values()])
    everyone = distributed.shared(own)
    return {"apart": torch.stack([(own - other).abs().max() for other in everyone])}


KINDS = {
    "local alone": {"parts": "local"},
    "global alone": {"parts": "global"},
    "memories": {"local": "vq", "global_": "attention"},
    "statistics": {"statistics": True, "context": 2},
    "compiled": {},
}


def train_kinds():
    """The losses of short trainings, in which some parameters have no gradient."""
    found = {}
    for name, options in KINDS.items():
        torch.manual_seed(0)
        model = GRAD.from_preset("grad-tiny", 6, 3, 3, **options)
        schedule = Schedule(epochs=2, batch_size=4)
        compiled = name == "compiled"
        history = fit(model, make_features(11), schedule, compile_step=compiled).history
        found[f"kind {name}"] = torch.tensor(history.loss)
    return found


def judge(folder):
    """Features of test images and their evaluation: what was seen, in which order, how good."""
    samples = distributed.from_main(lambda: make_images(folder / "images"))
    backbone, recorder = FakeBackbone(), Recorder()
    features = compute_features(samples, backbone, 24, cache=folder / "cache")
    torch.manual_seed(0)
    model = GRAD.from_preset("grad-tiny", 4, 3, 3)
    reports = evaluate(model, features, 24, [recorder], classes=["a", "b", "c"])
    seen = distributed.shared(backbone.images)
    measured = GRAD.from_preset("grad-tiny", 4, 3, 3, statistics=True).eval()
    measure_features(measured.statistics, features)
    measure_residuals(measured.statistics, measured, features)
    return {
        "trained": left_out_scores(measured, features, 24, ["a", "b", "c"])[0],
        "images": seen,
        "values": {name: report.values for name, report in reports.items()},
        "records": [[record.path, record.score] for record in recorder.records],
    }


def everything(folder):
    """All of the above; what the main process found lies in the folder."""
    found = normalize(5) | normalize(1) | step("pixel", [4, 5, 1]) | step("batch", [4])
    found |= train_apart()
    with unittest.mock.patch.object(torch, "compile", quick_compile):
        found |= train_kinds()
    judged = judge(folder)
    lost = None
    try:
        distributed.from_main(raise_)
    except GradError as error:
        lost = str(error)
    judged["errors"] = distributed.shared(lost)
    judged["answers"] = distributed.shared(distributed.from_main(lambda: distributed.rank() + 7))
    judged["first"] = distributed.shared(distributed.main_first(distributed.rank))
    if distributed.is_main():
        save_file({n: v.contiguous() for n, v in found.items()}, folder / "found.safetensors")
        (folder / "found.json").write_text(json.dumps(judged))


quick_compile = functools.partial(torch.compile, backend="aot_eager")


def raise_():
    raise GradError("wrong in the main process")


def launch(arguments, processes=2, **options):
    """Start torchrun on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))  # of grad and of helpers
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--nproc-per-node", str(processes), *map(str, arguments)],
        env=environment,
        text=True,
        **options,
    )


if __name__ == "__main__":
    with distributed.joined(CPU):
        everything(Path(sys.argv[1]))
    sys.exit()


# The tests.


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes found."""
    folder = tmp_path_factory.mktemp("together")
    assert launch([__file__, folder]).wait(timeout=300) == 0
    return load_file(folder / "found.safetensors"), json.loads((folder / "found.json").read_text())


def assert_close(together, alone):
    found, _ = together
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("count", [5, 1])
def test_batch_norm_over_processes_is_that_over_the_batch(together, count):
    """Also with all images in one process and none in the other."""
    assert_close(together, normalize(count))


def test_steps_are_those_of_one_process(together):
    """Unequal and empty parts, noise included."""
    assert_close(together, step("pixel", [4, 5, 1]))


def test_steps_with_one_coin_for_the_batch(together):
    assert_close(together, step("batch", [4]))


def test_the_noise_matters(together):
    """Or the tests above would not see it."""
    found, _ = together
    other = step("off", [4, 5, 1])["step off fusion.4.weight"]
    assert (found["step pixel fusion.4.weight"] - other).abs().max() > 1e-6


def test_processes_with_statistics_of_their_own_end_with_one_model(together):
    assert together[0]["apart"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_trains_alike(together, kind, monkeypatch):
    monkeypatch.setattr(torch, "compile", quick_compile)
    monkeypatch.setattr(sys.modules[__name__], "KINDS", {kind: KINDS[kind]})
    for name, loss in train_kinds().items():
        torch.testing.assert_close(together[0][name], loss, rtol=1e-2, atol=0)


def test_each_image_is_computed_and_judged_once(together, tmp_path):
    _, found = together
    alone = judge(tmp_path)
    assert sum(found["images"]) == alone["images"][0] == len(alone["records"])
    assert min(found["images"]) > 0
    names = [[Path(path).name for path, _ in which["records"]] for which in (found, alone)]
    assert names[0] == names[1]
    for (_, one), (_, two) in zip(found["records"], alone["records"], strict=True):
        assert one == pytest.approx(two, rel=1e-6)
    for name, values in alone["values"].items():
        assert found["values"][name] == pytest.approx(values, abs=1e-9)


def test_images_are_left_out_alike(together, tmp_path):
    _, found = together
    alone = judge(tmp_path)["trained"]
    assert found["trained"].keys() == alone.keys() and len(alone) > 1
    for name, scores in alone.items():
        assert found["trained"][name] == pytest.approx(scores, rel=1e-4)


def test_errors_and_answers_of_the_main_process_reach_all(together):
    _, found = together
    assert found["errors"] == ["wrong in the main process", ""]
    assert found["answers"] == [7, 7]
    assert found["first"] == [0, 1]


def test_alone_nothing_is_sent():
    assert (distributed.rank(), distributed.size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gathered("x") == distributed.shared("x") == ["x"]
    assert distributed.shard([1, 2, 3]) == [1, 2, 3]
    with pytest.raises(GradError, match="wrong in the main"):
        distributed.from_main(raise_)


@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_shards_are_all_items_in_order(count, monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 3)
    parts = []
    for number in range(3):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        parts.append(distributed.shard(range(count)))
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(GradError, match="one GPU for several"):
        distributed.local_device(torch.device("cuda:1"))
    with pytest.raises(GradError, match="2 GPUs"):
        distributed.local_device(torch.device("cuda"))
    assert distributed.local_device(CPU) == CPU
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.local_device(torch.device("cuda")) == torch.device("cuda", 1)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_images(folder / "data", classes="ab", train=10, size=SIZE)
    model = f"--backbone tf_efficientnet_lite0 --preset grad-tiny --image-size {SIZE}"
    rest = "--batch-size 7 --device cpu --precision float32"
    data = ["--data", str(folder / "data"), "--cache", str(folder / "cache")]
    return [*model.split(), *rest.split(), *data]


@pytest.fixture
def one_thread():
    """As torchrun gives each process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def test_torchrun_trains_as_one_process_does(options, tmp_path, capfd, one_thread):
    """Few steps, on one thread each: AdamW's first ones magnify rounding a hundredfold a step.

    The tests above show equality in float64.
    """
    arguments = [*options, "--epochs", "3"]
    together = launch(["-m", "grad.train", *arguments, "--out", tmp_path / "two"])
    assert together.wait(timeout=300) == 0
    text = capfd.readouterr().out
    assert text.count("epoch 3/3") == text.count("Results are in") == 1
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert one["settings"] == two["settings"]
    for name, values in one["classes"].items():
        assert two["classes"][name] == pytest.approx(values, abs=1e-3)
    names = [{p.name for p in (tmp_path / run).iterdir()} for run in ("one", "two")]
    assert names[0] == names[1]


def epochs_of(run):
    file = run / "history.json"
    return len(json.loads(file.read_text())["loss"]) if file.exists() else 0


def children_of(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def test_a_killed_worker_ends_all_and_the_run_goes_on(options, tmp_path, capfd):
    run = tmp_path / "run"
    arguments = ["-m", "grad.train", *options, "--epochs", "40", "--out", run]
    together = launch(arguments)
    while epochs_of(run) < 2:
        assert together.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    os.kill(int(children_of(together)[-1]), signal.SIGKILL)
    assert together.wait(timeout=60) != 0
    text = capfd.readouterr().err
    assert text.count("Another process of this run ended before its work was done") == 1, text
    assert text.count(f"--resume {run}") == 1
    completed = epochs_of(run)
    assert 2 <= completed < 40

    assert main(["--resume", str(run), "--epochs", "40"]) == 0
    assert f"{completed} of 40 epochs are completed" in capfd.readouterr().out
    history = json.loads((run / "history.json").read_text())
    assert len(history["loss"]) == 40 and history["loss"][-1] < 0.1 * history["loss"][0]
    assert metrics_of(run)["mean"]["image_auroc"] > 0.9


def test_a_wrong_option_is_said_once(options, capfd):
    wrong = ["--classes", "nothing"]
    assert launch(["-m", "grad.train", *options, *wrong]).wait(timeout=120) != 0
    assert capfd.readouterr().err.count("choose among a, b") == 1


def test_what_is_wrong_in_all_processes_is_said_by_the_main_one(monkeypatch):
    for rank, words in (("0", "wrong in the main process"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(GradError) as error:
            raise_once(raise_)
        assert str(error.value) == words
