"""Options for reading a query table, where its content is ambiguous."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pacsifier_ops.base.errors import ConfigError

#: Treatments of hidden rows of a workbook.
REFUSE, INCLUDE, SKIP = "refuse", "include", "skip"
#: Meaning of `*` and `?` in a cell: wildcards, or ordinary characters.
WILDCARDS, EXACT = "wildcards", "exact"
#: Date formats beside YYYYMMDD.
DATE_FORMATS = tuple(
    order.replace(" ", divider) for order in ("DD MM YYYY", "MM DD YYYY", "YYYY MM DD") for divider in "./-"
)

#: Values of each option; empty where any text is allowed.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "sheet": (),
    "hidden_rows": (REFUSE, INCLUDE, SKIP),
    "date_format": DATE_FORMATS,
    "match": (WILDCARDS, EXACT),
}

_PARTS = {"YYYY": r"(?P<year>\d{4})", "MM": r"(?P<month>\d{1,2})", "DD": r"(?P<day>\d{1,2})"}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options for reading a table. The request of a run inherits them, and the functions that read a table take them.

    Attributes:
        sheet: name of the workbook's sheet with the table, or its number from 1; empty: the visible sheet that has
            known columns.
        hidden_rows: treatment of hidden rows of a workbook: REFUSE (or empty), INCLUDE or SKIP.
        date_format: format of dates that are not YYYYMMDD, one of DATE_FORMATS; empty: none.
        match: WILDCARDS (or empty) or EXACT.
    """

    sheet: str = ""
    hidden_rows: str = ""
    date_format: str = ""
    match: str = ""

    def __post_init__(self) -> None:
        """Refuse unknown values.

        Raises:
            ConfigError: names the option and its values.
        """
        for name, choices in CHOICES.items():
            if choices and getattr(self, name) not in ("", *choices):
                raise ConfigError(f"{name} is none of {', '.join(choices)}")

    @property
    def exact(self) -> bool:
        """Whether `*` and `?` are ordinary characters."""
        return self.match == EXACT

    def options(self) -> dict[str, str | None]:
        """Return the options by name, as params of a run; None for those that are not set."""
        return {name: getattr(self, name) or None for name in CHOICES}

    def dicom_dates(self, text: str) -> str:
        """Return a cell of dates, with dates in the format of `date_format` as YYYYMMDD."""
        if not self.date_format:
            return text
        date = re.sub("|".join(_PARTS), lambda part: _PARTS[part[0]], re.escape(self.date_format))
        return re.sub(
            rf"(?<!\d){date}(?!\d)",
            lambda found: f"{found['year']}{found['month']:0>2}{found['day']:0>2}",
            text,
            flags=re.ASCII,
        )


#: Default options.
AS_IT_IS = Reading()


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `Reading` among these params, keys or flags."""
    return {name: values[name] for name in CHOICES if values.get(name)}
