"""The index on disk: all values of a key, in order, and no file is left."""

from __future__ import annotations

from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.index import Index


def test_values_are_returned_in_order_and_no_file_stays() -> None:
    run = Run.fresh()
    values = [(f"sub-{number % 7}", [number, "x" * 2000, None]) for number in range(5000)]
    one, other = Index(run, iter(values)), Index(run, [("sub-0", {"a": 1})])
    assert not list(run.folder.iterdir())
    for key in {key for key, _ in values}:
        assert list(one.of(key)) == [value for name, value in values if name == key]
    assert list(other.of("sub-0")) == [{"a": 1}] and not list(other.of("sub-1"))
