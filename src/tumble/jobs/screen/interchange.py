"""Run parsl's interchange so that it ends with the process that has started it.

Left to itself it outlives a parent that was killed, for ever, and with it the workers that wait for its tasks.
"""

import os
import runpy
import time
from threading import Thread

PERIOD_S = 2.0


def watch(parent: int) -> None:
    """End this process once its parent is another than this one."""
    while os.getppid() == parent:
        time.sleep(PERIOD_S)
    os._exit(1)


def main() -> None:
    """What parsl itself would start."""
    Thread(target=watch, args=(os.getppid(),), daemon=True).start()
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
