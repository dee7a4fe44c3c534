"""Pages from templates: one HTML file each, which needs no network and runs no script.

The templates are files of Jinja2 in the folder `templates` of the room whose page they make. `runs/templates` has what
all share: `page.html` is the frame, `parts.html` the building blocks, `style.css` the one stylesheet. A template is
named by its path in the package. Python gives it values; how they look is the template's alone.

Every value is escaped where it is put in. Integers get their thousands apart there; in an address or an id, templates
join them to text with `~`, which leaves them as they are. A line break of a template beside an element, or beside a tag
of Jinja2, is for its readers: the page has none there, and no blank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops.base import words

if TYPE_CHECKING:
    from jinja2 import Environment

#: Lines shown of a list; accounts.json beside the page has them all.
LONGEST_LIST = 2000

_PACKAGE = Path(__file__).parents[1]
#: What neither HTML nor UTF-8 can hold.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
#: Line breaks of a template beside an element or a tag of Jinja2, with the blanks around them.
_LAYOUT = re.compile(r"(?:\A|(?<=>))\s*\n\s*|\s*\n\s*(?=<|\Z)")
#: Width of a bar, and the least width of a part: one missing image of a million still shows.
_BAR, _LEAST = 480.0, 4.0


@dataclass(frozen=True)
class VerdictBox:
    """The outcome: `kind` is complete (all well), incomplete or unbalanced (worst); then a word, and sentences."""

    kind: str
    word: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A part of a bar: its kind gives the colour, as that of a badge does."""

    name: str
    count: int
    kind: str


@dataclass(frozen=True)
class Bar:
    """A bar of parts; `head` is the text at its right above, such as the sum."""

    label: str
    head: str
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, label: str, head: str, parts: Iterable[tuple[str, int, str]]) -> Bar:
        """A bar of the parts that are not empty: name, count and kind of each."""
        return cls(label, head, tuple(Part(*part) for part in parts if part[1] > 0))

    def said(self) -> str:
        """The bar in words."""
        return words.listed([f"{part.count:,} {part.name}" for part in self.parts]) or "none"

    def drawn(self) -> Iterator[tuple[str, str, str]]:
        """Kind, left edge and width of each part, which fill the bar together."""
        total = sum(part.count for part in self.parts)
        widths = [max(_LEAST, _BAR * part.count / total) for part in self.parts]
        left = 0.0
        for part, width in zip(self.parts, widths, strict=True):
            width *= _BAR / sum(widths)
            yield part.kind, f"{left:.1f}", f"{max(width - 1, 1):.1f}"
            left += width


def page(template: str, **values: object) -> str:
    """A page (UTF-8); what HTML or UTF-8 cannot hold becomes U+FFFD.

    Args:
        template: its path in the package, such as `runs/templates/report.html`.
        values: what it is given.
    """
    return _UNFIT.sub("\ufffd", environment().get_template(template).render(values))


def style() -> str:
    """The stylesheet of all pages."""
    return (_PACKAGE / "runs/templates/style.css").read_text(encoding="utf-8")


@cache
def environment() -> Environment:
    """Jinja2, made for our templates. Loaded late: commands that make no page start without it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from jinja2.ext import Extension
    from jinja2.lexer import Token, TokenStream

    class PageLayout(Extension):
        def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
            for token in stream:
                yield Token(token.lineno, "data", _LAYOUT.sub("", token.value)) if token.type == "data" else token

    made = Environment(
        loader=FileSystemLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=[PageLayout],
        finalize=lambda value: f"{value:,}" if isinstance(value, int) else value,
        auto_reload=False,
    )
    made.filters |= {
        "clock": words.clock,
        "column_kind": lambda heading: "number" if heading.endswith("#") else "text",
        "duration": words.duration,
        "listed": words.listed,
        "plural": words.plural,
        "size": words.size,
        "some": some,
    }
    made.globals["LONGEST_LIST"] = LONGEST_LIST
    made.tests["web_or_file"] = lambda address: re.match("(https?|file)://", address) is not None
    return made


def some(numbers: Iterable[int], most: int = 20) -> str:
    """Numbers with commas, the first `most` of them."""
    known = [str(number) for number in numbers]
    return ", ".join(known[:most]) + (f" and {len(known) - most:,} more" if len(known) > most else "")
