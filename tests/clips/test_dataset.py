"""Every layout users have gives the same dataset; every fault is named before work starts."""

import os
import pickle
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest

from clips import dataset
from clips import files as clip_files
from clips.files import ClipFile
from messages import InputError


def readme_layout(clips, root):
    clips.write(root)


def kaggle_layout(clips, root):
    clips.write_clips(root / "train_curated", "curated")
    clips.write_clips(root / "train_noisy", "noisy")
    clips.write_clips(root / "test", "test")
    for split in ("curated", "noisy"):
        clips.tables[split].to_csv(root / f"train_{split}.csv", index=False)
    clips.submission().to_csv(root / "sample_submission.csv", index=False)


def kaggle_zips(clips, root):
    kaggle_layout(clips, root)
    for folder in ("train_curated", "train_noisy", "test"):
        shutil.make_archive(str(root / folder), "zip", root / folder)
        shutil.rmtree(root / folder)


def kaggle_zips_with_folders(clips, root):
    kaggle_layout(clips, root)
    for folder in ("train_curated", "train_noisy", "test"):
        shutil.make_archive(str(root / folder), "zip", root, folder)
        shutil.rmtree(root / folder)
    for table in root.glob("*.csv"):
        with zipfile.ZipFile(f"{table}.zip", "w") as archive:
            archive.write(table, table.name)
        table.unlink()


def zenodo_layout(clips, root):
    meta = root / "FSDKaggle2019.meta"
    for split, folder in (("curated", "train_curated"), ("noisy", "train_noisy"), ("test", "test")):
        clips.write_clips(root / f"FSDKaggle2019.audio_{folder}", split)
        meta.mkdir(exist_ok=True)
        table = clips.tables[split].assign(freesound_id=7, license="CC0")
        if split == "test":
            table.insert(2, "usage", ["Public", "Private"] * (len(table) // 2))
        table.to_csv(meta / f"{folder}_post_competition.csv", index=False)


LAYOUTS = [readme_layout, kaggle_layout, kaggle_zips, kaggle_zips_with_folders, zenodo_layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(clips, tmp_path, layout):
    layout(clips, tmp_path)
    assert dataset.is_present(tmp_path)
    data = dataset.load(tmp_path)
    assert data.classes == list(clips.classes)
    for split, table in clips.tables.items():
        assert data[split].fnames == list(table["fname"])
        for file, fname in zip(data[split].files, table["fname"], strict=True):
            with file.open() as stream:
                assert stream.read(4) == b"RIFF", fname
    names = [",".join(np.array(data.classes)[row > 0]) for row in data["curated"].labels]
    expected = [",".join(sorted(text.split(","))) for text in clips.tables["curated"]["labels"]]
    assert names == expected
    has_truth = layout in (readme_layout, zenodo_layout)
    assert (data["test"].labels is not None) == has_truth
    if has_truth:
        assert list(data["test"].usage) == ["Public", "Private"] * 2


def test_classes_are_in_the_order_of_the_sample_submission(clips, tmp_path):
    clips.write(tmp_path)
    submission = clips.submission()[["fname", "Tick-tock", "Bark", "Meow"]]
    submission.to_csv(tmp_path / "sample_submission.csv", index=False)
    data = dataset.load(tmp_path)
    assert data.classes == ["Tick-tock", "Bark", "Meow"]
    np.testing.assert_array_equal(data["curated"].labels[0], [0, 1, 0])


def test_groups_of_clips(clips, tmp_path):
    clips.write(tmp_path)
    names = [" gar\u00e7on ", "gar\u0063\u0327on", "", "garage"]  # the first two are the same
    table = clips.tables["curated"]
    groups = [*names, *[""] * (len(table) - 4)]
    table.assign(Group=groups).to_csv(tmp_path / "train_curated.csv", index=False)
    data = dataset.load(tmp_path)
    found = data["curated"].groups
    assert found[0] == found[1] == "gar\u00e7on"
    assert list(found[2:5]) == [table["fname"][2], "garage", table["fname"][4]]
    n = len(table)
    assert f"read: {n} curated (in {n - 1} groups), " in dataset.describe(data)
    assert data["noisy"].groups is None


def test_groups_of_curated_clips_elsewhere_are_warned_of(clips, tmp_path):
    clips.write(tmp_path)
    for split, file in (
        ("curated", "train_curated.csv"),
        ("noisy", "train_noisy.csv"),
        ("test", "test_post_competition.csv"),
    ):
        table = clips.tables[split]
        groups = ["a", "b", "", *[f"{split} {i}" for i in range(3, len(table))]]
        table.assign(group=groups).to_csv(tmp_path / file, index=False)
    noisy, test = dataset.load(tmp_path).warnings
    assert noisy.startswith("2 noisy clips are of groups of curated ones: pretraining hears")
    assert test.startswith("2 test clips are of groups of curated ones")


def test_clips_that_no_table_names_are_warned_of(clips, tmp_path):
    clips.write(tmp_path)
    assert dataset.load(tmp_path).warnings == ()
    for name in ("audio_train/new.wav", "audio_train/.new.wav", "audio_train/notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "audio_test" / "later.flac").write_bytes(b"")
    clips.write_clips(tmp_path / "train_noisy", "noisy")  # a folder whose table was forgotten
    (tmp_path / "train_noisy.csv").unlink()
    train, test = dataset.load(tmp_path).warnings
    assert train == (
        "7 clips are in no table: new.wav; noisy00.wav; noisy01.wav; noisy02.wav; noisy03.wav, "
        "and 2 more"
    )
    assert test == "1 clips are in no table: later.flac"


def test_other_processes_need_not_look_at_every_clip(clips, tmp_path):
    curated = dataset.load(clips.write(tmp_path))["curated"]
    stamps = curated.stamps
    shutil.rmtree(tmp_path / "audio_train")
    assert pickle.loads(pickle.dumps(curated)).stamps == stamps


def test_own_clips_need_a_curated_table_and_a_folder_only(clips, tmp_path):
    clips.write_clips(tmp_path / "audio_train", "curated")
    clips.tables["curated"].to_csv(tmp_path / "train_curated.csv", index=False)
    data = dataset.load(tmp_path)
    assert data.classes == sorted(clips.classes)
    assert (len(data["noisy"]), len(data["test"])) == (0, 0)
    clips.write_clips(tmp_path / "audio_test", "test")
    assert dataset.load(tmp_path)["test"].fnames == sorted(clips.tables["test"]["fname"])


def test_listed_test_clips_are_those_that_are_not_hidden(clips, tmp_path):
    clips.write(tmp_path)
    for name in (".DS_Store", "._test00.wav"):
        (tmp_path / "audio_test" / name).write_bytes(b"")
    (tmp_path / "test_post_competition.csv").unlink()
    # A sample without rows gives the classes and their order, and no more.
    clips.submission()[:0].to_csv(tmp_path / "sample_submission.csv", index=False)
    assert dataset.load(tmp_path)["test"].fnames == sorted(clips.tables["test"]["fname"])


def test_names_that_disks_and_tables_spell_in_other_ways(clips, tmp_path):
    clips.write(tmp_path)
    composed, decomposed = "Gr\u00f6\u00dfe.wav", "Gro\u0308\u00dfe.wav"
    (tmp_path / "audio_train" / "curated00.wav").rename(tmp_path / "audio_train" / decomposed)
    table = clips.tables["curated"].replace("curated00.wav", composed)
    table.to_csv(tmp_path / "train_curated.csv", index=False)
    curated = dataset.load(tmp_path)["curated"]
    assert curated.fnames[0] == composed
    assert curated.files[0].name == decomposed


def test_of_an_archive_that_was_unpacked_the_folder_counts(clips, tmp_path):
    kaggle_layout(clips, tmp_path)
    shutil.make_archive(tmp_path / "test", "zip", tmp_path / "test")
    (tmp_path / "test" / "test01.wav").unlink()
    containers = [file.container.name for file in dataset.load(tmp_path)["test"].files]
    assert containers == ["test", "test.zip", "test", "test"]


def test_test_labels_are_those_of_the_samples_rows(clips, tmp_path):
    clips.write(tmp_path)
    path = tmp_path / "test_post_competition.csv"
    before = dataset.load(tmp_path)["test"]
    pd.read_csv(path, dtype=str)[::-1].to_csv(path, index=False)
    after = dataset.load(tmp_path)["test"]
    assert after.fnames == before.fnames
    np.testing.assert_array_equal(after.labels, before.labels)
    assert not np.array_equal(before.labels, before.labels[::-1])
    assert list(after.usage) == list(before.usage) != list(before.usage)[::-1]


def test_a_clip_that_was_replaced_by_one_of_its_size_is_another(clips, tmp_path):
    clips.write(tmp_path)
    clip = ClipFile(tmp_path / "audio_test", "test00.wav")
    before, content = clip.stamp(), (clip.container / clip.name).read_bytes()
    (clip.container / clip.name).write_bytes(content[:-1] + b"?")
    os.utime(clip.container / clip.name, ns=(0, 0))
    assert clip.stamp() != before
    stamps = []
    for last in (b"!", b"?"):
        with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
            archive.writestr("test00.wav", content[:-1] + last)
        os.utime(tmp_path / "test.zip", ns=(0, 0))
        clip_files._opened.cache_clear()
        stamps.append(ClipFile(tmp_path / "test.zip", "test00.wav").stamp())
    assert stamps[0] != stamps[1]


def test_test_labels_of_some_clips_only_are_not_used(clips, tmp_path):
    clips.write(tmp_path)
    clips.tables["test"][1:].to_csv(tmp_path / "test_post_competition.csv", index=False)
    assert dataset.load(tmp_path)["test"].labels is None


def test_byte_order_mark_crlf_spaces_and_blank_lines_are_harmless(clips, tmp_path):
    clips.write(tmp_path)
    path = tmp_path / "train_curated.csv"
    plain = dataset.load(tmp_path)["curated"]
    text = path.read_text().replace("\n", "\r\n\r\n", 3).replace("Bark,Meow", "Bark, Meow")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    data = dataset.load(tmp_path)["curated"]
    assert data.fnames == plain.fnames
    np.testing.assert_array_equal(data.labels, plain.labels)


class TestFaults:
    @pytest.fixture
    def root(self, clips, tmp_path):
        return clips.write(tmp_path)

    def fail(self, root, *parts):
        with pytest.raises(InputError) as caught:
            dataset.load(root)
        for part in parts:
            assert part in str(caught.value)

    def edit(self, root, name, change):
        table = pd.read_csv(root / name, dtype=str)
        change(table).to_csv(root / name, index=False)

    def test_no_dataset(self, tmp_path):
        assert not dataset.is_present(tmp_path)
        self.fail(tmp_path, str(tmp_path), "train_curated.csv", "README.md")

    def test_anything_in_the_folder_is_taken_for_a_dataset(self, tmp_path):
        for name in ("README.md", ".gitkeep"):
            (tmp_path / name).write_text("")
        assert not dataset.is_present(tmp_path)
        (tmp_path / "freesound-audio-tagging-2019.zip").write_bytes(b"PK")
        assert dataset.is_present(tmp_path)

    def test_clips_that_are_curated_and_noisy(self, root):
        curated = pd.read_csv(root / "train_curated.csv", dtype=str)
        self.edit(root, "train_noisy.csv", lambda t: pd.concat([t, curated[4:6]]))
        self.fail(root, "train_noisy.csv: 2 clips that are in the curated", "row 8: curated04.wav")

    def test_a_sample_submission_with_an_index(self, root):
        table = pd.read_csv(root / "sample_submission.csv", dtype=str)
        table.to_csv(root / "sample_submission.csv")
        self.fail(root, "sample_submission.csv: column 1 has no name", "index=False")

    def test_a_carriage_return_in_the_name_of_a_class(self, root):
        (root / "sample_submission.csv").unlink()
        table = pd.read_csv(root / "train_noisy.csv").assign(labels="Tick\rtock")
        table.to_csv(root / "train_noisy.csv", index=False, quoting=1)
        self.fail(root, f"{root}: 1 clips or classes with a carriage return", r"'Tick\rtock'")

    def test_a_carriage_return_in_the_name_of_a_clip(self, root):
        (root / "sample_submission.csv").unlink()
        (root / "test_post_competition.csv").unlink(missing_ok=True)
        folder = next(path for path in root.iterdir() if path.name in ("test", "audio_test"))
        next(folder.iterdir()).rename(folder / "a\rb.wav")
        self.fail(root, "1 clips or classes with a carriage return", r"'a\rb.wav'")

    def test_a_class_with_the_name_of_a_column(self, root):
        (root / "sample_submission.csv").unlink()
        self.edit(root, "train_noisy.csv", lambda t: t.assign(labels="fname"))
        self.fail(root, "a class of the training set is called 'fname'")

    def test_names_that_no_table_can_hold(self, root):
        for name in ("sample_submission.csv", "test_post_competition.csv"):
            (root / name).unlink()
        (root / "audio_test" / os.fsdecode(b"gr\xf6\xdfe.wav")).write_bytes(b"")
        self.fail(root, "1 file names that are not UTF-8", r"'gr\udcf6\udcdfe.wav'")

    def test_unknown_labels_name_row_and_nearest(self, root):
        self.edit(root, "train_curated.csv", lambda t: t.replace("Bark", "Brak"))
        self.fail(root, "train_curated.csv: 3 labels", "row 2: 'Brak' (nearest: Bark)")

    def test_labels_that_only_test_clips_have_name_row_and_nearest(self, root):
        (root / "sample_submission.csv").unlink()
        self.edit(root, "test_post_competition.csv", lambda t: t.replace("Bark", "Brak"))
        where = "test_post_competition.csv: 2 labels that the training set does not have"
        self.fail(root, where, "row 2: 'Brak' (nearest: Bark)")

    def test_many_faults_are_counted_and_the_first_shown(self, root):
        self.edit(root, "train_curated.csv", lambda t: t.assign(labels="Nothing"))
        self.fail(root, "12 labels", "row 6:", "and 7 more")

    def test_clips_without_label(self, root):
        self.edit(root, "train_noisy.csv", lambda t: t.assign(labels=["Bark", " , "] * 3))
        self.fail(root, "train_noisy.csv: 3 clips without a label", "row 3: noisy01.wav")

    def test_duplicate_file_names(self, root):
        self.edit(root, "train_curated.csv", lambda t: pd.concat([t, t[4:6]]))
        self.fail(root, "2 file names", "row 14: curated04.wav")

    def test_duplicates_in_the_sample_submission(self, root):
        self.edit(root, "sample_submission.csv", lambda t: pd.concat([t, t[:1]]))
        self.fail(root, "sample_submission.csv: 1 file names", "row 6: test00.wav")

    @pytest.mark.parametrize(
        ("table", "folder", "clip"),
        [
            ("train_curated.csv", "audio_train", "curated03.wav"),
            ("train_noisy.csv", "audio_train", "noisy03.wav"),
            ("sample_submission.csv", "audio_test", "test03.wav"),
        ],
    )
    def test_listed_clips_that_are_not_there(self, root, table, folder, clip):
        (root / folder / clip).unlink()
        self.fail(root, f"{table}: 1 clips", f"row 5: {clip}", f"{folder}/")

    def test_missing_columns(self, root):
        self.edit(root, "train_curated.csv", lambda t: t.rename(columns={"labels": "tags"}))
        self.fail(root, "train_curated.csv: needs the column labels, but has fname, tags")
        self.edit(root, "train_curated.csv", lambda t: t.rename(columns={"fname": "FName"}))
        self.fail(root, "train_curated.csv: needs the column labels, but has FName, tags")

    def test_labels_joined_by_semicolons(self, root):
        path = root / "train_curated.csv"
        path.write_text(path.read_text().replace(",", ";"))
        self.fail(root, "2 labels", "(labels are joined by commas): row 6: 'Meow;Tick-tock'")

    def test_a_table_that_is_no_text(self, root):
        (root / "train_curated.csv").write_bytes(bytes(range(256)) * 10)
        self.fail(root, "train_curated.csv: is not a readable CSV file")

    def test_an_archive_that_is_none(self, root):
        (root / "train_curated.zip").write_bytes(b"PK broken")
        self.fail(root, "train_curated.zip: is not a readable zip archive")

    def test_no_rows(self, root):
        self.edit(root, "train_curated.csv", lambda t: t[:0])
        self.fail(root, "train_curated.csv: has no rows")

    def test_one_class(self, root):
        self.edit(root, "sample_submission.csv", lambda t: t[["fname", "Bark"]])
        for name in ("train_curated.csv", "train_noisy.csv", "test_post_competition.csv"):
            self.edit(root, name, lambda t: t.assign(labels="Bark"))
        self.fail(root, "sample_submission.csv has one class only, 'Bark'")

    def test_submission_without_classes(self, root):
        self.edit(root, "sample_submission.csv", lambda t: t[["fname"]])
        self.fail(root, "sample_submission.csv: has no class columns")

    def test_names_that_lead_out_of_the_folder_are_not_found(self, root):
        self.edit(root, "train_curated.csv", lambda t: t.replace("curated00.wav", "../secret.wav"))
        self.fail(root, "row 2: ../secret.wav")
