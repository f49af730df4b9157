"""Turns name templates such as `image/{key}.*` into patterns that find such names."""

import re
import unicodedata

from datasets.images import IMAGE_SUFFIXES
from datasets.json_values import short
from datasets.task import UserError

_FIELD = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}|\*")
_SUFFIX = re.compile(r"(.*?)(\.\*|\.[A-Za-z0-9]+|)", re.DOTALL)
MAX_FIELDS = 32
MAX_CHOICES = 3  # places at which a name of n characters can be divided in n ways


def compile_template(template: str) -> re.Pattern[str]:
    """The pattern of a member name: `{field}` is one or more characters, `*` any number, never `/`.

    Any folders may come before (group 1, with the last `/`). Fields take as little as they can; one
    that occurs twice must be the same text. A last `.*` is the suffix of any image, so it holds no
    other dot: `image/{key}.*` gives `a.b` for `image/a.b.png`. Suffixes may be in upper case.
    UserError names a template that is not one.
    """
    return re.compile(_source(template), re.MULTILINE)


def compile_lines(template: str, any_suffix: bool = False) -> re.Pattern[bytes]:
    """The same pattern over the bytes of many names, one a line; or of names of any suffix."""
    return re.compile(_source(template, any_suffix).encode(), re.MULTILINE)


def _source(template: str, any_suffix: bool = False) -> str:
    """The pattern as text. Where a field may end at the first text that follows it, and what comes
    after could take any longer one, the first is final: names of n characters take n steps."""
    if not template or template.startswith("/"):
        raise UserError(f"template {template!r}: expected a relative member name")
    template = unicodedata.normalize("NFC", template).replace("\\", "/").removeprefix("./")
    body, suffix = _SUFFIX.fullmatch(template).groups()
    suffixes = IMAGE_SUFFIXES if suffix == ".*" else (suffix,)
    ending = "|".join(map(re.escape, suffixes))
    ending = r"\.[^/.\n]*" if any_suffix and suffix else f"(?i:{ending})"
    matches = list(_FIELD.finditer(body))
    if len(matches) > MAX_FIELDS:
        raise UserError(f"template {short(template)}: {len(matches)} fields, expected few")
    names = [match[1] for match in matches]
    parts, seen, end, taken, choices = [], set(), -1, 0, 0
    for i, match in enumerate(matches):
        if match.start() == end:
            raise UserError(
                f"template {template!r}: no text between {match[0]} and what precedes it"
            )
        parts.append(re.escape(body[taken : match.start()]))
        name, end, taken = match[1], match.end(), match.end()
        if name in seen:
            parts.append(f"(?P={name})")
            continue
        part = f"(?P<{name}>[^/\\n]+?)" if name else r"[^/\n]*"
        if i + 1 < len(matches):  # what follows decides whether a longer text would ever help
            text, following = body[end : matches[i + 1].start()], names[i + 1]
            if name and names.count(name) == 1 and (not following or names.count(following) == 1):
                part, taken = f"(?>{part}{re.escape(text)})", matches[i + 1].start()
            else:
                choices += not text.startswith("/")
        parts.append(part)
        seen |= {name} if name else set()
    if choices > MAX_CHOICES:
        raise UserError(
            f"template {template!r}: {choices} times `*` or a repeated field before another field, "
            f"expected at most {MAX_CHOICES}"
        )
    parts.append(re.escape(body[taken:]))
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
