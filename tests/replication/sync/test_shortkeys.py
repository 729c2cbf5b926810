"""Questions by the beginnings of keys, and their answers."""

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64

from lamina.errors import StreamError
from lamina.pool import Pool
from lamina.replication.sync import shortkeys
from lamina.replication.sync.shortkeys import LEAST, WHOLE, Answers, Question, width
from lamina.store.record import Kind


def fill(pool: Pool, numbers: range) -> dict[int, bytes]:
    """Objects of these numbers; their keys."""
    keys: dict[int, bytes] = {}
    with pool._writer() as writer:
        for number in numbers:
            keys[number] = writer.put(b"object %d" % number, Kind.CHUNK)
        writer.flush()
    return keys


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_keys_are_told_apart(asked: int, objects: int) -> None:
    found = width(asked, objects)
    assert LEAST <= found <= WHOLE
    assert max(asked, 1) * max(objects, 1) / 2 ** (8 * found) <= 2**-9 or found == WHOLE


def rows_of(pool: Pool, keys: list[bytes]) -> BitMap64:
    return BitMap64(pool.store.ids(keys).values())


@pytest.mark.parametrize("bytes_of_key", [LEAST, 6, WHOLE])
@pytest.mark.parametrize(
    ("mine", "theirs"), [(range(50), range(25, 90)), (range(9), range(9)), (range(3), range(9, 12))]
)
def test_what_both_have(
    tank: Pool, back: Pool, mine: range, theirs: range, bytes_of_key: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortkeys, "MOST", 7)
    monkeypatch.setattr(shortkeys, "_AT_ONCE", 5)
    monkeypatch.setattr(shortkeys, "_MATCH_AT_ONCE", 4)
    monkeypatch.setattr(shortkeys, "_ROWS", ",".join(["(?,?,?)"] * 4))
    here, there = fill(tank, mine), fill(back, theirs)
    question = Question(tank._database, rows_of(tank, list(here.values())), bytes_of_key)
    answers = Answers(back._database, bytes_of_key)
    assert sum(answers.take(payload) for payload in question.frames()) == len(mine)
    have = question.answered(b"".join(answers.frames()))
    both = [here[number] for number in mine if number in there]
    assert have == rows_of(tank, both)
    assert answers.rows == rows_of(back, both)
    assert question.proof(have) == answers.proof() == blake3(b"".join(both)).digest()


def test_what_begins_alike_proves_otherwise(tank: Pool, back: Pool) -> None:
    here = fill(tank, range(10))
    key = here[4]
    other = key[:LEAST] + bytes(WHOLE - LEAST)
    with back._database.transaction():
        pack = back._database.execute("INSERT INTO pack(state, size) VALUES ('sealed', 9)")
        back._database.execute(
            "INSERT INTO object(key, pack, offset, stored, decoded, kind, codec, checksum) "
            "VALUES (?, ?, 1, 1, 1, 1, 0, 0)",
            (other, pack),
        )
    question = Question(tank._database, rows_of(tank, list(here.values())), LEAST)
    answers = Answers(back._database, LEAST)
    for payload in question.frames():
        answers.take(payload)
    have = question.answered(b"".join(answers.frames()))
    assert len(have) == 1
    assert question.proof(have) != answers.proof()


def test_two_that_begin_alike_are_neither(back: Pool) -> None:
    with back._database.transaction():
        pack = back._database.execute("INSERT INTO pack(state, size) VALUES ('sealed', 9)")
        for number in range(2):
            back._database.execute(
                "INSERT INTO object(key, pack, offset, stored, decoded, kind, codec, checksum) "
                "VALUES (?, ?, 1, 1, 1, 1, 0, 0)",
                (bytes(31) + bytes([number]), pack),
            )
    answers = Answers(back._database, LEAST)
    answers.take(bytes(LEAST))
    assert b"".join(answers.frames()) == b"\0" and not answers.rows
    whole = Answers(back._database, WHOLE)
    whole.take(bytes(31) + b"\1")
    assert b"".join(whole.frames()) == b"\1" and len(whole.rows) == 1


def test_condemned_and_damaged_ones_are_not_there(back: Pool) -> None:
    keys = fill(back, range(4))
    rows = sorted(rows_of(back, list(keys.values())))
    with back._database.transaction():
        back._database.execute("UPDATE object SET condemned = 3 WHERE id = ?", (rows[0],))
        back._database.execute("UPDATE object SET condemned = -1 WHERE id = ?", (rows[1],))
    answers = Answers(back._database, WHOLE)
    answers.take(b"".join(keys.values()))
    assert answers.rows == BitMap64(rows[2:])


@pytest.mark.parametrize("answer", [b"", b"\0\0\0", b"\xff\xff", b"\0\x04"])
def test_answers_that_make_no_sense(tank: Pool, answer: bytes) -> None:
    keys = fill(tank, range(10))
    question = Question(tank._database, rows_of(tank, list(keys.values())), 6)
    with pytest.raises(StreamError, match="it answers what it was not asked"):
        question.answered(answer)
