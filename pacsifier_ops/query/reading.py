"""How a query table is read, where what people have written could be read in more than one way."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.options import Flag, any_file, option, options
from pacsifier_ops.query.columns import Pair, column_map
from pacsifier_ops.query.keys import column_of

#: What becomes of rows of a workbook that are hidden.
REFUSE, INCLUDE, SKIP = "refuse", "include", "skip"
#: What `*` and `?` are in a cell: wildcards, or characters like all others.
WILDCARDS, EXACT = "wildcards", "exact"
#: How dates may be written beside YYYYMMDD.
DATE_FORMATS = tuple(
    order.replace(" ", divider) for order in ("DD MM YYYY", "MM DD YYYY", "YYYY MM DD") for divider in "./-"
)

_PARTS = {"YYYY": r"(?P<year>\d{4})", "MM": r"(?P<month>\d{1,2})", "DD": r"(?P<day>\d{1,2})"}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The options of reading a table. What takes a table takes them, so that the request of a run is one of these.

    Where nothing is said, and no request that was taken in says it: the sheet is the one that is seen and names columns
    of ours, hidden rows are refused, no other dates are read, `*` and `?` are wildcards.
    """

    sheet: str = option(
        "Sheet",
        "Only of a workbook: number of the sheet with the table, or its name. Empty: the one that is seen and names "
        "columns of a query table.",
        default="",
        after="queryfile",
        flag=Flag("sheet of the workbook with the table, by name or number from 1", extra=True),
    )
    hidden_rows: str = option(
        "Hidden rows",
        "Only of a workbook: what becomes of rows that a filter, or somebody, has hidden.",
        default="",
        choices={
            REFUSE: "they are bad rows",
            INCLUDE: "they count like the others",
            SKIP: "they are left out",
        },
        unsaid="as handed in, else refuse",
        after="queryfile",
        flag=Flag(
            "hidden rows of a workbook are bad (refuse), count like the others, or are left out (skip)", extra=True
        ),
    )
    date_format: str = option(
        "Dates",
        "How the table has dates that are not YYYYMMDD; nothing is guessed.",
        default="",
        choices=dict.fromkeys(DATE_FORMATS, ""),
        unsaid="as handed in, else YYYYMMDD only",
        after="queryfile",
        flag=Flag(
            f"how the table has dates that are not YYYYMMDD: {', '.join(DATE_FORMATS)}", metavar="FORMAT", extra=True
        ),
    )
    match: str = option(
        "Wildcards",
        "For PatientIDs that hold * or ?: exact.",
        default="",
        choices={
            WILDCARDS: "* is any characters, ? any one",
            EXACT: "* and ? are characters like all others",
        },
        unsaid="as handed in, else wildcards",
        after="queryfile",
        flag=Flag("what * and ? are: wildcards, or (exact) characters like all others", extra=True),
    )
    columns: str = option(
        "Columns",
        "Which columns of the table are ours, if they have other names: PatientID = mrn, row_id = case_no, "
        "anchor_date = operation_date. All other columns then go into the protected linker only. Airflow keeps this "
        "text: instead of a name that identifies somebody, give the column's number from 1.",
        default="",
        after="queryfile",
        flag=Flag(
            "which columns of the table are ours: 'PatientID = mrn, row_id = case_no'", metavar="MAP", extra=True
        ),
    )
    sql: str = option(
        "SQL query",
        "Path below the data root of a .sql file with one SELECT; its result is the query table. It is asked of the "
        "query table's file (DuckDB, csv or Parquet), or of the connection below.",
        default="",
        path=any_file,
        after="queryfile",
        flag=Flag("file with one SELECT over the table's file (DuckDB, csv, Parquet)", metavar="FILE", extra=True),
    )
    sql_conn: str = option(
        "Database",
        "Only with an SQL query: id of a connection of Airflow to a database (PostgreSQL, SQL Server, SQLite, …), "
        "among those that the setting databases names. Then there is no query table's file.",
        default="",
        after="queryfile",
    )

    def __post_init__(self) -> None:
        """Refuse values that there are not.

        Raises:
            ConfigError: names the option and its values.
        """
        for name, choices in CHOICES.items():
            if choices and getattr(self, name) not in ("", *choices):
                raise ConfigError(f"{name} is none of {', '.join(choices)}")
        column_map(self.columns)
        if self.sql_conn and not self.sql:
            raise ConfigError("sql_conn is a database to ask, and sql is missing: the file with the query")
        if self.sql and self.sheet:
            raise ConfigError("sheet is of a workbook, which no SQL query can be asked of; leave sheet or sql out")

    @property
    def map(self) -> tuple[Pair, ...]:
        """The pairs of the column map."""
        return column_map(self.columns)

    def knows(self, name: str) -> bool:
        """Whether a table's column of this name is one of ours, or mapped to one."""
        return bool(column_of(name)) or any(pair.theirs.casefold() == name.casefold() for pair in self.map)

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


#: The values of each option; none where any text will do.
CHOICES: Mapping[str, Collection[str]] = {name: one.choices for name, one in options(Reading).items()}

#: Where nobody has said anything.
AS_IT_IS = Reading()


def contradictions(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and message of an option of reading a table that does not go with the others."""
    try:
        Reading(**given(values))
    except ConfigError as error:
        key = str(error).split()[0].rstrip(":")
        yield key, str(error).removeprefix(key).lstrip(": ")


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of reading a table that these params, keys or flags give."""
    return {name: values[name] for name in CHOICES if values.get(name)}
