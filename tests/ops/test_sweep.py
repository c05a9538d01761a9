"""Random cases with extreme numbers among them; ``sweep.py`` runs more of the same."""

import pytest
from helpers.sweep import difference, make_case


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_operators_are_the_reference_at_any_numbers(device, first):
    wrong = {n: difference(make_case(n), device) for n in range(first, first + 100)}
    assert not {number: problem for number, problem in wrong.items() if problem}
