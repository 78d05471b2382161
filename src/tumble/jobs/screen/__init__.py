"""Screen: any job over thousands of structures, in shards that survive a kill, with one table at the end."""

from tumble.jobs.screen.job import screen
from tumble.jobs.screen.result import ScreenResult
from tumble.jobs.screen.settings import ScreenSettings

__all__ = ["ScreenResult", "ScreenSettings", "screen"]
