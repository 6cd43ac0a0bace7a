"""Receipts of the last while."""

from __future__ import annotations

from realtime.history import Position
from realtime.idempotency import Receipt, Receipts

RECEIPT = Receipt("e1", 7)
TOPIC = "room:a"


def test_receipt_is_found_by_its_key_and_says_that_it_is_a_duplicate():
    """The one that was kept stays as it is."""
    receipts = Receipts(10, 30.0)
    receipts.keep((TOPIC, "a"), RECEIPT, 0.0)
    assert receipts.find((TOPIC, "a"), 29.9) == Receipt("e1", 7, duplicate=True)
    assert receipts.find((TOPIC, "b"), 0.0) is None
    assert receipts.find(("room:b", "a"), 0.0) is None
    assert RECEIPT.duplicate is False
    assert RECEIPT.position == Position("e1", 7)


def test_receipt_that_is_too_old_is_forgotten():
    """With all that are older; memory is free again."""
    receipts = Receipts(10, 30.0)
    for number in range(5):
        receipts.keep((TOPIC, str(number)), RECEIPT, float(number))
    assert [number for number in range(5) if receipts.find((TOPIC, str(number)), 32.5)] == [3, 4]
    assert len(receipts) == 2


def test_oldest_receipt_goes_where_there_are_too_many():
    """Keys are chosen by peers."""
    receipts = Receipts(3, 30.0)
    for number in range(10):
        receipts.keep((TOPIC, str(number)), RECEIPT, 0.0)
    assert [number for number in range(10) if receipts.find((TOPIC, str(number)), 0.0)] == [7, 8, 9]
    assert len(receipts) == 3


def test_receipts_of_a_topic_are_forgotten_and_no_others():
    """Whatever of it had gone before, by age or by number; the index by topic does not outlive its receipts."""
    receipts = Receipts(4, 30.0)
    for at, (topic, key) in enumerate([("room:b", "a"), (TOPIC, "a"), (TOPIC, "b"), ("room:b", "b"), (TOPIC, "c")]):
        receipts.keep((topic, key), RECEIPT, float(at))
    assert receipts.find((TOPIC, "a"), 31.5) is None
    receipts.forget(TOPIC)
    receipts.forget("room:never")
    assert [receipts.find((TOPIC, key), 31.5) for key in "bc"] == [None, None]
    assert receipts.find(("room:b", "b"), 31.5) is not None
    assert len(receipts) == 1
    receipts.keep((TOPIC, "b"), RECEIPT, 32.0)
    assert receipts.find((TOPIC, "b"), 32.0) is not None
    assert receipts.find((TOPIC, "b"), 62.0) is None
    assert receipts._of_topic == {}


class CountsWalks(dict):
    """A table that notes when somebody walks over it."""

    walks = 0

    def __iter__(self):
        self.walks += 1
        return super().__iter__()


def test_forgetting_a_topic_does_not_look_at_the_receipts_of_others():
    """A room that goes must not cost a walk over a hundred thousand keys."""
    receipts = Receipts(10, 30.0)
    kept = receipts._kept = CountsWalks()
    for topic in (TOPIC, "room:b"):
        receipts.keep((topic, "a"), RECEIPT, 0.0)
    receipts.forget(TOPIC)
    assert kept.walks == 0
    assert list(kept) == [("room:b", "a")]
