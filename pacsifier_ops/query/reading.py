"""How a query table is read, where what people have written could be read in more than one way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pacsifier_ops.base.errors import ConfigError

#: What becomes of rows of a workbook that are hidden.
REFUSE, INCLUDE, SKIP = "refuse", "include", "skip"
#: What `*` and `?` are in a cell: wildcards, or characters like all others.
WILDCARDS, EXACT = "wildcards", "exact"
#: How dates may be written beside YYYYMMDD.
DATE_FORMATS = tuple(
    order.replace(" ", divider) for order in ("DD MM YYYY", "MM DD YYYY", "YYYY MM DD") for divider in "./-"
)

#: The values of each option; none where any text will do.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "sheet": (),
    "hidden_rows": (REFUSE, INCLUDE, SKIP),
    "date_format": DATE_FORMATS,
    "match": (WILDCARDS, EXACT),
}

_PARTS = {"YYYY": r"(?P<year>\d{4})", "MM": r"(?P<month>\d{1,2})", "DD": r"(?P<day>\d{1,2})"}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The options of reading a table. What takes a table takes them, so that the request of a run is one of these.

    Attributes:
        sheet: the workbook's sheet with the table, by its name or its number from 1; empty: the one that is seen and
            names columns of ours.
        hidden_rows: what becomes of hidden rows of a workbook: REFUSE (or empty), INCLUDE or SKIP.
        date_format: how dates are written where they are not YYYYMMDD, of DATE_FORMATS; empty: no other way.
        match: WILDCARDS (or empty) or EXACT.
    """

    sheet: str = ""
    hidden_rows: str = ""
    date_format: str = ""
    match: str = ""

    def __post_init__(self) -> None:
        """Refuse values that there are not.

        Raises:
            ConfigError: names the option and its values.
        """
        for name, choices in CHOICES.items():
            if choices and getattr(self, name) not in ("", *choices):
                raise ConfigError(f"{name} is none of {', '.join(choices)}")

    @property
    def exact(self) -> bool:
        """Whether `*` and `?` are characters like all others."""
        return self.match == EXACT

    def options(self) -> dict[str, str | None]:
        """The options by name, as params of a run; None for those that nobody has given."""
        return {name: getattr(self, name) or None for name in CHOICES}

    def dicom_dates(self, text: str) -> str:
        """A cell of dates, each of them that is written in the format as YYYYMMDD."""
        if not self.date_format:
            return text
        date = re.sub("|".join(_PARTS), lambda part: _PARTS[part[0]], re.escape(self.date_format))
        return re.sub(
            rf"(?<!\d){date}(?!\d)",
            lambda found: f"{found['year']}{found['month']:0>2}{found['day']:0>2}",
            text,
            flags=re.ASCII,
        )


#: Where nobody has said anything.
AS_IT_IS = Reading()


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of reading a table that these params, keys or flags give."""
    return {name: values[name] for name in CHOICES if values.get(name)}
