"""Makes dataclasses of what people write in JSON, or says in one line what does not fit."""

import functools
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
}
MAX_NUMBER = 10**15  # that a whole number in a task file may be

Noun = TypeVar("Noun")


class UserError(ValueError):
    """A mistake in what came from outside: flags, files, data. One line says what was expected.

    The commands print it and end with status 2. Any other exception is a bug with its traceback.
    """


def build(noun: type[Noun], value: dict[str, Any]) -> Noun:
    """A dataclass from a JSON object: lists become tuples, keys that do not fit are named."""
    known = hints(noun)
    for name, item in value.items():
        if name not in known:
            raise UserError(f"unknown key {name!r}, expected one of {', '.join(known)}")
        if not _fits(item, known[name]):
            raise UserError(f"{name}: expected {_words(known[name])}, got {short(item)}")
    for f in fields(noun):
        if f.default is f.default_factory is MISSING and f.name not in value:
            raise UserError(f"key {f.name!r} is missing")
    return noun(**{n: tuple(item) if isinstance(item, list) else item for n, item in value.items()})


@functools.cache
def hints(noun: type) -> dict[str, Any]:
    """The type of each key of a dataclass."""
    hints = get_type_hints(noun)
    return {f.name: hints[f.name] for f in fields(noun)}


def short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _words(hint: Any) -> str:
    """A type as people call it."""
    base = get_origin(hint) or hint
    if base is tuple:
        return f"a list, each {_words(get_args(hint)[0])}"
    return WORDS.get(base, str(hint))


def _fits(item: Any, hint: Any) -> bool:
    """Whether a JSON value is of that type: lists pass for tuples, whole numbers for others."""
    base = get_origin(hint) or hint
    if base is tuple:
        return isinstance(item, list | tuple) and all(_fits(x, get_args(hint)[0]) for x in item)
    if isinstance(item, bool):
        return base is bool
    if isinstance(item, int) and abs(item) > MAX_NUMBER:
        return False
    return isinstance(item, int | float if base is float else base)
