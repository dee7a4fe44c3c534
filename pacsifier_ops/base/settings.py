"""Settings. Each has a default that works, and an environment variable.

Settings with a * can also be set in the web interface, in the Airflow variable `pacsifier`: a JSON object with the
names in lower case and without the prefix, such as `{"max_series": 500}`. The variable applies to DAG runs, not to the
command line, and the environment takes precedence. Only the administrator of the machine sets folders: paths are
confined to them, and all processes must have the same ones.

| variable                    | default               | meaning                                        |
|-----------------------------|-----------------------|------------------------------------------------|
| PACSIFIER_HOME              | ~/pacsifier           | parent of the folders below                    |
| PACSIFIER_DATA_ROOT         | $PACSIFIER_HOME/data  | query tables and output folders of DAG runs    |
| PACSIFIER_STATE_ROOT        | $PACSIFIER_HOME/state | runs, ledger, leases: protected, outside data  |
| PACSIFIER_SPOOL             | <data root>/.spool    | objects received by the standing receiver      |
| PACSIFIER_NIGHTLY           | <data root>/nightly   | inbox and standing projects                    |
| PACSIFIER_NIGHTLY_SCHEDULE  | 0 20 * * *            | cron expression of the nights; off: never      |
| PACSIFIER_TIMEZONE *        | the system's          | of windows and nights, such as Europe/Zurich   |
| PACSIFIER_WINDOW *          | always open           | retrieval window of nodes without one          |
| PACSIFIER_MAX_SERIES *      | 10000                 | largest cohort of nodes without a limit        |
| PACSIFIER_TASKS *           | 500                   | most tasks that a step of a run is divided into |
| PACSIFIER_VERIFY_DAYS *     | 30                    | days after which all files are read again      |
| PACSIFIER_TELL *            | nobody                | who gets messages, see `telling`               |
| PACSIFIER_TELL_<DAG> *      | as PACSIFIER_TELL     | the same of one DAG: PACSIFIER_TELL_STUDY      |
| PACSIFIER_TELL_ABOUT *      | everything            | what messages are about, see `telling.ABOUT`   |
| PACSIFIER_MAIL *            | smtp_default          | connection by which mails are sent             |
| PACSIFIER_REMIND *          | 24                    | hours between reminders of a question; 0: none |
| PACSIFIER_DIGEST *          | 07:00                 | time of the message on the night; off: none    |
| PACSIFIER_MESSAGES_SCHEDULE | */5 * * * *           | cron expression of sending; off: never         |
| PACSIFIER_DATABASES *       | none                  | connections that query tables may come from    |
| PACSIFIER_GROUP             | nobody                | group that may read identifying data           |
| PACSIFIER_RELEASED_MODE     | by the umask          | mode of released files, such as 0640           |
| PACSIFIER_AUDIT             | <state root>/audit    | folder of the audit file                       |
| PACSIFIER_RIGHTS            | open                  | who may what a connection does not say         |
| PACSIFIER_OWNER             | pacsifier             | owner of our tasks in Airflow                  |
| PACSIFIER_TASK_HOURS        | 168                   | longest attempt of a task; 0: no limit         |
| PACSIFIER_RUN_DAYS          | 400                   | longest run; 0: no limit                       |

The time zone of the nights' schedule, the owner and the two limits are those of the environment: DAG files read them.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.files import data_file, group, private_folder
from pacsifier_ops.base.telling import ABOUT, recipients
from pacsifier_ops.base.window import Window, zone_of

#: Name of the Airflow variable, and the settings that it may contain.
VARIABLE = "pacsifier"
_OF_MESSAGES = ("tell", "tell_about", "mail", "remind", "digest")
_PLAIN = ("timezone", "window", "max_series", "tasks", "verify_days", *_OF_MESSAGES, "databases")
#: DAGs whose messages may have recipients of their own, without their prefix.
DAGS = (
    *(
        "anonymize",
        "convert",
        "dicomdir",
        "extract",
        "karnak",
        "move_dumps",
        "nightly",
        "probe",
        "pseudonymize",
        "reports",
    ),
    *("study", "upload"),
)
_OF_DAGS = tuple(f"tell_{dag}" for dag in DAGS)
NAMES = (*_PLAIN, *_OF_DAGS)

_variable: Mapping[str, Any] = {}


def use(variable: Mapping[str, Any]) -> None:
    """Use the values of the Airflow variable in this process; the environment takes precedence.

    Raises:
        ConfigError: it is no object, has an unknown name, or a value is neither text nor number. One of messages is
            left to their sender, see `check`.
    """
    if not isinstance(variable, Mapping):
        raise ConfigError(f"the Airflow variable {VARIABLE} is not a JSON object with settings of this package")
    if unknown := sorted(set(variable) - set(NAMES)):
        raise ConfigError(
            f"the Airflow variable {VARIABLE} has unknown settings: {', '.join(unknown)}; there are "
            f"{', '.join(_PLAIN)}, and tell_<dag>, such as tell_study"
        )
    wrong = sorted(
        name
        for name, value in variable.items()
        if name not in (*_OF_MESSAGES, *_OF_DAGS) and (isinstance(value, bool) or not isinstance(value, str | int))
    )
    if wrong:
        raise ConfigError(f"the Airflow variable {VARIABLE}: {', '.join(wrong)}: neither text nor a whole number")
    global _variable
    _variable = dict(variable)


def check() -> None:
    """Check the settings that a run depends on, so that a wrong one ends it before anything is asked or written.

    Those of messages are left to their sender: they must not keep a night from its work.

    Raises:
        ConfigError: some are wrong; says which, and what to do.
    """
    wrong = []
    for one in (timezone, _window, max_series, most_tasks, verify_days, rights_are_closed, group, data_file):
        try:
            one()
        except ConfigError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("; ".join(wrong))


def _text(name: str) -> str:
    """Return a setting as given, or empty."""
    return (os.environ.get(f"PACSIFIER_{name.upper()}") or str(_variable.get(name, ""))).strip()


def _path(name: str, default: Path) -> Path:
    return Path(os.environ.get(f"PACSIFIER_{name.upper()}") or default).expanduser().absolute()


def home() -> Path:
    """Return the parent of the default folders."""
    return _path("home", Path.home() / "pacsifier")


def data_root() -> Path:
    """Return the folder to which paths of a DAG run are confined."""
    return _path("data_root", home() / "data")


def state_root() -> Path:
    """Return the protected folder (0700) of everything that identifies patients outside the data sets.

    Raises:
        ConfigError: it cannot be created.
    """
    folder = _path("state_root", home() / "state")
    try:
        return private_folder(folder)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ConfigError(f"PACSIFIER_STATE_ROOT: {folder} cannot be made: {why}; name another folder") from error


def spool() -> Path:
    """Return the spool of the standing receiver, on the data sets' file system, so that publishing is a rename."""
    return _path("spool", data_root() / ".spool")


def audit() -> Path:
    """Return the folder of the audit file."""
    return _path("audit", state_root() / "audit")


def rights_are_closed() -> bool:
    """Return whether nobody may do with a connection what it does not say.

    Raises:
        ConfigError: the setting is neither `open` nor `stated`.
    """
    text = os.environ.get("PACSIFIER_RIGHTS", "").strip().lower() or "open"
    if text not in ("open", "stated"):
        raise ConfigError(
            "PACSIFIER_RIGHTS is neither open (everybody may what a connection does not say) nor stated (nobody may)"
        )
    return text == "stated"


def nightly() -> Path:
    """Return the folder of the inbox and the standing projects of nightly runs."""
    return _path("nightly", data_root() / "nightly")


def timezone() -> ZoneInfo | None:
    """Return the time zone of retrieval windows and nights; None is the system's.

    Raises:
        ConfigError: there is no zone of that name.
    """
    with _placed("timezone"):
        return zone_of(_text("timezone"))


def window() -> str:
    """Return the retrieval window of nodes without one; empty: always open."""
    return _text("window")


def _window() -> Window:
    """Return the same as it is parsed.

    Raises:
        ConfigError: it is none.
    """
    with _placed("window"):
        return Window.parse(window())


def nightly_schedule() -> str | None:
    """Return the cron expression of the nights; None is never.

    Raises:
        ConfigError: it is neither a cron expression nor `off`.
    """
    return _schedule("nightly_schedule", "0 20 * * *")


def messages_schedule() -> str | None:
    """Return the cron expression of sending messages; None is never. Raises as `nightly_schedule` does."""
    return _schedule("messages_schedule", "*/5 * * * *")


def _schedule(name: str, default: str) -> str | None:
    text = os.environ.get(f"PACSIFIER_{name.upper()}", "").strip() or default
    if text.lower() == "off":
        return None
    if len(text.split()) != 5:
        raise ConfigError(f"{name} is no cron expression of five parts, such as {default}, and not off")
    return text


def tell(dag_id: str) -> tuple[str, ...]:
    """Return who gets the messages of a DAG.

    Raises:
        ConfigError: one is neither a mail address nor the id of a connection.
    """
    name = f"tell_{dag_id.removeprefix('pacsifier_')}"
    return recipients(_text(name), name) if name in NAMES and _text(name) else recipients(_text("tell"), "tell")


def tell_about() -> frozenset[str]:
    """Return what messages are about.

    Raises:
        ConfigError: a word is none of `telling.ABOUT`.
    """
    words = re.split(r"[\s,;]+", _text("tell_about") or " ".join(ABOUT))
    if unknown := [word for word in words if word not in ABOUT]:
        raise ConfigError(f"tell_about: {len(unknown)} word(s) are not known; there are {', '.join(ABOUT)}")
    return frozenset(words)


def mail() -> str:
    """Return the id of the connection of type smtp by which mails are sent."""
    return _text("mail") or "smtp_default"


def remind() -> dt.timedelta:
    """Return the time between reminders of an open question; 0 is none.

    Raises:
        ConfigError: it is not a whole number of hours.
    """
    return dt.timedelta(hours=_whole("remind", 24, 0))


def digest() -> dt.time | None:
    """Return the time of day, in the zone of the nights, of the message on a night; None is no such message.

    Raises:
        ConfigError: it is neither a time before noon, such as 07:00, nor `off`.
    """
    text = _text("digest") or "07:00"
    if text.lower() == "off":
        return None
    if not (found := re.fullmatch(r"(0?\d|1[01]):([0-5]\d)", text)):
        raise ConfigError("digest is neither a time before noon, such as 07:00, nor off")
    return dt.time(int(found[1]), int(found[2]))


def databases() -> frozenset[str]:
    """Return the ids of the connections that query tables may come from.

    A user who may start a run names a connection, and Airflow has others than those of researchers' databases.
    """
    return frozenset(re.split(r"[\s,;]+", _text("databases"))) - {""}


def max_series() -> int:
    """Return the largest cohort of nodes without a limit of their own.

    Raises:
        ConfigError: it is not a whole number above 0.
    """
    return _whole("max_series", 10000, 1)


def most_tasks() -> int:
    """Return the largest number of tasks that a step of a run is divided into. There is no use in more than 500.

    Raises:
        ConfigError: it is not a whole number above 0.
    """
    return _whole("tasks", 500, 1)


def verify_days() -> int:
    """Return the days after which files are read again that seem to be as they were; 0: in every run.

    Raises:
        ConfigError: it is not a whole number.
    """
    return _whole("verify_days", 30, 0)


def owner() -> str:
    """Return the owner of our tasks in Airflow."""
    return _text("owner") or "pacsifier"


def longest_attempt() -> dt.timedelta | None:
    """Return after what time Airflow ends an attempt of a task; None: never.

    A task that hangs holds a slot of its archive for ever. What goes on legitimately must not be ended: network and
    disk have limits of their own, so this one is far beyond a night, and beyond a weekend of a closed window, in case
    a version of Airflow counts the time in which a task is deferred. The next attempt goes on where this one ended.

    Raises:
        ConfigError: it is not a whole number.
    """
    return dt.timedelta(hours=hours) if (hours := _whole("task_hours", 168, 0)) else None


def longest_run() -> dt.timedelta | None:
    """Return after what time Airflow ends a run; None: never.

    A run may wait a year for the answer of a person (`runs.approvals.LONGEST_PATIENCE`), and for its window. Airflow
    ends it without its last task, so without a report.

    Raises:
        ConfigError: it is not a whole number.
    """
    return dt.timedelta(days=days) if (days := _whole("run_days", 400, 0)) else None


def _whole(name: str, default: int, least: int) -> int:
    text = _text(name) or str(default)
    if not (text.isascii() and text.isdigit() and len(text) < 13 and int(text) >= least):
        raise ConfigError(
            f"{name} is not a whole number{f' above {least - 1}' if least else ''}; correct {_place_of(name)}"
        )
    return int(text)


@contextmanager
def _placed(name: str) -> Iterator[None]:
    """Add the place of a setting to the error that it is wrong."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{error}; correct {_place_of(name)}") from None


def _place_of(name: str) -> str:
    """Return where a setting is given, for errors."""
    variable = f"PACSIFIER_{name.upper()}"
    return variable if os.environ.get(variable) else f"it in the Airflow variable {VARIABLE}"
