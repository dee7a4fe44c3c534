"""The retrieval window: when it is open, and that images are transferred then only."""

from __future__ import annotations

import datetime as dt
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from pacsifier_ops.archive.attempts import AtNode
from pacsifier_ops.base.config import PacsNode, node_from_connection
from pacsifier_ops.base.errors import Cancelled, ConfigError, Later, WindowClosed
from pacsifier_ops.base.files import read_jsonl
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.window import Window
from pacsifier_ops.cli.crew import Crew
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.receiving import series_lease
from pacsifier_ops.runs.accounts import COMPLETE, SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import NOT_ATTEMPTED
from pacsifier_ops.state.leases import Lease, shared
from pacsifier_ops.upload import steps as upload
from pacsifier_ops.upload.run import UploadRequest
from tests.support.command import finish, start, write_table
from tests.support.embedded import extract, log_of, node_of, planned_run, series, serving

ZURICH = ZoneInfo("Europe/Zurich")

# The times


def opens(text: str, shown: str, weekends: bool = False, fold: int = 0) -> str:
    """When the window opens, seen at a time shown by the clock in Zurich; empty if it is open."""
    now = dt.datetime.fromisoformat(shown).replace(tzinfo=ZURICH, fold=fold).astimezone(dt.UTC)
    moment = Window.parse(text, weekends, ZURICH).opens_at(now)
    return moment.strftime("%m-%d %H:%M:%S %Z") if moment else ""


@pytest.mark.parametrize(
    ("text", "hours", "ends"),
    [
        ("", 50, "01-12 14:00"),
        ("20:00-06:00", 1, "01-10 21:00"),
        ("20:00-06:00", 10, "01-11 06:00"),
        ("20:00-06:00", 11, "01-11 21:00"),
        ("11:00-13:00, 20:00-06:00", 11.5, "01-11 11:30"),
    ],
)
def test_work_goes_on_in_the_next_span(text: str, hours: float, ends: str) -> None:
    now = dt.datetime(2024, 1, 10, 12, tzinfo=ZURICH).astimezone(dt.UTC)
    end = Window.parse(text, zone=ZURICH).after(now, hours * 3600)
    assert end is not None and f"{end.astimezone(ZURICH):%m-%d %H:%M}" == ends


def test_work_for_more_than_a_year_has_no_end() -> None:
    assert Window.parse("20:00-20:01", zone=ZURICH).after(dt.datetime.now(dt.UTC), 10**6) is None


@pytest.mark.parametrize(
    ("text", "shown", "opening"),
    [
        ("", "2024-01-10 12:00", ""),
        ("20:00-06:00", "2024-01-10 12:00", "01-10 20:00:00 CET"),
        ("20:00-06:00", "2024-01-10 20:00", ""),
        ("20:00-06:00", "2024-01-11 00:00", ""),
        ("20:00-06:00", "2024-01-11 05:59:59", ""),
        ("20:00-06:00", "2024-01-11 06:00", "01-11 20:00:00 CET"),
        ("12:00-13:00, 20:00-06:00", "2024-01-10 12:30", ""),
        ("12:00-13:00, 20:00-06:00", "2024-01-10 13:00", "01-10 20:00:00 CET"),
        ("12:00-13:00, 20:00-06:00", "2024-01-10 07:00", "01-10 12:00:00 CET"),
        ("01:00-02:00", "2024-12-31 23:00", "01-01 01:00:00 CET"),
        ("9:00:30-9:00:40", "2024-01-10 09:00:29.999999", "01-10 09:00:30 CET"),
        ("9:00:30-9:00:40", "2024-01-10 09:00:39", ""),
        ("20:00-24:00", "2024-01-10 23:59:59", ""),
        ("20:00-24:00", "2024-01-11 00:00", "01-11 20:00:00 CET"),
        ("20:00-00:00,00:00-06:00", "2024-01-11 00:00", ""),
        ("00:00-24:00", "2024-01-11 00:00", ""),
    ],
)
def test_times_of_day(text: str, shown: str, opening: str) -> None:
    assert opens(text, shown) == opening


@pytest.mark.parametrize(
    ("shown", "opening"),
    [
        ("2024-01-12 12:00", "01-12 20:00:00 CET"),  # a Friday
        ("2024-01-13 12:00", ""),
        ("2024-01-14 23:00", ""),
        ("2024-01-15 00:00", "01-15 20:00:00 CET"),  # Sunday ends at midnight
        ("2024-01-13 03:00", ""),
    ],
)
def test_weekends(shown: str, opening: str) -> None:
    assert opens("20:00-06:00", shown, weekends=True) == opening


def test_a_night_in_which_the_clock_changes() -> None:
    # In spring 02:00 to 03:00 is skipped, in autumn shown twice; the window keeps to the clock.
    assert opens("20:00-06:00", "2024-03-30 20:00") == opens("20:00-06:00", "2024-10-26 20:00") == ""
    assert opens("20:00-06:00", "2024-03-31 05:59") == opens("20:00-06:00", "2024-10-27 05:59") == ""
    assert opens("20:00-06:00", "2024-03-31 06:00") == "03-31 20:00:00 CEST"
    assert opens("20:00-06:00", "2024-10-27 06:00") == "10-27 20:00:00 CET"
    # Times in that hour: a skipped one as if the clock had not been changed, a repeated one the first time.
    assert opens("02:30-05:00", "2024-03-31 03:29") == "03-31 03:30:00 CEST"
    assert opens("02:30-05:00", "2024-10-27 02:29") == "10-27 02:30:00 CEST"
    assert opens("02:30-05:00", "2024-10-27 02:00", fold=1) == ""
    assert opens("20:00-02:30", "2024-10-27 02:00", fold=1) == "10-27 20:00:00 CET"
    assert opens("02:10-03:05", "2024-03-31 01:00") == "04-01 02:10:00 CEST"  # there is no such time that night


@given(
    now=st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2030, 1, 1), timezones=st.just(dt.UTC)),
    zone=st.sampled_from(["Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]),
    spans=st.lists(st.tuples(st.times(), st.times()).filter(lambda p: f"{p[0]:%H%M}" != f"{p[1]:%H%M}"), max_size=3),
    weekends=st.booleans(),
)
def test_it_is_open_from_the_moment_on_that_it_names(
    now: dt.datetime, zone: str, spans: list[tuple[dt.time, dt.time]], weekends: bool
) -> None:
    window = Window.parse(",".join(f"{a:%H:%M}-{b:%H:%M}" for a, b in spans), weekends, ZoneInfo(zone))
    opening = window.opens_at(now)
    if opening is None:
        return
    assert now < opening and window.opens_at(opening) is None
    assert window.opens_at(opening - dt.timedelta(microseconds=1)) == opening


def test_the_systems_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Zurich")
        time.tzset()
        for day, hour in ((day, hour) for day in (10, 30, 31) for hour in range(24)):
            now = dt.datetime(2024, 3, day, hour, tzinfo=dt.UTC)
            window = Window.parse("20:00-02:30,04:00-05:00", weekends=True)
            assert window.opens_at(now) == Window(window.spans, True, ZURICH).opens_at(now)
    time.tzset()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("always", "not a time of day; give one such as 20:00-06:00"),
        ("20-6", "not a time of day"),
        ("20:00-06:00,", "not a time of day"),
        ("20:00", "not a time of day"),
        ("25:00-06:00", "no clock shows"),
        ("20:60-06:00", "no clock shows"),
        ("20:00-24:01", "no clock shows"),
        ("06:00-06:00", "same time"),
        ("24:00-06:00", "give 00:00"),
    ],
)
def test_what_is_no_window_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^pacs: window.*{words}"):
        PacsNode("pacs", "localhost", 104, "PACS", window=text)


def test_fields_of_a_connection_and_the_settings_below_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_WINDOW", "01:00-02:00")
    monkeypatch.setenv("PACSIFIER_TIMEZONE", "Asia/Kolkata")
    extra: dict[str, Any] = {"called_aet": "PACS", "window": " 20:00-06:00 ", "window_weekends": True}
    node = node_from_connection("pacs", "localhost", 104, {**extra, "timezone": "Europe/Zurich"})
    assert node.retrieval_window == Window(((72000, 108000),), True, ZURICH)
    node = node_from_connection("pacs", "localhost", 104, {"called_aet": "PACS", "window": None, "timezone": ""})
    assert node.retrieval_window == Window(((3600, 7200),), False, ZoneInfo("Asia/Kolkata"))
    with pytest.raises(ConfigError, match="pacs: timezone is not the name of a time zone"):
        node_from_connection("pacs", "localhost", 104, {**extra, "timezone": "Zurich"})
    monkeypatch.setenv("PACSIFIER_WINDOW", "1-2")
    with pytest.raises(ConfigError, match="window is not a time of day"):
        assert node.retrieval_window


# The work. Windows that are open or shut for two hours around now, whatever the time of day.


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Opens and shuts the retrieval window of every node."""

    def shift(open_now: bool) -> None:
        hours = (-2, 2) if open_now else (2, 4)
        now = dt.datetime.now(dt.UTC)
        monkeypatch.setenv("PACSIFIER_TIMEZONE", "UTC")
        monkeypatch.setenv("PACSIFIER_WINDOW", "-".join(f"{now + dt.timedelta(hours=h):%H:%M}" for h in hours))

    return shift


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    images = [image for number in (1, 2, 3) for image in series("P", series_number=number, n_images=2)]
    with serving(images, tmp_path / "archive") as running:
        yield running


ROWS = [{"PatientID": "P"}]


def one_unit(run: Run, units: list[int]) -> int:
    """Make all series of a run one unit."""
    parts = [item for unit in units for item in read_jsonl(run.part("units", unit))]
    for unit in units[1:]:
        run.part("units", unit).unlink()
    run.write_part("units", units[0], parts)
    return units[0]


@pytest.mark.parametrize("method", ["get", "move"])
def test_it_shuts_between_two_series_and_the_work_goes_on_where_it_was(
    pacs: EmbeddedPacs, tmp_path: Path, window: Callable[[bool], None], method: str
) -> None:
    node = node_of(pacs, method=method)
    run, units = planned_run(node, ROWS, tmp_path / "out")
    unit = one_unit(run, units)
    window(True)
    ended: list[str] = []

    def done(account: SeriesAccount) -> None:
        ended.append(account.state)
        window(False)

    with steps.Retrieval(run, node, done=done) as retrieval:
        for _ in range(2):
            with pytest.raises(WindowClosed, match=r"^pacs: the retrieval window is closed until .* UTC$") as raised:
                retrieval.unit(unit)
            assert raised.value.at > dt.datetime.now(dt.UTC)
        assert ended == ["complete"] and len(pacs.retrieves) == 1
        # Who waits holds nothing that others wait for.
        shared().acquire(f"pacs:{node.key}", limit=1, wait=0).release()
        accounts = steps.report(run).series
        assert not [
            account
            for account in accounts
            if shared().holder(series_lease(SeriesId(account.study_uid, account.series_uid)))
        ]
        # Nothing has failed: what was not begun was not attempted.
        assert [(account.state, account.reason) for account in accounts] == [
            ("complete", ""),
            ("failed", NOT_ATTEMPTED),
            ("failed", NOT_ATTEMPTED),
        ]
    window(True)
    assert steps.retrieve(run, node, unit)["received"] == 6
    assert steps.report(run).verdict == COMPLETE
    assert len(pacs.sent) == 6 and len(pacs.retrieves) == 3


def test_a_series_that_has_begun_is_finished(
    pacs: EmbeddedPacs, tmp_path: Path, window: Callable[[bool], None]
) -> None:
    node = node_of(pacs)
    run, units = planned_run(node, ROWS, tmp_path / "out")
    window(True)
    pacs.faults.abort_after = 1  # what is missing is fetched over another association, although it is shut by then
    with steps.Retrieval(run, node, progress=lambda size: window(False)) as retrieval:
        assert retrieval.unit(units[0])["received"] == 2
        with pytest.raises(WindowClosed):
            retrieval.unit(units[1])


def test_what_is_there_already_needs_no_window(
    pacs: EmbeddedPacs, tmp_path: Path, window: Callable[[bool], None]
) -> None:
    assert extract(node_of(pacs), ROWS, tmp_path / "out").verdict == COMPLETE
    window(False)
    again = extract(node_of(pacs), ROWS, tmp_path / "out")
    assert again.verdict == COMPLETE and again.totals()["present"] == 6
    assert extract(node_of(pacs), ROWS, tmp_path / "other", retrieve="none").verdict == COMPLETE


class Waiting(AtNode):
    """Transfers something at a node; the window shuts while it waits, and what others held is free then."""

    def __init__(self, node: PacsNode, shut: Callable[[bool], None], held: Lease | None = None) -> None:
        self.node, self.leases, self.cancelled = node, shared(), self.meanwhile
        self._shut, self._held = shut, held
        self.use_session()

    def meanwhile(self) -> bool:
        """Asked while it waits."""
        self._shut(False)
        if self._held:
            self._held.release()
        return False


def test_who_waited_for_a_slot_does_not_begin_outside_the_window(
    pacs: EmbeddedPacs, window: Callable[[bool], None]
) -> None:
    node = node_of(pacs, max_associations=1)
    held = shared().acquire(f"pacs:{node.key}")
    window(True)
    with Waiting(node, window, held) as waiting:
        waiting.wait_for_turn()
        with pytest.raises(WindowClosed):
            waiting.session.get(Dataset(), [CTImageStorage])
        shared().acquire(f"pacs:{node.key}", wait=0).release()
    assert not pacs.retrieves


def test_who_waited_for_the_pacs_to_rest_does_not_begin_outside_the_window(
    pacs: EmbeddedPacs, window: Callable[[bool], None]
) -> None:
    node = node_of(pacs, batch_size=1, batch_wait_time=0.5)
    window(True)
    with Waiting(node, window) as waiting:
        waiting.wait_for_turn()
        waiting.wait_for_turn()
        with pytest.raises(WindowClosed):
            waiting.session.get(Dataset(), [CTImageStorage])
        with pytest.raises(WindowClosed):  # by now, without a turn
            waiting.wait_for_turn()
    assert not pacs.retrieves


def test_moves_keep_to_the_window_of_the_pacs_that_sends(
    pacs: EmbeddedPacs, tmp_path: Path, window: Callable[[bool], None]
) -> None:
    window(False)
    shut = node_of(pacs, move_aet="PACSIFIER")
    run, units = planned_run(shut, ROWS, tmp_path / "out", retrieve="move")
    with pytest.raises(WindowClosed):
        steps.move(run, shut, units[0])
    assert not pacs.retrieves and steps.report(run).series[0].reason == NOT_ATTEMPTED


def test_uploads_keep_to_the_window_of_their_destination(
    pacs: EmbeddedPacs, tmp_path: Path, window: Callable[[bool], None]
) -> None:
    with EmbeddedPacs(folder=tmp_path / "second") as second:
        window(False)
        run = Run.fresh()
        (unit, *_) = upload.prepare(run, UploadRequest(tmp_path / "archive", tmp_path / "log"), node_of(second))
        with pytest.raises(WindowClosed):
            upload.send(run, node_of(second), unit)
        assert not second.offered
        window(True)
        assert upload.send(run, node_of(second), unit)["received"] == len(second.stored) == 2


# The command line


def test_units_wait_and_go_on(pacs: EmbeddedPacs, tmp_path: Path, window: Callable[[bool], None]) -> None:
    node = node_of(pacs)
    run, units = planned_run(node, ROWS, tmp_path / "out")
    window(False)
    waited: list[Later] = []

    def wait(closed: Later) -> None:
        waited.append(closed)
        window(True)

    with steps.Retrieval(run, node, done=lambda account: window(False)) as retrieval:
        retrieval.units(units, wait)
    assert len(waited) == 3 and steps.report(run).verdict == COMPLETE


def test_a_crew_waits_until_it_opens_and_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    closed = WindowClosed("pacs", dt.datetime.now(ZURICH) + dt.timedelta(seconds=1))
    for _ in range(2):
        Crew(1, lambda: False).wait(closed)
        assert dt.datetime.now(ZURICH) >= closed.at
    crew, other = Crew(2, lambda: True), WindowClosed("other", closed.at + dt.timedelta(days=1))
    for _ in range(2):
        with pytest.raises(Cancelled):
            crew.wait(other)
    assert capsys.readouterr().err.count("other: the retrieval window is closed until") == 1


def test_the_command_waits_and_can_be_stopped(
    pacs: EmbeddedPacs, tmp_path: Path, window: Callable[[bool], None]
) -> None:
    window(False)
    values = {"server_address": pacs.host, "port": pacs.port, "server_AET": pacs.aet, "AET": "PACSIFIER"}
    values |= {"move_AET": "", "move_port": 11113, "batch_size": 0, "batch_wait_time": 0}
    config, table = tmp_path / "config.json", write_table(tmp_path / "table.csv", ROWS)
    config.write_text(json.dumps(values))
    process = start(config, table, tmp_path / "out", "--save")
    assert process.stderr
    said = ""
    while "closed until" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    assert re.search(r"pacsifier: config: the retrieval window is closed until [-0-9]+ [:0-9]+ UTC; waiting", said)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert not pacs.retrieves and len(log_of(tmp_path / "out")) == 3
    window(True)
    done = start(config, table, tmp_path / "out", "--save")
    assert finish(done, tmp_path / "out").code == 0 and len(pacs.sent) == 6
