"""Files as they arrive: truncated, lying, encrypted, misnamed. What the user sees of each."""

import io
import os
import struct
import subprocess
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clips import dataset, decoding
from clips import files as clip_files
from clips import store as clipstore
from clips.decoding import read_clip
from clips.files import ClipFile
from clips.prepare import prepare
from config import PREPROCESSING_SETTINGS, Config
from conftest import open_writer
from messages import InputError
from runs import space

SETTINGS = Config().values(PREPROCESSING_SETTINGS)
RATE = 44100


def wav(n=4410, subtype="PCM_16", rate=RATE, channels=1):
    stream = io.BytesIO()
    rng = np.random.default_rng(0)
    sound = rng.uniform(-0.5, 0.5, (n, channels))
    sf.write(stream, sound, rate, format="WAV", subtype=subtype)
    return stream.getvalue()


def lying_wav(n_bytes):
    """A header that promises more samples than there are."""
    content = bytearray(wav())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", n_bytes)
    content[4:8] = struct.pack("<I", min(n_bytes + 36, 2**32 - 1))
    return bytes(content)


def lying_flac(n_samples):
    """A header that says so many samples; 0 is what programs write that do not know it yet."""
    stream = io.BytesIO()
    sf.write(stream, sf.read(io.BytesIO(wav()))[0], RATE, format="FLAC")
    content = bytearray(stream.getvalue())
    content[21] = content[21] & 0xF0 | n_samples >> 32  # 36 bits of the stream's description
    content[22:26] = struct.pack(">I", n_samples & 0xFFFFFFFF)
    return bytes(content)


HALF_FLOAT = np.where(np.arange(4410) % 2, np.nan, 0.25).astype("<f4")


class TestClips:
    """Each gives audio, or is named as unreadable with the reason; none ends the stage."""

    def prepare(self, tmp_path, content, name="clip.wav"):
        (tmp_path / name).write_bytes(content)
        return prepare(ClipFile(tmp_path, name), SETTINGS)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"RIFF",
            wav()[:20],
            b"label,fname\n" * 100,
            b"\0" * 5000,
            b"PK\x03\x04" + bytes(200),
        ],
        ids=["empty", "four bytes", "half a header", "text", "zeros", "zip"],
    )
    def test_unreadable(self, tmp_path, content):
        clip = self.prepare(tmp_path, content)
        assert clip.fault.startswith("cannot be decoded (")
        assert len(clip.fault) < 200
        assert len(clip.samples) == 0

    def test_a_file_that_is_called_raw(self, tmp_path):
        clip = self.prepare(tmp_path, bytes(range(256)) * 100, "clip.raw")
        assert clip.fault.startswith("cannot be decoded (")
        file = ClipFile(tmp_path, "clip.raw")
        assert space.store_bytes([file], Config()) == clip.features.nbytes
        clip = self.prepare(tmp_path, wav(), "wave.raw")
        assert (clip.fault, len(clip.samples)) == ("", 4410)
        needed = space.store_bytes([ClipFile(tmp_path, "wave.raw")], Config())
        assert clip.samples.nbytes < needed < 2 * clip.samples.nbytes + clip.features.nbytes

    def test_truncated_files_give_what_is_there(self, tmp_path):
        clip = self.prepare(tmp_path, wav()[:4044])
        assert clip.fault == ""
        assert len(clip.samples) == 2000

    @pytest.mark.parametrize("format", ["FLAC", "CAF", "AIFF", "OGG"])
    def test_truncated_files_of_other_formats(self, tmp_path, format):
        noise, stream = 0.1 * np.random.default_rng(0).standard_normal(10 * RATE), io.BytesIO()
        sf.write(stream, noise, RATE, format=format)
        content = stream.getvalue()
        clip = self.prepare(tmp_path, content[: len(content) // 2])
        assert clip.fault == ""
        assert 4 < len(clip.samples) / RATE < 6

    @pytest.mark.parametrize("n_bytes", [10**6, 2**31, 2**32 - 1])
    def test_a_header_that_lies_about_the_length(self, tmp_path, n_bytes):
        clip = self.prepare(tmp_path, lying_wav(n_bytes))
        assert clip.fault == ""
        assert len(clip.samples) == 4410

    @pytest.mark.parametrize("n_samples", [0, 4411, 2**36 - 1])
    def test_a_flac_header_that_lies_about_the_length(self, tmp_path, n_samples):
        clip = self.prepare(tmp_path, lying_flac(n_samples), "clip.flac")
        assert clip.fault == ""
        np.testing.assert_array_equal(clip.samples, self.prepare(tmp_path, wav()).samples)
        needed = space.store_bytes([ClipFile(tmp_path, "clip.flac")], Config())
        assert needed < 1e5

    @pytest.mark.parametrize(
        ("subtype", "rate", "channels"),
        [("PCM_U8", RATE, 1), ("PCM_24", RATE, 2), ("DOUBLE", 192_000, 1), ("PCM_16", 8000, 8)],
    )
    def test_any_width_rate_and_channel_count(self, tmp_path, subtype, rate, channels):
        clip = self.prepare(tmp_path, wav(4410, subtype, rate, channels))
        assert clip.fault == ""
        assert abs(len(clip.samples) - 4410 * RATE / rate) <= 1

    @pytest.mark.parametrize("rate", [1, 2_000_000_000])
    def test_a_rate_that_cannot_be_is_a_fault(self, tmp_path, rate):
        assert f"said to be {rate} Hz" in self.prepare(tmp_path, wav(100, rate=rate)).fault

    def test_nan_and_infinity(self, tmp_path):
        sf.write(tmp_path / "clip.wav", HALF_FLOAT, RATE, subtype="FLOAT")
        clip = prepare(ClipFile(tmp_path, "clip.wav"), SETTINGS)
        for values in (clip.samples, clip.features):
            assert np.isfinite(values).all()
        assert np.abs(clip.samples).max() > 0

    def test_floats_beyond_full_scale_are_kept(self, tmp_path):
        sf.write(tmp_path / "clip.wav", np.array([5.0, -900.0, 0.25]), RATE, subtype="FLOAT")
        np.testing.assert_array_equal(
            read_clip(tmp_path / "clip.wav", RATE), np.array([5, -900, 0.25], np.float32)
        )

    def test_very_loud_floats_stay_finite(self, tmp_path):
        sf.write(tmp_path / "clip.wav", np.array([3e38, -3e38, 0.0]), RATE, subtype="FLOAT")
        clip = prepare(ClipFile(tmp_path, "clip.wav"), SETTINGS)
        assert clip.fault == ""
        decibels = clipstore.in_memory([clip], SETTINGS).log_mels([0], Config())
        assert np.isfinite(decibels).all()

    def test_a_link_that_leads_to_itself_is_a_missing_clip(self, clips, tmp_path):
        clips.write(tmp_path)
        path = tmp_path / "audio_train" / "curated00.wav"
        path.unlink()
        path.symlink_to(path)
        with pytest.raises(InputError, match=r"row 2: curated00.wav"):
            dataset.load(tmp_path)

    @given(st.binary(max_size=600), st.integers(0, 200))
    @settings(
        deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_overwritten_bytes(self, tmp_path, garbage, at):
        content = bytearray(wav(1000))
        content[at : at + len(garbage)] = garbage
        clip = self.prepare(tmp_path, bytes(content))
        assert np.isfinite(clip.features).all()
        assert (clip.fault == "") == (len(clip.samples) > 0)


@pytest.mark.parametrize(
    "fname",
    [
        "a b.wav",
        "a,b.wav",
        'say "hi".wav',
        "Größe.wav",
        "日本.wav",
        "-rf.wav",
        "a'b;c.wav",
        "#1 100%.wav",
    ],
)
def test_file_names(clips, tmp_path, fname):
    clips.waveforms[fname] = clips.waveforms.pop("curated00.wav")
    clips.tables["curated"].loc[0, "fname"] = fname
    clips.write(tmp_path)
    curated = dataset.load(tmp_path)["curated"]
    with open_writer(tmp_path / "store", SETTINGS) as writer:
        for name, file in zip(curated.fnames[:2], curated.files[:2], strict=True):
            writer.append(name, prepare(file, SETTINGS))
    store = clipstore.ClipStore(tmp_path / "store")
    assert store.fnames == [fname, "curated01.wav"]
    assert store.faults == ["", ""]


class TestArchives:
    @pytest.fixture
    def root(self, clips, tmp_path):
        clips.write(tmp_path / "in")
        for clip in (tmp_path / "in" / "audio_test").iterdir():
            clip.unlink()
        return tmp_path / "in"

    def archive(self, clips, root, prefix=""):
        with zipfile.ZipFile(root / "test.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for fname in clips.tables["test"]["fname"]:
                stream = io.BytesIO()
                sf.write(stream, clips.waveforms[fname], RATE, format="WAV", subtype="PCM_16")
                archive.writestr(prefix + fname, stream.getvalue())

    def test_members_that_climb_are_read_and_written_nowhere(self, clips, root):
        self.archive(clips, root, prefix="../../")
        before = sorted(root.parent.rglob("*"))
        files = dataset.load(root)["test"].files
        assert prepare(files[0], SETTINGS).fault == ""
        assert sorted(root.parent.rglob("*")) == before

    def test_truncated(self, clips, root):
        self.archive(clips, root)
        path = root / "test.zip"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match="test.zip: is not a readable zip archive"):
            dataset.load(root)

    def test_a_flipped_bit_costs_one_clip(self, clips, root):
        self.archive(clips, root)
        content = bytearray((root / "test.zip").read_bytes())
        content[2000] ^= 0xFF
        (root / "test.zip").write_bytes(content)
        prepared = [prepare(file, SETTINGS) for file in dataset.load(root)["test"].files]
        assert "cannot be unpacked" in prepared[0].fault
        assert [clip.fault for clip in prepared[1:]] == ["", "", ""]

    def test_a_damaged_member_says_what_is_wrong(self, root):
        with zipfile.ZipFile(root / "test.zip", "w", zipfile.ZIP_BZIP2) as archive:
            archive.writestr("test00.wav", wav())
        content = bytearray((root / "test.zip").read_bytes())
        content[200:210] = bytes(10)
        (root / "test.zip").write_bytes(content)
        clip = prepare(ClipFile(root / "test.zip", "test00.wav"), SETTINGS)
        assert "Invalid data stream" in clip.fault

    def test_an_archive_that_was_replaced_is_read_anew(self, root):
        """In a worker of a cluster, which outlives runs."""
        for n_samples in (4410, 8820):
            with zipfile.ZipFile(root / "new.zip", "w") as archive:
                archive.writestr("test00.wav", wav(n_samples))
            (root / "new.zip").replace(root / "test.zip")
            clip = prepare(ClipFile(root / "test.zip", "test00.wav"), SETTINGS)
            assert len(clip.samples) == n_samples
        assert "cannot be unpacked" in prepare(ClipFile(root / "test.zip", "gone"), SETTINGS).fault

    def test_a_member_larger_than_memory_is_a_fault(self, clips, root, monkeypatch):
        """A bomb: little in the archive, much when unpacked."""
        monkeypatch.setattr(clip_files, "LARGEST_MEMBER", 10**6)
        with zipfile.ZipFile(root / "test.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for i, fname in enumerate(clips.tables["test"]["fname"]):
                archive.writestr(fname, bytes(10**6 + 1) if i == 0 else wav())
        assert (root / "test.zip").stat().st_size < 50_000
        prepared = [prepare(file, SETTINGS) for file in dataset.load(root)["test"].files]
        assert "would take 0.0 GB of memory: unpack the archive" in prepared[0].fault
        assert [clip.fault for clip in prepared[1:]] == ["", "", ""]

    def test_a_member_that_lies_about_its_size_is_not_unpacked_further(self, clips, root):
        self.archive(clips, root)
        fname = clips.tables["test"]["fname"][0]
        with zipfile.ZipFile(root / "test.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in clips.tables["test"]["fname"]:
                archive.writestr(name, bytes(50_000_000) if name == fname else wav())
        content = (root / "test.zip").read_bytes()
        size = struct.pack("<I", 50_000_000)
        assert content.count(size) == 2  # before the member, and in the archive's directory
        (root / "test.zip").write_bytes(content.replace(size, struct.pack("<I", 1000)))
        files = dataset.load(root)["test"].files
        tracemalloc.start()
        clip = prepare(files[0], SETTINGS)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert "cannot be unpacked (Bad CRC-32" in clip.fault
        assert peak < 5_000_000

    def test_encrypted(self, clips, root):
        folder = root / "audio_test"
        clips.write_clips(folder, "test")
        command = ["zip", "-q", "-j", "-P", "secret", "-r", str(root / "test.zip"), str(folder)]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            pytest.skip("there is no zip program to encrypt with")
        for clip in folder.iterdir():
            clip.unlink()
        clip = prepare(dataset.load(root)["test"].files[0], SETTINGS)
        assert "cannot be unpacked" in clip.fault
        assert "encrypted" in clip.fault


class TestTables:
    @pytest.fixture
    def root(self, clips, tmp_path):
        return clips.write(tmp_path)

    @given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
    @settings(
        deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_any_bytes_give_a_dataset_or_one_error(self, root, content):
        (root / "train_noisy.csv").write_bytes(content)
        message = ""
        try:
            dataset.load(root)
        except InputError as error:
            message = str(error)
        assert message == "" or str(root) in message
        assert len(message) < 2000

    @given(
        rows=st.lists(
            st.tuples(
                st.sampled_from(["noisy00.wav", "noisy01.wav", "x", ""]), st.text(max_size=8)
            ),
            max_size=5,
        )
    )
    @settings(
        deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_any_rows_give_a_dataset_or_one_error(self, root, rows):
        pd.DataFrame(rows, columns=["fname", "labels"]).to_csv(
            root / "train_noisy.csv", index=False
        )
        try:
            noisy = dataset.load(root)["noisy"]
        except InputError:
            return
        assert noisy.labels.sum(axis=1).all()
        assert set(noisy.fnames) <= {"noisy00.wav", "noisy01.wav"}

    def test_labels_without_quotes(self, root):
        (root / "train_noisy.csv").write_text("fname,labels\nnoisy00.wav,Bark,Meow\n")
        with pytest.raises(InputError, match="more fields than the header: quote several labels"):
            dataset.load(root)

    @pytest.mark.parametrize("name", ["fname", "Bark"])
    def test_columns_that_come_twice(self, root, name):
        path = root / "sample_submission.csv"
        header, *rows = path.read_text().splitlines()
        path.write_text("\n".join([f"{header},{name}", *(f"{row},0" for row in rows)]))
        with pytest.raises(InputError, match=f"has columns twice: {name}"):
            dataset.load(root)

    def test_an_encrypted_table(self, root):
        command = ["zip", "-q", "-j", "-m", "-P", "x", root / "train_noisy.csv.zip"]
        try:
            subprocess.run([*map(str, command), str(root / "train_noisy.csv")], check=True)
        except FileNotFoundError:
            pytest.skip("there is no zip program to encrypt with")
        with pytest.raises(InputError, match=r"train_noisy.csv.zip: is not a readable CSV file"):
            dataset.load(root)

    def test_a_zipped_table_larger_than_memory(self, root, monkeypatch):
        monkeypatch.setattr(clip_files, "LARGEST_MEMBER", 1000)
        with zipfile.ZipFile(root / "train_noisy.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("train_noisy.csv", "fname,labels\n" + "x.wav,Bark\n" * 1000)
        (root / "train_noisy.csv").unlink()
        with pytest.raises(InputError, match=r"train_noisy.csv.zip: is not .* unpack the archive"):
            dataset.load(root)

    def test_an_empty_table(self, root):
        (root / "train_noisy.csv").write_bytes(b"")
        with pytest.raises(InputError, match="train_noisy.csv: is not a readable CSV file"):
            dataset.load(root)

    def test_a_million_rows(self, root):
        rows = (f"clip{i}.wav,Bark" for i in range(1_000_000))
        (root / "train_noisy.csv").write_text("fname,labels\n" + "\n".join(rows))
        with pytest.raises(InputError, match="1000000 clips that are not in .* and 999995 more"):
            dataset.load(root)

    def test_a_table_that_is_a_folder(self, root):
        (root / "train_noisy.csv").unlink()
        (root / "train_noisy.csv").mkdir()
        assert len(dataset.load(root)["noisy"]) == 0

    def test_a_table_that_may_not_be_read(self, root):
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        (root / "train_curated.csv").chmod(0)
        with pytest.raises(InputError, match="is not a readable CSV file"):
            dataset.load(root)


def test_two_hours_take_bounded_memory_per_second(tmp_path, monkeypatch):
    """Blocks are all that is held beside the mono clip, whatever the number of channels."""
    content = wav(400_000, channels=8)
    (tmp_path / "clip.wav").write_bytes(content)
    monkeypatch.setattr(decoding, "BLOCK_SAMPLES", 1 << 12)
    tracemalloc.start()
    read_clip(tmp_path / "clip.wav", RATE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    mono = 400_000 * 4
    assert peak < 3 * mono  # all channels at once would be eight
