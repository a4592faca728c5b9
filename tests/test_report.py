"""The report: in a real browser, and what it is made of."""

import csv
import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import report
from conftest import run_of
from review import plots
from runs import study

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "\"'><img src=https://example.org/x.png onerror='window.hacked = 1'>",
    'Käse & "Brot" {{ 7 * 7 }} ' + 40 * "lang",
)
OPEN_DETAILS = "document.querySelectorAll('details').forEach(details => details.open = true)"
# The least contrast of a text with what is behind it, and that text. Bars are behind some.
LEAST_CONTRAST = """() => {
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const luminance = colour => parse(colour).slice(0, 3).map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const opaque = element => (parse(getComputedStyle(element).backgroundColor)[3] ?? 1) == 1;
    let least = [99, ""];
    for (const element of document.body.querySelectorAll("*")) {
        const text = [...element.childNodes].filter(node => node.nodeType == 3 && node.data.trim());
        if (!text.length || !element.getClientRects().length) continue;
        const style = getComputedStyle(element);
        let behind = element;
        while (!opaque(behind)) behind = behind.parentElement;
        const probe = document.createElement("i");
        probe.style.color = "var(--bar)";
        const backs = [getComputedStyle(behind).backgroundColor];
        if (element.closest(".bar")) {
            document.body.append(probe);
            backs.push(getComputedStyle(probe).color);
            probe.remove();
        }
        for (const back of backs) {
            const colour = element instanceof SVGElement ? style.fill : style.color;
            const [dark, light] = [luminance(colour), luminance(back)].sort((a, b) => a - b);
            const contrast = (light + 0.05) / (dark + 0.05);
            if (contrast < least[0]) least = [contrast, `${text[0].data.trim()} ${colour} ${back}`];
        }
    }
    return least;
}"""


@pytest.fixture(scope="module")
def make_page(finished_run, tmp_path_factory):
    """The page of the run, had it other scores or names than its networks gave it."""
    root, _, arguments, _ = finished_run

    def make_page(change):
        out = shutil.copytree(root / "out", tmp_path_factory.mktemp("page") / "out")
        run = run_of(*arguments[:2], "--output", out, *arguments[4:])
        run, known = change(run, report.score(run))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report, "score", lambda run: known)
            report.write_report(run)
        return out / "report.html"

    return make_page


@pytest.fixture(scope="module")
def page_path(make_page):
    """What it shows does not hang on what two epochs taught on this processor."""
    rng = np.random.default_rng(0)

    def random_scores(run, known):
        for split, one in known.items():
            said = rng.random(one.truth.shape)
            known[split] = dataclasses.replace(one, scores=said, probabilities=said)
        return run, known

    return make_page(random_scores)


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as driver:
        flags = ["--autoplay-policy=no-user-gesture-required"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Opens a page; afterwards there must have been no error, and no request but for the page."""
    faults, contexts = [], []

    def open_page(path: Path, width: int = 1280, scheme: str = "light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text))
        page.on("request", lambda request: faults.append(request.url[:200]))
        page.goto(path.as_uri())
        assert faults.pop(0) == path.as_uri()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [fault for fault in faults if not fault.startswith("data:")] == []


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """The same run in a folder that a test may change."""
    root, _, arguments, _ = finished_run
    shutil.copytree(root / "out", tmp_path / "out", symlinks=True)
    return run_of(*arguments[:2], "--output", tmp_path / "out", *arguments[4:])


@pytest.fixture(scope="module")
def hostile_page(make_page):
    """The page of the same run, had its classes and files other names."""

    def hostile_names(run, known):
        for split, one in known.items():
            names = [f"{i} {HOSTILE[i % 3]}.wav" for i in range(len(one.fnames))]
            known[split] = dataclasses.replace(one, fnames=names)
        path = run.root / "per_class.csv"
        pd.read_csv(path).assign(**{"class": HOSTILE}).to_csv(path, index=False)
        dataset = dataclasses.replace(run.dataset, classes=[*HOSTILE])
        return dataclasses.replace(run, dataset=dataset), known

    return make_page(hostile_names)


def test_classes_that_are_numbers_keep_their_zeros(copied_run):
    path, names = copied_run.root / "per_class.csv", ["001", "02", "1e5"]
    pd.read_csv(path).assign(**{"class": names}).to_csv(path, index=False)
    curated = report.score(copied_run)["curated"]
    assert list(report.class_table(copied_run, curated)["class"]) == names


# --- in a browser ---------------------------------------------------------------------------------


def test_opens_from_the_disk_with_all_plots_drawn(page_path, opened):
    page = opened(page_path)
    assert page.locator("h1").inner_text() == "What the networks learnt"
    lines = {"loss": 5, "lrap": 5, "lwlrap": 5, "learning_rate": 5, "diagram": 1}
    for name, count in lines.items():
        drawn = page.locator(f"#{name} .scatterlayer path.js-line")
        assert drawn.count() == count, name
        assert drawn.first.bounding_box()["width"] > 50


def test_points_of_the_diagram_show_how_many_tags_they_stand_for(page_path, opened):
    page = opened(page_path)
    tags = page.locator("#reliability details tbody td:last-child").all_text_contents()
    points = page.locator("#diagram .scatterlayer .point")
    widths = [point.bounding_box()["width"] for point in points.all()]
    assert len(widths) == len(tags) > 3
    order = np.argsort([int(count.replace(",", "")) for count in tags])
    assert np.ptp(widths) > 1
    assert (np.diff(np.array(widths)[order]) > -0.1).all()


def test_a_player_plays_and_only_one(page_path, opened):
    page = opened(page_path)
    players = page.locator("audio")
    assert players.count() > 3
    until = "player => new Promise(done => player.addEventListener('%s', done, {once: true}))"
    players.nth(0).evaluate("player => { player.loop = true; return player.play(); }")
    players.nth(0).evaluate(until % "timeupdate")
    assert players.nth(0).evaluate("player => player.currentTime") > 0
    line = page.locator(".logmel i").first
    assert float(line.evaluate("line => getComputedStyle(line).opacity")) > 0.5
    players.nth(1).evaluate("player => player.play()")
    assert players.nth(0).evaluate("player => player.paused")
    for player in players.all():
        assert 0.1 < player.evaluate("player => player.duration") < 1.2  # the clips' 0.2 to 0.9 s


@pytest.mark.parametrize("how", ["Enter", "Space", "click"])
def test_headings_sort(page_path, opened, how):
    page = opened(page_path)
    heading = page.locator(".sortable th", has_text="OOF lwlrap")

    def press():
        button = heading.locator("button")
        button.click() if how == "click" else button.press(how)
        cells = page.locator(".sortable tbody tr td:nth-child(2)").all_inner_texts()
        return heading.get_attribute("aria-sort"), [float(cell) for cell in cells]

    direction, values = press()
    assert (direction, values) == ("ascending", sorted(values))
    direction, again = press()
    assert (direction, again) == ("descending", sorted(values, reverse=True))
    assert page.locator(".sortable [aria-sort]").count() == 1


def test_a_class_without_test_labels_is_not_shown_as_the_worst(copied_run, opened):
    """A dash without a bar, which sorts last both ways; its name is no missing value."""
    path = copied_run.root / "per_class.csv"
    table = pd.read_csv(path).assign(**{"class": ["nan", "b", "c"], "test lwlrap": [None, 0.9, 1]})
    table.to_csv(path, index=False)
    report.write_report(copied_run)
    page = opened(copied_run.root / "report.html")
    cell = page.locator(".sortable tbody tr", has_text="nan").locator("td").nth(2)
    assert (cell.inner_text(), cell.get_attribute("data-value")) == ("–", "")
    assert cell.evaluate("cell => getComputedStyle(cell).backgroundImage") == "none"
    for expected in (["b", "c", "nan"], ["c", "b", "nan"]):
        page.locator(".sortable button", has_text="test lwlrap").click()
        assert page.locator(".sortable tbody th").all_inner_texts() == expected


def test_a_group_of_clips_can_be_chosen_by_keyboard(page_path, opened):
    page = opened(page_path)
    page.locator("input[name=group]").first.focus()
    page.keyboard.press("ArrowDown")
    chosen = page.locator("label:has(input:checked)").inner_text()
    shown = page.locator(".clip:visible").count()
    assert shown == int(re.search(r"\((\d+)\)", chosen)[1]) < page.locator(".clip").count()


def test_a_sound_that_is_hidden_is_paused(page_path, opened):
    page = opened(page_path)
    player = page.locator(".clip:not([data-groups~=surest]) audio").first
    player.evaluate("player => { player.loop = true; return player.play(); }")
    page.locator("input[value=surest]").check()
    assert player.is_hidden()
    assert player.evaluate("player => player.paused")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(page_path, opened, scheme):
    page = opened(page_path, scheme=scheme)
    page.evaluate(OPEN_DETAILS)
    contrast, text = page.evaluate(LEAST_CONTRAST)
    assert contrast >= 4.5, text
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", back)[0]) > 128) == (scheme == "light")


def test_lines_of_plots_show_in_both_modes():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    template = (Path(report.__file__).parent / "review" / "page.html").read_text()
    light, dark = (
        luminance(card + card[1:] * (len(card) == 4))
        for card in re.findall(r"--card: (#\w+)", template)
    )
    for colour in plots.COLOURS:
        assert (light + 0.05) / (luminance(colour) + 0.05) >= 3, colour
        assert (luminance(colour) + 0.05) / (dark + 0.05) >= 3, colour


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(hostile_page, page_path, opened, width):
    for path in (page_path, hostile_page):
        page = opened(path, width)
        page.evaluate(OPEN_DETAILS)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_classes_stay_beside_what_they_are_taken_for(hostile_page, opened):
    page = opened(hostile_page, 360)
    table = page.locator(".scroll:has(.sortable)")
    table.evaluate("table => table.scrollTo(9999, 0)")
    assert table.evaluate("table => table.scrollLeft") > 50
    left = table.bounding_box()["x"]
    for name in table.locator("th:first-child").all():
        assert name.bounding_box()["x"] == pytest.approx(left, abs=2)
        # nothing shines through
        assert name.evaluate("name => getComputedStyle(name).backgroundColor") != "rgba(0, 0, 0, 0)"
    others = table.locator("td.others").first.bounding_box()
    assert others["x"] >= left + name.bounding_box()["width"] - 2


def test_what_is_pressed_is_high_enough_for_a_finger(page_path, opened):
    page = opened(page_path, 360)
    for thing in page.locator("nav a, th button, fieldset label").all():
        assert thing.bounding_box()["height"] >= 24, thing.inner_text()


def test_hostile_names_do_nothing(hostile_page, opened):
    page = opened(hostile_page)
    page.locator("audio").first.evaluate("player => player.play()")
    assert page.evaluate("window.hacked") is None
    assert set(page.locator(".sortable tbody th").all_inner_texts()) == set(HOSTILE)
    headings = page.locator(".clip h3").all_inner_texts()
    assert all(heading[2:].lstrip().removesuffix(".wav") in HOSTILE for heading in headings)
    assert page.locator("main img:not([src^='data:image/png'])").count() == 0
    rows = csv.DictReader((hostile_page.parent / "suspects.csv").open(newline=""))
    assert all(row["label"] in HOSTILE for row in rows)


def test_everything_has_a_name_for_those_who_do_not_see_it(page_path, opened):
    page = opened(page_path)
    assert page.locator("html").get_attribute("lang") == "en"
    for thing in page.locator("audio, [role=img], [role=region], ol").all():
        assert thing.get_attribute("aria-label")
    assert all(" seconds, 0 Hz to " in i.get_attribute("alt") for i in page.locator("img").all())
    assert page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("th:not([scope])").count() == 0
    page.locator(".sortable button").first.focus()
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


# --- what it is made of ---------------------------------------------------------------------------


def test_stays_until_what_it_shows_changes(finished_run, tmp_path, run_stage, capsys):
    root, _, arguments, printed = finished_run
    assert f"wrote {root / 'out' / 'report.html'} and " in printed["report"][0]
    shutil.copytree(root / "out", tmp_path / "out")
    arguments = (*arguments[:2], "--output", tmp_path / "out", *arguments[4:])
    run_stage("report", *arguments)  # other tests may have stacked the run anew
    capsys.readouterr()
    run_stage("report", *arguments)
    said = capsys.readouterr().out
    assert "report: done already" in said
    assert "wrote" not in said
    assert f"see {tmp_path / 'out' / 'report.html'} and " in said
    (tmp_path / "out" / "models/v1mix/fold0.noisy.json").unlink()
    with pytest.raises(SystemExit, match="run predict first: no models/v1mix/fold0.noisy in"):
        run_stage("report", *arguments)


def test_settings_that_no_result_has_are_not_shown(finished_run, tmp_path, run_stage):
    (tmp_path / "mine.json").write_text('{"learning_rate": 0.5}')
    with pytest.raises(SystemExit, match="run pretrain again: .*learning_rate 0.003 -> 0.5"):
        run_stage("report", *finished_run[2], "--settings", tmp_path / "mine.json")


def test_suspects_name_clips_and_classes_of_the_dataset(finished_run):
    root, made, _, _ = finished_run
    table = pd.read_csv(root / "out" / "suspects.csv")
    assert list(table.columns) == ["fname", "split", "label", "instead", "why"]
    for row in table.itertuples():
        assert row.fname in set(made.tables[row.split]["fname"])
        assert row.label in made.classes


def test_costs_of_every_stage_before_it_are_shown(finished_run):
    root, _, _, printed = finished_run
    stages = [*pd.read_csv(root / "out" / "stages.csv")["stage"].unique()]
    assert stages[: len(printed)] == list(printed)
    page = (root / "out" / "report.html").read_text()
    for stage in list(printed)[:-1]:
        assert f'<th scope="row">{stage}</th>' in page


def test_works_without_noisy_and_test_clips_with_one_network(
    make_clips, tmp_path, tiny_profile, run_stage, opened
):
    """As little as there can be, and classes that some clips have not got."""
    clips = make_clips(sizes={"curated": 12})
    clips.write_clips(tmp_path / "in" / "audio_train", "curated")
    clips.tables["curated"].to_csv(tmp_path / "in" / "train_curated.csv", index=False)
    (tmp_path / "in" / "audio_train" / "curated03.wav").write_bytes(b"no audio")
    options = ("--experiments", "max3exam", "--folds", "1", "--skip-unreadable")
    folders = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    for stage in ("preprocess", "train", "predict", "ensemble", "report"):
        run_stage(stage, *folders, "--profile", tiny_profile, *options)
    page = opened(tmp_path / "out" / "report.html", 360)
    assert page.locator("#loss .scatterlayer path.js-line").count() == 1
    assert "test" not in page.locator("#scores").inner_text().lower()
    assert page.locator("#listen").get_by_text("noisy").count() == 0


def test_a_search_is_shown_when_there_is_one(finished_run, run_stage, opened, tmp_path):
    root, _, arguments, _ = finished_run
    shutil.copytree(root / "out", tmp_path / "out", symlinks=True)
    arguments = [*arguments[:2], "--output", tmp_path / "out", *arguments[4:]]
    trials = study.open_study(tmp_path / "out", "v1mix", {}, seed=0)
    trials.optimize(lambda trial: trial.suggest_float("mixup_rate", 0.5, 1), n_trials=4)
    run_stage("report", *arguments)  # "done already" without the search
    page = opened(tmp_path / "out" / "report.html")
    drawn = page.locator("#search .plot .main-svg")
    assert drawn.count() >= 3
    assert page.get_by_text("Hyperparameter importances").is_visible()
    assert "mixup_rate" in page.locator("#search").inner_text()
