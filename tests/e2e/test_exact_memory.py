"""Every level, and group sizes from one head to all of them; the whole sweep, at 8192 tokens: exact_memory.py."""

import pytest

from exact_memory import group_sizes, measure


@pytest.mark.parametrize("level, size, context", [
    ("cross-layer", 3, 4096), ("cross-layer", 1, 1300), ("cross-layer", 90, 1300),
    ("uniform", 10, 1300), ("per-layer", 1, 1300), ("per-layer", 3, 1300)])
def test_pages_in_use_are_the_tables(level, size, context):
    assert size in group_sizes(level)
    print(measure(level, size, context))
