"""A table whose entries each end at a time of their own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.expiring import Expiring


def test_entries_are_dropped_in_the_order_of_their_ends():
    """Whatever the order in which they came; an end is the first moment without the entry."""
    table = Expiring()
    for key, end in [("a", 3.0), ("b", 1.0), ("c", 2.0)]:
        table.put(key, key.upper(), end)
    assert table.sweep(0.9) == []
    assert table.sweep(2.0) == [("b", "B"), ("c", "C")]
    assert [key in table for key in "abc"] == [True, False, False]
    assert (len(table), table.get("a"), table.get("b")) == (1, "A", None)


def test_entry_that_was_taken_out_is_not_dropped_again():
    table = Expiring()
    table.put("a", 1, 1.0)
    assert (table.pop("a"), table.pop("a")) == (1, None)
    assert table.sweep(1.0) == []


def test_later_end_counts_and_newer_value():
    """What is put again lives on past its first end, and is not cut short by an earlier one."""
    table = Expiring()
    table.put("a", 1, 2.0)
    table.put("a", 2, 3.0)
    table.put("a", 3, 1.0)
    assert table.sweep(2.9) == []
    assert table.sweep(3.0) == [("a", 3)]


def test_ends_of_entries_that_went_early_do_not_pile_up():
    """Neither those taken out nor those put off; what is there still ends in time."""
    table = Expiring()
    table.put("old", 0, 10_000.0)
    for number in range(5_000):
        table.put("once", number, 20_000.0)
        table.pop("once")
        table.put("again", number, 30_000.0 + number)
        assert len(table._ends) <= 2 * 3 + 100 + 1
    assert [key for key, _ in table.sweep(40_000.0)] == ["old", "again"]
    assert table._ends == []


def test_order_of_ends_outlives_the_tidying():
    """What came with a late end still stands behind what came with an early one."""
    table = Expiring()
    for key in range(300):
        table.put(key, key, 1000.0 - key)
    for key in range(295):
        table.pop(key)
    assert len(table._ends) <= 2 * 5 + 100
    assert [key for key, _ in table.sweep(703.0)] == [299, 298, 297]
    assert len(table) == 2


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 5), st.integers(0, 50)),
            st.tuples(st.just("pop"), st.integers(0, 5), st.just(0)),
            st.tuples(st.just("sweep"), st.just(0), st.integers(0, 50)),
        ),
        max_size=200,
    )
)
def test_table_is_what_a_plain_mapping_would_be(steps):
    """The heap and its left-overs change nothing that can be seen."""
    table, model = Expiring(), {}
    for step, key, at in steps:
        if step == "put":
            model[key] = max(at, model.get(key, at))
            table.put(key, key, float(at))
        elif step == "pop":
            assert table.pop(key) == (key if model.pop(key, None) is not None else None)
        else:
            ended = {key for key, end in model.items() if end <= at}
            assert {key for key, _ in table.sweep(float(at))} == ended
            for each in ended:
                del model[each]
        assert {key for key in range(6) if key in table} == set(model)
        assert len(table) == len(model)
