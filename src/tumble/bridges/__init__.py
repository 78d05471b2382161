"""Bridges: a Potential as another engine wants it, and back. One file each; each imports its engine and no other."""

from difflib import get_close_matches
from importlib import import_module
from typing import Any


def made_by(spec: str, what: str) -> Any:
    """What the factory makes that a spec names; it is called without arguments.

    Args:
        spec: "package.module:name".
        what: what it should be, for errors, such as "calculator".

    Raises:
        ValueError: not of that form, or no such name in the module.
        ImportError: the module cannot be imported.
        RuntimeError: the factory fails.
    """
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"{spec!r} does not name a {what}; expected 'package.module:factory', all of it.")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ImportError(
            f"cannot import {module_name!r} for {spec!r}: {error}. Install its package, or correct the name."
        ) from error
    if not hasattr(module, name):
        near = get_close_matches(name, dir(module), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"the module {module_name!r} has nothing called {name!r}, which {spec!r} names.{hint}")
    try:
        return getattr(module, name)()
    except Exception as error:  # it is the user's code
        raise RuntimeError(
            f"{spec!r} was called without arguments and failed: {type(error).__name__}: {error}. "
            f"Write a function without arguments that makes the {what}, and name that."
        ) from error
