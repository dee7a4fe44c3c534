"""Pages that stand alone: one HTML file without script or network, and its building blocks.

The Content-Security-Policy in a page's head forbids all but its own style. Whatever is not `Html` already is escaped
where it is put in, so text from files, tables and archives stays text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from datetime import datetime

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


class Html(str):
    """Text that is HTML already."""


def escape(value: object) -> Html:
    """A value as HTML; integers get their thousands apart, what HTML or UTF-8 cannot hold becomes U+FFFD."""
    if isinstance(value, Html):
        return value
    shown = f"{value:,}" if isinstance(value, int) else str(value)
    return Html(html.escape(re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", shown)))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts, escaped, with HTML `between` them."""
    return Html(between.join(escape(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """An element; everything in it is escaped. `class_` and `aria_label` give `class` and `aria-label`."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{join(content)}</{name}>")


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table whose first column names the line. A heading that ends in `#` is a column of numbers."""
    kinds = ["number" if name.endswith("#") else "text" for name in columns]
    heads = [tag("th", name.rstrip("#"), scope="col", class_=kind) for name, kind in zip(columns, kinds, strict=True)]
    lines = [
        tag(
            "tr",
            tag("th", row[0], scope="row", class_=kinds[0]),
            *(tag("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in rows
    ]
    whole = tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *lines),
    )
    return tag("div", whole, class_="scroll", role="region", tabindex="0", aria_label=caption)


def section(title: str, identifier: str, *content: object) -> Html:
    """A panel with a heading; `identifier` is its id, unique in the page."""
    return tag("section", tag("h2", title, id=identifier), *content, aria_labelledby=identifier)


def beside(*content: object) -> Html:
    """Two things side by side where there is room."""
    return tag("div", *content, class_="columns")


def badge(word: object, kind: str) -> Html:
    """A state; its kind gives the colour: good, fresh, listed, doubt, bad, empty or apart."""
    return tag("span", word, class_=f"badge {kind}")


def verdict(kind: str, word: str, *sentences: object) -> Html:
    """The outcome in a word and in sentences; its kind is complete (all well), incomplete or unbalanced (worst)."""
    sign = {"complete": "\u2713", "incomplete": "!", "unbalanced": "\u2260"}[kind]
    return tag(
        "div",
        tag("div", sign, class_="sign", aria_hidden="true"),
        tag("div", tag("p", word, class_="word"), *(tag("p", sentence) for sentence in sentences)),
        class_=f"verdict {kind}",
    )


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names and values in a row."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))


def bar(label: str, head: str, parts: Iterable[tuple[str, int, str]]) -> Html:
    """One bar of parts (name, count, kind as of a badge) with its legend; the numbers are in its text alternative too.

    Args:
        head: text at the right above the bar, such as the sum.
    """
    parts = [part for part in parts if part[1] > 0]
    total = sum(count for _, count, _ in parts)
    # One missing image of a million still shows: no part is narrower than 4 of 480.
    widths = [max(4.0, 480 * count / total) for _, count, _ in parts]
    drawn, left = [tag("rect", width=480, height=16, class_="ground")], 0.0
    for (_, _, kind), width in zip(parts, widths, strict=True):
        width *= 480 / sum(widths)
        drawn.append(tag("rect", x=f"{left:.1f}", width=f"{max(width - 1, 1):.1f}", height=16, class_=f"fill {kind}"))
        left += width
    said = listed([f"{count:,} {name}" for name, count, _ in parts]) or "none"
    shape = {"viewBox": "0 0 480 16", "preserveAspectRatio": "none"}
    picture = tag("svg", *drawn, **shape, role="img", aria_label=f"{label}: {said}")
    legend = [tag("span", tag("i", class_=f"dot {kind}"), f"{count:,} {name}") for name, count, kind in parts]
    return tag("div", tag("p", label, tag("b", head)), picture, tag("p", *(legend or [escape("none")])), class_="bar")


def link(words: object, to: str) -> Html:
    """A link to an http, https or file address; the words alone for any other."""
    return tag("a", words, href=to) if re.match("(https?|file)://", to) else escape(words)


def moment(iso: str) -> datetime | None:
    """An ISO 8601 time, None where the text is none."""
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        return None


def when(iso: str) -> Html:
    """An ISO 8601 time for people."""
    time = moment(iso)
    if time is None:
        return escape(iso or "not known")
    return tag("time", re.sub(r"(?=[+-]\d\d:\d\d$)", " ", time.isoformat(" ", "seconds")), datetime=iso)


def listed(parts: Sequence[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def page(
    title: str,
    heading: str,
    *sections: object,
    lead: Iterable[object] = (),
    footer: str = "",
    links: Sequence[Html] = (),
) -> str:
    """A whole page (UTF-8).

    Args:
        title: what the browser's tab says.
        sections: what the page is made of, each a `section`, or two `beside` each other.
        lead: what comes between heading and sections, such as `verdict` and `facts`.
        footer: a closing remark.
        links: elements of the head that load style and scripts, where a server that sets the policy gives them; by
            default the page stands alone.
    """
    policy = Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">')
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="referrer" content="no-referrer">'),
            tag("title", title),
            *(links or [policy, tag("style", Html(STYLE))]),
        ],
        "\n",
    )
    body = join(
        [
            tag("header", tag("h1", heading), *lead),
            tag("main", *sections),
            *([tag("footer", footer)] if footer else []),
        ],
        "\n",
    )
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


#: Style of the pages.
STYLE = """
:root { color-scheme: light dark; --page: #f4f6f8; --paper: #fff; --ink: #1b2733; --soft: #566575;
  --line: #d9e0e7; --band: #eef2f6; --good: #1f7a5c; --fresh: #2768b0; --listed: #4d6b8a; --doubt: #96610a;
  --bad: #b3261e; --empty: #5f6b78; --apart: #74528f; }
@media (prefers-color-scheme: dark) { :root { --page: #11171d; --paper: #18212a; --ink: #e4eaf0;
  --soft: #9dabb9; --line: #2f3b47; --band: #202b36; --good: #58c29b; --fresh: #76b0f1; --listed: #a3bdd8;
  --doubt: #e3b055; --bad: #f2877f; --empty: #a9b4bf; --apart: #c3a0df; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 14px/1.45 system-ui, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
main, header, footer { max-width: 1240px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 28px; } footer { padding-bottom: 36px; color: var(--soft); font-size: 12.5px; }
h1 { font-size: 21px; font-weight: 600; margin: 0 0 14px; letter-spacing: -.01em; }
h2 { font-size: 15.5px; font-weight: 600; margin: 0 0 10px; }
h3 { font-size: 13.5px; font-weight: 600; margin: 18px 0 6px; } h2 + h3 { margin-top: 0; }
p { margin: 0 0 4px; } ul { margin: 0; padding-left: 20px; }
section, .panel { background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
  padding: 16px 18px 18px; margin: 16px 0; min-width: 0; }
.verdict { display: flex; gap: 18px; align-items: center; background: var(--paper); border-radius: 6px;
  border: 1px solid var(--line); border-left: 6px solid var(--tone); padding: 16px 20px; }
.verdict.complete { --tone: var(--good); } .verdict.incomplete { --tone: var(--doubt); }
.verdict.unbalanced { --tone: var(--bad); }
.sign { flex: none; width: 42px; height: 42px; border-radius: 50%; background: var(--tone);
  color: var(--paper); font-size: 24px; font-weight: 700; line-height: 42px; text-align: center; }
.word { font-size: 19px; font-weight: 650; color: var(--tone); }
dl { display: flex; flex-wrap: wrap; gap: 6px 30px; margin: 14px 2px; }
dt { color: var(--soft); font-size: 12px; }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
a { color: var(--fresh); }
.columns { display: grid; grid-template-columns: minmax(0, 1.15fr) minmax(0, 1fr); gap: 0 28px;
  align-items: start; }
main > .columns { gap: 16px; align-items: stretch; } main > .columns > section { margin: 0; }
@media screen and (max-width: 860px) { .columns { grid-template-columns: minmax(0, 1fr); } }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { padding: 4px 9px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; }
thead th { color: var(--soft); font-weight: 500; font-size: 12px; vertical-align: bottom;
  border-bottom-color: var(--soft); }
tbody th { font-weight: 550; } tbody tr:hover { background: var(--band); }
td.number, tbody th.number { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
th.number:first-child { width: 3.5em; font-weight: 400; color: var(--soft); }
.text { min-width: 4em; } td.text { overflow-wrap: anywhere; }
.name { min-width: 21em; } .whole { white-space: nowrap; }
.badge { display: inline-block; padding: 0 7px; border: 1px solid; border-radius: 9px; font-size: 12px;
  line-height: 17px; white-space: nowrap; overflow-wrap: normal; }
.badge.empty { border-style: dashed; }
.good { color: var(--good); } .fresh { color: var(--fresh); } .listed { color: var(--listed); }
.doubt { color: var(--doubt); } .bad { color: var(--bad); } .empty { color: var(--empty); }
.apart { color: var(--apart); }
.key, .below, .faint, .note { color: var(--soft); } .key, .below { font-size: 12px; }
.note { margin-bottom: 10px; } .scroll + .note { margin: 10px 0 0; }
.balance { margin-top: 10px; font-variant-numeric: tabular-nums; font-weight: 550; }
figure { margin: 4px 0 0; } svg { display: block; width: 100%; height: 18px; }
.bar { margin-bottom: 22px; } .bar p { display: flex; flex-wrap: wrap; gap: 0 16px; font-size: 12.5px; }
.bar p:first-child { justify-content: space-between; font-size: 13px; }
.bar p:last-child { margin-top: 5px; color: var(--soft); }
.fill { fill: currentColor; } .ground { fill: var(--band); }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 2px; background: currentColor;
  margin-right: 5px; }
.signing { display: none; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
:focus-visible { outline: 2px solid var(--fresh); outline-offset: 2px; }
@media print {
  :root { color-scheme: light; --page: #fff; --paper: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --band: #eee; --good: #1f7a5c; --fresh: #2768b0; --listed: #4d6b8a; --doubt: #96610a; --bad: #b3261e;
    --empty: #5f6b78; --apart: #74528f; }
  @page { size: A4 landscape; margin: 12mm; }
  * { print-color-adjust: exact; }
  body { font-size: 9.5pt; } table { font-size: 8.5pt; }
  main, header, footer { max-width: none; padding: 0; }
  section { border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: 10px 0; margin: 8px 0; }
  .scroll { overflow: visible; } tr, figure, .verdict { break-inside: avoid; } h2, h3 { break-after: avoid; }
  thead { display: table-header-group; break-after: avoid; }
  .signing { display: flex; gap: 28px; margin: 26px 0 6px; }
  .signing span { flex: 1; border-top: 1px solid #000; padding-top: 3px; }
}
"""
