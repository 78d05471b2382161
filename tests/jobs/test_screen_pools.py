"""Workers that live and die: threads, processes, SLURM as far as it can be seen from here, and kill -9."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk

import tumble
from tumble.jobs.screen import ScreenSettings, interchange, pools, screen, spread, worker
from tumble.models.pair import LennardJones
from tumble.potential import Gradient

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "examples" / "slurm" / "screen.yaml"


@pytest.fixture
def model(tmp_path):
    potential = Gradient(LennardJones({"Ar-Ar": 0.0104}, {"Ar-Ar": 3.4}, cutoff=6.0))
    return tumble.save(potential, tmp_path / "argon.safetensors")


def crystals(n):
    found = []
    for seed in range(n):
        atoms = bulk("Ar", cubic=True)
        atoms.rattle(0.1, seed=seed)
        found.append(atoms)
    return found


def rows(folder):
    with (folder / "table.csv").open() as file:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def small(**settings):
    return ScreenSettings(**({"structures_per_shard": 4} | settings))


def environment():
    threads = dict.fromkeys(pools.THREADS, "1")
    return os.environ | threads | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(Path(__file__).parent)])}


# ------------------------------------------------------------------------------------------------------------- threads


def test_threads_give_the_same_table(model, tmp_path):
    screen("predict", model, crystals(14), tmp_path / "one", small())
    screen("predict", model, crystals(14), tmp_path / "two", small(workers=2, pool="threads"))
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert not (tmp_path / "two" / "parsl").exists()


def test_a_file_of_the_user_configures_parsl_and_its_files_stay_in_the_folder(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "from tumble.jobs.screen.pools import threads\n\ndef config(n):\n    return threads(n)\n"
    (tmp_path / "mine.py").write_text(lines)
    (tmp_path / "mine.yaml").write_text("config: mine.py:config\narguments: {n: 2}\n")
    before = {one.name for one in tmp_path.iterdir()}
    screen("predict", model, crystals(6), tmp_path / "out", small(parsl="mine.yaml"))
    assert {one.name for one in tmp_path.iterdir()} == before | {"out"}
    assert (tmp_path / "out" / "parsl").is_dir()
    assert len(rows(tmp_path / "out")) == 6


def test_ctrl_c_stops_threads_too_and_the_rest_can_be_done_later(model, tmp_path, monkeypatch):
    real, shards = worker.ask, []

    def slow(*rest):
        shards.append(1)
        time.sleep(0.1)
        return real(*rest)

    def interrupt(progress):
        if 0 < progress.done < 40:
            raise KeyboardInterrupt

    monkeypatch.setattr(worker, "ask", slow)
    settings = small(workers=2, pool="threads", structures_per_shard=2)
    with pytest.raises(KeyboardInterrupt):
        screen("predict", model, crystals(40), tmp_path / "out", settings, tell=interrupt)
    assert len(shards) < 10
    screen("predict", model, crystals(40), tmp_path / "out", settings)
    screen("predict", model, crystals(40), tmp_path / "whole", settings)
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


# ------------------------------------------------------------------------------------------------------------- kill -9

VICTIM = """
import os, random, signal, sys, time
import ase.io
from tumble.jobs.screen import ScreenSettings, screen, worker

job, model, structures, folder = sys.argv[1:]
real = worker.ask
def slow(*rest):
    answers = real(*rest)
    time.sleep(0.01)
    return answers
worker.ask = slow

def run():
    settings = ScreenSettings(structures_per_shard=3)
    screen(job, model, structures, folder, settings, job_settings=SETTINGS)

def written():
    here = os.path.join(folder, "records")
    return sum(os.path.getsize(os.path.join(here, name)) for name in os.listdir(here)) if os.path.isdir(here) else 0

random.seed(len(job))
for n in range(9):
    # Two of three are killed while they work, the third at its beginning.
    before, child, latest = written(), os.fork(), time.monotonic() + 20
    if child == 0:
        run()
        os._exit(0)
    while n % 3 and written() == before and time.monotonic() < latest:
        time.sleep(0.002)
    time.sleep(random.uniform(0.0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(written())
run()
"""


@pytest.mark.parametrize(
    ("job", "settings", "n"),
    [("predict", None, 150), ("audit", {"tasks": ["nve"], "budget": 1e3, "remedies": []}, 24)],
)
def test_killed_at_any_moment_it_goes_on_to_the_same_table(model, tmp_path, job, settings, n):
    ase.io.write(tmp_path / "in.extxyz", [*crystals(n), bulk("Cu")])
    code = VICTIM.replace("SETTINGS", repr(settings))
    words = [sys.executable, "-c", code, job, str(model), str(tmp_path / "in.extxyz"), str(tmp_path / "killed")]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    sizes = [int(line) for line in done.stdout.split()]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 6  # it was killed while it worked
    settings_of_screen = ScreenSettings(structures_per_shard=3)
    screen(job, model, tmp_path / "in.extxyz", tmp_path / "whole", settings_of_screen, job_settings=settings)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    finished = [one for path in (tmp_path / "killed" / "records").iterdir() for one in lines_of(path)]
    names = [record["name"] for line in finished for record in line]
    assert len(names) == len(set(names)) == n + 1  # none was lost, none was finished twice


def lines_of(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


# ----------------------------------------------------------------------------------------------------- workers that die


class LostError(Exception):
    """What parsl says of a worker that has died."""


@pytest.fixture
def deadly(monkeypatch):
    """parsl without processes, whose workers die of crystals with an odd number, as they would of a segfault."""
    tasks = []

    def submit(task):
        future = Future()
        tasks.append([entry.name for entry in task.entries])
        try:
            if any(int(entry.name) % 10 == 3 for entry in task.entries):
                raise LostError("the worker is gone")
            future.set_result(worker.work(task))
        except Exception as error:
            future.set_exception(error)
        return future

    @contextmanager
    def running(config, folder):
        yield submit, (LostError,)

    monkeypatch.setattr(spread, "running", running)
    return tasks


def test_a_shard_whose_worker_dies_is_tried_structure_by_structure(deadly, model, tmp_path):
    result = screen("predict", model, crystals(20), tmp_path / "out", small(workers=2))
    assert [(one.name, one.reason) for one in result.failures] == [
        ("3", "LostError: the worker is gone"),
        ("13", "LostError: the worker is gone"),
    ]
    alone = {name for names in deadly if len(names) == 1 for name in names}
    together = {name for names in deadly if len(names) > 1 and {"3", "13"} & set(names) for name in names}
    assert alone == together
    assert len(screen("predict", model, crystals(20), tmp_path / "out", small(workers=2)).failures) == 2


def test_what_a_dead_worker_has_written_is_not_asked_about_again(model, tmp_path, monkeypatch):
    tasks = []

    def submit(task):
        future = Future()
        tasks.append([entry.name for entry in task.entries])
        if len(tasks) == 1:
            worker.work(task._replace(entries=task.entries[:2]))
            future.set_exception(LostError("gone"))
        else:
            future.set_result(worker.work(task))
        return future

    @contextmanager
    def running(config, folder):
        yield submit, (LostError,)

    monkeypatch.setattr(spread, "running", running)
    settings = {"tasks": ["nve"], "budget": 1e3, "remedies": []}
    told = []
    result = screen(
        "audit", model, crystals(4), tmp_path / "out", small(workers=2), job_settings=settings, tell=told.append
    )
    assert tasks == [["0", "1", "2", "3"], ["2"], ["3"]]
    assert result.is_converged
    assert told[-1].done == 4


def test_workers_that_die_of_everything_are_not_the_fault_of_structures(deadly, model, tmp_path):
    structures = {f"{n}3": one for n, one in enumerate(crystals(30))}
    for name, one in structures.items():
        one.info["name"] = name
    with pytest.raises(RuntimeError, match="20 workers have died one after another, the last with the worker is gone"):
        screen("predict", model, list(structures.values()), tmp_path / "out", small(workers=2))


def test_a_shard_that_cannot_be_worked_on_stops_the_screen(model, tmp_path, monkeypatch):
    def broken(source):
        raise OSError("no such device")

    settings = small(workers=2, pool="threads")
    monkeypatch.setattr(worker, "held", broken)
    with pytest.raises(
        RuntimeError, match=r"shard 0 could not be worked on: OSError: no such device. What was finished"
    ):
        screen("predict", model, crystals(3), tmp_path / "out", settings)
    monkeypatch.undo()
    assert screen("predict", model, crystals(3), tmp_path / "out", settings).is_converged


# ------------------------------------------------------------------------------------------------------ configurations


def test_the_example_for_slurm_is_a_configuration():
    config = pools.config_of(ScreenSettings(parsl=str(SLURM)))
    executor = config.executors[0]
    assert executor.provider.label == "slurm"
    assert executor.provider.partition == "gpu"
    assert executor.available_accelerators == ["0", "1", "2", "3"]


def test_one_worker_needs_no_parsl(monkeypatch):
    monkeypatch.setitem(sys.modules, "parsl", None)
    assert pools.config_of(ScreenSettings()) is None
    with pytest.raises(
        ImportError, match=r"several workers, and SLURM, need the module parsl: pip install 'tumble\[scr"
    ):
        pools.config_of(ScreenSettings(workers=2))


@pytest.mark.parametrize(
    ("spec", "content", "error", "message"),
    [
        ("no.yaml", None, ValueError, "there is no configuration file .*no.yaml"),
        ("bad.yaml", "a: [", ValueError, "bad.yaml is not valid YAML"),
        (
            "keys.yaml",
            "configuration: x",
            ValueError,
            "keys.yaml is no configuration of parsl: expected the keys config",
        ),
        (
            "file.yaml",
            "config: other.py:make",
            ValueError,
            "there is no Python file .*other.py, which .*file.yaml asks for",
        ),
        ("name.py", "x = 1", ValueError, r"name.py has nothing called 'config', which .*name.py asks for"),
        ("kind.py", "config = 1", ValueError, "kind.py gives a int; a parsl.config.Config was expected"),
        (
            "fail.py",
            "def config():\n    return 1 / 0",
            RuntimeError,
            "fail.py failed: ZeroDivisionError: division by zero",
        ),
        ("import.py", "import nothing_of_that_name", RuntimeError, "import.py failed: ModuleNotFoundError"),
    ],
)
def test_a_bad_configuration_says_what_is_wrong(tmp_path, spec, content, error, message):
    if content is not None:
        (tmp_path / spec).write_text(content)
    with pytest.raises(error, match=message):
        pools.config_of(ScreenSettings(parsl=str(tmp_path / spec)))


def test_a_module_that_is_not_there_says_so():
    with pytest.raises(ValueError, match="'cluster' names no configuration of parsl; expected a"):
        pools.config_of(ScreenSettings(parsl="cluster"))
    with pytest.raises(ValueError, match="cannot import 'no_cluster', which no_cluster:make asks for"):
        pools.config_of(ScreenSettings(parsl="no_cluster:make"))


# ----------------------------------------------------------------------------------------------------------- processes


def test_the_interchange_ends_with_its_parent():
    words = [sys.executable, "-P", interchange.__file__]
    code = (
        "import subprocess, time\n"
        f"print(subprocess.Popen({words!r}, stdin=subprocess.PIPE).pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the interchange lives on")


@pytest.mark.slow
def test_processes_give_the_same_table_also_where_one_dies(model, tmp_path):
    (tmp_path / "trap.py").write_text(TRAP)
    settings = small(workers=2)
    code = (
        "import sys, ase.io\nfrom tumble.jobs.screen import ScreenSettings, screen\n"
        "settings = ScreenSettings(structures_per_shard=4, workers=2)\n"
        "screen('predict', 'ase:trap:Trap', *sys.argv[1:], settings)"
    )
    structures = crystals(10)
    structures[6] = bulk("Cu")
    ase.io.write(tmp_path / "in.extxyz", structures)
    found = environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(tmp_path)])}
    words = [sys.executable, "-c", code, str(tmp_path / "in.extxyz"), str(tmp_path / "trapped")]
    done = subprocess.run(words, env=found, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    table = rows(tmp_path / "trapped")
    assert [row["status"] for row in table] == ["done"] * 6 + ["failed"] + ["done"] * 3
    assert table[6]["reason"].startswith("WorkerLost")
    screen("predict", model, crystals(10), tmp_path / "one", small())
    screen("predict", model, crystals(10), tmp_path / "two", settings)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


TRAP = """
import os, signal
from ase.calculators.lj import LennardJones
class Trap(LennardJones):
    def calculate(self, atoms=None, *rest):
        if 29 in atoms.numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(atoms, *rest)
"""
