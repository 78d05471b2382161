"""Shards spread over the workers of parsl, with what is to be done where a worker dies."""

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tumble.jobs.screen.worker import STOPPED, Task, work

WAITING: Final = 1000
"""Shards that parsl knows of at a time."""

DEATHS: Final = 20
"""Structures that cost a worker its life one after another, until it is held for the fault of something else."""

Submit = Callable[[Task], "Future[tuple[int, int]]"]


def spread(
    tasks: Sequence[Task],
    config: Any,
    folder: Path,
    notice: Callable[[int, int], None],
    orphans: Callable[[Task, str], list[Task]],
) -> None:
    """Let the workers of a configuration do all tasks.

    Args:
        config: of parsl; what it writes goes below `folder`.
        notice: called with the numbers of answers and failures of each task that is done.
        orphans: called with a task whose worker has died, and why; gives the tasks to try instead, none if that one
            was its last.

    Raises:
        RuntimeError: a task fails as a whole, or parsl does, or one worker after another dies.
    """
    queue, waiting, deaths = deque(tasks), dict[Future[tuple[int, int]], Task](), 0
    with running(config, folder) as (submit, lost):
        try:
            while queue or waiting:
                while queue and len(waiting) < WAITING:
                    task = queue.popleft()
                    waiting[submit(task)] = task
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    task, error = waiting.pop(future), future.exception()
                    if error is None:
                        deaths = 0
                        notice(*future.result())
                        continue
                    if not isinstance(error, lost):
                        raise RuntimeError(
                            f"shard {task.shard} could not be worked on: {type(error).__name__}: {error}. What was "
                            "finished is kept; remove the cause, then give the same command to go on."
                        ) from error
                    instead = orphans(task, f"{type(error).__name__}: {error}")
                    deaths = deaths if instead else deaths + 1
                    if deaths == DEATHS:
                        raise RuntimeError(
                            f"{DEATHS} workers have died one after another, the last with {error}. Not the structures "
                            "are to be suspected, but memory, or how the potential is loaded."
                        ) from error
                    queue.extendleft(reversed(instead))
        except BaseException:
            STOPPED.update(task.run for task in waiting.values())  # or threads would go on to the end
            raise


@contextmanager
def running(config: Any, folder: Path) -> Iterator[tuple[Submit, tuple[type[BaseException], ...]]]:
    """Start parsl: what submits a task to it, and the errors that say that a worker has died.

    Its files go below the folder, wherever the configuration would have put them, and it reports its use to nobody.
    """
    from parsl import DataFlowKernel, python_app
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
    from parsl.executors.high_throughput.executor import DEFAULT_INTERCHANGE_LAUNCH_CMD

    from tumble.jobs.screen.pools import INTERCHANGE

    config.run_dir, config.usage_tracking = str(folder), 0
    for executor in config.executors:
        is_ours = isinstance(executor, HighThroughputExecutor)
        if is_ours and list(executor.interchange_launch_cmd) == list(DEFAULT_INTERCHANGE_LAUNCH_CMD):
            executor.interchange_launch_cmd = list(INTERCHANGE)
    kernel = DataFlowKernel(config)
    try:
        yield python_app(work, data_flow_kernel=kernel), (WorkerLost, ManagerLost)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # pipes that parsl leaves to the garbage collector
            kernel.cleanup()
