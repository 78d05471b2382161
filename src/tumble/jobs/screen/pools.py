"""Configurations of parsl: processes and threads of this machine, SLURM, or whatever a file says."""

import importlib.util
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import yaml

from tumble.jobs.screen.settings import ScreenSettings

THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

INTERCHANGE: Final = (sys.executable, "-P", str(Path(__file__).with_name("interchange.py")))
"""As a file, since a module would import the whole package first."""
POOL: Final = f"{shlex.quote(sys.executable)} -m parsl.executors.high_throughput.process_worker_pool"
"""By the Python that runs, because the programs of an environment that is not activated are not found by name."""

DEFAULT: Final = "config"
"""What a Python file is expected to define."""


def config_of(settings: ScreenSettings) -> Any:
    """The configuration that the settings ask for; None: this process alone does the work.

    Raises:
        ValueError: a file or factory that there is not, or that makes something else.
        RuntimeError: the factory fails.
        ImportError: parsl is not installed.
    """
    if settings.parsl is None and settings.workers == 1:
        return None
    _check_installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of sockets by which parsl asks for addresses of this machine
        return _named(settings.parsl) if settings.parsl is not None else _local(settings)


def _local(settings: ScreenSettings) -> Any:
    if settings.pool == "threads":
        return threads(settings.workers)
    cores = settings.threads_per_worker or max(1, (os.cpu_count() or 1) // settings.workers)
    return processes(settings.workers, cores, is_cuda=(settings.device or "").startswith("cuda"))


def threads(workers: int) -> Any:
    """Threads of this process."""
    from parsl.config import Config
    from parsl.executors import ThreadPoolExecutor

    return Config(executors=[ThreadPoolExecutor(max_threads=workers)], strategy="none", initialize_logging=False)


def processes(workers: int, threads_per_worker: int = 1, *, is_cuda: bool = False) -> Any:
    """Processes of this machine; each has one of its GPUs to itself where they are to work on "cuda"."""
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
    from parsl.providers import LocalProvider

    exports = "\n".join(f"export {name}={threads_per_worker}" for name in THREADS)
    executor = HighThroughputExecutor(
        label="processes",
        address="127.0.0.1",
        max_workers_per_node=workers,
        cores_per_worker=1e-3,  # as many workers as were asked for, however few cores there are
        available_accelerators=_gpus() if is_cuda else 0,
        heartbeat_period=5,
        heartbeat_threshold=60,
        launch_cmd=DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", POOL, 1),
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1, worker_init=exports),
    )
    return Config(executors=[executor], strategy="simple", strategy_period=1, initialize_logging=False)


def slurm(workers_per_node: int = 1, gpus_per_node: int = 0, **provider: Any) -> Any:
    """Jobs of SLURM, whose nodes ask for shards as long as there are some.

    Args:
        workers_per_node: processes on each node.
        gpus_per_node: that are shared out, one for each worker; as many workers as these at most.
        provider: what parsl's `SlurmProvider` takes: partition, account, walltime, nodes_per_block, max_blocks,
            worker_init, scheduler_options, ...
    """
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.launchers import SrunLauncher
    from parsl.providers import SlurmProvider

    requested = {"gpus_per_node": gpus_per_node} if gpus_per_node else {}
    executor = HighThroughputExecutor(
        label="slurm",
        max_workers_per_node=workers_per_node,
        cores_per_worker=1e-3,
        available_accelerators=gpus_per_node,
        provider=SlurmProvider(**{"launcher": SrunLauncher(), **requested, **provider}),
    )
    return Config(executors=[executor])


def _check_installed() -> None:
    try:
        import_module("parsl")
    except ImportError as error:
        raise ImportError(
            "several workers, and SLURM, need the module parsl: pip install 'tumble[screen]'. Without it, workers: 1."
        ) from error


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _named(spec: str) -> Any:
    """The configuration that a YAML file, a Python file or "package.module:function" names."""
    arguments: dict[str, Any] = {}
    place, where = spec, Path()
    if spec.endswith((".yaml", ".yml")):
        place, arguments = _from_yaml(Path(spec))
        where = Path(spec).parent
    made = _found(place, where, spec)
    if callable(made):
        made = _made(made, arguments, spec)
    from parsl.config import Config

    if not isinstance(made, Config):
        raise ValueError(
            f"{spec} gives a {type(made).__name__}; a parsl.config.Config was expected, or a function that makes one."
        )
    return made


def _from_yaml(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        raise ValueError(
            f"there is no configuration file {path}. Give a .yaml or .py file, or package.module:function."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}. Expected 'config:' and 'arguments:'.") from None
    known = {"config", "arguments"}
    if not isinstance(content, dict) or not {"config"} <= set(content) <= known:
        raise ValueError(
            f"{path} is no configuration of parsl: expected the keys config (package.module:function, or "
            "file.py:function) and, if need be, arguments. Copy an example."
        )
    return str(content["config"]), dict(content.get("arguments") or {})


def _found(place: str, where: Path, spec: str) -> Any:
    module_name, _, name = place.partition(":")
    name = name or DEFAULT
    module = _of_file(where / module_name, spec) if module_name.endswith(".py") else _of_module(place, spec)
    if not hasattr(module, name):
        raise ValueError(f"{module_name} has nothing called {name!r}, which {spec} asks for. Correct the name.")
    return getattr(module, name)


def _of_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"there is no Python file {path}, which {spec} asks for. Give its path.")
    described = importlib.util.spec_from_file_location("tumble_screen_config", path)
    assert described is not None and described.loader is not None
    module = importlib.util.module_from_spec(described)
    _made(lambda: described.loader.exec_module(module), {}, spec)  # type: ignore[union-attr]
    return module


def _of_module(place: str, spec: str) -> ModuleType:
    module_name, colon, name = place.partition(":")
    if not (module_name and colon and name):
        raise ValueError(
            f"{spec!r} names no configuration of parsl; expected a .yaml file, a .py file or module:function."
        )
    try:
        return import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r}, which {spec} asks for: {error}. Correct the name.") from error


def _made(make: Callable[..., Any], arguments: dict[str, Any], spec: str) -> Any:
    try:
        return make(**arguments)
    except Exception as error:  # it is the user's code
        raise RuntimeError(f"the configuration {spec} failed: {type(error).__name__}: {error}. Correct it.") from error
