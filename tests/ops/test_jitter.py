"""The jitter's noise: Philox by its published vectors, statistics, and who governs it."""

import math

import pytest
import torch
from helpers.operators import assert_near

from grad.ops import Jitter, draw_state, jitter_noise, project, reference

# Counter, key and words from the known-answer file of Random123 (Salmon et al., SC 2011).
KNOWN = [
    ([0, 0, 0, 0], [0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
STATE = torch.tensor([2402, 18293])
ROWS = 200_000


def as_int64(low: int, high: int) -> int:
    value = low | high << 32
    return value - 2**64 if value >= 2**63 else value


def known_words(words: str) -> list[int]:
    return [int(word, 16) for word in words.split()]


def two_normals(first: int, second: int) -> list[float]:
    """Box and Muller's pair from the upper 24 bits of two words."""
    radius = math.sqrt(-2 * math.log(((first >> 8) + 1) / 2**24))
    angle = 2 * math.pi * (second >> 8) / 2**24
    return [radius * math.cos(angle), radius * math.sin(angle)]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_reference_philox_gives_the_published_words(counter, key, words):
    seed, offset = torch.tensor(as_int64(*key)), torch.tensor(as_int64(*counter[:2]))
    row = torch.tensor([as_int64(*counter[2:])])
    assert [int(w) for w in reference.philox(seed, offset, row)] == known_words(words)


def test_noise_of_row_zero_is_made_of_the_published_words(device):
    """Words 2 and 3 of counter 0, key 0, through the compiled operator."""
    _, _, third, fourth = known_words(KNOWN[0][2])
    state = torch.zeros(2, dtype=torch.int64, device=device)
    noise = jitter_noise(state, 1, 2, Jitter(probability=1.0, std=1.0))
    assert noise[0].tolist() == pytest.approx(two_normals(third, fourth), rel=1e-5)


def test_noise_of_axes_two_and_three_is_made_of_the_next_offset(device):
    """Offset -1: the next one is 0, whose words are published."""
    first, second, _, _ = known_words(KNOWN[0][2])
    state = torch.tensor([0, -1], device=device)
    noise = jitter_noise(state, 1, 4, Jitter(probability=1.0, std=1.0))
    assert noise[0, 2:].tolist() == pytest.approx(two_normals(first, second), rel=1e-5)


def test_coin_of_a_pixel_is_word_zero(device):
    """0x6627e8d5 / 2^32 is 0.39905: the row moves from that probability on."""
    state = torch.zeros(2, dtype=torch.int64, device=device)
    assert not jitter_noise(state, 1, 2, Jitter(0.399, 1.0)).any()
    assert jitter_noise(state, 1, 2, Jitter(0.3991, 1.0)).all()


def test_coin_of_a_batch_is_that_of_the_last_row_there_could_be(device):
    """Row, offset and seed of all ones: word 0 is 0x408f276d, 0.25218 of 2^32."""
    state = torch.tensor([-1, -1], device=device)
    assert not jitter_noise(state, 9, 2, Jitter(0.252, 1.0, per="batch")).any()
    assert jitter_noise(state, 9, 2, Jitter(0.2523, 1.0, per="batch")).all()


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
@pytest.mark.parametrize("per", ["pixel", "batch"])
@pytest.mark.parametrize("state", [[2402, 18293], [-5, 2**63 - 1], [2**62 + 11, -(2**63)]])
def test_equals_the_reference(device, dims, per, state):
    jitter = Jitter(probability=0.7, std=0.05, per=per)
    noise = jitter_noise(torch.tensor(state, device=device), 5000, dims, jitter)
    expected = reference.jitter_noise(torch.tensor(state), 5000, dims, jitter)
    assert noise.dtype == torch.float32 and noise.shape == (5000, dims)
    assert torch.equal(noise.cpu() == 0, expected == 0)
    assert float((noise.cpu() - expected).abs().max()) < 1e-6


def test_a_row_does_not_depend_on_the_number_of_rows(device):
    many = jitter_noise(STATE.to(device), 5000, 3, Jitter())
    assert torch.equal(jitter_noise(STATE.to(device), 77, 3, Jitter()), many[:77])
    assert torch.equal(jitter_noise(STATE.to(device), 5000, 2, Jitter()), many[:, :2])


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_share_of_rows_that_move(device, probability):
    noise = jitter_noise(STATE.to(device), ROWS, 2, Jitter(probability, 0.05))
    moved = (noise != 0).any(dim=1)
    assert torch.equal(moved, (noise != 0).all(dim=1))  # one coin for all axes of a row
    deviation = math.sqrt(probability * (1 - probability) / ROWS)
    assert abs(float(moved.double().mean()) - probability) <= 4 * deviation


@pytest.mark.parametrize("std", [0.05, 3.0])
def test_moments_are_those_of_a_normal(device, std):
    z = jitter_noise(STATE.to(device), ROWS, 4, Jitter(1.0, std)).double().cpu() / std
    for axis in z.T:  # each within 4.5 standard deviations of its estimate
        assert abs(float(axis.mean())) < 4.5 / math.sqrt(ROWS)
        assert abs(float(axis.square().mean()) - 1) < 4.5 * math.sqrt(2 / ROWS)
        assert abs(float((axis**3).mean())) < 4.5 * math.sqrt(15 / ROWS)
        assert abs(float((axis**4).mean()) - 3) < 4.5 * math.sqrt(96 / ROWS)


def test_distribution_is_normal(device):
    """Kolmogorov and Smirnov's distance, at the 0.1 % level."""
    for axis in jitter_noise(STATE.to(device), ROWS, 4, Jitter(1.0, 1.0)).double().cpu().T:
        expected = torch.special.ndtr(axis.sort().values)
        empirical = torch.arange(ROWS, dtype=torch.float64) / ROWS
        distance = torch.maximum(expected - empirical, empirical + 1 / ROWS - expected).max()
        assert float(distance) < 1.95 / math.sqrt(ROWS)


def correlation(a, b) -> float:
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


def test_axes_pixels_and_seeds_are_independent(device):
    jitter = Jitter(1.0, 1.0)
    z = jitter_noise(STATE.to(device), ROWS, 4, jitter).cpu()
    bound = 4.5 / math.sqrt(ROWS)
    for i in range(4):
        for lag in (1, 2, 28, 784):  # neighbours in a row, in a column, in the next image
            assert abs(correlation(z[lag:, i], z[:-lag, i])) < bound
        for j in range(i):
            assert abs(correlation(z[:, i], z[:, j])) < bound
            assert abs(correlation(z[:, i].square(), z[:, j].square())) < bound
    for other in ([2403, 18293], [2402, 18294]):
        y = jitter_noise(torch.tensor(other, device=device), ROWS, 4, jitter).cpu()
        assert abs(correlation(z[:, 0], y[:, 0])) < bound
        assert abs(correlation(z[:, 2], y[:, 2])) < bound


def test_coins_are_independent_of_neighbours_and_of_the_noise(device):
    state = STATE.to(device)
    moved = (jitter_noise(state, ROWS, 1, Jitter(0.5, 1.0)) != 0).any(dim=1).cpu()
    z = jitter_noise(state, ROWS, 4, Jitter(1.0, 1.0)).cpu()
    bound = 4.5 / math.sqrt(ROWS)
    for lag in (1, 28, 784):
        assert abs(correlation(moved[lag:], moved[:-lag])) < bound
    for axis in z.T:
        assert abs(correlation(moved, axis)) < bound
        assert abs(correlation(moved, axis.abs())) < bound


def test_coins_per_batch(device):
    """All rows or none, and over many batches about the share that was asked for."""
    moved = []
    for seed in range(600):
        state = torch.tensor([seed, 5], device=device)
        noise = jitter_noise(state, 8, 2, Jitter(0.3, 1.0, per="batch"))
        moved.append(bool(noise.any()))
        assert bool((noise != 0).all()) == moved[-1]
    assert abs(sum(moved) / 600 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 600)


def test_a_batch_that_moves_has_the_noise_of_its_pixels(device):
    every = jitter_noise(STATE.to(device), 50, 2, Jitter(1.0, 0.05))
    assert torch.equal(jitter_noise(STATE.to(device), 50, 2, Jitter(1.0, 0.05, "batch")), every)


def test_manual_seed_governs_the_state(device):
    torch.manual_seed(3)
    first, second = draw_state(device), draw_state(device)
    torch.manual_seed(3)
    assert torch.equal(draw_state(device), first)
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    assert not torch.equal(draw_state(device), first)
    assert first.shape == (2,) and first.dtype == torch.int64 and first.device.type == device.type


def test_manual_seed_governs_project(device):
    inputs = [
        torch.linspace(-1, 1, 60, device=device)[:, None],
        torch.ones(2, 1, device=device),
        torch.zeros(2, device=device),
        torch.arange(32.0, device=device).reshape(4, 4, 2),
    ]

    def draw(seed):
        torch.manual_seed(seed)
        return project(*inputs, jitter=Jitter(0.5, 0.2))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    torch.manual_seed(1)
    project(*inputs, jitter=Jitter(0.5, 0.2))
    assert not torch.equal(project(*inputs, jitter=Jitter(0.5, 0.2)), draw(1))


def test_reference_draws_the_same_state(device):
    inputs = [
        torch.linspace(-1, 1, 60, device=device)[:, None],
        torch.ones(2, 1, device=device),
        torch.zeros(2, device=device),
        torch.arange(32.0, device=device).reshape(4, 4, 2),
    ]
    results = []
    for ops in (project, reference.project):
        torch.manual_seed(1)
        results.append(ops(*inputs, jitter=Jitter()))
        results.append(torch.rand(3, device=device))
    assert_near(results[0], results[2], 1e-6)
    assert torch.equal(results[1], results[3])


def test_same_noise_on_cpu_and_gpu(device):
    if device.type == "cpu":
        pytest.skip("compares the GPU with the CPU")
    jitter = Jitter(0.5, 1.0)
    cpu, gpu = jitter_noise(STATE, ROWS, 4, jitter), jitter_noise(STATE.cuda(), ROWS, 4, jitter)
    assert torch.equal(cpu == 0, gpu.cpu() == 0)
    assert float((cpu - gpu.cpu()).abs().max()) < 2e-6


def test_no_rows(device):
    assert jitter_noise(STATE.to(device), 0, 3, Jitter()).shape == (0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5}, r"probability must be in \[0, 1\], got 1.5"),
        ({"probability": math.nan}, "probability"),
        ({"std": -0.1}, "std must be finite and not negative, got -0.1"),
        ({"std": math.inf}, "std"),
        ({"per": "row"}, "per must be 'pixel' or 'batch', got 'row'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Jitter(**options)


@pytest.mark.parametrize("dims", [2, 4])
@pytest.mark.parametrize("per", ["pixel", "batch"])
@pytest.mark.parametrize("function", [jitter_noise, reference.jitter_noise])
def test_a_part_of_the_rows_has_the_noise_of_its_place(device, function, per, dims):
    """Beyond 2^32 as well, where a row takes two words."""
    jitter = Jitter(0.7, 1.0, per)
    for start in (0, 7, 2**32 - 3):
        base = torch.tensor([2402, 18293, start], device=device)
        part = torch.tensor([2402, 18293, start + 5], device=device)
        assert torch.equal(function(part, 40, dims, jitter), function(base, 45, dims, jitter)[5:])
    whole = function(STATE.to(device), 45, dims, jitter)
    assert torch.equal(function(part.new_tensor([2402, 18293, 5]), 40, dims, jitter), whole[5:])


def test_projected_parts_are_parts_of_the_whole(device):
    generator = torch.Generator().manual_seed(3)
    hidden, weight, bias, grid = (
        torch.randn(*shape, generator=generator).to(device)
        for shape in ((90, 8), (2, 8), (2,), (5, 5, 12))
    )
    state = torch.tensor([2402, 18293, 30], device=device)
    options = {"jitter": Jitter(0.5, 0.3)}
    whole = project(hidden, weight, bias, grid, jitter_state=state[:2], **options)
    part = project(hidden[30:], weight, bias, grid, jitter_state=state, **options)
    assert torch.equal(part, whole[30:])
    with pytest.raises(ValueError, match="what row 0 is counted as"):
        project(hidden, weight, bias, grid, jitter_state=state.repeat(2), **options)
