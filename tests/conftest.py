"""Fixtures that tests share; their helpers are in ``helpers``."""

import hypothesis
import pytest
import torch
from helpers import browser as chromium

from grad.ops import library

# How long an example takes is the machine's matter; the fixtures of property tests, such as the
# device, are the same for all examples.
hypothesis.settings.register_profile(
    "grad",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("grad")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request) -> torch.device:
    """Each device that the operators run on; the same tests run on all of them."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU on this machine")
        if not library.is_reference_forced() and not library.load().build_info()["cuda"]:
            pytest.skip("grad._C was built without CUDA")
    return torch.device(request.param)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; pages are opened with ``watched_page`` of ``browser.py``."""
    yield from chromium.launch()
