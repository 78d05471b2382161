"""Progress: how far a long job is, told to whoever called it."""

from typing import NamedTuple


class Progress(NamedTuple):
    """What a caller sees while a job runs.

    done, total: pieces of work, in whatever unit the job counts; a total of 0 is not known.
    message:     one line about where it is, or the newest numbers.
    """

    done: int
    total: int
    message: str
