"""HTML pages from templates. Each page is one file that needs no network and runs no script.

Templates are files of Jinja2 in the folder `templates` of each room. `runs/templates` has the common ones: `page.html`
is the frame, `parts.html` has the building blocks, and `style.css` is the stylesheet of all pages. A template is named
by its path in the package. Python gives a template values; only the template decides how they look.

Every value is escaped when it is inserted, and integers get thousands separators. In an address or an id, templates
join integers to text with `~`, which adds no separators. Line breaks and blanks of a template beside an element or a
tag of Jinja2 are removed from the page.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops import __version__
from pacsifier_ops.base import words
from pacsifier_ops.base.files import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment

#: Maximum number of lines of a list in a page; accounts.json beside the page has all.
LONGEST_LIST = 2000

_PACKAGE = Path(__file__).parents[1]
#: Characters that HTML or UTF-8 does not allow.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
#: Line breaks of a template beside an element or a tag of Jinja2, with the blanks around them.
_LAYOUT = re.compile(r"(?:\A|(?<=>))\s*\n\s*|\s*\n\s*(?=<|\Z)")
#: Width of a bar, and least width of a part, in pixels. One missing image of a million must be visible.
_BAR, _LEAST = 480.0, 4.0


@dataclass(frozen=True)
class VerdictBox:
    """The verdict of a run, as pages show it.

    Attributes:
        kind: the verdict; it gives the colour.
        word: the verdict in one word, and who ended the run if somebody did.
        sentences: what it means, and what to do.
    """

    kind: str
    word: str
    sentences: tuple[str, ...]


def left_to_do(empty: int) -> str:
    """Return what to do after a complete run, for its `VerdictBox`.

    Args:
        empty: number of rows of the query table that found nothing.
    """
    if not empty:
        return "Nothing is left to do."
    return f"Check that the {words.plural(empty, 'row')} that found nothing should be empty."


@dataclass(frozen=True)
class Part:
    """A part of a bar; `kind` gives the colour, as for badges."""

    name: str
    count: int
    kind: str


@dataclass(frozen=True)
class Bar:
    """A bar of parts; `head` is the text above its right end, such as the sum."""

    label: str
    head: str
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, label: str, head: str, parts: Iterable[tuple[str, int, str]]) -> Bar:
        """Return a bar of the parts (name, count, kind) whose count is above 0."""
        return cls(label, head, tuple(Part(*part) for part in parts if part[1] > 0))

    def as_text(self) -> str:
        """Return the bar in words, for screen readers."""
        return words.listed([f"{part.count:,} {part.name}" for part in self.parts]) or "none"

    def rectangles(self) -> Iterator[tuple[str, str, str]]:
        """Yield kind, left edge and width (pixels) of each part. Together they fill the bar."""
        total = sum(part.count for part in self.parts)
        widths = [max(_LEAST, _BAR * part.count / total) for part in self.parts]
        left = 0.0
        for part, width in zip(self.parts, widths, strict=True):
            width *= _BAR / sum(widths)
            yield part.kind, f"{left:.1f}", f"{max(width - 1, 1):.1f}"
            left += width


def page(template: str, **values: object) -> str:
    """Return a page as HTML. Characters that HTML or UTF-8 does not allow become U+FFFD.

    Args:
        template: path of the template in the package, such as `runs/templates/report.html`.
        values: variables of the template.
    """
    return _UNFIT.sub("\ufffd", environment().get_template(template).render(values))


def style() -> str:
    """Return the stylesheet of all pages."""
    return (_PACKAGE / "runs/templates/style.css").read_text(encoding="utf-8")


@cache
def environment() -> Environment:
    """Return the Jinja2 environment of all templates. Jinja2 is imported here: most commands make no page."""
    import jinja2
    from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined
    from jinja2.bccache import Bucket
    from jinja2.ext import Extension
    from jinja2.lexer import Token, TokenStream

    class PageLayout(Extension):
        def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
            for token in stream:
                yield Token(token.lineno, "data", _LAYOUT.sub("", token.value)) if token.type == "data" else token

    class Compiled(BytecodeCache):
        """Keeps compiled templates beside the compiled modules of this package, if it may write there."""

        def get_source_checksum(self, source: str) -> str:
            return hashlib.sha256(f"{jinja2.__version__} {__version__} {own}\n{source}".encode()).hexdigest()

        def load_bytecode(self, bucket: Bucket) -> None:
            with suppress(OSError):
                found = (kept / f"{bucket.key}.jinja").read_bytes()
                digest, code = found[:32], found[32:]
                if hashlib.sha256(code).digest() == digest:  # damaged code may do anything
                    bucket.bytecode_from_string(code)

        def dump_bytecode(self, bucket: Bucket) -> None:
            if not sys.dont_write_bytecode:
                code = bucket.bytecode_to_string()
                with suppress(OSError):
                    write_atomic(kept / f"{bucket.key}.jinja", hashlib.sha256(code).digest() + code, 0o644)

    kept = Path(cache_from_source(__file__)).parent
    # What this module and `words` do with a template is part of its code.
    own = [Path(file).read_text(encoding="utf-8") for file in (__file__, words.__file__)]
    jinja = Environment(
        loader=FileSystemLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=[PageLayout],
        finalize=lambda value: f"{value:,}" if isinstance(value, int) else value,
        auto_reload=False,
        bytecode_cache=Compiled(),
    )
    jinja.filters |= {
        "clock": words.clock,
        "column_kind": lambda heading: "number" if heading.endswith("#") else "text",
        "duration": words.duration,
        "listed": words.listed,
        "plural": words.plural,
        "size": words.size,
        "some": some,
    }
    jinja.globals["LONGEST_LIST"] = LONGEST_LIST
    jinja.tests["web_or_file"] = lambda address: re.match("(https?|file)://", address) is not None
    return jinja


def some(numbers: Iterable[int], most: int = 20) -> str:
    """Return the first `most` numbers, with commas between them, and how many more there are."""
    known = [str(number) for number in numbers]
    return ", ".join(known[:most]) + (f" and {len(known) - most:,} more" if len(known) > most else "")
