"""Settings as a file to fill in, and as a JSON Schema for editors; both made from their declaration."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from tumble.results.settings import Settings, in_yaml, type_name

WIDTH = 120


def schema(cls: type[Settings], title: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a YAML file of settings: meanings, choices, defaults; unknown keys are refused."""
    made = cls.model_json_schema()
    for part in (made, *made.get("$defs", {}).values()):
        for one in part.get("properties", {}).values():
            one.pop("title", None)  # the key once more
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": title}


def template(values: Settings, live: Sequence[str] = ()) -> str:
    """All settings as commented YAML that reads back as these values.

    Defaults are commented out: remove the # before a key, and that before the key it stands under, to change one.

    Args:
        values: what the file shall say; what differs from the defaults is not commented out.
        live: dotted names of settings that come first and are not commented out either, as `phases.epochs`.
    """
    return "\n".join(_block(type(values), values, None, tuple(live), "")) + "\n"


def _block(
    cls: type[Settings], values: Settings | None, default: Settings | None, live: tuple[str, ...], indent: str
) -> Iterator[str]:
    """Lines of one level: the live settings first, in the order in which they are named."""
    names = list(cls.model_fields)
    first = [name for name in dict.fromkeys(one.split(".")[0] for one in live) if name in names]
    for name in (*first, *(name for name in names if name not in first)):
        within = tuple(one.split(".", 1)[1] for one in live if one.startswith(f"{name}."))
        field = cls.model_fields[name]
        usual = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
        usual = usual if default is None else getattr(default, name)
        value = usual if values is None else getattr(values, name)
        mark = "" if name in first or value != usual or (values is not None and field.is_required()) else "#"
        inner = _settings_in(field.annotation)
        note = field.description or ""
        if inner is None:
            shown = f"<{name}>" if values is None and field.is_required() else in_yaml(value)
            yield from _line(f"{indent}{mark}{name}: {shown}", _with_choices(note, field.annotation), indent)
        elif isinstance(value, Settings):
            below = list(_block(inner, value, usual, within, indent + "  "))
            yield from _line(f"{indent}{'' if any(map(_is_live, below)) else '#'}{name}:", note, indent)
            yield from below
        else:
            yield from _line(f"{indent}{mark}{name}:", f"{note} (a list of these)", indent)
            usuals = list(usual or ())
            for n, one in enumerate(value or (None,)):
                below = list(_block(inner, one, usuals[n] if n < len(usuals) else None, within, indent + "    "))
                yield from _item(below, indent + "  ", is_live=not mark)


def _is_live(line: str) -> bool:
    return not line.lstrip().startswith("#")


def _item(lines: list[str], indent: str, *, is_live: bool) -> list[str]:
    """Lines of one entry of a list: its first key has the dash, and is not commented out in a live list."""
    place = next(n for n, line in enumerate(lines) if not line.lstrip().startswith("# "))
    text = lines[place].lstrip().removeprefix("#")
    lines[place] = f"{indent}{'' if is_live else '#'}- {text}"
    return lines


def _line(setting: str, note: str, indent: str) -> list[str]:
    """A setting with what it means beside it, or above it where that is too long."""
    if not note:
        return [setting]
    if len(setting) + len(note) + 4 <= WIDTH:
        return [f"{setting}  # {note}"]
    start = f"{indent}# "
    return [*textwrap.wrap(note, WIDTH, initial_indent=start, subsequent_indent=start), setting]


def _with_choices(note: str, annotation: Any) -> str:
    """The meaning with the type; of words to choose from, all of them."""
    return f"{note} ({type_name(annotation)})" if note else type_name(annotation)


def _settings_in(annotation: Any) -> type[Settings] | None:
    """The Settings that a field holds, alone or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    is_list = get_origin(annotation) in (tuple, list)
    return _settings_in(get_args(annotation)[0]) if is_list and get_args(annotation) else None
