"""Arrays in files: what is appended is read back, whichever rows are asked for."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import storage
from storage import size_and_checksum

ARRAY = np.random.default_rng(0).normal(size=(12, 3, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "a.f32"
    appender = storage.Appender(path, np.float32, (3, 2))
    assert [appender.append(ARRAY[:5]), appender.append(ARRAY[5:])] == [0, 5]
    appender.commit()
    appender.close()
    assert appender.written() == {path: size_and_checksum(path)}
    np.testing.assert_array_equal(np.fromfile(path, np.float32), ARRAY.ravel())
    return storage.Rows(path, np.float32, (3, 2))


@given(st.binary(min_size=1, max_size=300), st.integers(0))
def test_every_byte_counts_in_a_checksum(tmp_path_factory, content, bit):
    path = tmp_path_factory.mktemp("checksum") / "file"
    path.write_bytes(content)
    size, checksum = size_and_checksum(path)
    assert size == len(content)
    bit %= 8 * len(content)
    flipped = int.from_bytes(content, "big") ^ (1 << bit)
    path.write_bytes(flipped.to_bytes(len(content), "big"))
    assert size_and_checksum(path) != [size, checksum]


@given(st.slices(12).filter(lambda s: s.step in (None, 1)))
def test_slices(rows, chosen):
    np.testing.assert_array_equal(rows[chosen], ARRAY[chosen])


@pytest.mark.parametrize("chosen", [[3, 0, 3], [], [[1, 2], [11, 4]], 7])
def test_chosen_rows_in_their_order(rows, chosen):
    index = np.array(chosen, int)
    np.testing.assert_array_equal(rows[index], ARRAY[index])
    assert rows[index].dtype == np.float32


def test_what_is_not_there_is_not_read(rows):
    with pytest.raises(ValueError, match="reshape"):
        rows[np.array([12])]


def test_rows_behind_those_to_go_on_from_are_cut_off(tmp_path):
    path = tmp_path / "a.i16"
    appender = storage.Appender(path, np.int16)
    appender.append(np.arange(3))
    checksum = appender.commit()
    appender.append(np.arange(100))
    appender.commit()
    appender.close()
    again = storage.Appender(path, np.int16, (), 3, checksum)
    assert again.append(np.array([7])) == 3
    again.commit()
    np.testing.assert_array_equal(np.fromfile(path, np.int16), [0, 1, 2, 7])
    assert again.written() == {path: size_and_checksum(path)}
    again.close()


@pytest.mark.parametrize(("n_rows", "flip"), [(3, 1), (4, 0)])
def test_rows_that_are_not_those_written_are_not_gone_on_from(tmp_path, n_rows, flip):
    path = tmp_path / "a.i16"
    appender = storage.Appender(path, np.int16)
    appender.append(np.arange(3))
    checksum = appender.commit() ^ flip
    appender.close()
    with pytest.raises(ValueError, match="a.i16 is damaged"):
        storage.Appender(path, np.int16, (), n_rows, checksum)
    assert path.stat().st_size == 6


def test_an_empty_array_has_no_rows(tmp_path):
    appender = storage.Appender(tmp_path / "a.i16", np.int16, (4,))
    assert appender.append(np.empty((0, 4))) == 0
    appender.close()
    rows = storage.Rows(tmp_path / "a.i16", np.int16, (4,))
    assert (len(rows), rows.shape, rows[:].shape) == (0, (0, 4), (0, 4))


def test_a_file_that_ends_within_a_row_is_not_read(tmp_path):
    (tmp_path / "a.i16").write_bytes(bytes(12))
    with pytest.raises(ValueError, match="a.i16: expected rows of 8 bytes, got 12 bytes"):
        storage.Rows(tmp_path / "a.i16", np.int16, (4,))


def test_rows_are_read_side_by_side(tmp_path, monkeypatch):
    numbers = np.arange(24, dtype=np.int16).reshape(8, 3)
    numbers.tofile(tmp_path / "numbers.i16")
    rows, together = storage.Rows(tmp_path / "numbers.i16", np.int16, (3,)), threading.Barrier(4)
    read = rows._read

    def late(first, last):
        together.wait(30)
        return read(first, last)

    monkeypatch.setattr(rows, "_read", late)
    np.testing.assert_array_equal(rows[[7, 6, 5, 4, 3, 2, 1, 0]], numbers[::-1])


@pytest.mark.parametrize(("seconds", "between"), [(0.1, 10), (5, 100)])
def test_what_takes_long_to_save_is_saved_less_often(tmp_path, monkeypatch, seconds, between):
    clock = [0.0]
    monkeypatch.setattr(storage.time, "monotonic", lambda: clock[0])
    checkpoint = storage.Checkpoint(tmp_path / "scores.checkpoint", "source")

    def slow(file, **arrays):
        clock[0] += seconds

    monkeypatch.setattr(storage.np, "savez", slow)
    clock[0] = 9.9
    assert not checkpoint.is_due()
    clock[0] = 10.1
    assert checkpoint.is_due()
    checkpoint.save({"scores": np.zeros(3)})
    saved_at = clock[0]
    clock[0] = saved_at + between - 0.1
    assert not checkpoint.is_due()
    clock[0] = saved_at + between + 0.1
    assert checkpoint.is_due()
