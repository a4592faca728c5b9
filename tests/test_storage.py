"""Arrays in files: what is appended is read back, whichever rows are asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import storage
from storage import size_and_checksum_of

ARRAY = np.random.default_rng(0).normal(size=(12, 3, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    appender = storage.Appender(path, np.float32, (3, 2), 0, 0)
    assert [appender.append(ARRAY[:5]), appender.append(ARRAY[5:])] == [0, 5]
    appender.commit()
    appender.close()
    assert appender.written() == {path: size_and_checksum_of(path)}
    np.testing.assert_array_equal(np.load(path), ARRAY)
    return storage.Rows(path)


@given(st.binary(min_size=1, max_size=300), st.integers(0))
def test_every_byte_counts_in_a_checksum(tmp_path_factory, content, bit):
    path = tmp_path_factory.mktemp("checksum") / "file"
    path.write_bytes(content)
    size, checksum = size_and_checksum_of(path)
    assert size == len(content)
    bit %= 8 * len(content)
    flipped = int.from_bytes(content, "big") ^ (1 << bit)
    path.write_bytes(flipped.to_bytes(len(content), "big"))
    assert size_and_checksum_of(path) != [size, checksum]


@given(st.slices(12).filter(lambda s: s.step in (None, 1)))
def test_slices(rows, chosen):
    np.testing.assert_array_equal(rows[chosen], ARRAY[chosen])


@pytest.mark.parametrize("chosen", [[3, 0, 3], [], [[1, 2], [11, 4]], 7])
def test_chosen_rows_in_their_order(rows, chosen):
    index = np.array(chosen, int)
    np.testing.assert_array_equal(rows[index], ARRAY[index])
    assert rows[index].dtype == np.float32


def test_rows_behind_those_to_go_on_from_are_cut_off(tmp_path):
    path = tmp_path / "a.npy"
    appender = storage.Appender(path, np.int16, (), 0, 0)
    appender.append(np.arange(3))
    checksum = appender.commit()
    appender.append(np.arange(100))
    appender.commit()
    appender.close()
    again = storage.Appender(path, np.int16, (), 3, checksum)
    again.append(np.array([7]))
    again.commit()
    again.close()
    np.testing.assert_array_equal(np.load(path), [0, 1, 2, 7])
    np.save(tmp_path / "b.npy", np.load(path))
    assert path.stat().st_size == (tmp_path / "b.npy").stat().st_size
    assert again.written() == {path: size_and_checksum_of(path)}


def test_an_empty_array_has_no_rows(tmp_path):
    storage.Appender(tmp_path / "a.npy", np.int16, (4,), 0, 0).close()
    rows = storage.Rows(tmp_path / "a.npy")
    assert (len(rows), rows.shape, rows[:].shape) == (0, (0, 4), (0, 4))
