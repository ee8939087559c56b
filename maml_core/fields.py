"""What a configuration field says of itself: its bounds, its rule in words, and the errors made from them.

The form, the command line and every error text read a field here, so a bound stands in one place: on the field.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel, Field, Strict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from maml_core.errors import ConfigError

S = TypeVar("S", bound=BaseModel)

Integer = Annotated[int, Strict()]
"""A whole number; `true` and `1.0` are refused."""

Real = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A finite number; `true`, `"1"`, NaN and infinity are refused."""


class Spec(BaseModel, frozen=True, extra="forbid", validate_default=True):
    """Base of all configuration models: frozen, and no unknown field is let through."""

    def __hash__(self) -> int:
        """Of what is compared; pydantic's own takes no field that is a dictionary or a list."""
        return hash((type(self), *(_hashable(getattr(self, name)) for name in type(self).model_fields)))


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(each)) for key, each in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Bounds:
    """The numbers a field may take. `low_open` means that `low` itself is excluded."""

    low: float | None
    high: float | None
    low_open: bool
    integer: bool

    def __str__(self) -> str:
        """As the end of a sentence that starts with "must be"."""
        noun = "a whole number" if self.integer else "a finite number"
        if self.low is None and self.high is None:
            return noun
        if self.high is None:
            return f"{noun} {'above' if self.low_open else 'of at least'} {_plain(self.low)}"
        if self.low is None:
            return f"{noun} of at most {_plain(self.high)}"
        if self.low_open:
            return f"{noun} above {_plain(self.low)} and at most {_plain(self.high)}"
        return f"{noun} from {_plain(self.low)} to {_plain(self.high)}"


def bounds(field: FieldInfo) -> Bounds:
    """The bounds declared on a numeric field."""
    low: float | None = None
    high: float | None = None
    low_open = False
    for mark in _marks(field):
        if isinstance(mark, at.Ge):
            low = float(mark.ge)  # type: ignore[arg-type]
        elif isinstance(mark, at.Gt):
            low, low_open = float(mark.gt), True  # type: ignore[arg-type]
        elif isinstance(mark, at.Le):
            high = float(mark.le)  # type: ignore[arg-type]
    return Bounds(low, high, low_open, integer=base_type(field.annotation) is int)


class FieldKind(Enum):
    """What a field holds, and so what an input for it looks like."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    REAL = "real"
    TEXT = "text"
    CHOICE = "choice"
    LIST = "list"
    MAPPING = "mapping"
    NESTED = "nested"


_KINDS = {bool: FieldKind.BOOLEAN, int: FieldKind.INTEGER, float: FieldKind.REAL, str: FieldKind.TEXT}


def kind_of(field: FieldInfo) -> FieldKind:
    """What kind of value a field holds, None aside.

    Raises:
        TypeError: a kind that no input is made for.
    """
    annotation = base_type(field.annotation)
    origin = get_origin(annotation)
    if annotation in _KINDS:
        return _KINDS[annotation]
    if origin is Literal:
        return FieldKind.CHOICE
    if origin in (tuple, list):
        return FieldKind.LIST
    if origin is dict:
        return FieldKind.MAPPING
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return FieldKind.NESTED
    raise TypeError(f"no input is made for a field of type {annotation}")


def label(name: str) -> str:
    """A field's name as people write it: inner_lr is Inner learning rate."""
    return name.replace("_lr", " learning rate").replace("_", " ").capitalize()


def check(name: str, field: FieldInfo, value: float) -> None:
    """Hold a number against a field's bounds.

    Raises:
        ConfigError: it is outside of them.
    """
    limits = bounds(field)
    low = -math.inf if limits.low is None else limits.low
    high = math.inf if limits.high is None else limits.high
    if not (low <= value <= high) or (limits.low_open and value == low):
        raise ConfigError(f"{name} = {shown(value)} is not allowed: it must be {rule(field)}.")


_ROUND = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)


def tried_values(field: FieldInfo, value: float) -> list[float]:
    """The values that a slider for a number offers, in order: those that people try, and `value`, whatever it is.

    Which those are, the field says in `tried`: whole numbers from one to the other, or round numbers a decade apart.
    """
    low, high = _extra(field, "tried")
    if base_type(field.annotation) is int:
        return list(range(min(int(low), int(value)), max(int(high), int(value)) + 1))
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    numbers = {float(f"{mantissa * 10.0**decade:.6g}") for decade in decades for mantissa in _ROUND}
    return sorted({number for number in numbers if low <= number <= high} | {value})


def list_text(values: Iterable[Any]) -> str:
    """A list as people write it in one line: 40, 40."""
    return ", ".join(str(value) for value in values)


def read_list(text: str, field: FieldInfo) -> list[Any] | str:
    """What `list_text` wrote; the text itself where its parts are not what the field's list holds."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if base_type(get_args(base_type(field.annotation))[0]) is str:
        return parts
    try:
        return [json.loads(part) for part in parts]
    except ValueError:
        return text


def is_optional(field: FieldInfo) -> bool:
    """Whether the field also takes None, which then means "off"."""
    return type(None) in get_args(field.annotation)


def choices(field: FieldInfo) -> tuple[Any, ...]:
    """The values of a `Literal` field, or () for any other."""
    annotation = base_type(field.annotation)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def base_type(annotation: Any) -> Any:
    """`int | None` and `Annotated[int, ...]` are both `int` here."""
    if get_origin(annotation) is Annotated:
        return base_type(get_args(annotation)[0])
    members = [member for member in get_args(annotation) if member is not type(None)]
    if type(None) in get_args(annotation) and len(members) == 1:
        return base_type(members[0])
    return annotation


def rule(field: FieldInfo) -> str:
    """What the field accepts, as the end of a sentence that starts with "must be"."""
    options = choices(field)
    kind = base_type(field.annotation)
    if options:
        text = "one of " + ", ".join(str(option) for option in options)
    elif kind in (int, float):
        text = str(bounds(field))
    else:
        text = getattr(kind, "rule", None) or _extra(field, "rule") or "a valid value"
    return f"{text}, or null for none" if is_optional(field) else text


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """One sentence for the first thing wrong: the field, the value, the rule, the remedy."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "explained":
        return first["msg"]
    path = [str(part) for part in first["loc"]]
    name = prefix + ".".join(path) if path else prefix.rstrip(".") or "the configuration"
    if first["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        where = f"{prefix.rstrip('.')} has" if prefix else "a run has"
        return f"{name} is not a field: {where} {known}; remove it or correct its name."
    field = model.model_fields.get(path[0]) if path else None
    if first["type"] == "missing":
        return f"{name} is missing: it must be {rule(field) if field else 'given'}."
    if first["type"] == "value_error":
        return f"{name} = {shown(first['input'])}: {first['msg'].removeprefix('Value error, ')}"
    if field is None:
        return f"{name} = {shown(first['input'])} is not an object: it must hold named fields."
    remedy = f"; try {shown(field.get_default(call_default_factory=True))}" if not field.is_required() else ""
    return f"{name} = {shown(first['input'])} is not allowed: it must be {rule(field)}{remedy}."


def explained(text: str) -> PydanticCustomError:
    """An error for use inside validators whose text is already the whole sentence."""
    return PydanticCustomError("explained", "{text}", {"text": text})


def parse(model: type[S], data: Any, prefix: str = "") -> S:
    """Validate `data` as `model`.

    Raises:
        ConfigError: one sentence for the first thing that is wrong.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, model, prefix)) from None


def parse_variant(data: Any, registry: Mapping[str, type[Any]], *, tag: str, place: str) -> Any:
    """Validate `data` as the registered class that `data[tag]` names."""
    if isinstance(data, tuple(registry.values())):
        return data
    if not isinstance(data, Mapping):
        raise explained(f"{place} = {shown(data)} is not allowed: it must be an object with a field {tag}.")
    name = data.get(tag)
    if not isinstance(name, str) or name not in registry:
        raise explained(f"{place}.{tag} = {shown(name)} is not allowed: it must be one of {', '.join(registry)}.")
    try:
        return parse(registry[name], dict(data), prefix=f"{place}.")
    except ConfigError as error:
        raise explained(str(error)) from None


def shown(value: Any) -> str:
    """A value as the user would write it, cut to a readable length."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, tuple):
        value = list(value)
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    text = "null" if value is None else text
    return text if len(text) <= 60 else text[:57] + "..."


def _marks(field: FieldInfo) -> list[Any]:
    """Constraint marks on the field itself and inside `Annotated[...] | None`."""
    marks = list(field.metadata)
    for member in get_args(field.annotation):
        if get_origin(member) is Annotated:
            for mark in get_args(member)[1:]:
                marks.extend(mark.metadata if isinstance(mark, FieldInfo) else [mark])
    return marks


def _extra(field: FieldInfo, name: str) -> Any:
    extra = field.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def _plain(number: float | None) -> str:
    if number is None:
        return ""
    if number == math.floor(number) and abs(number) < 1e12:
        return f"{int(number):,}"
    return f"{number:g}"
