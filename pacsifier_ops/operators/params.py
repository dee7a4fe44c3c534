"""The params and trigger forms of the DAGs, made of the options of their requests (see `base.options`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import Param

from pacsifier_ops import __version__
from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError, InputError, not_known
from pacsifier_ops.base.options import IN_FORM, NOT_GIVEN, Option, Section, standing

#: `map_index_template` of mapped tasks. Airflow renders it when a task begins, and again when it ends.
LABEL = "{{ task.map_label(dag_run) }}"

#: Draft of JSON Schema. Airflow checks the schema of each param several times in each task, which takes three times as
#: long with a later draft.
_DRAFT = "http://json-schema.org/draft-07/schema#"

_TYPES: Mapping[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def common(version: str, longest: timedelta | None = None) -> dict[str, Any]:
    """Return the arguments that all DAGs of the package have: owner, tries and limits of their tasks and runs.

    Args:
        version: version of the package that the DAG file belongs to.
        longest: time after which Airflow ends a run; None: that of the settings.

    Raises:
        ConfigError: another version is installed, which Airflow shows as an import error; or a setting is wrong.
    """
    if version != __version__:
        raise ConfigError(
            f"this file belongs to version {version} of pacsifier-ops, and {__version__} is installed; "
            "`pacsifier-init --dags FOLDER` puts the files of the installed version into a folder"
        )
    return {
        "default_args": {"owner": settings.owner(), **of_tasks()},
        "dagrun_timeout": longest or settings.longest_run(),
    }


def of_tasks() -> dict[str, Any]:
    """Return default arguments of tasks: how Airflow tries again after a temporary error, and the limit of an attempt.

    Raises:
        ConfigError: a setting is wrong.
    """
    again = {"retries": 3, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True}
    return {**again, "execution_timeout": settings.longest_attempt()}


def form(request: type) -> dict[str, Param]:
    """Return the params of a DAG, in the order of sections. Each DAG needs its own: runs may change their params.

    Args:
        request: class of the request of the job.
    """
    order = list(Section)
    shown = sorted(standing(request, IN_FORM).items(), key=lambda item: order.index(item[1].section))
    return {name: _param(one) for name, one in shown}


def _param(one: Option) -> Param:
    schema = {"$schema": _DRAFT, "title": one.title, "description": one.help, "section": str(one.section), **_kind(one)}
    if one.default is NOT_GIVEN:
        return Param(**schema)
    return Param(None if one.optional else [*one.default] if one.several else one.default, **schema)


def _kind(one: Option) -> dict[str, Any]:
    """Return the JSON Schema of an option's values."""
    if one.several:
        items = {"type": _TYPES[one.kind], **({"enum": [*one.choices]} if one.choices else {})}
        return {"type": "array", "items": items, **({"examples": [*one.choices]} if one.choices else {})}
    if one.choices:
        shown = {value: f"{value}: {text}" if text else value for value, text in one.choices.items()}
        if not one.optional:
            return {"enum": [*one.choices], "values_display": shown}
        return {"enum": [None, *one.choices], "values_display": {"null": one.unsaid, **shown}}
    kinds = [*["null"] * one.optional, _TYPES[one.kind], *["array"] * one.joined]
    date = {"format": "date"} if one.date else {}
    return {"type": kinds if len(kinds) > 1 else kinds[0], **date, **_bounds(one)}


def _bounds(one: Option) -> dict[str, Any]:
    if one.kind is int:
        return {"minimum": one.least, "maximum": one.most}
    if one.kind is float:
        return {"exclusiveMinimum": one.least, "maximum": one.most}
    found = {"minLength": 0 if one.optional else one.shortest, "maxLength": one.longest, "pattern": one.pattern}
    return {name: bound for name, bound in found.items() if bound and one.kind is str}


def check_conf(context: Any) -> None:
    """Refuse wrong settings, and keys in the conf of a run that are no params of its DAG; Airflow itself accepts them.

    Raises:
        ConfigError: see `settings.check`.
        InputError: names the keys, and for each the param that was probably meant.
    """
    settings.check()
    known = set(context["dag"].params)
    unknown = [key for key in context["dag_run"].conf or {} if key not in known]
    if unknown:
        raise InputError(f"conf: {'; '.join(not_known(key, known) for key in unknown)}; nothing was done")
