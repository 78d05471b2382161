import json
import os
import re
import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
from cyclopts import App
from pydantic import Field

import tumble
from tumble import checkpoint
from tumble.cli import VERBS, exit_code, main
from tumble.cli.demo import BOND, ice, liquid
from tumble.cli.flags import with_settings
from tumble.models.pair import LennardJones, Morse
from tumble.potential import Gradient
from tumble.results import Settings

LJ = "ase:ase.calculators.lj:LennardJones"


class Shape(Settings):
    width: int = Field(4, gt=0, description="how wide")
    depth: int = Field(2, description="how deep")


class Choices(Settings):
    files: tuple[str, ...] = Field(description="what to read")
    rate: float = Field(0.1, description="how fast")
    shape: Shape = Field(Shape(depth=9), description="of the thing")
    shapes: tuple[Shape, ...] = Field((), description="only in a file")


class Field(Calculator):
    """Two atoms whose energy depends on how far apart they are along z: nothing an invariant potential would do."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        z = float(self.atoms.positions[1, 2] - self.atoms.positions[0, 2])
        forces = np.array([[0, 0, z], [0, 0, -z]])
        self.results = {"energy": 0.5 * z**2, "forces": forces}


@pytest.fixture
def chosen():
    """Run a command with flags from `Choices`; gives what it received."""
    received = []

    def command(name: str, *, settings, output: str = "out") -> int:
        received.append((name, settings(), output))
        return 0

    def call(*words: str) -> tuple[str, Choices, str]:
        app = App(name="x", result_action="return_value")
        app.command(with_settings(Choices, command), name="go")
        app(["go", *words], exit_on_error=False, print_error=False)
        return received[-1]

    return call


@pytest.fixture
def argon(tmp_path):
    """A saved potential and a file of two structures."""
    checkpoint.save(Gradient(LennardJones(0.01, 3.4)), tmp_path / "argon.safetensors")
    ase.io.write(tmp_path / "argon.extxyz", [Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]]), bulk("Ar", cubic=True)])
    return tmp_path / "argon.safetensors", tmp_path / "argon.extxyz"


def test_help_answers_in_half_a_second_without_importing_torch():
    code = "import sys, tumble.cli; tumble.cli.main(['--help']); print('torch' in sys.modules, file=sys.stderr)"
    times = []
    for _ in range(3):
        start = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        stop = os.times()  # processor time of children: a busy machine must not fail the test
        times.append(stop.children_user - start.children_user + stop.children_system - start.children_system)
    assert done.stderr.strip() == "False"
    assert all(verb.name in done.stdout for verb in VERBS)
    assert min(times) < 0.5


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_explains_itself(verb, capsys):
    assert main([verb.name, "--help"]) == 0
    assert verb.help.split()[0] in capsys.readouterr().out


def test_a_verb_with_settings_has_a_flag_for_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    main(["audit", "--help"])
    text = capsys.readouterr().out
    names = [row.name.replace("_", "-") for row in tumble.AuditSettings.describe()]
    assert names
    assert [name for name in names if f"--{name}" not in text] == []


def test_a_flag_beats_the_file_and_the_file_beats_the_default(chosen, tmp_path):
    file = tmp_path / "choices.yaml"
    file.write_text("files: [a, b]\nrate: 0.2\nshape: {width: 5, depth: 3}\n")
    _, settings, _ = chosen("thing", "--config", str(file), "--shape.width", "7")
    assert settings == Choices(files=("a", "b"), rate=0.2, shape=Shape(width=7, depth=3))


def test_flags_alone_are_enough(chosen):
    name, settings, output = chosen("thing", "--files", "a", "b", "--rate", "3", "--output", "there")
    assert (name, output) == ("thing", "there")
    assert settings.files == ("a", "b")
    assert settings.rate == 3


def test_a_required_setting_that_is_nowhere_is_an_error(chosen):
    with pytest.raises(ValueError, match="Choices needs the setting 'files', which is missing"):
        chosen("thing")


def test_a_setting_out_of_range_is_an_error(chosen):
    with pytest.raises(ValueError, match=r"width"):
        chosen("thing", "--files", "a", "--shape.width", "-1")


def test_an_unknown_key_of_a_file_suggests_the_nearest(chosen, tmp_path):
    file = tmp_path / "choices.yaml"
    file.write_text("files: [a]\nraet: 0.2\n")
    with pytest.raises(ValueError, match=r"no setting 'raet'.*Did you mean 'rate'"):
        chosen("thing", "--config", str(file))


def test_predict_prints_and_writes_what_the_potential_answers(argon, tmp_path, capsys):
    model, structures = argon
    assert main(["predict", str(model), str(structures), "-o", str(tmp_path / "out.extxyz")]) == 0
    assert "Ar4" in capsys.readouterr().out
    written = ase.io.read(tmp_path / "out.extxyz", ":")
    answers = tumble.predict(tumble.load(model), ase.io.read(structures, ":"))
    for atoms, answer in zip(written, answers, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(float(answer.energy), abs=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), answer.forces, atol=1e-8)
    np.testing.assert_allclose(written[1].get_stress(voigt=False), answers[1].stress, atol=1e-8)


def test_predict_goes_on_where_it_was_stopped(argon, tmp_path, capsys):
    model, structures = argon
    out = tmp_path / "out.extxyz"
    words = ["predict", str(model), str(structures), "-o", str(out), "--pairs-per-batch", "1"]
    assert main(words) == 0
    whole = out.read_bytes()
    out.write_bytes(whole[:-30])
    assert main([*words, "--resume"]) == 0
    assert out.read_bytes() == whole
    assert "1 more were in" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--resume"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert main([*words, "--resume", "--dtype", "float32"]) == 2
    assert "has the mark" in capsys.readouterr().err
    assert main(["predict", str(model), str(structures), "--resume"]) == 2
    assert "--resume goes on with a file of answers, and none is named" in capsys.readouterr().err


def test_an_interrupted_predict_says_how_to_go_on(argon, tmp_path, capsys, monkeypatch):
    from tumble.potential import Gradient

    model, structures = argon
    out, calls, forward = tmp_path / "out.extxyz", [], Gradient.forward

    def interrupted(self, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(Gradient, "forward", interrupted)
    words = ["predict", str(model), str(structures), "--pairs-per-batch", "1"]
    assert main([*words, "-o", str(out)]) == 130
    assert "interrupted; the frames in" in capsys.readouterr().err
    assert len(ase.io.read(out, ":")) == 1
    monkeypatch.undo()
    assert main([*words, "-o", str(out), "--resume"]) == 0
    assert len(ase.io.read(out, ":")) == 2


def test_predict_takes_a_folder(argon, tmp_path, capsys):
    model, structures = argon
    (tmp_path / "folder").mkdir()
    structures.rename(tmp_path / "folder" / "b.extxyz")
    assert main(["predict", str(model), str(tmp_path / "folder")]) == 0
    assert "b.extxyz:1" in capsys.readouterr().out


def test_predict_answers_in_the_precision_that_was_asked_for(argon, capsys):
    model, structures = argon
    assert main(["predict", str(model), str(structures), "--dtype", "float32"]) == 0
    assert "Ar2" in capsys.readouterr().out


def test_an_output_that_exists_is_kept_unless_told_otherwise(argon, tmp_path, capsys):
    model, structures = argon
    out = tmp_path / "out.extxyz"
    out.write_text("precious")
    assert main(["predict", str(model), str(structures), "-o", str(out)]) == 2
    assert "exists already; a new file was expected" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert main(["predict", str(model), str(structures), "-o", str(out), "--overwrite"]) == 0
    assert len(ase.io.read(out, ":")) == 2


def test_refusing_to_overwrite_names_the_way_out(tmp_path):
    from tumble.cli.verbs import refuse_existing

    (tmp_path / "x").touch()
    refuse_existing(tmp_path / "x", overwrite=True)
    refuse_existing(tmp_path / "y", overwrite=False)
    with pytest.raises(ValueError, match="exists already; a new file was expected"):
        refuse_existing(tmp_path / "x", overwrite=False)


def test_a_symmetrized_potential_is_a_file_like_any_other(argon, tmp_path, capsys):
    model, structures = argon
    out = tmp_path / "sym.safetensors"
    assert main(["symmetrize", str(model), "--rotations", "O", "-o", str(out)]) == 0
    assert main(["predict", str(out), str(structures)]) == 0
    raw, symmetric = (tumble.predict(tumble.load(p), ase.io.read(structures, ":")) for p in (model, out))
    for one, other in zip(raw, symmetric, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_report_turns_folders_into_a_page(argon, tmp_path):
    model, structures = argon
    folder, page = tmp_path / "out", tmp_path / "card.html"
    assert main(["audit", str(model), str(structures), "-o", str(folder), "--budget", "1e5"]) == 0
    assert (folder / "card.html").is_file()
    assert main(["report", str(folder), "--to", str(page)]) == 0
    assert "<html" in page.read_text()


def test_audit_exits_with_six_if_a_verdict_is_below_what_is_required(tmp_path, capsys):
    """An energy that depends on the lab's z axis is never fine as is; Lennard-Jones always is."""
    ase.io.write(tmp_path / "dimer.xyz", Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]]))
    words = [str(tmp_path / "dimer.xyz"), "--budget", "1e4", "--require", "yes"]
    assert main(["audit", "ase:test_cli:Field", *words]) == 6
    assert "orientation" in capsys.readouterr().out
    assert main(["audit", LJ, *words]) == 0


def test_audit_exits_with_six_if_one_required_task_is_not_good_enough(tmp_path, capsys):
    ase.io.write(tmp_path / "dimer.xyz", Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]]))
    words = [str(tmp_path / "dimer.xyz"), "--budget", "1e4", "--require"]
    assert main(["audit", LJ, *words, "energies=yes,nvt"]) == 0
    assert "energies" in capsys.readouterr().out
    assert main(["audit", "ase:test_cli:Field", *words, "energies=yes,cell"]) == 6
    head, energies, cell = capsys.readouterr().err.strip().splitlines()[-3:]
    assert head == "tumble: what was required is not met:"
    assert re.match(
        r"  energies: (not with this model|fine with a remedy); [\d.]+ meV/atom, allowed 1 meV/atom; ", energies
    )
    assert cell.startswith("  cell: required, but not measured; there are verdicts on ")


def test_a_task_that_is_unknown_is_refused_before_anything_is_measured(capsys):
    assert main(["audit", "nothing", "nowhere.xyz", "--require", "phonon"]) == 2
    assert "there is no task 'phonon' to require" in (said := capsys.readouterr().err)
    assert "Did you mean 'phonons'?" in said


def test_models_lists_what_is_packaged(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in checkpoint.packaged())


def test_info_says_what_a_potential_is(argon, capsys):
    assert main(["info", str(argon[0])]) == 0
    text = capsys.readouterr().out
    assert "Gradient of LennardJones" in text
    assert main(["info", "water", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["species"] == "H O"
    assert said["card"]["licence"].startswith("CC-BY")
    assert main(["info", "water"]) == 0
    text = capsys.readouterr().out
    assert f"{len(said['card']['recipes'])} of them; --json shows them" in text
    assert main(["info", "watre"]) == 2
    assert "Did you mean 'water'?" in capsys.readouterr().err


def test_convert_writes_a_file_and_its_card(argon, tmp_path, capsys):
    model, structures = argon
    out = tmp_path / "new.safetensors"
    assert main(["convert", str(model), "-o", str(out)]) == 0
    assert f"wrote {out} and {tmp_path / 'new.json'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "new.json").read_text())["converted"]["from"] == "argon.safetensors"
    before, after = (tumble.predict(tumble.load(p), ase.io.read(structures, ":")) for p in (model, out))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert main(["convert", str(model), "-o", str(out)]) == 2
    assert "would be written over" in capsys.readouterr().err
    assert main(["convert", str(model), "-o", str(out), "--overwrite"]) == 0


def test_a_variant_and_direct_heads_reach_the_potential(argon, tmp_path, capsys):
    model, structures = argon
    for words in (["predict", str(model), str(structures)], ["symmetrize", str(model), "-o", str(tmp_path / "s.x")]):
        assert main([*words, "--variant", "pbe"]) == 2
        assert "the variant 'pbe' was asked for" in capsys.readouterr().err
    ase.io.write(tmp_path / "water.xyz", molecule("H2O"))
    for flags in ([], ["--direct"]):
        assert main(["predict", "water", str(tmp_path / "water.xyz"), *flags]) == 0
    first, second = capsys.readouterr().out.split("predictions")[1:]
    assert first != second


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", LJ, "nowhere.xyz"], "nowhere.xyz"),
        (["predict", "nothing", "nowhere.xyz"], "nowhere.xyz"),
        (["symmetrize", LJ, "--rotations", "Ihh", "-o", "x.safetensors"], "Ihh"),
        (["train", "nowhere.yaml", "-o", "x"], "nowhere.yaml"),
        (["report", "nowhere"], "nowhere"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_message_and_exit_code_two(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("tumble: ")
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_unknown_verbs_and_flags_exit_with_two(capsys):
    assert main(["predicd"]) == 2
    assert "Did you mean 'predict'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"there is no verb '--bogus'; there are predict, .* See tumble --help"):
        main(["--bogus", "--debug"])
    assert main(["predict", LJ, "x.xyz", "--dtyp", "float32"]) == 2
    assert "Did you mean --dtype" in capsys.readouterr().err


def test_debug_shows_where_it_happened():
    with pytest.raises(ValueError, match=r"nowhere.xyz"):
        main(["predict", LJ, "nowhere.xyz", "--debug"])


def test_errors_have_the_exit_codes_of_the_manual():
    assert exit_code(ValueError("bad")) == 2
    assert exit_code(FileNotFoundError("gone")) == 2
    assert exit_code(ImportError("pip install 'tumble[hub]'")) == 3
    assert exit_code(RuntimeError("happened")) == 1
    assert exit_code(ZeroDivisionError()) == 1


def test_an_unexpected_error_names_its_kind(monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "packaged", lambda: 1 / 0)
    assert main(["models"]) == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in error
    assert "--debug" in error


def test_python_dash_m_is_the_command():
    done = subprocess.run([sys.executable, "-m", "tumble", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tumble.__version__


def test_ice_obeys_the_ice_rules_and_has_no_dipole():
    cell = ice()
    assert cell.get_chemical_formula() == "H16O8"
    i, j, vectors = neighbor_list("ijD", cell, 2.2)
    oxygen, hydrogen = cell.numbers == 8, cell.numbers == 1
    length = np.linalg.norm(vectors, axis=1)
    bonded, accepted = (i < 8) & (length < 1.1), (i < 8) & (length > 1.1) & hydrogen[j]
    assert set(np.bincount(i[bonded])) == {2}
    assert set(np.bincount(i[accepted])) == {2}
    np.testing.assert_allclose(length[bonded], BOND)
    assert np.linalg.norm(vectors[bonded].sum(axis=0)) < 0.1
    density = 8 * 18.015 / 0.602214 / cell.get_volume()
    assert density == pytest.approx(0.92, abs=0.02)
    assert oxygen.sum() == 8


def test_a_liquid_box_has_the_density_of_water_and_no_contacts():
    box = liquid(Gradient(Morse(4.0, 2.0, 1.0, cutoff=1.5)), 2, n_steps=5)
    assert len(box) == 24
    assert 8 * 18.015 / 0.602214 / box.get_volume() == pytest.approx(1.0, abs=0.01)
    i, j, distance = neighbor_list("ijd", box, 2.0)
    assert distance[i // 3 != j // 3].min() > 1.4
    assert not np.array_equal(box.positions, liquid(Gradient(LennardJones(0.0)), 2, n_steps=5, seed=1).positions)


def test_the_same_seed_makes_the_same_liquid():
    potential = Gradient(Morse(4.0, 2.0, 1.0, cutoff=1.5))
    np.testing.assert_array_equal(liquid(potential, 2, n_steps=3).positions, liquid(potential, 2, n_steps=3).positions)
    assert molecule("H2O").get_chemical_formula() == "H2O"
