"""The field's mini-language: ``name:key=value:key=value``."""

from __future__ import annotations

from centralslice.errors import ParameterError


def parse_modspec(text: str) -> tuple[str, dict[str, str]]:
    """Split ``name:key=value:…`` into the name and its parameters, all text.

    A pair of double quotes around a value is removed and protects ``:`` and ``=`` inside it.

    Raises
    ------
    ParameterError
        If the name is empty, a part has no ``=``, a key is given twice or a quote is not closed.
    """
    parts = _split(text)
    name = parts[0].strip()
    if not name or "=" in name:
        raise ParameterError(f"'{text}': expected name:key=value:key=value")
    parameters: dict[str, str] = {}
    for part in parts[1:]:
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ParameterError(f"'{text}': '{part}' is not key=value")
        if key in parameters:
            raise ParameterError(f"'{text}': parameter '{key}' is given twice")
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        parameters[key] = value
    return name, parameters


def _split(text: str) -> list[str]:
    """Split at colons outside double quotes."""
    parts, quoted, start = [], False, 0
    for position, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter == ":" and not quoted:
            parts.append(text[start:position])
            start = position + 1
    if quoted:
        raise ParameterError(f"'{text}': a double quote is not closed")
    return [*parts, text[start:]]
