"""Settings: declared once, they become YAML keys, flags, the table in the docs and a block of every result."""

import hashlib
import json
from collections.abc import Hashable
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class Setting(NamedTuple):
    """One row of a table of settings, ready to print: dotted name, type, default and description."""

    name: str
    type: str
    default: str
    description: str


class Settings(BaseModel):
    """What may be chosen for one job: frozen, keyword-only, validated once.

    A subclass declares fields; the docstring below a field, or `Field(description=...)`, becomes the help of its flag.
    Settings may hold other Settings, alone or as `tuple[Phase, ...]`.

    Raises:
        ValueError: an unknown key (with the nearest known one), a missing key, a wrong type, a failed validator.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    if not TYPE_CHECKING:  # type checkers see the signature that pydantic makes from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ValueError(_explain(type(self), error)) from None

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Settings within Settings change only what they name; the rest stays as the default there says."""
        if not isinstance(values, dict):
            return values
        completed = {
            name: field.default.model_dump(exclude_unset=True) | values[name]
            for name, field in cls.model_fields.items()
            if isinstance(field.default, Settings) and isinstance(values.get(name), dict)
        }
        return values | completed

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> Self:
        """Settings from a YAML file of `key: value` lines; overrides replace what the file says.

        Raises:
            ValueError: the file is missing, empty, not YAML, not a mapping, names a key twice, or has a bad setting.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"there is no settings file {path}. Give the path of a YAML file of 'key: value' lines.")
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid YAML: {error}. Expected 'key: value' lines.") from None
        if not isinstance(values, dict):
            found = "nothing" if values is None else f"a {type(values).__name__}"
            raise ValueError(f"{path} holds {found}; expected 'key: value' lines with the settings of {cls.__name__}.")
        try:
            return cls(**{str(key): value for key, value in values.items()} | overrides)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_yaml(self) -> str:
        """All settings, defaults included, as YAML that `from_yaml` reads back."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with any setting: SHA-256 of the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @classmethod
    def describe(cls) -> list[Setting]:
        """One row per setting, for help and docs; the rows of Settings within Settings have dotted names."""
        return _rows(cls, None)


class _UniqueKeys(yaml.SafeLoader):
    """YAML as usual, but a key that stands twice is an error instead of a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                line = node.value[index][0].start_mark.line + 1
                raise yaml.YAMLError(f"key '{key}' stands twice, the second time in line {line}")
        return super().construct_mapping(node, deep)


def _explain(cls: type[Settings], error: ValidationError) -> str:
    """One line per problem: what is wrong, what was expected, what to do."""
    return "\n".join(_explain_one(cls, dict(problem)) for problem in error.errors(include_url=False))


def _explain_one(cls: type[Settings], problem: dict[str, Any]) -> str:
    place, known = ".".join(map(str, problem["loc"])), list(cls.model_fields)
    if problem["type"] == "extra_forbidden":
        near = get_close_matches(place, known, n=1, cutoff=0.5)
        advice = f"Did you mean '{near[0]}'?" if near else "Remove it."
        return f"{cls.__name__} has no setting '{place}', only {', '.join(known)}. {advice}"
    field = cls.model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
    meaning = f" It is: {field.description}" if field and field.description else ""
    if problem["type"] == "missing":
        return f"{cls.__name__} needs the setting '{place}', which is missing.{meaning}"
    cause = problem.get("ctx", {}).get("error")
    said = str(cause) if cause is not None else problem["msg"][:1].lower() + problem["msg"][1:] + "."
    if not place:
        return f"{cls.__name__}: {said}"
    if isinstance(problem["input"], dict):  # the settings inside have already said what is wrong
        return f"{place}: {said}"
    return f"{cls.__name__} setting '{place}' = {problem['input']!r} is not valid: {said}{meaning}"


def _rows(cls: type[Settings], values: Settings | None) -> list[Setting]:
    """One row per setting, with its default in `values` where they are given and in the class where not."""
    rows: list[Setting] = []
    for name, field in cls.model_fields.items():
        required = values is None and field.is_required()
        default = (
            None if required else getattr(values, name) if values else field.get_default(call_default_factory=True)
        )
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            rows.extend(row._replace(name=f"{name}.{row.name}") for row in _rows(field.annotation, default))
        else:
            shown = "required" if required else in_yaml(default)
            rows.append(Setting(name, type_name(field.annotation), shown, field.description or ""))
    return rows


def type_name(annotation: Any) -> str:
    """What a setting may be, in a few words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in (None, NoneType):
        return "null"
    if origin is Literal:
        return " | ".join(str(value) for value in inner)
    if origin in (Union, UnionType):
        return " | ".join(type_name(one) for one in inner)
    if origin is tuple and Ellipsis not in inner:
        return f"({', '.join(type_name(one) for one in inner)})"
    if origin in (tuple, list, set, frozenset):
        return f"list of {type_name(inner[0])}"
    if origin is dict:
        return f"mapping of {type_name(inner[0])} to {type_name(inner[1])}"
    if origin is not None and hasattr(annotation, "__metadata__"):
        return type_name(inner[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(str(member.value) for member in annotation)
    return getattr(annotation, "__name__", str(annotation))


def in_yaml(value: Any) -> str:
    """A value as one would write it in YAML."""
    plain = _Any(value=value).model_dump(mode="json")["value"]
    return plain if isinstance(plain, str) and plain else json.dumps(plain, ensure_ascii=False)


class _Any(BaseModel):
    value: Any
