"""Extras: what is installed beside the core, imported where it is first needed."""

from importlib import import_module
from typing import Any


def required(name: str, *, who: str, extra: str) -> Any:
    """A module of an extra, imported when it is first needed.

    Args:
        name: of the module.
        who: what needs it and that it does, for the error: "conductivity needs".
        extra: of tumble, which installs it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"{who} {package}, which is not installed. Run: pip install 'tumble[{extra}]'") from error
