"""What options leave open, and what is said of it."""

from pathlib import Path

import pytest
import torch

from grad.data.samples import Sample
from grad.features.features import Features
from grad.features.store import MapsInMemory
from grad.model.grad import GRAD
from grad.system.errors import GradError
from grad.train.estimate import describe_training, training_seconds
from grad.train.options import parse
from grad.train.plan import TrainPlan, make_plan


def plan_of(*arguments) -> TrainPlan:
    return make_plan(parse(list(arguments)), torch.device("cpu"))


def test_what_no_data_and_data_mean():
    demo = plan_of()
    assert (demo.preset, demo.image_size, demo.row.context) == ("grad-plus", 320, True)
    assert demo.backbone == "tf_efficientnet_lite2"
    assert plan_of("--weights", "w.pth").backbone is None
    plain = plan_of("--preset", "grad-tiny").schedule()
    assert (plain.decay, plain.drops, plain.balance) == ("steps", None, False)
    with_data = plan_of("--data", "x")
    assert (with_data.preset, with_data.epochs, with_data.batch_size) == ("grad-plus", 8, 16)
    assert with_data.backbone is None
    assert plan_of("--epochs", "7").epochs == 7
    named = plan_of("--data", "x", "--preset", "grad-s")
    assert (named.preset, named.epochs) == ("grad-s", 100)


@pytest.mark.parametrize(
    ("device", "images", "chosen"),
    [
        ("cpu", 1, ("grad-plus", 100, 8)),
        ("cpu", 20, ("grad-plus", 100, 8)),
        ("cpu", 131, ("grad-plus", 24, 8)),
        ("cpu", 300, ("grad-plus", 11, 8)),
        ("cpu", 3000, ("grad-plus", 8, 16)),
        ("meta", 270, ("grad", 100, 8)),
        ("meta", 3629, ("grad", 100, 64)),
    ],
)
def test_what_device_and_number_of_images_decide(device, images, chosen):
    """A device that is no CPU stands for a GPU."""
    options = parse(["--data", "x", "--precision", "float32"])
    plan = make_plan(options, torch.device(device), images)
    assert (plan.preset, plan.epochs, plan.batch_size) == chosen
    given = parse(["--data", "x", "--preset", "grad-s", "--epochs", "3", "--batch-size", "5"])
    plan = make_plan(given, torch.device("cpu"), images)
    assert (plan.preset, plan.epochs, plan.batch_size, plan.choice) == ("grad-s", 3, 5, "")


def test_what_is_said_before_it_starts():
    options = parse(["--data", "x"])
    text = describe_training(make_plan(options, torch.device("cpu"), 300), 300, 150.0)
    assert "grad-plus (a preset that learns in few epochs, as this is a CPU)" in text
    assert "11 epochs of 300 images in batches of 8 are 418 steps, about 2 min;" in text
    assert "Better, in twice the time: --epochs 22" in text and "Quicker:" in text
    long = make_plan(parse(["--data", "x", "--preset", "grad"]), torch.device("cpu"), 300)
    text = describe_training(long, 300, 9 * 3600.0)
    assert "about 9.0 h" in text and "Quicker on a CPU: leave out --preset and --epochs." in text
    gpu = make_plan(parse(["--data", "x", "--precision", "float32"]), torch.device("meta"), 3000)
    assert describe_training(gpu, 3000, None).endswith("are 4700 steps.")


def test_measuring_the_time_changes_nothing():
    options = parse(["--data", "x", "--preset", "grad-tiny", "--precision", "float32"])
    plan = make_plan(options, torch.device("cpu"), 5)
    maps = MapsInMemory(torch.randn(5, 4, 4, 12).half())
    samples = tuple(Sample(Path(f"{i}.png"), "a", "train") for i in range(5))
    features = Features(samples, (), (maps,), tuple((0, i) for i in range(5)))
    model = GRAD.from_preset("grad-tiny", 12, 4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    assert training_seconds(model, features, plan) > 0
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn), "no random number is used up"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_wrong_group():
    with pytest.raises(GradError, match=r"--group '\(' is no regular expression"):
        parse(["--group", "("])


def test_what_a_preset_means():
    plus = plan_of("--data", "x", "--preset", "grad-plus")
    assert (plus.image_size, plus.row.context) == (320, True)
    assert plan_of("--preset", "grad-plus", "--image-size", "256").image_size == 256
    assert (plus.schedule().decay, plus.schedule().balance) == ("cosine", True)
    plus = plan_of("--preset", "grad-plus", "--balance", "never", "--drops", "3")
    assert (plus.schedule().decay, plus.schedule().balance) == ("steps", False)
    asked = plan_of("--balance", "always", "--decay", "cosine").schedule()
    assert (asked.decay, asked.balance) == ("cosine", True)
