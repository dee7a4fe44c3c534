"""Options of jobs. Each is defined in one place, as a field of the job's request.

A field made by `option` carries its title, help, bounds and choices. From these derive the form of the DAG
(`operators.params.form`), the flags of the command (`cli.options.add_flags`), the keys of files that people write
(`query.options.read_options`), and the request of a run (`request_of`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.files import confined
from pacsifier_ops.base.places import refuse_reserved, refuse_unreleased


class Section(StrEnum):
    """The sections of all forms, in order."""

    WHAT = "What"
    WHERE_FROM = "From which PACS"
    SOURCE = "Where pseudonyms come from"
    LOOK = "What pseudonyms look like (only with local)"
    BECOMES = "What it becomes"
    RELEASE = "Who releases it"
    WHERE_TO = "Where to"
    WHO = "Who becomes whom"
    RULES = "What is kept"
    HOW = "How strict"


#: Where an option can stand: in the form of a DAG, and in the files that people write.
IN_FORM, IN_FILE = "form", "file"
EVERYWHERE = (IN_FORM, IN_FILE)

#: Key of what a study tells its stages beside their options: its folder, below the data root.
OWNER = "owner"

# Paths, as a request holds them


def data_path(value: str, name: str) -> Path:
    """Return a path below the data root.

    Args:
        name: of the option.

    Raises:
        PathRefused: it leads outside.
        ConfigError: it is empty.
    """
    if not value:
        raise ConfigError(f"{name} is empty; give a path below the data root")
    return confined(value, settings.data_root(), name)


def source_folder(value: str, name: str, study: str = "") -> Path:
    """Return a folder to read from, which holds nothing that a study has not released (see `places`).

    Raises as `data_path` does.

    Args:
        study: folder of the study that the job belongs to, below the data root; empty: none.
    """
    return refuse_unreleased(data_path(value, name), name, study)


def result_folder(value: str, name: str, study: str = "") -> Path:
    """Return a folder to write to, which belongs to nobody else (see `places`). Raises as `data_path` does."""
    return refuse_reserved(data_path(value, name), name, study)


def any_file(value: str, name: str, study: str = "") -> str:
    """Return any other path, as text. Raises as `data_path` does."""
    return str(data_path(value, name))


#: Stands for a default that nobody has given.
NOT_GIVEN: Any = object()


@dataclass(frozen=True)
class Flag:
    """How a command takes an option.

    Attributes:
        help: its text in the command's help; empty: another job of the same command has it.
        short: a second, short name, such as -d.
        name: where that is not the option's.
        metavar: stands for the value in help; empty: the name.
        default: where it is not the request's.
        required: it has to be given.
        extra: PACSIFIER has no such flag.
        off: it switches off what is on by itself.
        free: the bounds of a number are the form's alone.
    """

    help: str = ""
    short: str = ""
    name: str = ""
    metavar: str | None = None
    default: Any = NOT_GIVEN
    required: bool = False
    extra: bool = False
    off: bool = False
    free: bool = False


@dataclass(frozen=True)
class Option:
    """An option of a job.

    Attributes:
        title, help, section: in a form.
        default: in a form; NOT_GIVEN: it has to be given.
        name: its key in forms and files.
        attribute, holds, initial: the request's field, its type and its default; NOT_GIVEN: it has none.
        kind: bool, int, float or str; `several`: a list of these.
        joined: one text or a list, which is kept as one text with commas.
        choices: what a text may be, each with a sentence.
        unsaid: the sentence that a form shows for no choice.
        least, most: the smallest and the largest number; a float is above `least`.
        shortest, longest, pattern: of a text, in characters; 0: no bound of its own.
        date: the text is a date, YYYY-MM-DD.
        path: makes a path of a text, from that, the option's name and the folder of the study that asks.
        like: name of the option whose value it takes if it is not given.
        after: name of the option that it goes with, behind which it stands.
        stands: where it stands, of EVERYWHERE.
        node: whether it names a connection of type dicom; if `joined`, several.
        receives: the connection may be of any type that can be sent to.
        flag: of the command; None: it has none.
    """

    title: str = ""
    help: str = ""
    section: Section = Section.WHAT
    default: Any = NOT_GIVEN
    name: str = ""
    attribute: str = ""
    kind: type = str
    initial: Any = NOT_GIVEN
    holds: str = "str"
    several: bool = False
    joined: bool = False
    choices: Mapping[str, str] = field(default_factory=dict)
    unsaid: str = ""
    least: int = 1
    most: int = 10**9
    shortest: int = 1
    longest: int = 0
    pattern: str = ""
    date: bool = False
    path: Callable[[str, str, str], Any] | None = None
    like: str = ""
    after: str = ""
    stands: tuple[str, ...] = EVERYWHERE
    node: bool = False
    receives: bool = False
    flag: Flag | None = None

    @property
    def optional(self) -> bool:
        """Whether a form may leave it empty."""
        nothing = "" if self.kind is str and self.shortest else 0 if self.kind is int and self.least else None
        return self.default is None or (not isinstance(self.default, bool) and self.default == nothing)

    @property
    def is_path(self) -> bool:
        """Whether it is a path and nothing else."""
        return self.holds == "Path" or self.path is any_file

    def fitting(self, value: Any) -> Any:
        """Return the value, if it is of the kind that the option wants.

        Raises:
            ValueError: it is of another kind; says what is wanted, without the value.
        """
        if self.joined and isinstance(value, list | tuple):
            return ", ".join(str(self._one(item)) for item in value)
        if not self.several:
            return self._one(value)
        if not isinstance(value, list | tuple):
            raise ValueError("not a list; write [one, another]")
        return tuple(self._one(item) for item in value)

    def _one(self, value: Any) -> Any:
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError("neither true nor false")
            return value
        if self.kind is not str:
            return self._number(value)
        if self.choices and not (isinstance(value, str) and value in self.choices):
            raise ValueError(f"none of {', '.join(self.choices)}")
        if self.date:
            return _date(value)
        if type(value) is not str:
            raise ValueError("not text; put it in quotes")
        return value

    def _number(self, value: Any) -> int | float:
        if self.kind is float and type(value) is float and self.least < value <= self.most:
            return value
        text = str(value)
        low = self.least + (self.kind is float)
        if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) >= low):
            raise ValueError("not a whole number" + (f" above {low - 1}" if low else ""))
        if int(text) > self.most:
            raise ValueError(f"above {self.most:,}")
        return int(text)


def _date(value: Any) -> str:
    with suppress(ValueError):
        if (day := dt.date.fromisoformat(str(value)).isoformat()) == value:  # other forms of ISO 8601 are refused
            return day
    raise ValueError("no date; write it as YYYY-MM-DD")


def option(
    title: str = "",
    help: str = "",
    section: Section = Section.WHAT,
    *,
    default: Any = NOT_GIVEN,
    form: Any = NOT_GIVEN,
    **more: Any,
) -> Any:
    """Make a field of a request that is an option.

    Args:
        default: of the field; without, it has to be given.
        form: default in the form of the DAG, where that is another.
        more: attributes of `Option`.
    """
    shown = default if form is NOT_GIVEN else form
    return _field(default, Option(title, help, section, shown, **more))


def _field(default: Any, described: Option) -> Any:
    return field(default=MISSING if default is NOT_GIVEN else default, metadata={"option": described})


def flag_only(default: Any, flag: Flag, **more: Any) -> Any:
    """Make a field of a request that only a command asks for."""
    return option(default=default, stands=(), flag=flag, **more)


def same(request: type, name: str, default: Any = NOT_GIVEN, **other: Any) -> Any:
    """Make a field that is the option of another request, but for what is given here.

    Args:
        default: of the field; by itself that of the form, or what is empty where that is left empty.
        other: attributes of `Option`.
    """
    described = options(request)[name]
    if default is NOT_GIVEN:
        default = described.kind() if described.default in (None, NOT_GIVEN) else described.default
    other = {"flag": None, "name": "", "stands": EVERYWHERE, **other}
    return _field(default, replace(described, default=default, **other))


_KINDS: Mapping[str, type] = {"bool": bool, "int": int, "float": float}


def options(request: type) -> Mapping[str, Option]:
    """Return the options of a request by name, in order."""
    found = [_with_kind(one) for one in fields(request) if "option" in one.metadata]
    places = {one.name: place for place, one in enumerate(found)}
    found.sort(key=lambda one: (places.get(one.after, places[one.name]), bool(one.after)))
    return {one.name: one for one in found}


def _with_kind(one: Field[Any]) -> Option:
    described: Option = one.metadata["option"]
    kind = str(one.type).removesuffix(" | None")
    return replace(
        described,
        attribute=one.name,
        name=described.name or one.name,
        kind=_KINDS.get(kind, str),
        initial=NOT_GIVEN if one.default is MISSING else one.default,
        holds=kind,
        several=kind.startswith("tuple"),
    )


def standing(request: type, where: str) -> dict[str, Option]:
    """Return the options of a request that stand in forms, or in files."""
    return {name: one for name, one in options(request).items() if where in one.stands}


def params_of(request: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params of a run: the given values by the names of its options, and else the defaults of the form."""
    values = {name: (one, given.get(name, one.default)) for name, one in standing(request, IN_FORM).items()}
    return {name: None if one.optional and value in ("", 0) else value for name, (one, value) in values.items()}


def checked_params(request: type, of_run: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params of a job in somebody's own DAG, by the names of its options.

    Args:
        of_run: params of the DAG run; arguments: of the job, which hold before them. None: not given. Text stands for
            true, false and numbers too, as templates give it.

    Raises:
        ConfigError: names the option whose value is of the wrong kind.
    """
    given: dict[str, Any] = {}
    for name, one in standing(request, IN_FORM).items():
        value = next((v for v in (arguments.get(name), of_run.get(name)) if v is not None), None)
        if value is None:
            continue
        given[name] = value = _of_text(one, value)
        try:
            if value != "":
                one.fitting(value)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
    return {name: None if value is NOT_GIVEN else value for name, value in params_of(request, given).items()}


def _of_text(one: Option, value: Any) -> Any:
    if isinstance(value, str) and one.kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, str) and one.kind is float:
        with suppress(ValueError):
            return float(value)
    return value


R = TypeVar("R")


def request_of(request: type[R], params: Mapping[str, Any], **more: Any) -> R:
    """Return the request of a run, made of its params. What is not given has the default of the request.

    Args:
        params: by name of the option; None: not given. OWNER among them is the folder of the study.
        more: fields of the request that the caller knows.

    Raises:
        ConfigError: names the option that is missing, or of the wrong kind.
        PathRefused: names the option whose path leads outside the data root, or belongs to somebody else.
    """
    values = dict(more)
    for name, one in standing(request, IN_FORM).items():
        if one.attribute in values:
            continue
        value = params.get(name)
        if value in (None, "") and one.like:
            name, value = one.like, params.get(one.like)
        if value is None or (value == "" and one.shortest):
            if one.initial is not NOT_GIVEN:
                continue
            if one.path is None:
                raise ConfigError(f"{name} is missing")
            value = ""
        try:
            value = one.fitting(value)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
        values[one.attribute] = one.path(value, name, params.get(OWNER, "")) if one.path else value
    return request(**values)
