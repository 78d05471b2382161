"""The page: self-contained, readable without colour or script, and safe whatever the texts say."""

import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from ase.build import bulk, molecule

from tumble.page import report
from tumble.page.drawings import draw_atoms, draw_map
from tumble.page.palette import COLOURS
from tumble.page.plots import plot
from tumble.page.typeset import headline
from tumble.results import Curve, Map, Result, Series, Settings, Sketch, Table, Verdict, load_result

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Step(Settings):
    """One part of a schedule."""

    epochs: int = 3
    """Passes over the data."""


class Choice(Settings):
    """What was chosen."""

    rotations: str = "Oh"
    """Rule."""
    tolerance: float | None = None
    """Largest residual."""
    phases: tuple[Step, ...] = (Step(), Step(epochs=5))
    """Schedule."""


@dataclass(frozen=True)
class Found(Result):
    title: str = "water on ice"
    said: tuple[Verdict, ...] = ()
    told: tuple[Any, ...] = ()
    citations: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Choice)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    atoms: list[Any] = field(default_factory=list)
    job: str = "audit"

    def verdicts(self) -> tuple[Verdict, ...]:
        return self.said

    def facts(self) -> tuple[Any, ...]:
        return self.told


class Outline(HTMLParser):
    """Tags that are opened must be closed, in order; collects attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def curve(kind: str = "line", **changes: Any) -> Curve:
    rng = np.random.default_rng(0)
    series = {
        "line": (
            Series("train", range(1, 9), np.geomspace(9, 1, 8), np.full(8, 0.2)),
            Series("valid", range(8), range(8)),
        ),
        "scatter": (Series("O", rng.gamma(2, 1, 30), rng.gamma(2, 1, 30), np.full(30, 0.1)),),
        "bars": (
            Series("proper", [1, 2, 4], [0.5, 0.1, 0.2]),
            Series("pseudo", [1, 2, 4], [-0.1, 0.2, 0.3], [0.1] * 3),
        ),
        "histogram": (Series("raw", rng.gamma(2, 1, 200)), Series("binned", [0, 1, 3, 6], [5, 9, 1])),
        "parity": (Series("valid", x := rng.normal(0, 1, 50), x + 0.1),),
    }[kind]
    return Curve(
        **{"title": f"A {kind}", "x_label": "x, Å", "y_label": "y, eV", "series": series, "kind": kind} | changes
    )


def sphere(values: Any = None, step: float = 30.0) -> Map:
    longitude, latitude = np.arange(0, 360, step), np.arange(-90, 91, step)
    z = np.sin(np.radians(latitude))[:, None] * np.ones(len(longitude))
    return Map("A map", "meV", longitude, latitude, z if values is None else values)


def sketch(atoms: Any, values: Any) -> Sketch:
    return Sketch("A sketch", "meV/Å", atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, values)


KINDS = ("line", "scatter", "bars", "histogram", "parity")
FACTS = (
    *(curve(kind) for kind in KINDS),
    sphere(),
    sketch(molecule("H2O"), [0.1, 0.2, 0.3]),
    sketch(bulk("Si", cubic=True), np.linspace(-1, 1, 8)),
    Table("A table", ("rule", "calls", "fine"), [("Oh", 48, True), ("Ih", 120.5, None)], note="In calls."),
)
VERDICTS = (
    Verdict("Relaxation", "yes", 0.1, 1.0, "meV/Å", "Below the limit."),
    Verdict("Phonons", "remedy", 3.0, 1.0, "meV/Å", "Too noisy.", "Average over Oh.", "48 calls"),
    Verdict("Conductivity", "no", 900.0, 1.0, "%", "Far too noisy."),
    Verdict("NVE", "unknown", None, None, "", "Not measured."),
)
FULL = Found(said=VERDICTS, told=FACTS, citations=("A. Author, J. 1, 2 (2024), doi:10.1088/2632-2153/ad86a0.",))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(FULL, to=tmp_path_factory.mktemp("page") / "card.html").read_text()


def test_the_page_is_well_formed(page: str) -> None:
    outline = Outline(page)
    assert not outline.open
    assert {"h1", "h3", "figure", "figcaption", "table", "dl"} <= set(outline.tags)


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    outline = Outline(page)
    assert not {"script", "link", "iframe", "object", "embed", "img", "base", "form"} & set(outline.tags)
    loaded = {
        (tag, name, value) for tag, name, value in outline.attributes if name in ("src", "srcset", "href", "xlink:href")
    }
    assert all(value.startswith(("#", "data:")) or tag == "a" for tag, _, value in loaded)
    assert {value for tag, _, value in loaded if tag == "a"} == {"https://doi.org/10.1088/2632-2153/ad86a0"}
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    assert not re.search(r"@import|url\((?!#)", page)
    assert page.count("http") == 1


def test_names_within_the_page_are_unique_and_all_references_are_met(page: str) -> None:
    outline = Outline(page)
    ids = [value for _, name, value in outline.attributes if name == "id"]
    wanted = {value[1:] for _, name, value in outline.attributes if name.endswith("href") and value.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", page))
    assert len(ids) == len(set(ids))
    assert wanted <= set(ids)


def test_the_verdict_stands_before_figures_and_figures_before_tables(page: str) -> None:
    text = Outline(page).text
    places = [text.index(word) for word in ("Fine as is for 1 of 4", "Relaxation", "A line", "A table", "Made with")]
    assert places == sorted(places)


def test_a_verdict_is_readable_without_colour(page: str) -> None:
    text = Outline(page).text
    for verdict in VERDICTS:
        assert verdict.task in text
        assert verdict.words in text
    assert all(f'class="symbol {answer}"' in page for answer in ("yes", "remedy", "no", "unknown"))
    shapes = [
        re.sub(r'class="symbol \w+"', "", svg) for svg in re.findall(r'<svg class="symbol.*?</svg>', page, re.DOTALL)
    ]
    assert len(set(shapes)) == 4


def test_a_limit_has_no_digits_that_nobody_chose(tmp_path: Path) -> None:
    said = tuple(Verdict("T", "yes", 1e-5, limit, "1", "small") for limit in (0.5, 1e-4, 20000.0))
    text = Outline(report(Found(said=said), to=tmp_path / "card.html").read_text()).text
    assert re.findall(r"1\.00\u202f×\u202f10⁻⁵, limit (.+)", text) == ["0.5", "1\u202f×\u202f10⁻⁴", "20\u202f000"]
    assert text.count("Small.") == 3


def test_every_figure_has_a_drawing_and_says_in_words_what_it_shows(page: str) -> None:
    labels = re.findall(r'class="drawing" role="img" aria-label="([^"]+)"', page)
    assert len(labels) == page.count("<figure>") == 8
    assert any("Histogram plot of y, eV against x, Å: raw, binned. raw: median" in label for label in labels)
    assert any("Map over the sphere" in label for label in labels)
    assert any("Drawing of 3 atoms. From 0.100 to 0.300\xa0meV/Å, largest on H\xa02" in label for label in labels)


def test_the_page_is_small(page: str) -> None:
    assert len(page.encode()) < 500_000


def test_settings_versions_and_digest_are_on_the_page(page: str) -> None:
    text = Outline(page).text
    assert "phases.2.epochs" in text
    assert np.__version__ in text
    assert FULL.settings.digest in text


def test_dark_and_light_have_all_colours_and_none_twice(page: str) -> None:
    light = [light for light, _ in COLOURS.values()]
    assert len(set(light)) == len(light)
    assert all(
        page.count(f"--{name}:{light};") == page.count(f"--{name}:{dark};") == 1
        for name, (light, dark) in COLOURS.items()
    )
    drawn = set(re.findall(r"#[0-9a-f]{6}", page.split("</style>")[1]))
    assert not drawn & set(light)
    used = set(re.findall(r"var\(--([a-z]+\d*)\)", page))
    assert used - {"sans", "mono"} <= set(COLOURS)


HOSTILE = """<script>alert("1")</script> & '</title></svg><img src=x onerror=x>' $x^2$ #1f2328 {{ 7 * 7 }}"""


def test_hostile_texts_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    told = (
        *(replace(curve(kind), title=HOSTILE, x_label=HOSTILE, y_label=HOSTILE, note=HOSTILE) for kind in KINDS),
        replace(curve("bars"), series=(Series(HOSTILE, [HOSTILE, "b"], [1, 2]), Series(HOSTILE, ["b"], [1]))),
        replace(sphere(), title=HOSTILE, unit=HOSTILE, note=HOSTILE),
        replace(sketch(molecule("H2O"), [1, 2, 3]), title=HOSTILE, unit=HOSTILE, note=HOSTILE),
        Table(HOSTILE, (HOSTILE,), [(HOSTILE,)], HOSTILE),
    )
    said = (Verdict(HOSTILE, "remedy", 1, 2, HOSTILE, HOSTILE, HOSTILE, HOSTILE),)
    found = Found(HOSTILE, said, told, (HOSTILE + " 10.1234/<b>x",), Choice(rotations=HOSTILE), job=HOSTILE)
    page = report(found, found, to=tmp_path / "card.html").read_text()
    outline = Outline(page)
    assert not outline.open
    assert not {"script", "img", "b"} & (set(outline.tags) - {"b"})
    assert "<b>x" not in page
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    assert HOSTILE in outline.text


@pytest.mark.parametrize(
    "fact",
    [
        Curve("empty", "x", "y", ()),
        Curve("empty", "x", "y", (Series("none", (), ()),), log_x=True, log_y=True),
        *(Curve("nan", "x", "y", (Series("s", [math.nan], [math.nan]),), kind) for kind in KINDS),
        *(Curve("one", "x", "y", (Series("s", [2.0], [3.0]),), kind, log_x=True, log_y=True) for kind in KINDS),
        *(
            Curve("same", "x", "y", (Series("s", [2.0, 2.0], [0.0, 0.0], [0, math.nan]),), kind, True, True)
            for kind in KINDS[:3]
        ),
        *(curve(kind, log_x=True, log_y=True) for kind in KINDS),
        Curve("minus", "x", "y", (Series("s", [-1, -2], [-1, -2]),), log_x=True, log_y=True),
        Curve("same", "x", "y", (Series("s", [0.5] * 9),), "histogram"),
        Curve("wide", "x", "y", (Series("s", [1e-9, 1e9, -1.0]),), "histogram", log_x=True, log_y=True),
        Curve("words", "x", "y", (Series("s", [f"a long label {i}" for i in range(9)], range(9)),), "bars"),
        Curve("力", "角度 ℓ", "能量", (Series("力", [1, 2], [1e-12, 2e-12]),)),
        Curve("many", "x", "y", tuple(Series(str(i), [1, 2], [i, i]) for i in range(8))),
        sphere(np.zeros((7, 12))),
        Map("between poles", "meV", np.arange(-175, 180, 10), np.arange(-85, 90, 10), np.ones((18, 36))),
        Sketch("nothing", "eV", [], [], np.zeros((3, 3)), False, []),
        Sketch("one", "eV", [1], np.zeros((1, 3)), np.zeros((3, 3)), False, [0.0]),
        Sketch("line", "eV", [1, 1], [[0, 0, 0], [0, 0, 1]], np.diag([0, 0, 5]), (False, False, True), [-1, -1]),
        sketch(molecule("H2O"), [math.nan, 1, -1]),
        sketch(molecule("H2O"), [math.nan] * 3),
        Sketch("unheard of", "eV", [0, 200], [[0, 0, 0], [3, 0, 0]], np.eye(3), True, [1, 2]),
        Table("empty", (), ()),
        Table("long", ("a",), [(i,) for i in range(300)]),
    ],
    ids=lambda fact: f"{type(fact).__name__}-{fact.title}",
)
def test_every_odd_fact_has_its_place(fact: Any, tmp_path: Path) -> None:
    outline = Outline(report(Found(told=(fact,)), to=tmp_path / "card.html").read_text())
    assert not outline.open
    assert fact.title in outline.text
    drawn = " ".join(
        value for _, name, value in outline.attributes if name in ("d", "cx", "cy", "r", "x", "y", "viewbox")
    )
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_points_that_a_logarithmic_axis_cannot_show_are_counted() -> None:
    hidden = plot(Curve("c", "x", "y", (Series("s", [0, 1, 2, 3], [1, -1, math.nan, 2]),), "scatter", True, True), "")
    assert "Not shown: 3 points that are not finite" in hidden.numbers
    assert "Not shown" not in plot(curve("scatter"), "").numbers


def test_parity_says_its_errors() -> None:
    x = np.array([0.0, 1.0, 2.0])
    assert plot(Curve("c", "x", "y", (Series("s", x, x + np.array([0, 3, -3])),), "parity"), "").numbers == (
        "MAE 2, RMSE 2.45, 3 points."
    )


def test_a_large_cloud_of_points_becomes_an_image() -> None:
    points = np.random.default_rng(0).normal(size=(2, 100_000))
    svg = plot(Curve("c", "x", "y", (Series("s", *points),), "parity"), "").svg
    assert "data:image/png;base64," in svg
    assert len(svg) < 300_000


def test_the_map_puts_the_poles_and_the_equator_where_they_belong() -> None:
    picture = draw_map(sphere(step=10.0))  # sin(latitude): largest at +z, which is up
    spots = re.findall(r'class="spot" cx="([-\d.]+)" cy="([-\d.]+)" r="4"><title>(\w+)', picture.svg)
    assert [(name, float(y)) for _, y, name in spots] == [("largest", -100.0), ("smallest", 100.0)]
    assert "rms 0.57" in picture.numbers  # 1/sqrt(3) = 0.577 on the sphere; 0.71 without the weights
    assert picture.scale is not None
    assert picture.scale.ticks == ("−1\xa0meV", "0", "1\xa0meV")


def test_the_map_is_the_same_wherever_longitudes_begin() -> None:
    longitude, latitude = np.arange(0, 360, 15.0), np.arange(-90, 91, 15.0)
    values = np.cos(np.radians(latitude))[:, None] * np.cos(np.radians(longitude) - 1)
    turned = np.roll(values, 12, axis=1)
    one = draw_map(Map("m", "", longitude, latitude, values))
    other = draw_map(Map("m", "", longitude - 180, latitude[::-1], turned[::-1]))
    assert one.svg == other.svg


def test_atoms_in_front_are_drawn_last_and_signs_have_their_own_colours() -> None:
    atoms = Sketch("s", "eV", [6, 6], [[0, 9, 0], [0, -9, 0]], np.eye(3) * 20, True, [-1.0, 1.0])
    fills = re.findall(r'<circle[^>]*fill="var\(--(\w+)\)"', draw_atoms(atoms).svg)
    assert fills == ["d0", "d14"]  # seen along +y, a little from above: the far atom has y = 9
    unsigned = draw_atoms(replace(atoms, values=[0.0, 1.0]))
    assert re.findall(r'<circle[^>]*fill="var\(--(\w+)\)"', unsigned.svg) == ["q0", "q11"]


def test_a_flat_molecule_is_seen_on_its_broad_side() -> None:
    benzene = molecule("C6H6")
    benzene.rotate(50, (1, 2, 3))
    points = np.array(
        re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', draw_atoms(sketch(benzene, range(12))).svg), float
    )
    centred = np.linalg.norm(points - points.mean(axis=0), axis=1)
    assert np.ptp(np.sort(centred)[:6]) < 0.01 * centred.max()
    assert np.ptp(np.sort(centred)[6:]) < 0.01 * centred.max()


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ("", ""),
        ("yes", "T: fine as is."),
        ("yes yes", "Fine as is for all 2 tasks."),
        ("no no no", "Not fit for all 3 tasks."),
        ("yes remedy no", "Fine as is for 1 of 3 tasks, fine with a remedy for 1, not fit for 1."),
        ("remedy unknown", "Fine with a remedy for 1 of 2 tasks, not known for 1."),
    ],
)
def test_the_headline_counts_the_verdicts(answers: str, sentence: str) -> None:
    verdicts = [Verdict("T", answer, None, None, "", "") for answer in answers.split()]  # type: ignore[arg-type]
    assert headline(verdicts) == sentence


def test_several_results_stand_side_by_side_with_a_table_of_contents(tmp_path: Path) -> None:
    repaired = Found("water, averaged", (Verdict("Phonons", "yes", 0.5, 1.0, "meV/Å", "Fine."),), (curve(), sphere()))
    page = report(FULL, Found("no verdict"), repaired, to=tmp_path / "card.html").read_text()
    outline = Outline(page)
    assert not outline.open
    ids = [value for _, name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = [value for tag, name, value in outline.attributes if tag == "a" and name == "href"]
    assert links[:3] == ["#result-1", "#result-2", "#result-3"]
    comparison = page[page.index('class="scroll compare"') : page.index("</header>")]
    row = comparison[comparison.index("Phonons") :]
    assert row.index("fine with a remedy") < row.index("fine as is")
    assert "no verdict" not in comparison


def test_a_saved_result_makes_the_same_page(tmp_path: Path) -> None:
    saved = load_result(FULL.save(tmp_path / "out"))
    pages = [report(one, to=tmp_path / f"{one.job}.html").read_text() for one in (saved, FULL)]
    moments = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "", one) for one in pages]
    assert moments[0] == moments[1]


def test_figures_neither_obey_nor_change_the_settings_of_matplotlib(tmp_path: Path) -> None:
    with mpl.rc_context({"font.size": 40, "axes.facecolor": "red"}):
        before = dict(mpl.rcParams)
        loud = plot(curve(), "salt").svg
        assert dict(mpl.rcParams) == before
    assert loud == plot(curve(), "salt").svg


def test_the_page_is_written_where_it_was_asked_for(tmp_path: Path) -> None:
    path = report(Found(), to=tmp_path / "new" / "card.html")
    assert path == tmp_path / "new" / "card.html"
    assert [one.name for one in path.parent.iterdir()] == ["card.html"]
    assert report(Found("again"), to=path).read_text().count("again") >= 2


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda path: path.write_text("<html>my thesis</html>"),
            "is not a page that tumble wrote, and is not overwritten",
        ),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not a page that tumble wrote"),
        (lambda path: path.mkdir(), r"is a folder\. Choose another name"),
    ],
)
def test_a_foreign_file_is_never_replaced(tmp_path: Path, prepare: Callable[[Path], Any], message: str) -> None:
    prepare(tmp_path / "card.html")
    with pytest.raises(ValueError, match=message):
        report(Found(), to=tmp_path / "card.html")


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 results were given, at least 1 was expected"):
        report(to=tmp_path / "card.html")


def test_a_page_that_is_too_large_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tumble.page.typeset.LARGEST", 20_000)
    with pytest.raises(RuntimeError, match=r"the page has 0\.\d MB; at most 0 MB were expected\. Report fewer"):
        report(Found(told=(curve(),)), to=tmp_path / "card.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(tmp_path: Path, page: str, scheme: str) -> None:
    from matplotlib.image import imread

    (tmp_path / "card.html").write_text(page)
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        *(
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1200,3000",
            f"--screenshot={tmp_path / 'page.png'}",
        ),
        (tmp_path / "card.html").as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = imread(tmp_path / "page.png")[..., :3]
    assert pixels.shape[:2] == (3000, 1200)
    paper = np.array([int(COLOURS["paper"][scheme == "dark"][k : k + 2], 16) / 255 for k in (1, 3, 5)])
    marked = np.abs(pixels - paper).max(axis=2) > 0.1
    assert 0.5 < 1 - marked.mean() < 0.98
    bands = marked.reshape(10, 300, 1200).mean(axis=(1, 2))
    assert (bands[:8] > 0.01).all(), "text and figures all the way down"
    assert not marked[:, 1170:].any(), "nothing runs over the right margin"
