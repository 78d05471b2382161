"""From a Settings class to the flags of a command, and back to its Settings."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Optional, get_args

import yaml
from cyclopts import Group, Parameter
from pydantic.fields import FieldInfo

from tumble.results import Settings

SETTINGS = Group("Settings", help="Also keys of a YAML file; a flag beats the file, the file beats the default.")

CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, Parameter(help="YAML file of settings.", group=SETTINGS)],
)

Field = tuple[tuple[str, ...], FieldInfo, Any]

Command = Callable[..., int | None]


def with_settings(settings: type[Settings], command: Command) -> Command:
    """The command with one flag per field of a Settings class, instead of its keyword `settings` that makes them.

    The command receives `settings`, a function: called without arguments it gives the Settings that the user chose,
    called with a path it reads that file if the user named none.

    Args:
        settings: fields of fields become dotted flags, `--model.cutoff`; lists of Settings are left to YAML. A field
            whose `json_schema_extra` has "also" gets that as a second name.
        command: what to run. Its YAML file is the flag `--config`, or its own parameter of that name.
    """
    own = dict(inspect.signature(command).parameters)
    del own["settings"]
    flags = {"__".join(path): (path, _flag(path, *rest)) for path, *rest in _fields(settings)}
    shared = [name for name in flags if name in own]
    assert not shared, f"{shared} are both settings and parameters of {command.__name__}"
    parameters = [own.pop("config", CONFIG), *own.values(), *(flag for _, flag in flags.values())]
    signature = inspect.Signature(sorted(parameters, key=lambda one: one.kind))

    def run(*args: Any, **keywords: Any) -> int | None:
        given = signature.bind_partial(*args, **keywords).arguments  # without defaults: only what the user typed
        chosen = {flags[name][0]: given.pop(name) for name in list(given) if name in flags}
        config = given.pop("config", None)
        return command(**given, settings=lambda fallback=None: merge(settings, config or fallback, chosen))

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature  # type: ignore[attr-defined]
    return run


def merge(settings: type[Settings], path: Path | None, chosen: dict[tuple[str, ...], Any]) -> Settings:
    """Settings from defaults, then a YAML file if there is one, then what was chosen by flags.

    Args:
        chosen: path of a field, such as ("model", "cutoff") → value.
    """
    stored = yaml.safe_load(path.read_text()) if path and path.is_file() and any(len(p) > 1 for p in chosen) else {}
    overrides: dict[str, Any] = {}
    for (*parents, name), value in chosen.items():
        place, below = overrides, stored
        for parent in parents:
            below = below.get(parent) or {} if isinstance(below, dict) else {}
            place = place.setdefault(parent, dict(below))
        place[name] = value
    return settings(**overrides) if path is None else settings.from_yaml(path, **overrides)


def _fields(
    settings: type[Settings], parents: tuple[str, ...] = (), instance: Settings | None = None
) -> Iterator[Field]:
    """Path, declaration and default of every field that can be a flag; an instance has defaults of its own."""
    for name, field in settings.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
        default = default if instance is None else getattr(instance, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from _fields(field.annotation, (*parents, name), default)
        elif not _holds_settings(field.annotation):
            yield (*parents, name), field, default


def _holds_settings(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return True
    return any(_holds_settings(inner) for inner in get_args(annotation))


def _flag(path: tuple[str, ...], field: FieldInfo, default: Any) -> inspect.Parameter:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    names = [".".join(path), *([str(extra["also"])] if "also" in extra else [])]
    parameter = Parameter(
        name=["--" + name.replace("_", "-") for name in names],
        help=field.description,
        group=SETTINGS,
        show_default=not field.is_required() and default is not None and default != (),
        consume_multiple=True,
        negative_iterable=(),
    )
    # A required field may stand in the file, so its flag is not required.
    annotation: Any = Optional[field.annotation] if field.is_required() else field.annotation  # noqa: UP045
    return inspect.Parameter(
        "__".join(path), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, parameter]
    )
