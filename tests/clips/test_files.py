"""Names in folders and archives, as the programs write them that people pack with."""

import errno
import gc
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import unicodedata
import weakref
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import soundfile as sf

from clips import dataset
from clips.files import ClipIndex, walk
from messages import InputError, UnreadableClip
from recordings import encoded

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "make_cases.py"
NAMES = [f"test{i:02}.wav" for i in range(4)]


@pytest.fixture
def root(clips, tmp_path):
    """Curated clips with their table, and test clips in a folder, without one."""
    clips.write_clips(tmp_path / "audio_train", "curated")
    clips.tables["curated"].to_csv(tmp_path / "train_curated.csv", index=False)
    clips.write_clips(tmp_path / "audio_test", "test")
    return tmp_path


def list_test_clips(root, *fnames):
    header = ["fname,Bark,Meow,Tick-tock", *(f'"{fname}",0,0,0' for fname in fnames)]
    (root / "sample_submission.csv").write_text("\n".join(header), "utf-8")


class Member(zipfile.ZipInfo):
    """A member by a name that zipfile itself would not write: as it is, or bytes without the flag
    that says UTF-8."""

    def __init__(self, name):
        super().__init__("x")
        self.filename, self.raw = str(name), name

    def _encodeFilenameFlags(self):
        return (self.raw, 0) if isinstance(self.raw, bytes) else super()._encodeFilenameFlags()


def pack(root, name_of):
    """The test clips in an archive, by names of their number and name."""
    with zipfile.ZipFile(root / "audio_test.zip", "w") as archive:
        for i, path in enumerate(sorted((root / "audio_test").iterdir())):
            archive.writestr(Member(name_of(i, path.name)), path.read_bytes())
    shutil.rmtree(root / "audio_test")


def read_all(split):
    for file in split.files:
        with file.open() as stream:
            assert stream.read(4) == b"RIFF"


def fault(root):
    with pytest.raises(InputError) as caught:
        dataset.load(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["", "audio_test/", "audio_test\\", "./", "C:\\clips\\", "a/b/c/", "\\\\server\\x\\"]
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("in_table", [False, True])
def test_folders_in_archives_and_on_disk(root, prefix, packed, in_table):
    if packed:
        pack(root, lambda i, name: prefix + name)
    elif "\\" in prefix:  # what unzip makes of such an archive
        for path in (root / "audio_test").iterdir():
            path.rename(path.with_name(prefix + path.name))
    else:
        (root / "audio_test").rename(root / "clips")
        shutil.copytree(root / "clips", root / "audio_test" / prefix)
    if in_table:
        list_test_clips(root, *NAMES)
    test = dataset.load(root)["test"]
    assert test.fnames == NAMES
    read_all(test)


@pytest.mark.parametrize(
    ("form", "encoding"), [("NFC", "utf-8"), ("NFD", "utf-8"), ("NFC", "cp437")]
)
def test_archives_that_do_not_say_how_names_are_encoded(root, form, encoding):
    names = [f"Tür{i} Größe.wav" for i in range(4)]
    as_is = [unicodedata.normalize(form, name).encode(encoding) for name in names]
    pack(root, lambda i, _: as_is[i])
    assert dataset.load(root)["test"].fnames == names
    list_test_clips(root, *(unicodedata.normalize("NFD", name) for name in names))
    test = dataset.load(root)["test"]
    assert len(test) == 4
    read_all(test)


def test_names_that_say_they_are_utf8_are_taken_at_their_word(root):
    mangled = [
        f"T├╝r{i}.wav" for i in range(4)
    ]  # on disk since an earlier archive, and in the table
    pack(root, lambda i, _: mangled[i])
    list_test_clips(root, *mangled)
    assert dataset.load(root)["test"].fnames == mangled


def test_what_finder_adds_is_no_clip(root):
    with zipfile.ZipFile(root / "audio_test.zip", "w") as archive:
        for name in NAMES:
            archive.write(root / "audio_test" / name, f"audio_test/{name}")
            archive.writestr(f"__MACOSX/audio_test/._{name}", b"\x00\x05\x16\x07")
            archive.writestr(f"__MACOSX/{name}", b"\x00\x05\x16\x07")
        archive.writestr("audio_test/.DS_Store", b"")
    shutil.rmtree(root / "audio_test")
    for _ in range(2):
        data = dataset.load(root)
        assert (data["test"].fnames, data.warnings) == (NAMES, ())
        read_all(data["test"])
        list_test_clips(root, *NAMES)


def test_a_zipped_table_with_what_finder_adds(root):
    with zipfile.ZipFile(root / "train_curated.csv.zip", "w") as archive:
        archive.write(root / "train_curated.csv", "train_curated.csv")
        archive.writestr("__MACOSX/._train_curated.csv", b"\x00\x05\x16\x07")
    (root / "train_curated.csv").unlink()
    assert len(dataset.load(root)["curated"]) == 12


@pytest.mark.parametrize("kind", ["zip", "7z"])
def test_archives_that_a_program_packs(root, kind):
    command = {"zip": ["zip", "-q", "-r"], "7z": ["7z", "a", "-tzip", "-bso0"]}[kind]
    if shutil.which(kind) is None:
        pytest.skip(f"there is no {kind}")
    (root / "audio_test" / NAMES[0]).rename(root / "audio_test" / "Größe.wav")
    subprocess.run([*command, "audio_test.zip", "audio_test"], cwd=root, check=True)
    shutil.rmtree(root / "audio_test")
    test = dataset.load(root)["test"]
    assert test.fnames == ["Größe.wav", *NAMES[1:]]
    read_all(test)


class TestOneNameTwice:
    @pytest.fixture(params=["folder", "archive", "archive with its folder"])
    def twice(self, root, request):
        folder = {"archive with its folder": "audio_test/"}.get(request.param, "")
        names = [f"{folder}day{i % 2 + 1}/rec{i // 2}.wav" for i in range(4)]
        if request.param != "folder":
            pack(root, lambda i, _: names[i])
            return root
        for old, new in zip(NAMES, names, strict=True):
            (root / "audio_test" / new).parent.mkdir(exist_ok=True)
            (root / "audio_test" / old).rename(root / "audio_test" / new)
        return root

    def test_listed_with_their_folders(self, twice):
        test = dataset.load(twice)["test"]
        assert test.fnames == [f"day{day}/rec{i}.wav" for day in (1, 2) for i in (0, 1)]
        assert len(set(test.files)) == 4

    def test_a_table_without_folders_is_refused(self, twice):
        list_test_clips(twice, "rec0.wav", "rec1.wav")
        message = fault(twice)
        assert "2 clips that are not one file each: write their names in full" in message
        assert "row 2: rec0.wav (day1/rec0.wav or day2/rec0.wav)" in message

    @pytest.mark.parametrize(
        "written", ["day{}/rec{}.wav", "day{}\\rec{}", "x/audio_test/day{}/rec{}"]
    )
    def test_a_table_with_folders_tells_them_apart(self, twice, written):
        list_test_clips(twice, *(written.format(day, i) for i in (0, 1) for day in (2, 1)))
        files = dataset.load(twice)["test"].files
        found = ["/".join(file.name.split("/")[-2:]) for file in files]
        assert found == ["day2/rec0.wav", "day1/rec0.wav", "day2/rec1.wav", "day1/rec1.wav"]

    def test_a_kernel_takes_neither_of_two_for_the_other(self, twice):
        list_test_clips(twice, "day1/rec0.wav", "rec0.wav")
        test, _ = dataset.find_test(twice, ["Bark", "Meow", "Tick-tock"])
        test.files[0].open().close()
        with pytest.raises(UnreadableClip):
            test.files[1].open()

    def test_a_folder_that_is_not_there_is_not_another(self, twice):
        list_test_clips(twice, "day3/rec0.wav")
        message = fault(twice)
        assert "day3/rec0.wav (nearest: day1/" in message or "(nearest: day2/rec0" in message


class TestOneNameInTwoFolders:
    """Copies of a clip are that clip; another one of this name is never taken for it silently."""

    def other(self, folder, name):
        """Another clip of that name, and of the same length."""
        folder.mkdir(exist_ok=True)
        sound, rate = sf.read(folder.parent / "audio_train" / "curated03.wav", dtype="int16")
        sf.write(folder / name, sound[::-1], rate)

    def archived(self, folder):
        shutil.make_archive(folder, "zip", folder)
        shutil.rmtree(folder)

    @pytest.mark.parametrize("listed", ["curated03.wav", "curated03", "train_noisy/curated03.wav"])
    def test_another_one_in_the_splits_own_folder_counts(self, root, listed):
        self.other(root / "train_noisy", "curated03.wav")
        (root / "train_noisy.csv").write_text(f"fname,labels\n{listed},Bark\n")
        splits = dataset.load(root)
        assert splits["noisy"].files[0].container.name == "train_noisy"
        assert {file.container.name for file in splits["curated"].files} == {"audio_train"}

    def test_another_one_in_its_archive_has_to_be_named_in_full(self, root):
        self.other(root / "train_noisy", "curated03.wav")
        self.archived(root / "train_noisy")
        (root / "train_noisy.csv").write_text("fname,labels\ncurated03.wav,Bark\n")
        assert "(audio_train/curated03.wav or train_noisy/curated03.wav)" in fault(root)
        (root / "train_noisy.csv").write_text("fname,labels\ntrain_noisy/curated03.wav,Bark\n")
        assert dataset.load(root)["noisy"].files[0].container.name == "train_noisy.zip"

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("folder", ["train_curated", "train_noisy"])
    def test_a_copy_is_that_clip_and_not_heard_in_pretraining(self, root, folder, packed):
        (root / folder).mkdir()
        shutil.copy(root / "audio_train" / "curated03.wav", root / folder)
        if packed:
            self.archived(root / folder)
        (root / "train_noisy.csv").write_text("fname,labels\ncurated03.wav,Bark\n")
        assert "1 clips that are in the curated table too: row 2: curated03.wav" in fault(root)

    def test_what_is_not_in_their_own_folder_is_looked_for_in_the_shared_one(self, root):
        (root / "audio_train" / "curated03.wav").rename(root / "audio_train" / "n.wav")
        curated = pd.read_csv(root / "train_curated.csv")
        curated[curated["fname"] != "curated03.wav"].to_csv(root / "train_curated.csv", index=False)
        (root / "train_noisy").mkdir()
        (root / "train_noisy.csv").write_text("fname,labels\nn.wav,Bark\n")
        assert dataset.load(root)["noisy"].files[0].container.name == "audio_train"

    def test_a_clip_that_was_unpacked_and_mended(self, root):
        shutil.copytree(root / "audio_test", root / "test")
        self.archived(root / "test")
        self.other(root / "audio_test", NAMES[0])
        list_test_clips(root, NAMES[0], f"test/{NAMES[1]}")
        found = [file.container.name for file in dataset.load(root)["test"].files]
        assert found == ["audio_test", "test.zip"]  # of which the second was named in full

    @pytest.mark.parametrize("packed", [False, True])
    def test_two_layouts_with_the_same_clips(self, root, packed):
        shutil.copytree(root / "audio_test", root / "test")
        if packed:
            self.archived(root / "test")
            self.archived(root / "audio_test")
        assert dataset.load(root)["test"].fnames == NAMES
        list_test_clips(root, *NAMES)
        for split in (
            dataset.load(root)["test"],
            dataset.find_test(root, ["Bark", "Meow", "Tick-tock"])[0],
        ):
            assert split.fnames == NAMES
            assert len({file.container for file in split.files}) == 1
            read_all(split)

    def test_two_folders_of_test_clips_are_two_clips(self, root):
        self.other(root / "test", NAMES[0])
        test = dataset.load(root)["test"]
        assert test.fnames == [f"audio_test/{NAMES[0]}", f"test/{NAMES[0]}", *NAMES[1:]]
        assert [file.container.name for file in test.files[:2]] == ["audio_test", "test"]
        list_test_clips(root, NAMES[0], NAMES[1])
        assert f"row 2: {NAMES[0]} (audio_test/{NAMES[0]} or test/{NAMES[0]})" in fault(root)
        list_test_clips(root, f"test/{NAMES[0]}", NAMES[1], f"audio_test/{NAMES[0]}")
        found = [file.container.name for file in dataset.load(root)["test"].files]
        assert found == ["test", "audio_test", "audio_test"]


@pytest.mark.parametrize("prefix", [None, "", "audio_test/"])
def test_what_lies_in_the_folder_itself_comes_first(root, prefix):
    (root / "audio_test" / "test03.wav").rename(root / "audio_test" / "zzz.wav")
    if prefix is None:
        (root / "audio_test" / "old").mkdir()
        (root / "audio_test" / "zzz.wav").rename(root / "audio_test" / "old" / "test00.wav")
    else:
        pack(root, lambda _, name: prefix + name.replace("zzz", "old/test00"))
    list_test_clips(root, *NAMES[:3])
    found = [file.name for file in dataset.load(root)["test"].files]
    assert found == [f"{prefix or ''}{name}" for name in NAMES[:3]]
    (root / "sample_submission.csv").unlink()
    assert dataset.load(root)["test"].fnames == ["old/test00.wav", *NAMES[:3]]


def test_an_archive_that_was_unpacked_adds_no_clips(root):
    with zipfile.ZipFile(root / "audio_test.zip", "w") as archive:
        for name in NAMES:
            archive.write(root / "audio_test" / name, f"test/{name}")
    test = dataset.load(root)["test"]
    assert test.fnames == NAMES
    assert {file.container.name for file in test.files} == {"audio_test"}


def test_classes_and_clips_of_a_sample_in_another_spelling(root):
    decomposed = unicodedata.normalize("NFD", "Tür")
    (root / "sample_submission.csv").write_text(f"fname,Bark ,{decomposed}\ntest00.wav\xa0,0,0\n")
    test, columns = dataset.find_test(root, ["Tür", "Bark"])
    assert columns == ["fname", "Bark", "Tür"]
    test.files[0].open().close()


def test_labels_of_test_clips_that_the_sample_spells_in_another_way(root):
    list_test_clips(root, *(f"audio_test\\{name}" for name in NAMES))
    table = "fname,labels\n" + "".join(f"audio_test/{name} ,Bark\n" for name in NAMES)
    (root / "test_post_competition.csv").write_text(table)
    assert dataset.load(root)["test"].labels.tolist() == [[1, 0, 0]] * 4


def test_labels_of_test_clips_that_another_table_names_without_suffix(root):
    list_test_clips(root, *NAMES)
    table = "fname,labels\n" + "".join(f"audio_test/{name[:-4].upper()},Bark\n" for name in NAMES)
    (root / "test_post_competition.csv").write_text(table)
    data = dataset.load(root)
    assert (data["test"].labels.tolist(), data.warnings) == ([[1, 0, 0]] * 4, ())


def test_labels_of_some_test_clips_only_are_left_out_with_a_warning(root):
    list_test_clips(root, *NAMES)
    (root / "test_post_competition.csv").write_text("fname,labels\ntest00.wav,Bark\n")
    data = dataset.load(root)
    assert data["test"].labels is None
    assert data.warnings == (
        "test_post_competition.csv lacks 3 of 4 test clips: labels are left out",
    )


def test_a_member_that_was_added_again_is_one_clip(root):
    pack(root, lambda i, name: name)
    with zipfile.ZipFile(root / "audio_test.zip", "a") as archive:
        newer = archive.read(NAMES[1])
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(NAMES[0], newer)
    for listed in ((), NAMES):
        if listed:
            list_test_clips(root, *listed)
        test = dataset.load(root)["test"]
        assert test.fnames == NAMES
        assert test.files[0].open().read() == newer


@pytest.mark.parametrize("packed", [False, True])
def test_containers_in_another_case(root, packed):
    (root / "audio_train").rename(root / "Audio_Train")
    if packed:
        pack(root, lambda i, name: name)
        (root / "audio_test.zip").rename(root / "AUDIO_TEST.ZIP")
    else:
        (root / "audio_test").rename(root / "Test")
    data = dataset.load(root)
    assert data["test"].fnames == NAMES
    read_all(data["test"])
    read_all(data["curated"])
    (root / "test").mkdir()  # by its exact name, the one that counts
    assert len(dataset.load(root)["test"]) == (4 if packed else 0)


def test_tables_in_another_case(root, clips):
    header = "fname,Tick-tock,Meow,Bark"
    with zipfile.ZipFile(root / "Sample_Submission.CSV.ZIP", "w") as archive:
        archive.writestr("Sample_Submission.CSV", f"{header}\ntest02.wav,0,0,0\n")
    clips.write_clips(root / "audio_train", "noisy")
    clips.tables["noisy"].to_csv(root / "Train_Noisy.csv", index=False)
    (root / "train_curated.csv").rename(root / "TRAIN_CURATED.csv")
    data = dataset.load(root)
    assert (len(data["curated"]), len(data["noisy"])) == (12, 6)
    assert data.classes == header.split(",")[1:]


@pytest.mark.parametrize("folder", ["audio_train", "Audio_Train"])
def test_paths_of_another_machine_name_the_folder_in_any_case(root, clips, folder):
    (root / "audio_train").rename(root / folder)
    table = clips.tables["curated"].copy()
    table["fname"] = [rf"C:\data\{folder}\{fname}" for fname in table["fname"]]
    table.to_csv(root / "train_curated.csv", index=False)
    read_all(dataset.load(root)["curated"])


def test_two_rows_are_not_one_file(root):
    list_test_clips(root, "test00.wav", "TEST00.wav", "test01")
    assert "not one file each: write their names in full: row 3: TEST00.wav (which row 2" in fault(
        root
    )


def test_links_that_lead_back_and_links_to_other_folders(root):
    (root / "elsewhere").mkdir()
    (root / "audio_test" / NAMES[0]).rename(root / "elsewhere" / NAMES[0])
    (root / "audio_test" / "linked").symlink_to(root / "elsewhere")
    list_test_clips(root, *NAMES)
    read_all(dataset.load(root)["test"])
    (root / "audio_test" / "loop").symlink_to(root / "audio_test")
    (root / "audio_test" / "up").symlink_to("..")  # with the training clips in it
    assert len(list(walk(root / "audio_test"))) == 2
    (root / "elsewhere" / NAMES[0]).rename(root / "audio_test" / NAMES[0])
    assert [file.name for file in dataset.load(root)["test"].files] == NAMES


@pytest.mark.parametrize("folder", ["2020", ".store"])  # searched anyway, and not
def test_a_folder_with_a_link_beside_it_has_each_clip_once(root, folder):
    (root / "audio_test" / folder).mkdir()
    for name in NAMES:
        (root / "audio_test" / name).rename(root / "audio_test" / folder / name)
    (root / "audio_test" / "0latest").symlink_to(root / "audio_test" / folder)
    assert dataset.load(root)["test"].fnames == NAMES


def test_a_folder_within_one_that_was_linked_first_is_the_same(root, tmp_path):
    (tmp_path / "data").mkdir()
    (root / "audio_test").rename(tmp_path / "data" / "x")
    (root / "audio_test").mkdir()
    (root / "audio_test" / "a").symlink_to(tmp_path / "data" / "x")
    (root / "audio_test" / "z").symlink_to(tmp_path / "data")
    assert dataset.load(root)["test"].fnames == NAMES


def test_a_folder_that_may_not_be_read_loses_no_clips_without_a_word(root, monkeypatch):
    def scandir(path, listed=os.scandir):
        if Path(path).name == "day1":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    list_test_clips(root, *NAMES)
    (root / "audio_test" / "day1").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    assert re.search("audio_test: is not a readable folder .*denied.*day1", fault(root))
    test, _ = dataset.find_test(root, ["Bark", "Meow", "Tick-tock"])  # a kernel loses it alone
    assert test.fnames == NAMES


def test_hidden_folders_are_not_searched(root):
    for folder in (".Trash", "__MACOSX", "day/.cache", "lost+found"):
        shutil.copytree(root / "audio_train", root / "audio_test" / folder)
    assert dataset.load(root)["test"].fnames == NAMES


def test_names_that_differ_in_case_only_are_two_clips(root):
    (root / "audio_test" / "test01.wav").rename(root / "audio_test" / "Test00.WAV")
    list_test_clips(root, "test00.wav", "Test00.WAV")
    assert [f.name for f in dataset.load(root)["test"].files] == ["test00.wav", "Test00.WAV"]
    (root / "audio_test").rename(root / "day1")
    (root / "audio_test").mkdir()
    (root / "day1").rename(root / "audio_test" / "day1")
    found = [f.name for f in dataset.load(root)["test"].files]
    assert found == ["day1/test00.wav", "day1/Test00.WAV"]
    list_test_clips(root, "TEST00")
    assert "row 2: TEST00 (day1/Test00.WAV or day1/test00.wav)" in fault(root)


def test_two_unicode_forms_on_one_disk_are_not_one_for_the_other(root):
    names = [unicodedata.normalize(form, "ö.wav") for form in ("NFC", "NFD")]
    for old, new in zip(NAMES, names, strict=False):
        (root / "audio_test" / old).rename(root / "audio_test" / new)
    assert len(set(dataset.load(root)["test"].files)) == 4
    list_test_clips(root, *names)
    assert [file.name for file in dataset.load(root)["test"].files] == names


def test_two_unicode_forms_in_an_archive_without_encoding_are_two_clips(root):
    forms = [unicodedata.normalize(form, "ö.wav").encode() for form in ("NFC", "NFD")]
    pack(root, lambda i, name: forms[i] if i < 2 else name)
    test = dataset.load(root)["test"]
    assert len({*test.files}) == len({*test.fnames}) == 4
    read_all(test)


def test_folders_called_like_that_of_the_split_are_told_apart(root):
    names = [f"audio_test/{'ab'[i % 2]}/test/{i // 2}.wav" for i in range(4)]
    pack(root, lambda i, _: names[i])
    list_test_clips(root, "b/test/0.wav", "a/test/0.wav")
    assert [file.name for file in dataset.load(root)["test"].files] == [names[1], names[0]]


@pytest.mark.parametrize(
    ("fname", "near"),
    [
        ("D:\\sounds\\test00.wav", "test00.wav"),
        ("/home/me/test00.wav", "test00.wav"),
        ("test00.flac", "test00.wav"),
        ("TEST00.mp3", "test00.wav"),
        ("test_00.wav", "test00.wav"),
        ("test0.wav", "test0"),
    ],
)
def test_a_clip_that_is_not_there_comes_with_the_nearest_that_is(root, fname, near):
    list_test_clips(root, fname)
    assert f"row 2: {fname} (nearest: {near}" in fault(root)


def test_the_nearest_of_several_of_one_name_is_in_the_folder_that_was_meant(root):
    for fold in range(3):
        (root / "audio_test" / f"fold{fold}").mkdir()
        for name in NAMES:
            shutil.copy(root / "audio_test" / name, root / "audio_test" / f"fold{fold}" / name)
    list_test_clips(root, "/data/fold1/test02.wav")
    assert "row 2: /data/fold1/test02.wav (nearest: fold1/test02.wav)" in fault(root)


def test_a_row_without_a_name(root):
    list_test_clips(root, "test00.wav", "")
    assert "row 3: ''" in fault(root)


def test_a_message_has_one_line_and_shows_what_cannot_be_seen(root):
    list_test_clips(root, "test\n00.wav", "te\u200bst00.wav")
    message = fault(root)
    assert r"row 2: 'test\n00.wav' (nearest: test00.wav)" in message
    assert r"row 3: 'te\u200bst00.wav' (nearest: test00.wav)" in message


@pytest.mark.parametrize("name", ["rec.3gpp", "rec.weba", "rec.mkv", "rec", "rec.dat"])
def test_sound_that_ffmpeg_reads_is_a_clip_whatever_it_is_called(root, name):
    (root / "audio_test" / name).write_bytes(encoded("webm", "libopus", 48000))
    data = dataset.load(root)
    assert (name in data["test"].fnames, data.warnings) == (True, ())


def test_files_that_are_no_audio_are_no_clips(root, capfd):
    folder = root / "audio_test"
    others = {
        "Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(500),
        "desktop.ini": ("[.ShellClassInfo]\r\n" * 100).encode("utf-16"),
        "test00.wav:Zone.Identifier": b"[ZoneTransfer]\r\nZoneId=3\r\n",
        "README.txt": b"my clips",
        "cover.jpg": b"\xff\xd8\xff\xe0" + bytes(500),
        "empty": b"",
    }
    for name, content in others.items():
        (folder / name).write_bytes(content)
    (folder / "test01.wav").rename(folder / "test01")  # by its content
    (folder / "test02.wav").write_bytes(b"")  # by its suffix
    data = dataset.load(root)
    assert data["test"].fnames == ["test00.wav", "test01", "test02.wav", "test03.wav"]
    (warning,) = data.warnings
    assert warning.startswith("6 test files are no audio: README.txt; Thumbs.db;")
    assert capfd.readouterr().err == ""  # libmpg123 has its say of what is like MP3


class TestWhereTheDatasetIs:
    def move(self, root, name):
        (root / name).mkdir(parents=True)
        for path in list(root.iterdir()):
            if path.name != Path(name).parts[0]:
                path.rename(root / name / path.name)

    def test_one_folder_deeper(self, root):
        self.move(root, "freesound-audio-tagging-2019")
        assert len(dataset.load(root)["curated"]) == 12

    def test_one_folder_deeper_as_zenodo_has_it(self, root):
        self.move(root, "FSDKaggle2019")
        (root / "FSDKaggle2019" / "FSDKaggle2019.meta").mkdir()
        for path in (root / "FSDKaggle2019").glob("*.csv"):
            path.rename(path.parent / "FSDKaggle2019.meta" / "train_curated_post_competition.csv")
        assert len(dataset.load(root)["curated"]) == 12

    def test_deeper_or_several_are_named(self, root):
        self.move(root, "a/b")
        assert f"there is one in {root / 'a' / 'b'}" in fault(root)
        shutil.copytree(root / "a" / "b", root / "c")
        shutil.copytree(root / "a" / "b", root / "d")
        assert f"{root / 'a' / 'b'}; {root / 'c'}; {root / 'd'}" in fault(root)

    def test_still_in_its_archive(self, root):
        shutil.make_archive(root.parent / "data", "zip", root)
        (root.parent / "in").mkdir()
        (root.parent / "data.zip").rename(root.parent / "in" / "data.zip")
        assert "unpack it, if it is in data.zip" in fault(root.parent / "in")
        assert "unpack it, if it is in data.zip" in fault(root.parent / "in" / "data.zip")

    @pytest.mark.parametrize("name", ["train_curated.xlsx", "train_curated.csv.txt"])
    def test_a_table_of_another_name(self, root, name):
        (root / "train_curated.csv").rename(root / name)
        assert f"(nearest: {name})" in fault(root)


def test_names_do_not_depend_on_the_locale(root):
    """As that of a cluster's jobs, which knows ASCII only, or Latin-1."""
    (root / "audio_test" / "test00.wav").rename(root / "audio_test" / "f\xfcr_\u97f3.wav")
    program = """
import sys
from clips import dataset
from runs import command_line
with command_line.errors_in_one_line(""):
    split = dataset.load(sys.argv[1])["test"]
    with split.files[0].open() as file:
        print(split.fnames[0], file.read(4), sys.getfilesystemencoding())
"""
    list_test_clips(root, "f\xfcr_\u97f3.wav")
    env = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, root],
        env={**os.environ, **env, "PYTHONPATH": str(Path(dataset.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "f\\xfcr_\\u97f3.wav b'RIFF' ascii\n", done.stderr


@pytest.mark.skipif(not CASES.is_file(), reason="the examples are not on this machine")
def test_examples(tmp_path, monkeypatch):
    """What became of inputs that people reported elsewhere."""
    spec = importlib.util.spec_from_file_location("make_cases", CASES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["make_cases", str(tmp_path)])
    module.main()
    of_names = set(os.listdir(tmp_path)) - {"tag-a-folder-of-any-audio"}
    found = {}
    for case in of_names:
        data = dataset.load(tmp_path / case / "in")
        found[case] = (len(data["curated"]), len(data["test"]), len(data.classes))
    expected = dict.fromkeys(of_names, (24, 0, 3))
    expected["labels-as-python-lists"] = (24, 0, 4)
    expected |= dict.fromkeys(
        ("other-files-in-test", "zip-with-backslashes", "one-folder-deeper"), (24, 6, 3)
    )
    expected["zip-with-same-names-in-two-folders"] = (24, 6, 3)
    assert found == expected


def test_an_index_goes_when_it_is_not_needed(clips, tmp_path):
    index = ClipIndex(clips.write(tmp_path), "curated")
    assert index.find("curated00.wav") is index.find("curated00.wav")
    gone = weakref.ref(index)
    del index
    gc.collect()
    assert gone() is None
