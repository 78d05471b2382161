"""What every test runs under: one thread, and the same examples in every run."""

import torch
from hypothesis import settings

settings.register_profile("tumble", deadline=None, derandomize=True, database=None)
settings.load_profile("tumble")

# Tests run side by side, one process each.
torch.set_num_threads(1)
