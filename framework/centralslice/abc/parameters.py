"""Typed plugin parameters: a dataclass field that also knows its unit and its meaning."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from centralslice.errors import ParameterError

REQUIRED: Any = dataclasses.MISSING


def parameter(default: Any = REQUIRED, unit: str = "", doc: str = "") -> Any:
    """A plugin parameter: its default (none: required), unit and one-line meaning.

    Used as the default of a dataclass field: ``cutoff: float = parameter(0.1, "1/Å", "…")``.
    """
    return dataclasses.field(default=default, metadata={"unit": unit, "doc": doc})


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """One parameter as ``plugins show`` prints it."""

    name: str
    kind: str
    default: Any
    unit: str
    doc: str

    @property
    def required(self) -> bool:
        """Whether the user must give it."""
        return self.default is REQUIRED


def parameters_of(plugin: type) -> tuple[ParameterInfo, ...]:
    """The parameters of a plugin class, in order."""
    hints = typing.get_type_hints(plugin)
    return tuple(
        ParameterInfo(
            name=entry.name,
            kind=_kind_name(hints[entry.name]),
            default=entry.default,
            unit=entry.metadata.get("unit", ""),
            doc=entry.metadata.get("doc", ""),
        )
        for entry in dataclasses.fields(plugin)
        if entry.init
    )


def build(plugin: type, given: Mapping[str, Any], called: str) -> Any:
    """Make a plugin from parameters as the user typed them.

    Parameters
    ----------
    plugin
        A plugin class (a frozen dataclass).
    given
        Name to text (or to a value of the right type).
    called
        The name the user used, for messages.

    Raises
    ------
    ParameterError
        For an unknown or missing parameter or a text that is not of the parameter's type.
    """
    hints = typing.get_type_hints(plugin)
    known = {entry.name: entry for entry in dataclasses.fields(plugin) if entry.init}
    folded = {name.lower(): name for name in known}
    values: dict[str, Any] = {}
    for name, value in given.items():
        field_name = name if name in known else folded.get(name.lower())
        if field_name is None:
            names = ", ".join(known) or "none"
            raise ParameterError(f"{called}: unknown parameter '{name}' (known: {names})")
        values[field_name] = _convert(value, hints[field_name], f"{called}: parameter '{name}'")
    missing = [
        name for name, entry in known.items()
        if name not in values and entry.default is REQUIRED and entry.default_factory is REQUIRED
    ]  # fmt: skip
    if missing:
        raise ParameterError(f"{called}: parameter '{missing[0]}' is required; give {called}:{missing[0]}=…")
    return plugin(**values)


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the hint alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _kind_name(hint: Any) -> str:
    names = [
        "none" if option is type(None) else getattr(option, "__name__", str(option))
        for option in _options(hint)
    ]
    return " or ".join(name for name in names if name != "none")


_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def _convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the first type of the hint that takes it."""
    options = _options(hint)
    if not isinstance(value, str):
        return value
    if type(None) in options and value.lower() == "none":
        return None
    for option in options:
        if option is bool and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        if option in (int, float):
            try:
                return option(value)
            except ValueError:
                continue
        if typing.get_origin(option) is typing.Literal:
            if value in typing.get_args(option):
                return value
            continue
        if option is str or (isinstance(option, type) and option not in (bool, type(None))):
            return option(value)
    wanted = ", ".join(
        str(a) for o in options if typing.get_origin(o) is typing.Literal for a in typing.get_args(o)
    )
    raise ParameterError(f"{where}: expected {wanted or _kind_name(hint)}, got '{value}'")
