"""The verb that turns files of labelled structures into a store, and says what one holds."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tumble import data
from tumble.cli import DONE
from tumble.cli.console import progress_bar, show

if TYPE_CHECKING:
    from tumble.data import StoreSettings

Sources = Annotated[
    list[Path],
    Parameter(
        help="Labelled structures: extxyz, ASE db, .aselmdb (OMat24, OMol25), MPtrj or MatPES JSON, anything that ASE "
        "reads, also compressed (.gz .bz2 .xz .zst), and stores. Or one store alone, to see what it holds.",
        negative_iterable=(),
    ),
]


def store(
    files: Sources,
    *,
    settings: "Callable[[], StoreSettings]",
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="Folder of the store.")] = None,
    append: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Add to a store, behind the last frame it has of each file; also what goes on after a kill.",
        ),
    ] = False,
    check: Annotated[
        bool, Parameter(negative="", show_default=False, help="Read the whole store back and compare its digest.")
    ] = False,
) -> int:
    """Write labelled structures into a store: a folder that trainings read without loading it, however large it is.

    A store is named in a recipe like any file: `data: [set.store]`. Structures are read one at a time and committed
    every few seconds, so memory does not grow with the data, and a conversion that was stopped goes on with --append.
    """
    if output is None:
        if len(files) != 1 or not data.is_store(files[0]):
            raise ValueError(
                f"{len(files)} files and no store to write them to. Add -o FOLDER, or name one store alone."
            )
        return _tell(data.Store.open(files[0]), check=check)
    with progress_bar("storing") as tell:
        done = data.convert(
            [str(file) for file in files], output, settings(), append=append, tell=lambda one: tell(*one)
        )
    if done.skipped:
        print(f"{done.skipped} frames could not be used; {output / 'skipped.txt'} lists them with the reasons")
    print(f"{done.added} structures added")
    return _tell(done.store, check=check)


def _tell(one: data.Store, *, check: bool) -> int:
    """Print what a store holds."""
    if check:
        one.check()
    if len(one):
        show(data.coverage(one.dataset()))
    state = "checked" if check else "not checked"
    size = f"{len(one)} structures, {one.n_atoms} atoms, {one.n_bytes / 1e6:.1f} MB"
    print(f"{one.path}: {size}, digest {one.digest[:16]} ({state})")
    return DONE
