"""Every level, and group sizes from one head to all of them; the whole sweep: exact_memory.py."""

import pytest

from exact_memory import group_sizes, measure


@pytest.mark.parametrize("level, size, context", [
    ("cross-layer", 3, 8192), ("cross-layer", 1, 2400), ("cross-layer", 90, 2400),
    ("uniform", 10, 2400), ("per-layer", 1, 2400), ("per-layer", 3, 2400)])
def test_pages_in_use_are_the_tables(level, size, context):
    assert size in group_sizes(level)
    print(measure(level, size, context))
