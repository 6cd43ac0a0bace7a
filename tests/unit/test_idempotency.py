"""Receipts of the last while."""

from __future__ import annotations

from realtime.history import Position
from realtime.idempotency import Receipt, Receipts

RECEIPT = Receipt("e1", 7)


def test_receipt_is_found_by_its_key_and_says_that_it_is_a_duplicate():
    """The one that was kept stays as it is."""
    receipts = Receipts(10, 30.0)
    receipts.keep("a", RECEIPT, 0.0)
    assert receipts.find("a", 29.9) == Receipt("e1", 7, duplicate=True)
    assert receipts.find("b", 0.0) is None
    assert RECEIPT.duplicate is False
    assert RECEIPT.position == Position("e1", 7)


def test_receipt_that_is_too_old_is_forgotten():
    """With all that are older; memory is free again."""
    receipts = Receipts(10, 30.0)
    for number in range(5):
        receipts.keep(number, RECEIPT, float(number))
    assert [number for number in range(5) if receipts.find(number, 32.5)] == [3, 4]
    assert len(receipts) == 2


def test_oldest_receipt_goes_where_there_are_too_many():
    """Keys are chosen by peers."""
    receipts = Receipts(3, 30.0)
    for number in range(10):
        receipts.keep(number, RECEIPT, 0.0)
    assert [number for number in range(10) if receipts.find(number, 0.0)] == [7, 8, 9]
    assert len(receipts) == 3
