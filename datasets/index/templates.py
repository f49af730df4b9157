"""A template such as `image/{key}.*` goes in; a pattern that finds such names comes out."""

from __future__ import annotations

import re

from datasets.task import UserError

_FIELD = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}|\*")


def compile_template(template: str) -> re.Pattern[str]:
    """The pattern of a member name: `{field}` is one or more characters, `*` any number, never `/`.

    Any folders may come before (group 1, with the last `/`). Fields take as little as they can; one
    that occurs twice must be the same text. A last `.*` is an extension, so it holds no other dot:
    `image/{key}.*` gives `a.b` for `image/a.b.png`. UserError names a template that is not one.
    """
    return re.compile(_source(template), re.MULTILINE)


def compile_lines(template: str) -> re.Pattern[bytes]:
    """The same pattern over the bytes of many names, one a line."""
    return re.compile(_source(template).encode(), re.MULTILINE)


def _source(template: str) -> str:
    if not template or template.startswith("/"):
        raise UserError(f"template {template!r}: expected a relative member name")
    body, ending = (template[:-2], r"\.[^/.\n]*") if template.endswith(".*") else (template, "")
    parts, seen, end = [], set(), -1
    for match in _FIELD.finditer(body):
        if match.start() == end:
            raise UserError(
                f"template {template!r}: no text between {match[0]} and what precedes it"
            )
        parts.append(re.escape(body[max(end, 0) : match.start()]))
        name, end = match[1], match.end()
        if not name:
            parts.append(r"[^/\n]*")
        elif name in seen:
            parts.append(f"(?P={name})")
        else:
            parts.append(f"(?P<{name}>[^/\\n]+?)")
            seen.add(name)
    parts.append(re.escape(body[max(end, 0) :]))
    if set(_FIELD.sub("", body)) & set("{}*\n"):
        raise UserError(
            f"template {template!r}: expected fields such as {{key}}, of letters and digits"
        )
    return "^((?:.*/)?)" + "".join(parts) + ending + "$"


def literal_length(template: str) -> int:
    """How many characters of a template are text: the more, the closer it describes a name."""
    return len(_FIELD.sub("", template))


def fill_template(template: str, match: re.Match[bytes]) -> str:
    """The template with what is known of the name filled in."""
    fields = {name: text.decode() for name, text in match.groupdict().items()}
    return match[1].decode() + _FIELD.sub(lambda field: fields.get(field[1], field[0]), template)
