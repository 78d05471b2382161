"""What one run of the benchmark measures."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch

from speed.shapes import write


@final
@dataclass(frozen=True)
class Plan:
    """The choices of the command line, and the models, written once for all sections."""

    models: tuple[str, ...]
    systems: tuple[str, ...]
    engines: tuple[str, ...]
    repeats: int
    threads: int
    device: str
    peer_python: str | None
    largest: int
    folder: Path
    data: str | None = None
    batch_size: int = 4
    epochs: int = 3
    frames: int = 248
    _stems: dict[str, str] = field(default_factory=dict)

    def stem(self, model: str) -> str:
        """Path of the weights of a model, without suffix."""
        if model not in self._stems:
            say(f"writing {model} with metatrain")
            self._stems[model] = str(write(model, self.folder))
        return self._stems[model]

    @property
    def machine(self) -> str:
        """Threads, cores and clock, or the accelerator."""
        if self.device.startswith("cuda"):
            return torch.cuda.get_device_name(self.device)
        try:
            clocks = re.findall(r"cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text())
        except OSError:
            clocks = []
        clock = f" at {max(map(float, clocks)) / 1000:.1f} GHz" if clocks else ""
        return f"{self.threads} threads on {os.cpu_count()} cores{clock}"


def say(text: str) -> None:
    """What is going on."""
    print(f"  {text}", flush=True)
