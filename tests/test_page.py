"""The page: self-contained, readable without colour or script, and safe whatever the texts say."""

import html
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
from tumble.page.compare import change, labels_of
from tumble.page.drawings import draw_atoms, draw_map
from tumble.page.matrices import draw_matrix
from tumble.page.merge import merge, overlay
from tumble.page.palette import COLOURS
from tumble.page.plots import plot
from tumble.page.typeset import headline
from tumble.results import Curve, Heat, Map, Result, Series, Settings, Sketch, Table, Verdict, load_result

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
    subject: dict[str, Any] | None = None
    protocol: str = ""

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


def bands() -> Curve:
    x, ticks = np.linspace(0, 1, 30), ((0.0, "Γ"), (0.4, "X|K"), (1.0, "L"))
    branches = [Series(f"{k}", x, k * np.sin(x), np.full(30, 0.1), group="projected") for k in range(3)]
    raw = [Series(f"raw {k}", x, k * np.sin(x) + 0.1, group="raw") for k in range(3)]
    return Curve("Bands", "", "frequency, THz", (*branches, *raw), ticks=ticks)


def heat() -> Heat:
    return Heat("Stiffness", "GPa", ["xx", "yy"], ["xx", "yy"], [[160.0, -64.0], [0.01, 79.5]])


KINDS = ("line", "scatter", "bars", "histogram", "parity")
FACTS = (
    *(curve(kind) for kind in KINDS),
    sphere(),
    sketch(molecule("H2O"), [0.1, 0.2, 0.3]),
    heat(),
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
    assert len(labels) == page.count("<figure>") == 9
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
        Heat("unknown", "GPa", ["a"], ["b", "c"], [[math.nan, 1.0]]),
        Heat("zero", "GPa", ["a"], ["b"], [[0.0]]),
        Heat("no rows at all", "GPa", [], ["b"], np.zeros((0, 1))),
        bands(),
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
    svg = plot(Curve("c", "x", "y", (Series("s", *points),), "scatter"), "").svg
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


# Comparison


BRIEF = replace(FULL, told=FACTS[-1:])


def against(*changes: dict[str, Any], to: Path, first: Found = BRIEF) -> str:
    """The page about results that differ from the first in these ways, compared with it."""
    others = [replace(first, **{"title": f"variant {k}"} | change) for k, change in enumerate(changes, 1)]
    return report(first, *others, to=to / "compare.html", compare=True).read_text()


def rows_of(page: str, title: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    found = re.search(rf"<h3>{re.escape(title)}</h3>.*?</table>", page, re.DOTALL)
    assert found, f"no table {title!r}"
    rows = re.findall(r"<tr>(.*?)</tr>", found[0], re.DOTALL)
    return [[html.unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", r)] for r in rows]


def verdict(answer: str, value: float | None = 1.0, limit: float | None = 1.0, **more: Any) -> Verdict:
    return Verdict("T", answer, value, limit, "meV", "", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "mark"),
    [
        (verdict("no"), verdict("remedy"), "better"),
        (verdict("remedy"), verdict("yes"), "better"),
        (verdict("yes", 0.9), verdict("no", 0.1), "worse"),  # the answer comes first
        (verdict("yes", 0.5), verdict("yes", 0.4), "better"),
        (verdict("no", 2.0), verdict("no", 3.0), "worse"),
        (verdict("yes", 1.00), verdict("yes", 0.96), "same"),
        (verdict("yes", 1.00), verdict("yes", 0.94), "better"),
        (verdict("yes", 0.5, 1.0), verdict("yes", 0.8, 2.0), "better"),  # 50 % of the limit, then 40 %
        (verdict("yes", 0.5, 0.0), verdict("yes", 0.8, 2.0), "worse"),  # no limit to take a share of
        (verdict("yes", 0.5, None), verdict("yes", 0.4, None), "better"),
        (verdict("yes", 1e-9, floor=1e-8), verdict("yes", 1e-8), "same"),  # rounding alone makes that
        (verdict("yes", 1e-9, floor=1e-9), verdict("yes", 1e-8), "worse"),
        (verdict("no", math.inf), verdict("no", math.inf), "same"),
        (verdict("no", math.inf), verdict("no", 5.0), "better"),
        (verdict("no", 5.0), verdict("no", math.nan), ""),
        (verdict("no", None), verdict("no", 5.0), "same"),
        (verdict("yes", 0.0), verdict("yes", 0.0), "same"),
        (verdict("unknown"), verdict("yes"), ""),
        (verdict("yes"), verdict("unknown"), ""),
        (verdict("yes"), replace(verdict("yes", 0.1), unit="GPa"), ""),
        (None, verdict("yes"), ""),
        (verdict("yes"), None, ""),
    ],
)
def test_a_change_is_judged_by_the_answer_and_then_by_the_share_of_the_limit(
    before: Verdict | None, after: Verdict | None, mark: str
) -> None:
    assert change(before, after) == mark


def test_a_comparison_is_one_page_that_loads_and_runs_nothing(tmp_path: Path) -> None:
    page = against({}, to=tmp_path, first=FULL)
    outline = Outline(page)
    assert not outline.open
    assert not {"script", "link", "iframe", "object", "embed", "img", "base", "form"} & set(outline.tags)
    assert not re.search(r"@import|url\((?!#)", page)
    ids = [value for _, name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert len(page.encode()) < 500_000


def test_a_result_against_itself_is_the_same_everywhere(tmp_path: Path) -> None:
    page = against({}, to=tmp_path)
    text = Outline(page).text
    assert "variant 1 against water on ice: the same for 3 of 4 tasks, not comparable for 1." in text
    assert page.count("= the same") == 3
    assert "▲" not in text
    assert "▼" not in text
    assert "All settings are the same" in text
    assert "not comparable:" not in text
    assert 'class="warnings"' not in page


def test_what_got_better_and_worse_is_marked_in_words_beside_the_first_result(tmp_path: Path) -> None:
    said = (
        Verdict("Relaxation", "no", 1.1, 1.0, "meV/Å", ""),
        Verdict("Phonons", "yes", 0.5, 1.0, "meV/Å", ""),
        Verdict("Elasticity", "yes", 0.5, 1.0, "%", ""),
    )
    page = against({"said": said}, to=tmp_path)
    table = page[page.index('class="scroll compare"') : page.index("</header>")]
    marks = {
        re.sub("<.*?>", "", row.split("</th>")[0]).strip(): re.findall('class="change (.*?)"', row)
        for row in re.findall("<tr>(.*?)</tr>", table, re.DOTALL)[1:]
    }
    assert marks == {"Relaxation": ["worse"], "Phonons": ["better"], "Conductivity": [], "NVE": [], "Elasticity": []}
    assert "better for 1 of 5 tasks, worse for 1, not comparable for 3." in page
    assert table.count("no verdict") == 3
    assert "Remedy: Average over Oh.; 48 calls" in table


def test_verdicts_of_one_key_belong_together_whatever_their_task_is_called(tmp_path: Path) -> None:
    old, new = Verdict("Phonons", "no", 2, 1, "THz", ""), Verdict("phonon spectra", "yes", 0.5, 1, "THz", "", key="ph")
    results = [Found(str(k), (one,)) for k, one in enumerate((old, replace(old, key="ph"), new))]
    page = report(*results, to=tmp_path / "c.html", compare=True).read_text()
    table = page[page.index('class="scroll compare"') : page.index("</header>")]
    assert table.count('<th scope="row">') == 1
    assert re.findall('class="change (.*?)"', table) == ["same", "better"]


def test_tables_of_one_title_have_a_column_for_each_result_and_the_ratio(tmp_path: Path) -> None:
    def told(scale: float, *more: tuple[Any, ...]) -> tuple[Table, ...]:
        rows = [("H2O", "spread", 4.0 * scale, "a"), ("H2O", "floor", 0.0, None), *more]
        return (Table("Errors", ("structure", "measure", "energy (meV)", "rule"), rows, "In meV."),)

    page = against(
        {"told": told(0.5, ("Si", "spread", 1.0, "b"))}, {"told": told(2.0, ("Si", "spread", 3.0, "b"))}, to=tmp_path
    )
    assert "Errors (" not in page.split("Only in one result")[0]
    pair = report(
        replace(FULL, told=told(1.0)),
        replace(FULL, title="other", told=told(0.5)),
        to=tmp_path / "p.html",
        compare=True,
    ).read_text()
    assert rows_of(pair, "Errors") == [
        ["structure", "measure", "quantity", "water on ice", "other", "ratio"],
        ["H2O", "spread", "energy (meV)", "4", "2", "0.500"],
        ["", "", "rule", "a", "a", "–"],
        ["H2O", "floor", "energy (meV)", "0", "0", "–"],
    ]
    assert rows_of(page, "Errors") == [
        ["structure", "measure", "quantity", "variant 1", "variant 2", "ratio"],
        ["H2O", "spread", "energy (meV)", "2", "8", "4"],
        ["", "", "rule", "a", "a", "–"],
        ["H2O", "floor", "energy (meV)", "0", "0", "–"],
        ["Si", "spread", "energy (meV)", "1", "3", "3"],
        ["", "", "rule", "b", "b", "–"],
    ]


def test_three_results_are_compared_with_the_first(tmp_path: Path) -> None:
    def told(calls: int, *more: str) -> tuple[Table, ...]:
        return (Table("Cost", ("rule", "calls"), [("Oh", calls), *((name, 1) for name in more)]),)

    results = [Found(name, told=told(*given)) for name, given in {"a": (4, "I"), "b": (6,), "c": (8, "T")}.items()]
    page = report(*results, to=tmp_path / "c.html", compare=True).read_text()
    assert rows_of(page, "Cost") == [
        ["rule", "quantity", "a", "b", "c", "b / a", "c / a"],
        ["Oh", "calls", "4", "6", "8", "1.50", "2"],
    ]
    assert "Rows left out because only one result has them: 2." in page


def test_rows_match_by_as_few_texts_as_tell_them_apart() -> None:
    def told(torque: str) -> Table:
        return Table("Torque", ("structure", "torque", "gap"), [("H2O", torque, 1.0), ("Si", torque, 2.0)])

    merged = merge({"a": told("1, 2"), "b": told("3, 4")})
    assert merged.n_words == 2
    assert merged.table.rows[:2] == (("H2O", "torque", "1, 2", "3, 4", None), ("", "gap", 1.0, 1.0, 1.0))
    twice = Table("T", ("a", "b"), [("x", 1), ("x", 2)])
    assert [row[2:] for row in merge({"a": twice, "b": twice}).table.rows] == [(1, 1, 1.0), (2, 2, 1.0)]
    words = Table("T", ("a", "b"), [("x", "y")])
    assert merge({"a": words, "b": words}).table.rows == (("x", "b", "y", "y", None),)
    numbers = Table("T", ("a", "b"), [(1, 2.0)])
    assert merge({"a": numbers, "b": numbers}).table.rows == ((1, "b", 2.0, 2.0, 1.0),)
    empty = Table("T", (), ())
    assert merge({"a": empty, "b": empty}).table.rows == ()


def test_curves_of_one_title_are_overlaid_and_named_by_their_results() -> None:
    one = curve("parity")
    (both,) = overlay({"raw": one, "Oh": one})
    assert [series.name for series in both.series] == ["raw", "Oh"]
    two = curve("line", note="Of A.")
    (both,) = overlay({"raw": two, "Oh": replace(two, note="Of B.", log_y=True)})
    assert [series.name for series in both.series] == ["raw: train", "raw: valid", "Oh: train", "Oh: valid"]
    assert both.note == "raw: Of A. Oh: Of B."
    assert overlay({"raw": one, "a": replace(one, note="N."), "b": replace(one, note="N.")})[0].note == "a, b: N."
    assert not both.log_y


def test_more_series_than_colours_become_one_figure_for_each_name() -> None:
    four = Curve("C", "x", "y", tuple(Series(name, [1, 2], [1, 2]) for name in "abcd"), note="N.")
    last = replace(four, series=four.series[:3])
    made = overlay({"raw": four, "Oh": last})
    assert [one.title for one in made] == ["C, a", "C, b", "C, c", "C, d (raw)"]
    assert [[series.name for series in one.series] for one in made] == [["raw", "Oh"]] * 3 + [["raw"]]
    assert [one.note for one in made] == ["N.", "", "", ""]


def test_curves_over_other_axes_are_not_overlaid_and_are_named(tmp_path: Path) -> None:
    first = replace(FULL, told=(curve("bars"), curve("scatter")))
    told = (curve("bars"), curve("scatter", y_label="y, meV"))
    text = Outline(against({"told": told}, to=tmp_path, first=first)).text
    assert "A scatter (water on ice)" in text
    assert "A scatter (variant 1)" in text
    assert "A bars (" not in text


def test_other_settings_are_said_before_any_number(tmp_path: Path) -> None:
    page = against({"settings": Choice(rotations="Ih", phases=(Step(),))}, {}, to=tmp_path)
    text = Outline(page).text
    digests = [FULL.settings.digest, Choice(rotations="Ih", phases=(Step(),)).digest]
    warning = (
        f"The settings differ, so the numbers are not comparable: Choice {digests[0]} for water on ice, variant 2; "
        f"Choice {digests[1]} for variant 1."
    )
    assert warning in text
    assert text.index(warning) < text.index("variant 1 against water on ice")
    assert rows_of(page, "Settings that differ") == [
        ["setting", "water on ice", "variant 1", "variant 2"],
        ["rotations", "Oh", "Ih", "Oh"],
        ["phases.2.epochs", "5", "–", "5"],
    ]


def test_the_name_of_a_protocol_stands_for_its_settings(tmp_path: Path) -> None:
    page = against({"settings": Choice(rotations="Ih"), "protocol": "AUDIT_V1"}, to=tmp_path)
    assert f"AUDIT_V1 {Choice(rotations='Ih').digest} for variant 1" in page
    assert "not comparable:" not in against({"protocol": "AUDIT_V1"}, to=tmp_path)


def test_structures_that_are_not_in_all_results_are_named(tmp_path: Path) -> None:
    ice, named = bulk("Si"), molecule("H2O")
    named.info["name"] = "monomer"
    first = Found("a", atoms=[named, ice])
    second = Found("b", atoms=[named, ice, ice, molecule("NH3")])
    text = Outline(report(first, second, to=tmp_path / "c.html", compare=True).read_text()).text
    assert "each verdict is about those of its own: Si2, H3N (only in b)." in text
    more = [molecule("H2O") for _ in range(9)]
    for index, atoms in enumerate(more):
        atoms.info["name"] = f"n{index}"
    many = Found("b", atoms=[named, ice, *more])
    text = Outline(report(first, many, to=tmp_path / "c.html", compare=True).read_text()).text
    assert "of its own: n0, n1, n2, n3, n4, n5, n6, n7 and 1 more (only in b)." in text


@pytest.mark.parametrize("change_of", ["place", "atoms", "cell", "pbc", "none"])
def test_structures_of_one_name_must_be_the_same(tmp_path: Path, change_of: str) -> None:
    first, second = (bulk("Si", cubic=True) for _ in range(2))
    first.info["name"] = second.info["name"] = "silicon"
    if change_of == "place":
        second.positions[3, 1] += 1e-3
    elif change_of == "atoms":
        second.numbers[0] = 14 + 18
    elif change_of == "cell":
        second.cell[0, 0] += 1e-3
    elif change_of == "pbc":
        second.pbc = (True, True, False)
    else:
        second.positions += 1e-9
    page = report(Found("a", atoms=[first]), Found("b", atoms=[second]), to=tmp_path / "c.html", compare=True)
    differs = "Structures of one name have different atoms or places: silicon." in page.read_text()
    assert differs == (change_of != "none")


@pytest.mark.parametrize(
    ("titles", "names", "labels"),
    [
        (("PET on ice", "PET, averaged on ice"), (), ("PET", "PET, averaged")),
        (("PET on ice", "PET on ice"), (), ("PET on ice (1)", "PET on ice (2)")),
        (("ice", "water", "ice"), (), ("ice (1)", "water", "ice (3)")),
        (("PET on ice", "PET on ice"), ("pet-mad-s", "pet-mad-xs"), ("pet-mad-s", "pet-mad-xs")),
        (("PET on ice", "MACE on ice"), ("water", "water"), ("PET", "MACE")),
        (("PET on ice", "MACE on ice"), ("water", ""), ("PET", "MACE")),
        (("a" * 50, "b" * 50), (), ("a" * 39 + "…", "b" * 39 + "…")),
        (("a" * 50, "a" * 49 + "b"), (), ("a" * 50, "a" * 49 + "b")),
    ],
)
def test_results_are_told_apart_by_short_names(titles: Any, names: Any, labels: Any) -> None:
    subjects = [{"name": name} for name in names] or [None] * len(titles)
    results = [Found(title, subject=subject) for title, subject in zip(titles, subjects, strict=True)]
    assert labels_of(results) == labels


def test_a_comparison_says_how_each_result_was_made(tmp_path: Path) -> None:
    results = [Found("a", subject={"name": "x", "digest": "1"}), Found("b", subject={"name": "y", "digest": "2"})]
    table = rows_of(report(*results, to=tmp_path / "c.html", compare=True).read_text(), "How they were made")
    found = {row[0]: row[1:] for row in table}
    assert found["title"] == ["a", "b"]
    assert (found["potential.name"], found["potential.digest"]) == (["x", "y"], ["1", "2"])
    assert "version of numpy" not in found  # the same for both
    assert found["settings"] == [f"Choice {Choice().digest}"] * 2


def test_stored_results_are_compared_like_fresh_ones(tmp_path: Path) -> None:
    saved = load_result(BRIEF.save(tmp_path / "a"))
    text = Outline(report(BRIEF, saved, to=tmp_path / "c.html", compare=True).read_text()).text
    assert "water on ice (2) against water on ice (1): the same for 3 of 4 tasks" in text
    assert "All settings are the same" in text


def test_hostile_texts_are_shown_and_not_obeyed_in_a_comparison_either(tmp_path: Path) -> None:
    told = (curve(title=HOSTILE, note=HOSTILE), Table(HOSTILE, (HOSTILE, "n"), [(HOSTILE, 1)], HOSTILE))
    said = (Verdict(HOSTILE, "remedy", 1, 2, HOSTILE, HOSTILE, HOSTILE, HOSTILE),)
    results = [
        Found(
            HOSTILE, said, told, (HOSTILE,), Choice(rotations=f"{HOSTILE}{k}"), job=HOSTILE, subject={"name": HOSTILE}
        )
        for k in range(2)
    ]
    outline = Outline(report(*results, to=tmp_path / "c.html", compare=True).read_text())
    assert not outline.open
    assert not {"script", "img"} & set(outline.tags)
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    assert HOSTILE in outline.text


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ((FULL,), "1 results were given to compare; at least 2 were expected"),
        ((FULL, replace(FULL, job="train")), "results of different jobs were given to compare: audit, train. Expected"),
    ],
)
def test_only_results_of_one_job_can_be_compared(tmp_path: Path, results: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        report(*results, to=tmp_path / "c.html", compare=True)
    assert not list(tmp_path.iterdir())


def test_series_of_a_group_share_a_colour_and_an_entry_of_the_legend():
    drawn = plot(bands(), "s")
    assert [(key.name, key.index) for key in drawn.keys] == [("projected", 0), ("raw", 1)]
    assert "X|K" in drawn.svg
    assert drawn.svg.count("var(--c0)") >= 6  # three branches with their ribbons
    assert "var(--c2)" not in drawn.svg
    alone = plot(replace(bands(), series=bands().series[:3]), "s")
    assert alone.keys == ()


def test_bands_of_two_results_are_told_apart_by_their_names():
    [both] = overlay({"one": bands(), "two": bands()})
    assert list(dict.fromkeys(one.group for one in both.series)) == [
        "one: projected",
        "one: raw",
        "two: projected",
        "two: raw",
    ]


def test_a_matrix_shows_its_numbers_and_names_the_largest():
    drawn = draw_matrix(heat())
    assert drawn.numbers == "Largest: 160\u00a0GPa at xx, xx."
    texts = re.findall(r">([^<>]+)</text>", drawn.svg)
    assert texts == ["xx", "yy", "xx", "160", "−64", "yy", "0", "79.5"]
    assert drawn.svg.count("var(--d14)") == 1  # the largest has the end of the scale
