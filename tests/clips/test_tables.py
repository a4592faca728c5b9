"""Tables as spreadsheets and programs write them, and labels as people do."""

import unicodedata

import numpy as np
import pandas as pd
import pytest

from clips import dataset
from messages import InputError

NAME = "train_curated.csv"
ROWS = [(f"curated{i:02}.wav", ("Bark", "Meow", "Bark,Meow")[i % 3]) for i in range(12)]


@pytest.fixture
def root(clips, tmp_path):
    clips.write_clips(tmp_path / "audio_train", "curated")
    return tmp_path


def plain(rows=ROWS, **options):
    return pd.DataFrame(rows, columns=["fname", "labels"]).to_csv(index=False, **options)


def load(root, text, encoding="utf-8"):
    (root / NAME).write_bytes(text.encode(encoding))
    return dataset.load(root)


def accented(*labels):
    return plain([(fname, labels[i % len(labels)]) for i, (fname, _) in enumerate(ROWS)])


SAME = {
    "plain": plain(),
    "tabs": plain(sep="\t"),
    "semicolons": plain(sep=";"),
    "bars": plain(sep="|"),
    "all quoted": plain(quoting=1),
    "all quoted, semicolons": plain(quoting=1, sep=";"),
    "told separator": "sep=;\r\n" + plain(sep=";", lineterminator="\r\n"),
    "told comma": "sep=,\n" + plain(),
    "told in quotes": '"sep=\t"\n' + plain(sep="\t"),
    "spaces after commas": plain().replace(",", ", "),
    "spaces before quotes": plain().replace(',"', ',   "').replace("Bark,Meow", "Bark,  Meow"),
    "spaces before commas": plain().replace(",", " ,"),
    "spaces about tabs": plain(sep="\t").replace("\t", " \t "),
    "no-break spaces": plain().replace("wav,", "wav\xa0,").replace("labels", "labels\xa0"),
    "no width": plain().replace("wav,", "wav\u200b,").replace("fname", "fname\u200b\u2060"),
    "marks of direction": plain().replace("curated", "\u202acurated").replace("Bark", "\u200eBark"),
    "two byte order marks": "\ufeff\ufeff" + plain(),
    "byte order mark within": plain().replace("Meow", "\ufeffMeow"),
    "index of pandas": pd.DataFrame(ROWS, columns=["fname", "labels"]).to_csv(),
    "its index twice": plain().replace("fname", "Unnamed: 0,fname").replace("cur", "1,cur"),
    "empty columns": plain(lineterminator=",,\n"),
    "other case": plain().replace("fname,labels", "FName,Labels"),
    "one column": pd.Series(plain().splitlines()).to_csv(index=False, header=False),
    "lists": plain([(f, str(t.split(","))) for f, t in ROWS]),
    "lists of JSON": plain([(f, str(t.split(",")).replace("'", '"')) for f, t in ROWS]),
    "tuples": plain([(f, str(tuple(t.split(",")))) for f, t in ROWS]),
    "arrays": plain([(f, str(np.array(t.split(",")))) for f, t in ROWS]),
    "paths": plain().replace("curated", "audio_train/curated"),
    "Windows paths": plain().replace("curated", "C:\\Users\\me\\audio_train\\curated"),
    "the current folder": plain().replace("curated", "./curated"),
    "capitals": plain().replace("curated", "Curated").replace(".wav", ".WAV"),
    "no extension": plain().replace(".wav", ""),
    "old Macs' line ends": plain(lineterminator="\r"),
}


@pytest.mark.parametrize("how", SAME)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
def test_one_table_in_many_spellings(root, how, encoding):
    data = load(root, SAME[how], encoding)
    assert data.classes == ["Bark", "Meow"]
    np.testing.assert_array_equal(data["curated"].labels, [[1, 0], [0, 1], [1, 1]] * 4)
    assert [file.name for file in data["curated"].files] == [fname for fname, _ in ROWS]
    assert data.warnings == ()
    if not {"paths", "current", "capitals", "extension"} & set(how.split()):
        assert data["curated"].fnames == [fname for fname, _ in ROWS]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_labels_in_two_unicode_forms_are_one_class(root, form):
    labels = [unicodedata.normalize(one, "Türklingel") for one in ("NFC", "NFD")]
    text = accented(*labels, "Meow")
    assert load(root, text).classes == ["Meow", labels[0]]
    header = unicodedata.normalize(form, "fname,Türklingel,Meow\n")
    (root / "sample_submission.csv").write_text(header)
    data = load(root, text)
    assert data.classes == header.strip().split(",")[1:]  # a submission's columns are the sample's
    assert data["curated"].labels.sum(axis=0).tolist() == [8, 4]


def test_columns_of_the_sample_that_differ_in_unicode_form_only_are_one_twice(root):
    (root / "sample_submission.csv").write_text("fname,Ü,U\u0308,Bark,Meow\n")
    with pytest.raises(InputError, match="sample_submission.csv: has columns twice: Ü"):
        load(root, plain())


class TestCodePages:
    @pytest.mark.parametrize("label", ["Türklingel", "Café", "Größe", "Tölt über Straße"])
    def test_letters_that_code_pages_share(self, root, label):
        assert load(root, accented(label, "Zap"), "cp1252").classes == sorted([label, "Zap"])

    @pytest.mark.parametrize(
        ("label", "encoding"),
        [
            ("Türklingel", "cp850"),
            ("Café", "mac_roman"),
            ("Niño", "cp1252"),  # "Nińo" in Warsaw
            ("Pájaro", "cp1252"),  # "Pįjaro" in Riga
            ("Straße", "cp850"),
            ("Łódź", "cp1250"),
            ("Собака", "cp1251"),
            ("Собака", "koi8_r"),
            ("Γάτα", "cp1253"),
            ("犬の声", "shift_jis"),
            ("狗叫", "gbk"),
            ("Baby’s cry", "cp1252"),
        ],
    )
    def test_others_are_refused_in_a_line_that_says_how_to_save_the_table(
        self, root, label, encoding
    ):
        with pytest.raises(InputError, match=r"row 3: byte 0x.. is not UTF-8.*CSV UTF-8") as caught:
            load(root, accented("Bark", label), encoding)
        assert "\n" not in str(caught.value)

    def test_a_workbook(self, root):
        (root / NAME).write_bytes(b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xff\xfe")
        with pytest.raises(InputError, match=r"train_curated.csv: .*CSV UTF-8"):
            dataset.load(root)


@pytest.mark.parametrize(
    ("label", "part"),
    [
        ("[Bark", r"train_curated.csv, row 3: '\[Bark'"),
        ("{Bark}", "row 3"),
        ("“Bark”", "row 3"),
        ("'Bark'", "row 3"),
        ("Bark;Meow", "row 3: 'Bark;Meow'"),
        ("Bark | Meow", "row 3"),
        ("Bark\nMeow", r"row 3: 'Bark\\nMeow'"),
        ("Bark\tMeow", "row 3"),
        ("Ba\u200brk", "row 3"),
        ("BARK", "row 3: 'BARK' and train_curated.csv, row 2: 'Bark'"),
        ("B ark", "row 3: 'B ark' and"),
        ("Bark_", "differ in case or spaces"),
        ("Ba\xa0rk", "row 3"),
        ("TÃ¼r", "row 3: 'TÃ¼r'"),
        ("Dogâ€™s", "row 3: 'Dogâ€™s'"),
        ("['Bark, small']", "row 3: 'Bark, small'"),
    ],
)
def test_labels_that_look_mistaken_are_warned_of(root, label, part):
    data = load(root, accented("Bark", label))
    assert len(data.classes) == 2
    with pytest.raises(AssertionError, match=part):
        raise AssertionError(" ".join(data.warnings))


def test_a_class_name_with_a_comma_is_warned_of(root):
    (warning,) = load(root, accented("Bark", "Male speech, man speaking")).warnings
    assert "a class name must not hold a comma" in warning
    assert "train_curated.csv, row 3: 'Male speech' and 'man speaking'" in warning
    assert load(root, accented("Bark", "Meow, Zap", "Zap")).warnings == ()


@pytest.mark.parametrize(
    "label", ["Speech (male)", "Baby's cry", "Tick-tock", "R&B", "100 %", "犬"]
)
def test_labels_that_are_none(root, label):
    assert load(root, accented("Bark", label)).warnings == ()


@pytest.mark.parametrize("spelt", ["Caf\u00e9", "Caf\\u00e9"])
def test_lists_as_json_writes_them(root, spelt):
    data = load(root, accented("Bark", f'["{spelt}"]', "Caf\u00e9"))
    assert (data.classes, data.warnings) == (["Bark", "Caf\u00e9"], ())
    broken = load(root, accented("Bark", '["\\ud800"]')).classes  # half a letter stays as it is
    assert broken == ["Bark", "\\ud800"]


def test_empty_columns_are_no_classes(root):
    (root / "sample_submission.csv").write_text("fname,Bark,Meow,,\n,,,,\n")
    assert load(root, plain()).classes == ["Bark", "Meow"]


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1"])
def test_an_index_is_no_class(root, name):
    (root / "sample_submission.csv").write_text(f"{name},fname,Bark,Meow\n0,curated00.wav,0,0\n")
    with pytest.raises(InputError, match="column 1 has no name.*index=False"):
        load(root, plain())


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_labels_in_columns_without_a_name_are_refused(root, separator):
    rows = ["fname,labels,,", "curated00.wav,Bark,Meow,", "curated01.wav,Bark,,"]
    with pytest.raises(InputError, match="column 3, beside the labels, has no name: several"):
        load(root, "\n".join(rows).replace(",", separator))
    rows = ["fname,,labels,", "curated00.wav,,Bark,Meow", "curated01.wav,,Bark,"]
    with pytest.raises(InputError, match="column 4, beside the labels, has no name"):
        load(root, "\n".join(rows).replace(",", separator))


@pytest.mark.parametrize(
    "rows",
    [
        ["fname,labels,", "curated00.wav,Bark, ", "curated01.wav,Meow,"],
        ["fname,labels,group,", "curated00.wav,Bark,x,a note", "curated01.wav,Meow,y,"],
        [",fname,labels", "0,curated00.wav,Bark", "1,curated01.wav,Meow"],
    ],
)
def test_other_columns_without_a_name_are_harmless(root, rows):
    assert load(root, "\n".join(rows)).classes == ["Bark", "Meow"]


def test_an_empty_list_is_no_label(root):
    with pytest.raises(InputError, match="clips without a label: row 3"):
        load(root, accented("Bark", "[]"))


def test_class_names_with_commas_are_explained(root):
    (root / "sample_submission.csv").write_text('fname,"Car, passing",Bark\n')
    with pytest.raises(InputError, match="row 2: 'Car'.*") as caught:
        load(root, accented("Car, passing", "Bark"))
    assert "rename classes with one, as 'Car, passing'" in str(caught.value)


def test_rows_are_counted_as_in_the_file(root):
    with pytest.raises(InputError, match="clips without a label: row 4: curated01.wav"):
        load(root, "sep=,\nfname,labels\ncurated00.wav,Bark\ncurated01.wav,\n")
    with pytest.raises(InputError, match="clips without a label: row 3: curated01.wav"):
        load(root, "fname,labels\ncurated00.wav,Bark\ncurated01.wav\n")


def test_spaces_that_file_names_have_stay(clips, root):
    (root / "audio_train" / "curated00.wav").rename(root / "audio_train" / " curated00.wav ")
    text = plain().replace("curated00.wav", " curated00.wav ")
    assert load(root, text)["curated"].fnames[0] == " curated00.wav "
    assert load(root, plain())["curated"].fnames[0] == "curated00.wav"


@pytest.mark.parametrize(("n", "shown"), [(30, 30), (31, 24)])
def test_description(clips, root, n, shown):
    labels = [f"Class {i:02}" for i in range(n)]
    for i in range(n + 1):
        (root / "audio_train" / f"{i}.wav").write_bytes(b"")
    data = load(root, plain([(f"{i}.wav", labels[min(i, n - 1)]) for i in range(n + 1)]))
    lines = dataset.describe(data).splitlines()
    assert lines[0].startswith(f"read: {n + 1} curated, 0 noisy, 0 test clips; {n} classes")
    assert sum(line.startswith("  Class") for line in lines) == shown
    assert f"  {labels[-1]}  2 + 0" in lines
    assert "  Class 00  1 + 0" in lines
