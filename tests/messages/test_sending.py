"""Messages: once for each recipient, in counts only; questions that wait, and the night."""

from __future__ import annotations

import datetime as dt
import errno
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.files import write_json
from pacsifier_ops.base.telling import ABOUT, recipients
from pacsifier_ops.messages import Message, NotSent, noticing, outbox
from pacsifier_ops.messages.sending import LONGEST, Sent, send_all
from pacsifier_ops.messages.text import Letter, letter
from pacsifier_ops.runs.folder import Run, dag_run_name, stage_run
from tests.support.places import REPO

URL = "https://airflow.hospital.example/base"
OPS, ANNA, TEAMS = "ops@hospital.example", "anna@hospital.example", "teams_imaging"
EXTRACT, STUDY = "pacsifier_extract", "pacsifier_study"
#: Names that must be in no message, wherever they stand.
PLANTED = ("Wurzelbacher", "Kunigunde", "ZQX-71830")


@dataclass
class World:
    """The post, and what Airflow would say of runs."""

    got: list[tuple[str, Letter]] = field(default_factory=list)
    broken: dict[str, NotSent] = field(default_factory=dict)
    missing: dict[str, NotSent] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    asking: set[str] = field(default_factory=set)
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now().astimezone())

    def state(self, dag_id: str, run_id: str) -> str:
        return self.states.get(run_id, "")

    def asks(self, dag_id: str, run_id: str, task_id: str) -> bool:
        return f"{run_id} {task_id}" in self.asking

    def send(self, **later: float) -> Sent:
        self.now += dt.timedelta(**later)
        return send_all(Post(self), self, URL, self.now)

    def subjects(self, recipient: str = OPS) -> list[str]:
        return [words.subject.removeprefix("PACSIFIER: ") for one, words in self.got if one == recipient]


@dataclass
class Post:
    """The post of a world."""

    world: World

    def check(self, recipient: str) -> None:
        if (error := self.world.missing.get(recipient)) is not None:
            raise error

    def send(self, recipient: str, letter: Letter) -> None:
        if recipient in self.world.broken:
            raise self.world.broken[recipient]
        self.world.got.append((recipient, letter))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("PACSIFIER_HOME", str(tmp_path))
    monkeypatch.setenv("PACSIFIER_TELL", OPS)
    monkeypatch.setenv("PACSIFIER_TIMEZONE", "Europe/Zurich")
    return World()


def a_run(dag_id: str, run_id: str, verdict: str = "complete", request: object = None, **totals: int) -> Run:
    """Make a run that has ended, its folder full of what identifies patients."""
    run = Run.named(dag_run_name(dag_id, run_id))
    write_json(run.folder / "request.json", request or {"queryfile": "/data/Wurzelbacher/Kunigunde.csv"})
    summary = {"verdict": verdict, "finished": "2040-01-01T00:00:00+00:00", "by": "Wurzelbacher"}
    write_json(run.folder / "summary.json", {**summary, "totals": totals, "rows": {"ZQX-71830": 1}})
    (run.folder / "failures.jsonl").write_text(json.dumps(["find", 0, 1, "no answer for Wurzelbacher"]) + "\n")
    return run


def end(dag_id: str, run_id: str, failed: bool = False, attempt: int = 0, begun: dt.datetime | None = None) -> None:
    noticing.ended(dag_id, run_id, attempt, failed, begun=begun)


# Who, and what of


def test_recipients_are_mail_addresses_and_connections() -> None:
    assert recipients("anna@hospital.example, teams_imaging; anna@hospital.example", "tell") == (ANNA, TEAMS)
    assert recipients("nobody", "tell") == recipients("", "tell") == ()
    for wrong in ("Anna <anna@x.ch>", "anna@x.ch\nBcc: b", "@x.ch", "a@@b", "https://hooks.slack.com/token"):
        with pytest.raises(ConfigError, match=r"tell: recipient \d.* is neither a mail address nor the id") as error:
            recipients(wrong, "tell")
        assert wrong not in str(error.value)


def test_settings_hold_for_all_dags_or_for_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_TELL_UPLOAD", TEAMS)
    settings.use({"tell": ANNA, "tell_karnak": "nobody"})
    try:
        found = {name: settings.tell(f"pacsifier_{name}") for name in ("upload", "karnak", "study")}
        assert found == {"upload": (TEAMS,), "karnak": (), "study": (OPS,)}  # the environment comes first
        assert settings.tell("somebodys_own") == (OPS,)
    finally:
        settings.use({})
    with pytest.raises(ConfigError, match="tell_<dag>, such as tell_study"):
        settings.use({"tell_nobody_knows": OPS})
    assert {f"pacsifier_{dag}" for dag in settings.DAGS} == {
        path.stem for path in (REPO / "dags").glob("*.py") if path.stem != "pacsifier_messages"
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TELL_ABOUT", "complete, wurzelbacher", "tell_about: 1 word.* there are complete, incomplete"),
        ("DIGEST", "19:00", "neither a time before noon"),
        ("REMIND", "often", "remind is not a whole number"),
        ("TELL", "Anna <anna@x.ch>", "tell: recipient 1"),
        ("MESSAGES_SCHEDULE", "always", "messages_schedule is no cron expression"),
    ],
)
def test_a_wrong_setting_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"PACSIFIER_{name}", value)
    a_run(EXTRACT, "r1")
    end(EXTRACT, "r1")
    if name == "REMIND":
        ask(world, "r2")
        world.now += dt.timedelta(hours=1)
    with pytest.raises(ConfigError, match=message):
        settings.messages_schedule()
        world.send()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tell", [ANNA], "tell: recipient 1"),
        ("tell_extract", {"all": OPS}, "tell_extract: recipient 1"),
        ("tell_about", ["failed"], "tell_about: 1 word"),
        ("digest", True, "neither a time before noon"),
        ("remind", True, "remind is not a whole number"),
    ],
)
def test_a_wrong_setting_of_messages_in_the_variable_ends_no_run(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, value: object, message: str
) -> None:
    for one in ("TELL", "TELL_ABOUT", "DIGEST", "REMIND"):
        monkeypatch.delenv(f"PACSIFIER_{one}", raising=False)
    try:
        settings.use({name: value})
        settings.check()
        with pytest.raises(ConfigError, match=message):
            settings.tell(EXTRACT), settings.tell_about(), settings.digest(), settings.remind()
    finally:
        settings.use({})


# Ends of runs


def test_each_end_is_told_once_with_counts_and_a_link(world: World) -> None:
    a_run(EXTRACT, "r1", "incomplete", expected=1200, received=1150, missing=50, bytes=99)
    end(EXTRACT, "r1", failed=True)
    end(EXTRACT, "r1", failed=True)  # noticed twice
    assert world.send().sent == 1 and world.send().sent == 0
    end(EXTRACT, "r1", failed=True)  # and noticed again after it was sent
    assert world.send().sent == 0
    ((recipient, words),) = world.got
    assert recipient == OPS and words.subject == "PACSIFIER: pacsifier_extract: incomplete" and words.grave
    assert {"received: 1,150", "missing: 50"} < {line.text for line in words.lines}
    assert words.lines[-1].link == f"{URL}/pacsifier/go/pacsifier_extract/{dag_run_name(EXTRACT, 'r1')}"
    end(EXTRACT, "r1", failed=True, attempt=1)  # it was cleared, and ended again
    assert world.send().sent == 1


@pytest.mark.parametrize(
    ("verdict", "failed", "said"),
    [
        ("complete", False, "complete"),
        ("incomplete", False, "incomplete"),  # and accepted
        ("rejected", True, "rejected"),
        ("cancelled", True, "cancelled"),
        ("unbalanced", True, "failed"),
        ("complete", True, "failed"),
    ],
)
def test_every_verdict_has_its_word(world: World, verdict: str, failed: bool, said: str) -> None:
    a_run(EXTRACT, "r1", verdict)
    end(EXTRACT, "r1", failed)
    world.send()
    assert world.subjects() == [f"pacsifier_extract: {said}"]


def test_a_run_that_could_do_nothing_has_failed(world: World) -> None:
    end("pacsifier_nightly", "scheduled__1", failed=True)
    end("pacsifier_nightly", "scheduled__2")  # a night has no account, and its success needs no message
    a_run(EXTRACT, "r1", "complete")
    since = dt.datetime(2041, 1, 1, tzinfo=dt.UTC)  # the account is of an earlier attempt
    noticing.ended(EXTRACT, "r1", 1, True, since)
    noticing.ended(EXTRACT, "r2", 0, True, since, params={"tell": [ANNA]})  # it has not even kept its request
    world.send()
    assert world.subjects(ANNA) == ["pacsifier_extract: failed"]
    assert sorted(world.subjects()) == ["pacsifier_extract: failed"] * 2 + ["pacsifier_nightly: failed"]


def test_recipients_come_from_settings_and_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_TELL_ABOUT", "complete, released")
    request = {"project": "knee", "tell": f"{ANNA}, {TEAMS}, {OPS}"}
    run = a_run(STUDY, "r1", request=request)
    noticing.released(run, STUDY, "r1", 0, {"files": 12, "new": 0, "stale": 0})  # it stays as it was
    noticing.released(run, STUDY, "r1", 0, {"files": 12, "new": 2, "stale": 0})
    end(STUDY, "r1")
    a_run(EXTRACT, "r2", "incomplete")
    end(EXTRACT, "r2")
    world.send()
    for one in (OPS, ANNA, TEAMS):
        assert sorted(world.subjects(one)) == [
            "pacsifier_study, project knee: complete",
            "pacsifier_study, project knee: data set released",
        ]


def test_nobody_is_told_where_no_setting_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACSIFIER_TELL")
    a_run(EXTRACT, "r1", "incomplete")
    end(EXTRACT, "r1", failed=True)
    ask(world, "r2")
    assert world.send() == Sent() and not world.got and not list(outbox.waiting())
    monkeypatch.setenv("PACSIFIER_TELL", OPS)
    assert world.send().sent == 0  # what is past, is past


def test_a_message_has_nothing_of_a_patient(world: World) -> None:
    planted = "manual__Wurzelbacher-Kunigunde"  # somebody typed the id of the run
    run = a_run(EXTRACT, planted, "incomplete", received=1, ZQX_71830=3, missing=1)
    end(EXTRACT, planted, failed=True)
    noticing.asked(run, EXTRACT, planted, "approve 0", {"series": 4}, dt.timedelta(hours=72))
    noticing.task_failed("own_dag", planted, 0)
    world.asking = {f"{planted} approve"}
    world.send()
    world.send(hours=60)
    a_night(world, {"heart-7": ("incomplete", {"received": 1})}, unusable="Wurzelbacher Kunigunde")
    world.send()
    assert len(world.got) == 5
    for recipient, words in world.got:
        text = f"{recipient} {words.subject} {words.plain}".lower()
        assert not [name for name in PLANTED if name.lower() in text]
    # Only the state root, which is protected, knows more.
    assert not [path for path in settings.state_root().rglob("*") if "wurzelbacher" in path.name.lower()]


# What cannot be sent


def test_only_those_get_it_again_who_have_not_got_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_TELL", f"{OPS}, {ANNA}, {TEAMS}")
    world.broken = {ANNA: NotSent("mail: refused"), TEAMS: NotSent("connection teams_imaging: gone", True)}
    for run_id in ("r1", "r2"):
        a_run(EXTRACT, run_id)
        end(EXTRACT, run_id)
    sent = world.send()
    # A channel that is out of order is not asked twice; another address at the same server may be fine.
    assert sent.problems == {"mail: refused": 2, "connection teams_imaging: gone": 1} and sent.sent == 2
    world.broken = {}
    assert world.send().sent == 4 and world.send().sent == 0
    assert [len(world.subjects(one)) for one in (OPS, ANNA, TEAMS)] == [2, 2, 2]


def test_a_kill_before_it_is_noted_has_it_sent_again_as_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(EXTRACT, "r1")
    end(EXTRACT, "r1")
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "note", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.send()
    assert world.send().sent == 1
    (_, first), (_, second) = world.got
    assert first == second and first.key
    with monkeypatch.context() as patch:  # after it is noted, no more
        a_run(EXTRACT, "r2")
        end(EXTRACT, "r2")
        patch.setattr(outbox, "put_away", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.send()
    assert world.send().sent == 0 and len(world.got) == 3 and not list(outbox.waiting())


def test_a_channel_of_the_settings_that_is_missing_is_known_before_it_is_needed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACSIFIER_TELL_UPLOAD", TEAMS)
    world.missing = {TEAMS: NotSent("connection teams_imaging: install apprise", True)}
    assert world.send().problems == {"connection teams_imaging: install apprise": 1}
    a_run("pacsifier_upload", "r1")
    end("pacsifier_upload", "r1")
    assert world.send().problems == {"connection teams_imaging: install apprise": 1}
    world.missing = {}
    assert world.send() == Sent(1)


def test_nothing_is_sent_on_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(EXTRACT, "r1")
    end(EXTRACT, "r1")
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "write_json", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "")))
        with pytest.raises(OSError):
            world.send()
    assert not world.got and world.send().sent == 1


def test_a_message_that_cannot_be_read_keeps_no_other_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    end(EXTRACT, "r1", failed=True)
    (good,) = outbox._path("waiting", "").parent.glob("*.json")
    ask(world, "r2")
    for kind in ("waiting", "open"):
        folder = outbox._path(kind, "").parent
        (folder / "0.json").write_text("")
        newer = {**json.loads(good.read_text()), "run_id": "r3", "of_a_newer_version": 1}
        (folder / "1.json").write_text(json.dumps(newer))
    assert world.send().sent == 2
    assert "messages/waiting/0.json cannot be read: JSONDecodeError; remove it" in caplog.text
    assert "r3" not in caplog.text


def test_after_days_it_is_given_up(world: World) -> None:
    world.broken = {OPS: NotSent("mail: refused")}
    a_run(EXTRACT, "r1")
    end(EXTRACT, "r1")
    assert world.send().given_up == 0 and len(list(outbox.waiting())) == 1
    sent = world.send(seconds=LONGEST.total_seconds() + 60)
    assert sent.given_up == 1 and sent.problems and not list(outbox.waiting())


def test_a_run_does_not_fail_by_a_message(world: World, caplog: pytest.LogCaptureFixture) -> None:
    a_run(EXTRACT, "r1")
    (settings.state_root() / "messages").write_text("somebody's file")
    end(EXTRACT, "r1")
    assert "a message on a run could not be kept: " in caplog.text and "r1" not in caplog.text


def test_wrong_recipients_of_a_run_do_not_keep_others_from_it(world: World) -> None:
    a_run(EXTRACT, "r1", request={"tell": "Wurzelbacher Kunigunde <k@x>"})
    end(EXTRACT, "r1")
    sent = world.send()
    assert world.subjects() == ["pacsifier_extract: complete"]
    assert [why for why in sent.problems if "pacsifier_extract" in why and "Wurzelbacher" not in why]


# Questions


def ask(world: World, run_id: str, hours: float = 72, attempt: int = 0) -> None:
    run = a_run(STUDY, run_id, request={"project": "knee"})
    part = stage_run(run, "extract")
    noticing.asked(part, STUDY, run_id, f"extract.approve {attempt}", {"series": 900}, dt.timedelta(hours=hours))
    world.asking.add(f"{run_id} extract.approve")


def test_a_question_is_told_reminded_of_and_told_to_expire(world: World) -> None:
    ask(world, "r1")
    for _ in range(8):
        world.send()
        world.send(hours=10)
    name = "pacsifier_study, project knee"
    assert world.subjects() == [
        f"{name}: waits for your answer",
        f"{name}: still waits for your answer",
        f"{name}: waits for your answer, and ends without it",
    ]
    assert "series: 900" in world.got[0][1].plain and "It expires: " in world.got[0][1].plain
    assert not outbox.questions()


def test_nobody_is_reminded_of_what_was_answered(world: World) -> None:
    ask(world, "r1")
    ask(world, "r2")
    world.asking.remove("r2 extract.approve")  # answered before anybody could be told
    assert world.send().sent == 1
    world.asking.clear()
    assert world.send(hours=60).sent == 0 and not list(outbox.waiting())


def test_a_question_that_is_asked_again_is_told_again(world: World) -> None:
    ask(world, "r1")
    ask(world, "r1")  # the task was killed and tried again
    assert world.send().sent == 1
    ask(world, "r1", attempt=1)  # it expired, and the run was cleared
    assert world.send().sent == 1 and len(outbox.questions()) == 1
    assert world.send(hours=25).sent == 1  # one reminder


def test_a_question_that_is_asked_while_others_are_told_is_told_the_next_time(world: World) -> None:
    class Slow(Post):
        def check(self, recipient: str) -> None:
            ask(world, "r1")

    send_all(Slow(world), world, URL, world.now)
    world.send()
    assert world.subjects() == ["pacsifier_study, project knee: waits for your answer"]


def test_reminders_can_be_switched_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_REMIND", "0")
    ask(world, "r1", hours=24 * 365)
    world.send()
    assert world.send(days=30).sent == 0


# The night


def a_night(
    world: World, projects: dict[str, tuple[str, dict[str, int]]], unusable: str = "", tell: str = ""
) -> dt.datetime:
    """Let standing projects run in the night of 2040-03-30; return the morning after at eight."""
    begun = dt.datetime.fromisoformat("2040-03-30T20:00:00+01:00")
    root = settings.nightly()
    for name, (state, totals) in projects.items():
        (root / "projects" / name).mkdir(parents=True, exist_ok=True)
        run_id = f"nightly__2040-03-30__{name}"
        if state not in ("going on", "failed"):
            a_run(EXTRACT, run_id, state, {"tell": tell}, **totals)
        world.states[run_id] = {"going on": state, "complete": "success"}.get(state, "failed")
        if state != "going on":
            end(EXTRACT, run_id, failed=state != "complete", begun=begun)
    if unusable:
        folder = root / "projects" / unusable
        folder.mkdir(parents=True)
        (folder / "reasons.txt").write_text("study.yaml: line 1: …")
    world.now = dt.datetime.fromisoformat("2040-03-31T08:00:00+02:00")
    return world.now


def test_the_night_is_told_in_the_morning_in_one_message(world: World) -> None:
    morning = a_night(
        world,
        {
            "brain": ("complete", {"received": 120, "missing": 0}),
            "heart": ("complete", {"received": 0, "missing": 0}),
            "knee": ("incomplete", {"received": 10, "missing": 3}),
            "liver": ("failed", {}),
            "spine": ("going on", {}),
        },
        unusable="Broken Project",
    )
    (settings.nightly() / "done" / "2040-03-30-req-0a1b").mkdir(parents=True)
    a_run(EXTRACT, "nightly__req-0a1b", received=7)
    world.states["nightly__req-0a1b"] = "success"
    world.now = morning - dt.timedelta(hours=2)
    assert world.send().sent == 0  # it is not yet time, and no run is told for itself
    world.now = morning
    assert world.send().sent == 1 and world.send(minutes=5).sent == 0
    ((_, words),) = world.got
    assert words.subject == (
        "PACSIFIER: night of 2040-03-30: 2 complete; 1 complete, nothing new; 1 failed; 1 goes on; 1 incomplete; "
        "1 table or project cannot be used"
    )
    lines = {line.text: line.link for line in words.lines}
    assert lines["brain: complete, received 120"] and lines["heart: complete, nothing new"]
    assert lines["knee: incomplete, received 10, missing 3"] and lines["liver: failed"] and lines["spine: goes on"]
    assert lines["req-0a1b: complete, received 7"].endswith(dag_run_name(EXTRACT, "nightly__req-0a1b"))
    assert "Broken" not in words.plain and words.grave


def test_what_ends_after_the_morning_is_told_for_itself(world: World) -> None:
    a_night(world, {"spine": ("going on", {})})
    world.send()
    run_id = "nightly__2040-03-30__spine"
    a_run(EXTRACT, run_id, received=4)
    begun = dt.datetime.fromisoformat("2040-03-30T20:00:00+01:00")
    end(EXTRACT, run_id, begun=begun)
    world.send(hours=1)
    assert world.subjects() == ["night of 2040-03-30: 1 goes on", "pacsifier_extract: complete"]
    end(EXTRACT, run_id, begun=begun, attempt=1, failed=True)  # cleared, and failed now
    world.send(hours=1)
    assert world.subjects()[2:] == ["pacsifier_extract: failed"]


def test_a_kill_before_the_night_is_noted_loses_no_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a_night(world, {"spine": ("going on", {})})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(outbox, "note_night", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        world.send()
    a_night(world, {"spine": ("complete", {"received": 4})})
    world.send(hours=1)
    assert world.subjects() == ["night of 2040-03-30: 1 complete"]


def test_a_project_hears_of_its_own_runs_only(world: World) -> None:
    a_night(world, {"knee": ("complete", {"received": 1})}, tell=f"{ANNA}, {TEAMS}")
    a_night(world, {"brain": ("complete", {"received": 1})})
    world.send()
    assert world.subjects() == ["night of 2040-03-30: 2 complete"]
    assert world.subjects(ANNA) == world.subjects(TEAMS) == ["night of 2040-03-30: 1 complete"]


def test_a_question_of_the_night_is_told_at_once_and_stands_in_the_morning(world: World) -> None:
    run_id = "nightly__2040-03-30__knee"
    (settings.nightly() / "projects" / "knee").mkdir(parents=True)
    (settings.nightly() / "projects" / "knee" / "study.yaml").touch()
    ask(world, run_id, hours=24 * 366 * 30)
    world.states[run_id] = "going on"
    assert world.send().sent == 1
    world.now = dt.datetime.fromisoformat("2040-03-31T08:00:00+02:00")
    world.send()
    assert "night of 2040-03-30: 1 waits for an answer" in world.subjects()


@pytest.mark.parametrize("name", ["DIGEST", "TELL_ABOUT"])
def test_without_that_message_each_run_is_told(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value = {"DIGEST": "off", "TELL_ABOUT": ",".join(set(ABOUT) - {"digest"})}[name]
    monkeypatch.setenv(f"PACSIFIER_{name}", value)
    a_night(world, {"knee": ("complete", {}), "brain": ("incomplete", {})})
    world.send()
    assert sorted(world.subjects()) == ["pacsifier_extract: complete", "pacsifier_extract: incomplete"]


def test_a_night_in_which_nothing_was_to_run_is_not_told(world: World) -> None:
    a_night(world, {})
    assert world.send() == Sent()


def test_what_ended_in_a_night_that_was_never_told_is_told(world: World) -> None:
    a_night(world, {"knee": ("complete", {})})
    world.now += dt.timedelta(days=1)  # nothing was sent for a day
    world.states.clear()
    assert world.send().sent == 1
    assert world.subjects() == ["pacsifier_extract: complete"]


def test_a_letter_without_an_address_of_airflow_still_says_what_it_is(world: World) -> None:
    words = letter(Message("failed", EXTRACT, "r1", when="2040-03-30T20:00:00+01:00"), "")
    assert words.lines[-1].link.startswith("/pacsifier/go/") and "failed" in words.subject
