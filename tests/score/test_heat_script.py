"""What browsers draw, ``heat.js``, beside what Python says of the same maps."""

import numpy as np
import pytest
import torch
from helpers.browser import watched_page

from grad.score.heat import SCRIPT
from grad.score.regions import label_regions


@pytest.fixture(scope="module")
def page(browser):
    with watched_page(browser) as page:
        page.add_script_tag(content=SCRIPT.read_text().replace("export ", ""))
        yield page


@pytest.mark.parametrize("seed", range(20))
def test_small_regions_are_not_marked(page, seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 20, 2).tolist()
    values, level = rng.random((height, width)).astype(np.float32), float(rng.uniform(0.3, 1.1))
    least = int(rng.integers(1, 12))
    shown = page.evaluate(
        "([map, level, share]) => withoutSmall(map, level, share).data",
        [
            {"width": width, "height": height, "data": values.ravel().tolist()},
            level,
            (least - 0.5) / (width * height),
        ],
    )
    marked = np.array(shown).reshape(height, width) > level
    assert np.array_equal(marked, label_regions(torch.from_numpy(values), level, least) > 0)
