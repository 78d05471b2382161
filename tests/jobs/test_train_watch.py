"""Who else is told: TensorBoard and W&B, as stand-ins that remember, and the real TensorBoard where it is installed."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tumble.jobs.train.extras import Live
from tumble.jobs.train.watch import TENSORBOARD, WANDB_RUN, Watchers, said

BOTH = Live(tensorboard=True, wandb="water")


class Heard:
    """What stand-ins for both packages were told."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.runs: dict[str, dict[int, dict[str, float]]] = {}
        self.events: list[tuple[str, float, int]] = []
        self.closed: list[str] = []


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    found = Heard()

    class Writer:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            found.opened.append({"log_dir": log_dir, "purge_step": purge_step})
            found.events = [event for event in found.events if event[2] < purge_step]

        def add_scalar(self, name: str, value: float, step: int) -> None:
            found.events.append((name, value, step))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            found.closed.append("tensorboard")

    class Run:
        """As W&B: steps never go back, and a resumed run goes on after its last."""

        def __init__(self, name: str) -> None:
            self.history = found.runs.setdefault(name, {})
            self.step = max(self.history, default=-1) + 1

        def log(self, numbers: dict[str, float], step: int) -> None:
            assert step >= self.step
            self.step = step
            self.history.setdefault(step, {}).update(numbers)

        def finish(self) -> None:
            found.closed.append("wandb")

    def init(**given: Any) -> Run:
        found.opened.append(given)
        return Run(given["id"])

    wandb, tensorboard = ModuleType("wandb"), ModuleType("tensorboard")
    wandb.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "tensorboard", tensorboard)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))  # type: ignore[arg-type]
    return found


def row(step: int, **numbers: Any) -> dict[str, Any]:
    return {"phase": 0, "epoch": step // 10, "step": step, "forces_mae": 100.0 / step} | numbers


def test_both_hear_every_number_at_its_step(heard: Heard, tmp_path: Path) -> None:
    watchers = Watchers(BOTH, tmp_path, recipe={"seed": 3})
    watchers.tell(row(10, message="words", broken=float("nan")))
    watchers.tell(row(20, **{"liquid/forces_mae": 7.0}))
    watchers.close()
    assert ("forces_mae", 10.0, 10) in heard.events
    assert ("liquid/forces_mae", 7.0, 20) in heard.events
    assert {name for name, _, _ in heard.events} == {"phase", "epoch", "forces_mae", "liquid/forces_mae"}
    [history] = heard.runs.values()
    assert history[10] == {"phase": 0, "epoch": 1, "forces_mae": 10.0}
    assert sorted(heard.closed) == ["tensorboard", "wandb"]
    assert heard.opened[0] == {"log_dir": str(tmp_path / TENSORBOARD), "purge_step": 0}
    said_to_wandb = heard.opened[1]
    assert (said_to_wandb["project"], said_to_wandb["config"], said_to_wandb["dir"]) == (
        "water", {"seed": 3}, str(tmp_path),
    )  # fmt: skip


def test_a_resumed_training_goes_on_in_the_same_run_without_telling_a_step_twice(heard: Heard, tmp_path: Path) -> None:
    first = Watchers(BOTH, tmp_path)
    for step in (10, 20, 30):
        first.tell(row(step))  # killed here: the last checkpoint was at step 20
    again = Watchers(BOTH, tmp_path, step=20)
    for step in (30, 40):
        again.tell(row(step))
    again.close()
    [history] = heard.runs.values()
    assert sorted(history) == [10, 20, 30, 40]
    assert [step for name, _, step in heard.events if name == "forces_mae"] == [10, 20, 30, 40]
    assert heard.opened[1]["id"] == heard.opened[3]["id"] == (tmp_path / WANDB_RUN).read_text().strip()
    assert heard.opened[3]["resume"] == "allow"


def test_a_new_training_in_the_same_folder_is_a_new_run(heard: Heard, tmp_path: Path) -> None:
    for _ in range(2):
        watchers = Watchers(BOTH, tmp_path)
        watchers.tell(row(10))
        watchers.close()
    assert len(heard.runs) == 2
    assert [step for name, _, step in heard.events if name == "epoch"] == [10]


def test_nobody_is_told_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    watchers = Watchers(Live(), tmp_path)
    watchers.tell(row(10))
    watchers.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("live", "name"), [(Live(tensorboard=True), "tensorboard"), (Live(wandb="water"), "wandb")], ids=["tb", "wandb"]
)
def test_a_missing_package_is_named_with_its_extra(
    live: Live, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"live\.{name} needs the package {name} .*pip install 'tumble\[{name}\]'"):
        Watchers(live, tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_itself_shows_each_step_once_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    live = Live(tensorboard=True)
    first = Watchers(live, tmp_path)
    for step in (10, 20, 30):
        first.tell(row(step))
    again = Watchers(live, tmp_path, step=20)
    again.tell(row(30, forces_mae=5.0))
    again.close()
    seen = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    found = [(event.step, event.value) for event in seen.Scalars("forces_mae")]
    assert found == [(10, 10.0), (20, 5.0), (30, 5.0)]


# ------------------------------------------------------------------------------------------------------ the terminal


def test_the_line_on_the_terminal_says_errors_spread_and_lambda() -> None:
    numbers = {"energy_mae": 1.4512, "forces_mae": 47.71, "forces_spread": 12.08, "spread_over_error": 0.2504}
    assert said(numbers) == "E 1.45 meV/atom, F 47.7 meV/Å, spread 12.1 (25 % of the error)"
    assert said(numbers | {"curl": 0.0412}).endswith(", λ 0.0412")
    assert said({"forces_spread": 2.0}) == "spread 2"
    assert said({"valid_loss": 0.1}) == ""


def test_the_line_of_a_mixture_names_its_sets() -> None:
    numbers = {"liquid/forces_mae": 47.71, "gas/forces_mae": 30.0, "gas/forces_spread": 3.0}
    assert said(numbers | {"forces_mae": 47.71}) == "liquid: F 47.7 meV/Å; gas: F 30 meV/Å, spread 3"
    assert said({"forces_mae": 47.71, "forces_mae@bulk/300K": 1.0}) == "F 47.7 meV/Å"
    many = {f"s{k}/forces_mae": 1.5 for k in range(5)}
    assert said(many).endswith("; 2 more sets")
