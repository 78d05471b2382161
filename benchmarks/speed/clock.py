"""The clock of all measurements, chosen once for all processes of a run."""

import os
import time
from typing import Final

VARIABLE: Final = "TUMBLE_BENCHMARK_CLOCK"

CLOCKS: Final = {"wall": time.perf_counter, "cpu": time.process_time}
"""cpu: processor time of all threads of a process. With one thread, times on a machine that others use as well."""

CLOCK: Final = CLOCKS[os.environ.get(VARIABLE, "wall")]
