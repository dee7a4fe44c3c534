"""Small worlds at random, judged from what was put into them and from the documentation.

The first property is about what arrives: patients who share an id, studies and series that share UIDs, an index that
contradicts the files, archives and strangers that send what nobody asked for. The second one is about what leaves: a
released data set that people changed, and what a node or a disc gets of it.

Every object that is made bears a token of its own, so that it is found wherever it lies and whatever it is called.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
import threading
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from pacsifier_ops.cli import create_dicomdir, get_pseudonyms
from pacsifier_ops.embedded.pacs import PENDING, EmbeddedPacs
from pacsifier_ops.embedded.phantoms import phantom_series, uid, write
from tests.support import command
from tests.support.command import write_table
from tests.support.embedded import node_of
from tests.support.peers import OUR_AET, free_port
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive

ARRIVALS, RELEASES = 18, 4
TOKEN = re.compile(rb"token-(\d{6})")
EXPLICIT = "1.2.840.10008.1.2.1"
QUARANTINE = "quarantine"


# ---- what there is


class Person(NamedTuple):
    id: str
    issuer: str
    name: str
    birth: str


class Key(NamedTuple):
    """A series."""

    study: str
    series: str


@dataclass(frozen=True)
class Thing:
    """An object of this world: the file that was made, and what it says of itself."""

    path: Path
    token: int
    patient: str
    issuer: str
    name: str
    birth: str
    date: str
    key: Key
    sop: str

    @property
    def triple(self) -> tuple[Key, str]:
        return self.key, self.sop


def body(path: Path) -> bytes:
    """The data set of a file, without preamble and File Meta Information."""
    raw = path.read_bytes()
    return raw[144 + int.from_bytes(raw[140:144], "little") :] if raw[128:132] == b"DICM" else raw


def two_people(one: Thing, other: Thing) -> bool:
    """Whether two objects of one PatientID are two people's: by issuer, else by name and birth date."""
    if one.issuer and other.issuer:
        return one.issuer != other.issuer
    return one.name != other.name and one.birth != other.birth


@dataclass
class World:
    """An archive, what it does wrong, who else sends, and what is asked.

    Attributes:
        held: what the archive holds.
        corrected: PatientID that the index tells instead of the files'.
        silent: the index tells no patient below the level of studies.
        imageless: it does not answer at IMAGE level.
        withheld: SOP Instance UIDs that it lists and does not send.
        intruders: what it sends in addition, with every retrieve.
        strangers: what somebody else sends while a series is retrieved, by that series; C-MOVE only.
    """

    seed: int
    rng: random.Random
    folder: Path
    method: str = "get"
    held: list[Thing] = field(default_factory=list)
    everything: dict[int, Thing] = field(default_factory=dict)
    corrected: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    imageless: bool = False
    withheld: set[str] = field(default_factory=set)
    intruders: list[Thing] = field(default_factory=list)
    strangers: dict[Key, list[Thing]] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)

    def token(self) -> int:
        return len(self.everything) + 100001

    def keep(self, image: Dataset, kind: str) -> Thing:
        """Write an object with its token, in a folder of its own."""
        token = self.token()
        image.ImageComments = f"token-{token}"
        (path,) = write([image], self.folder / kind / str(token))
        thing = Thing(
            path,
            token,
            str(image.PatientID),
            str(image.get("IssuerOfPatientID", "")),
            str(image.PatientName),
            str(image.PatientBirthDate),
            str(image.StudyDate),
            Key(str(image.StudyInstanceUID), str(image.SeriesInstanceUID)),
            str(image.SOPInstanceUID),
        )
        self.everything[token] = thing
        return thing

    def tells(self, thing: Thing) -> str:
        """The PatientID that the archive's index gives for an object."""
        return self.corrected.get(thing.patient, thing.patient)

    def matched(self, row: dict[str, str]) -> list[Thing]:
        """What the archive lists for a row."""
        told: dict[str, Callable[[Thing], str]] = {
            "PatientID": self.tells,
            "StudyDate": lambda t: t.date,
            "StudyInstanceUID": lambda t: t.key.study,
            "SeriesInstanceUID": lambda t: t.key.series,
        }
        return [t for t in self.held if all(value == told[k](t) for k, value in row.items() if k in told and value)]


def make_world(seed: int, folder: Path) -> World:
    rng = random.Random(seed)
    world = World(seed, rng, folder, rng.choice(["get", "get", "move"]))
    persons = [Person("P1", rng.choice(["", "HA"]), "One^Una", "19500101")]
    for number, (name, birth) in enumerate((("Two^Dora", "19600202"), ("Three^Tom", "19700303")), 2):
        if rng.random() < 0.35:
            twin = rng.choice(persons)
            persons.append(Person(twin.id, {"": "", "HA": "HB", "HB": "HC"}[twin.issuer], name, birth))
        else:
            persons.append(Person(f"P{number}", rng.choice(["", "HA"]), name, birth))
    make_studies(world, persons)
    ids = Counter(p.id for p in persons)
    if rng.random() < 0.35:
        old = rng.choice([p.id for p in persons if ids[p.id] == 1] or ["nobody"])
        world.corrected = {old: rng.choice(["N9", *(p.id for p in persons if p.id != old)])}
    world.silent, world.imageless = rng.random() < 0.15, rng.random() < 0.15
    if rng.random() < 0.15:
        world.withheld = {rng.choice(world.held).sop}
    for _ in range(rng.choice([0, 0, 1, 2])):
        world.intruders += variant(world)
    if world.method == "move":
        for _ in range(rng.choice([0, 1, 2, 3])):
            world.strangers.setdefault(rng.choice(world.held).key, []).extend(variant(world))
    make_rows(world)
    return world


def make_studies(world: World, persons: list[Person]) -> None:
    rng, studies, series = world.rng, dict[str, Person](), list[Key]()
    for person in persons:
        for number in range(rng.choice([1, 2])):
            study, date = str(uid("world", world.seed, person, number)), f"2020010{rng.choice([1, 2])}"
            others = [key for key, owner in studies.items() if owner.id != person.id]
            if others and rng.random() < 0.2:
                study = rng.choice(others)
            studies.setdefault(study, person)
            for serial in range(1, rng.choice([2, 3])):
                fresh = Key(study, str(uid(study, person, serial)))
                elsewhere = [key.series for key in series if key.study != study]
                shared = [key.series for key in series if key.study == study]
                if elsewhere and rng.random() < 0.35:
                    fresh = Key(study, rng.choice(elsewhere))
                elif shared and studies[study] != person and rng.random() < 0.3:
                    fresh = Key(study, rng.choice(shared))
                if any(t.key == fresh and t.patient == person.id for t in world.held):
                    continue
                series.append(fresh)
                issuer: dict[str, Any] = {"IssuerOfPatientID": person.issuer} if person.issuer else {}
                for image in phantom_series(
                    patient_id=person.id,
                    patient_name=person.name,
                    PatientBirthDate=person.birth,
                    study_uid=study,
                    study_date=date,
                    series_uid=fresh.series,
                    series_number=serial,
                    n_images=rng.choice([1, 2, 3]),
                    rows=4,
                    columns=4,
                    **issuer,
                ):
                    world.held.append(world.keep(image, "archive"))


def variant(world: World) -> list[Thing]:
    """An object that is like one of the archive's but for one thing, or is none other than that."""
    rng = world.rng
    model = rng.choice([t for t in world.held if t.sop not in world.withheld] or world.held)
    image = dcmread(model.path)
    kind = rng.choice(["pixels", "patient", "issuer", "study", "series", "instance", "stranger", "same"])
    if model.sop in world.withheld:
        kind = "stranger"
    if kind == "same":
        return [model]
    if kind in ("patient", "stranger"):
        image.PatientID = rng.choice(sorted({t.patient for t in world.held} - {model.patient}) or ["PX"])
    if kind == "issuer":
        image.IssuerOfPatientID = "HX"
    if kind in ("study", "stranger"):
        known = sorted({t.key.study for t in world.held} - {model.key.study})
        image.StudyInstanceUID = rng.choice([*known, uid("another study", world.token())])
        # Under the UIDs of another object of the archive that is not sent it could not be told from that one.
        if any(t.sop == model.sop and t.key.study == image.StudyInstanceUID for t in world.held):
            image.StudyInstanceUID = uid("another study", world.token())
    if kind in ("series", "stranger"):
        image.SeriesInstanceUID = uid("another series", world.token())
    if kind in ("instance", "stranger"):
        image.SOPInstanceUID = uid("another instance", world.token())
    return [world.keep(image, "others")]


def make_rows(world: World) -> None:
    rng = world.rng
    for _ in range(rng.choice([1, 2, 2, 3])):
        thing = rng.choice(world.held)
        patient = world.tells(thing)
        row = rng.choice(
            [
                {"PatientID": patient},
                {"PatientID": patient},
                {"PatientID": patient, "StudyDate": thing.date},
                {"StudyInstanceUID": thing.key.study},
                {"PatientID": patient, "StudyInstanceUID": thing.key.study},
                {"StudyDate": thing.date},
                {"PatientID": patient, "SeriesInstanceUID": thing.key.series},
                {"PatientID": thing.patient},
            ]
        )
        if "PatientID" in row and rng.random() < 0.3:
            row["new_ids"] = f"new-{row['PatientID']}"
        if world.corrected and rng.random() < 0.4:
            row["accept_patient_id_of"] = "archive"
        world.rows.append(row)


# ---- who sends


class Gossip(EmbeddedPacs):
    """An archive that notes what it sent for which series, and lets others send meanwhile.

    Attributes:
        arrived: what our side took, by the series that was asked for.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.destinations[OUR_AET] = ("127.0.0.1", free_port())
        self.add(thing.path for thing in world.held)
        self.by_path = {str(thing.path): thing for thing in world.everything.values()}
        self.arrived: dict[Key, list[Thing]] = defaultdict(list)
        self.listeners = dict(world.strangers)
        self.own = threading.local()
        faults = self.faults
        faults.corrected = {"PatientID": world.corrected} if world.corrected else {}
        faults.patient_keys_below_study = not world.silent
        faults.image_level = not world.imageless
        faults.withhold_silently = set(world.withheld)
        faults.intruders = [thing.path for thing in world.intruders]

    def __enter__(self) -> Gossip:
        self.start()
        return self

    def behave(self) -> None:
        """No more of what is sent wrongly; the index stays as it is."""
        self.listeners.clear()
        self.faults.intruders, self.faults.withhold_silently = [], set()
        self.arrived.clear()

    def _sub_operations(self, event: Any, wanted: list[FileDataset], *send_on: Any) -> Iterator[Any]:
        asked = Key(str(event.identifier.StudyInstanceUID), str(event.identifier.SeriesInstanceUID))
        if asked in self.listeners:
            others = self.listeners.pop(asked)
            taken = store(self.destinations[OUR_AET][1], [t.path for t in others])
            self.arrived[asked] += [t for t in others if t.path in taken]
        for step in super()._sub_operations(event, wanted, *send_on):
            self.own.status = None
            yield step
            if isinstance(step, tuple) and step[0] == PENDING and self.own.status == 0:
                self.arrived[asked].append(self.by_path[str(step[1].filename)])

    def _sender(self, assoc: Any) -> Callable[..., Dataset]:
        send = super()._sender(assoc)

        def noted(instance: FileDataset, *arguments: Any, **originator: Any) -> Dataset:
            answer = send(instance, *arguments, **originator)
            withheld = str(instance.SOPInstanceUID) in self.faults.withhold_silently
            self.own.status = None if withheld else answer.Status
            return answer

        return noted


def store(port: int, paths: Iterable[Path]) -> set[Path]:
    """Send files to our receiver as somebody whom nobody knows; returns those that it took."""
    entity = AE("STRANGER")
    entity.add_requested_context(CTImageStorage, EXPLICIT)
    association = entity.associate("127.0.0.1", port, ae_title=OUR_AET)
    if not association.is_established:
        return set()
    # pynetdicom's own thread may take an answer off the queue before send_c_store() does, which then waits in vain.
    get_msg = association.dimse.get_msg
    association.dimse.get_msg = lambda block=False: get_msg(True) if block else (None, None)
    taken = {path for path in paths if association.send_c_store(path).get("Status") == 0}
    association.release()
    return taken


def configured(pacs: EmbeddedPacs, path: Path) -> Path:
    values = {"server_address": pacs.host, "port": pacs.port, "server_AET": pacs.aet, "AET": OUR_AET, "move_AET": ""}
    values |= {"batch_size": 0, "batch_wait_time": 0, "move_port": pacs.destinations.get(OUR_AET, ("", 11113))[1]}
    path.write_text(json.dumps(values))
    return path


# ---- what must come of it


@dataclass
class Verdict:
    """What the documentation says that must become of the objects that the rows asked for.

    Attributes:
        asked: objects that some row asks for.
        must: those that must be in the folder.
        never: those that must not.
        doubtful: some row may end in conflict or undecided.
        unlisted: objects of a series asked for that may be there as well, if the run does not call itself complete.
    """

    asked: set[Thing]
    must: set[Thing]
    never: set[Thing]
    doubtful: bool
    unlisted: set[Thing] = field(default_factory=set)


def judge(world: World, arrived: dict[Key, list[Thing]]) -> Verdict:
    rows_of: dict[Thing, list[dict[str, str]]] = defaultdict(list)
    conflicted: set[tuple[str, str]] = set()
    for row in world.rows:
        for thing in world.matched(row):
            rows_of[thing].append(row)
    for row in world.rows:
        if not (given := row.get("new_ids")):
            continue
        people = [t for other in world.rows if other.get("new_ids") == given for t in world.matched(other)]
        if any(two_people(a, b) for a in people for b in people if world.tells(a) == world.tells(b)):
            conflicted.add((row["PatientID"], given))
    owners: dict[str, set[str]] = defaultdict(set)
    series_owners: dict[Key, set[str]] = defaultdict(set)
    for thing in world.held:
        owners[thing.key.study].add(thing.patient)
        series_owners[thing.key].add(thing.patient)
    mixed = {study for study, some in owners.items() if world.silent and len(some) > 1}
    left_out = {patient for patient, _ in conflicted}
    verdict = Verdict(set(rows_of), set(), set(), bool(conflicted))
    versions: dict[tuple[Key, str], set[int]] = defaultdict(set)
    for some in arrived.values():
        for thing in some:
            versions[thing.triple].add(thing.token)
    for thing, rows in rows_of.items():
        in_own = {t.token for t in arrived.get(thing.key, []) if t.triple == thing.triple}
        seen = versions[thing.triple] if world.method == "move" else in_own
        one_owner = len(owners[thing.key.study]) == 1
        accepts = [one_owner and row.get("accept_patient_id_of") == "archive" for row in rows]
        fits = thing.patient == world.tells(thing)
        undecided = [any(t.key.study in mixed for t in world.matched(row)) for row in rows]
        shared = len(series_owners[thing.key]) > 1 or all(undecided)
        verdict.doubtful |= shared or any(undecided)
        in_conflict = [(r.get("PatientID"), r.get("new_ids")) in conflicted for r in rows]
        if len(in_own) > 1 or not (fits or any(accepts)) or all(in_conflict):
            verdict.never.add(thing)
        elif seen == {thing.token} and (fits or all(accepts)) and not shared and world.tells(thing) not in left_out:
            verdict.must.add(thing)
    if world.imageless:
        # Nobody can tell the images of a series from another one that says that it is of the series.
        asked_for = {(world.tells(t), t.key) for t in rows_of}
        listed = {t.triple for t in world.held}
        verdict.unlisted = {
            t for some in arrived.values() for t in some if t.triple not in listed and (t.patient, t.key) in asked_for
        }
    return verdict


def tokens_in(folder: Path) -> dict[int, list[Path]]:
    """Where objects lie, by their tokens: looked for in the bytes of every file."""
    found: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            for token in set(TOKEN.findall(path.read_bytes())):
                found[int(token)].append(path)
    return found


def lies(world: World, root: Path) -> tuple[dict[Thing, Path], dict[int, list[Path]]]:
    """What is in the output folder, and in quarantine; there is nothing of any object anywhere else."""
    published: dict[Thing, Path] = {}
    apart: dict[int, list[Path]] = defaultdict(list)
    for token, paths in [*tokens_in(root / "out").items(), *tokens_in(root / "state").items()]:
        thing = world.everything[token]
        for path in paths:
            parts = path.relative_to(root).parts
            assert body(path) == body(thing.path), f"{parts} was changed"
            if parts[0] == "out" and parts[1].startswith("sub-") and path.suffix == ".dcm":
                assert thing not in published, f"twice: {parts} and {published[thing]}"
                published[thing] = path
            else:
                assert parts[1] == "runs" and parts[3] == QUARANTINE, f"outside of quarantine: {parts}"
                apart[token].append(path)
    return published, apart


def check_folders(world: World, published: dict[Thing, Path]) -> None:
    """Patients, studies and series have folders of their own, and files the names of their instances."""
    patients: dict[str, set[str]] = defaultdict(set)
    series: dict[Path, set[tuple[str, Key]]] = defaultdict(set)
    issuers: dict[str, set[str]] = defaultdict(set)
    for thing, path in published.items():
        top = path.relative_to(world.folder / "out").parts[0]
        assert path.stem == thing.sop
        patients[top].add(world.tells(thing))
        series[path.parent].add((world.tells(thing), thing.key))
        issuers[top] |= {thing.issuer} - {""}
    assert all(len(some) == 1 for some in patients.values()), f"patients share a folder: {patients}"
    assert all(len(some) == 1 for some in series.values()), f"series share a folder: {series}"
    assert all(len(some) < 2 for some in issuers.values()), f"people of two issuers share a folder: {issuers}"


def check_arrivals(world: World, pacs: Gossip, result: command.Result) -> None:
    verdict = judge(world, pacs.arrived)
    published, apart = lies(world, world.folder)
    check_folders(world, published)
    here = set(published)
    more = here - verdict.asked
    assert more <= verdict.unlisted, f"nobody asked for {more - verdict.unlisted}"
    here -= more
    assert not here & verdict.never, f"not what was asked for, and there: {here & verdict.never}"
    assert verdict.must <= here, f"missing: {verdict.must - here}"
    arrived = {t.token for some in pacs.arrived.values() for t in some}
    there = {t.token for t in here}
    assert arrived <= there | set(apart), f"lost: {[world.everything[t] for t in arrived - there - set(apart)]}"
    result.ended(0, 3)
    if result.code == 0:
        assert here == verdict.asked, f"complete without {verdict.asked - here}"
        assert not more, f"complete with {more}"
    elif not verdict.doubtful and not more:
        assert here != verdict.asked, "incomplete, and all is there"
    check_books(world, result, verdict, here, more)
    check_reasons(world, pacs)


def newest(root: Path) -> Path:
    return max((root / "state" / "runs").glob("*/accounts.json"), key=lambda path: path.stat().st_mtime_ns).parent


def check_books(world: World, result: command.Result, verdict: Verdict, here: set[Thing], more: set[Thing]) -> None:
    """Log and accounts tell of each series what is there, and of quarantine what it holds."""
    run = newest(world.folder)
    accounts = json.loads((run / "accounts.json").read_text(encoding="utf-8"))
    assert accounts["verdict"] == {0: "complete", 3: "incomplete"}[result.code]
    assert not accounts["discrepancies"]
    log = {Key(line["StudyInstanceUID"], line["SeriesInstanceUID"]): line for line in result.log}
    told = {Key(one["study_uid"], one["series_uid"]): one for one in accounts["series"]}
    assert len(told) == len(accounts["series"])
    for thing in verdict.asked:
        row_reasons = [row["reason"] for row in accounts["rows"]]
        assert thing.key in told or (verdict.doubtful and any(row_reasons)), f"nothing is told of {thing}"
    for key, one in told.items():
        # Where the index knows two patients as one, two files of theirs may be one instance.
        listed = {t.sop for t in verdict.asked if t.key == key}
        published = [t.sop for t in here if t.key == key]
        assert len(published) == len(set(published))
        # Of a series under two patients, the archive may list the images of both.
        if len({t.patient for t in world.held if t.key == key}) > 1:
            listed |= set(one["missing_uids"])
        assert one["expected"] == len(listed), (one, listed)
        assert one["present"] + one["received"] == len(published), (one, published)
        assert one["missing"] == len(listed) - len(published)
        unlisted = [t for t in more if t.key == key]
        assert one["unverifiable"] == len(unlisted)
        assert (one["state"] == "complete") == (len(published) == len(listed) and not unlisted), one
        assert one["reason"] or one["state"] == "complete"
        line = log[key]
        assert (line["FilesFound"], line["Expected"], line["Missing"], line["Status"]) == (
            str(len(published) + len(unlisted)),
            str(len(listed)),
            str(len(listed) - len(published)),
            one["state"],
        )
        held = list((run / QUARANTINE / f"{key.study}_{key.series}").rglob("*.dcm"))
        assert one["quarantined"] == len(held), (one, held)
        assert bool(held) <= bool(one["reason"])
    nobodys = list((run / QUARANTINE / "nobodys").rglob("*.dcm"))
    assert accounts["unasked"] == len(nobodys)
    assert accounts["totals"]["quarantined"] == len(list((run / QUARANTINE).rglob("*.dcm")))


def check_reasons(world: World, pacs: Gossip) -> None:
    """Each object in quarantine came, and lies under the reason that the documentation gives."""
    arrived = {t.token for some in pacs.arrived.values() for t in some}
    listed = {thing.triple for thing in world.held}
    for path in (newest(world.folder) / QUARANTINE).rglob("*.dcm"):
        (token,) = (int(t) for t in TOKEN.findall(path.read_bytes()))
        assert token in arrived, f"never came: {path}"
        series, reason, _ = path.relative_to(newest(world.folder) / QUARANTINE).parts
        thing = world.everything[token]
        own = series == f"{thing.key.study}_{thing.key.series}"
        if not own:
            assert reason == "unasked", (reason, thing)
            continue
        versions = {t.token for some in pacs.arrived.values() for t in some if t.triple == thing.triple}
        expected = {"two-versions", "not-as-before"} if len(versions) > 1 else set()
        owner = {world.tells(t) for t in world.held if t.key == thing.key}
        if thing.patient not in owner or len(owner) > 1 or thing.patient in world.corrected:
            expected |= {"another-patient"}
        if any(two_people(t, thing) for t in world.held if t.key == thing.key):
            expected |= {"another-issuer"}
        if thing.triple not in listed:
            expected |= {"unasked"}
        assert reason in expected, (reason, expected, thing)


def check_pseudonyms(world: World) -> None:
    """Two people of one PatientID get no pseudonym in common; all others get one each."""
    published, _ = lies(world, world.folder)
    people: dict[str, list[Thing]] = defaultdict(list)
    for thing in published:
        people[thing.patient].append(thing)
    doubled = {patient for patient, some in people.items() if any(two_people(a, b) for a in some for b in some)}
    if not published:
        return
    linkage = world.folder / "linkage"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        arguments = ["--mode", "local", "--in_folder", str(world.folder / "out"), "--project_name", "w"]
        code = get_pseudonyms.main([*arguments, "-d", str(linkage)])
    file = linkage / "new_ids_w.json"
    linked = json.loads(file.read_text()) if file.exists() else {}
    if doubled:
        assert code not in (0, 3), said.getvalue()
        assert not {name.removeprefix("sub-") for name in linked} & doubled
    else:
        assert code == 0, said.getvalue()
        assert {name.removeprefix("sub-") for name in linked} == set(people)
        assert len(set(linked.values())) == len(linked)


@pytest.mark.parametrize("seed", range(ARRIVALS))
def test_only_what_was_asked_for_arrives(seed: int, tmp_path: Path) -> None:
    world = make_world(seed, tmp_path)
    table = write_table(tmp_path / "table.csv", world.rows)
    flags = ("--save", "--info", "--method", world.method)
    with Gossip(world) as pacs:
        config = configured(pacs, tmp_path / "config.json")
        result = command.extract(config, table, tmp_path / "out", *flags)
        check_arrivals(world, pacs, result)
        allowed = judge(world, pacs.arrived).unlisted
        _, apart = lies(world, tmp_path)
        before = {path: path.read_bytes() for paths in apart.values() for path in paths}
        # Run it again and it heals; what was put apart stays.
        pacs.behave()
        result = command.extract(config, table, tmp_path / "out", *flags)
        assert all(path.read_bytes() == content for path, content in before.items())
        archive: dict[Key, list[Thing]] = defaultdict(list)
        for thing in world.held:
            archive[thing.key].append(thing)
        verdict = judge(world, archive)
        published, _ = lies(world, tmp_path)
        check_folders(world, published)
        here = set(published) - allowed
        assert verdict.must <= here, f"missing: {verdict.must - here}"
        assert here <= verdict.asked - verdict.never, f"too much: {here - verdict.asked | here & verdict.never}"
        if not verdict.doubtful and not allowed:
            assert (result.code == 0) == (here == verdict.asked), result.said
    check_pseudonyms(world)


# ---- what leaves


@dataclass
class Release:
    """A released data set, and what became of its folder.

    Attributes:
        approved: files that were approved, by their path, as they were then.
        gone: paths of those that are not as they were.
        strange: paths of DICOM files that are not on the list.
        doubtful: something is there of which the documentation does not say whether it makes a hand-over incomplete.
    """

    rng: random.Random
    root: Path
    identified: list[Path]
    approved: dict[Path, bytes] = field(default_factory=dict)
    gone: set[Path] = field(default_factory=set)
    strange: set[Path] = field(default_factory=set)
    doubtful: bool = False

    @property
    def fit(self) -> dict[Path, bytes]:
        """What may leave, and must."""
        return {path: content for path, content in self.approved.items() if path not in self.gone}

    @property
    def codes(self) -> set[int]:
        return {3} if self.gone or self.strange else {0, 3} if self.doubtful else {0}

    def untouched(self) -> Path:
        return self.rng.choice(sorted(self.fit))

    def put(self, path: Path, content: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.chmod(0o644)
        target.write_bytes(content)

    def change(self) -> None:
        """Do one thing to the folder that is not to be done."""
        kinds = ["foreign", "twin", "edited", "cut", "swapped", "deleted", "replaced", "moved", "note"]
        kinds += ["emptied", "text", "link"]
        kind = self.rng.choice(kinds if len(self.fit) > 3 else ["foreign", "twin", "note"])
        path, other = self.untouched(), self.untouched()
        identified = self.identified.pop()
        new = self.rng.choice([path.parent, Path("sub-added"), Path()]) / f"added{len(self.strange)}.dcm"
        content = self.approved[path]
        if kind == "note":
            self.put(new.with_suffix(".txt"), b"Wurzelbacher^Anna came with Zwetschgenbaum^Otto")
            self.doubtful = True
        elif kind in ("foreign", "twin"):
            self.put(new, identified.read_bytes() if kind == "foreign" else content)
            self.strange |= {new} if kind == "foreign" else set()
            self.doubtful |= kind == "twin"
        elif kind == "swapped":
            if path != other:
                self.put(path, self.approved[other])
                self.put(other, content)
                self.gone |= {path, other}
        else:
            self.gone.add(path)
            if kind in ("deleted", "moved", "link"):
                (self.root / path).unlink()
            if kind == "link":
                (self.root / path).symlink_to(identified)
            elif kind == "moved":
                self.put(new, content)
                self.doubtful = True
            elif kind != "deleted":
                edited = {"edited": content[:-1] + b"!", "cut": content[:-7], "emptied": b"", "text": b"nothing"}
                self.put(path, edited.get(kind, identified.read_bytes()))


class Meddler(EmbeddedPacs):
    """A node in whose presence somebody changes a file while others are sent."""

    def __init__(self, folder: Path, meddle: Callable[[], None] = lambda: None) -> None:
        super().__init__(aet="RESEARCH", folder=folder)
        self.meddle = meddle
        self.turn = threading.Lock()

    def __enter__(self) -> Meddler:
        self.start()
        return self

    def _on_store(self, event: Any) -> int:
        with self.turn:
            meddle, self.meddle = self.meddle, lambda: None
            meddle()
        return super()._on_store(event)

    def holds(self) -> Counter[bytes]:
        folder = self.folder
        assert folder is not None
        return Counter(body(path) for path in folder.rglob("*.dcm"))


def made_study(folder: Path, pacs: EmbeddedPacs) -> StudyRun:
    study = StudyRun(node_of(pacs), folder / "data", [{"StudyDate": "20200101-"}], {"project": "p"})
    study.make()
    return study


def bodies(contents: Iterable[bytes]) -> Counter[bytes]:
    return Counter(raw[144 + int.from_bytes(raw[140:144], "little") :] for raw in contents)


def send(folder: Path, node: EmbeddedPacs, logs: Path) -> tuple[command.Result, dict[str, Any]]:
    """Upload a folder by the command; returns how it ended, and its accounts (empty where it did not begin)."""
    before = set(logs.parent.glob("state/runs/*/accounts.json"))
    said = io.StringIO()
    logs.mkdir(exist_ok=True)
    config = configured(node, logs / "config.json")
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = command.main(["--upload", "-ud", str(folder), "-c", str(config), "-d", str(logs)])
    (accounts,) = [*(set(logs.parent.glob("state/runs/*/accounts.json")) - before), None][:1]
    return command.Result(code, said.getvalue(), logs), json.loads(accounts.read_text()) if accounts else {}


def check_sent(release: Release, node: Meddler, result: command.Result, accounts: dict[str, Any]) -> None:
    assert result.code in release.codes, (result.code, release.codes, result.said)
    assert node.holds() == bodies(release.fit.values()), result.said
    assert len(node.offered) == len(release.fit)
    assert accounts["verdict"] == {0: "complete", 3: "incomplete"}[result.code]
    assert accounts["totals"]["received"] == len(release.fit)
    missing = {sop for series in accounts["series"] for sop in series["missing_uids"]}
    bad = {one["path"] for one in accounts["bad_files"]}
    # A file that was replaced is told of by what it holds now: the UIDs are the other one's.
    elsewhere = [path for path in release.gone if str(path) not in bad]
    told = sum(len(one["missing_uids"]) for one in accounts["series"] if one["reason"])
    assert len(missing) == told == accounts["totals"]["missing"]
    assert told == len(elsewhere), f"nothing is told of some of {elsewhere}: {accounts}"
    for path in release.strange:
        assert str(path) in bad, f"nothing is told of {path}: {accounts}"
    log = result.log
    assert {line["Folder"] for line in log if line["Status"] == "bad"} == bad
    assert sum(int(line["Missing"] or 0) for line in log) == accounts["totals"]["missing"]


def check_disc(release: Release, out: Path) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = create_dicomdir.main(["-d", str(release.root), "-o", str(out), "--zip"])
    assert code in release.codes, (code, release.codes, said.getvalue())
    copied = Counter(path.read_bytes() for path in out.rglob("IM*"))
    assert copied == Counter(release.fit.values()), said.getvalue()
    with zipfile.ZipFile(out.with_name(f"{out.name}.zip")) as packed:
        names = [name for name in packed.namelist() if not name.endswith("DICOMDIR")]
        assert Counter(map(packed.read, names)) == copied
    accounts = json.loads((newest(out.parent) / "accounts.json").read_text(encoding="utf-8"))
    told = {path for path, _ in accounts["problems"]}
    assert accounts["counts"]["objects"] == len(release.fit)
    for path in release.gone | release.strange:
        assert str(path) in told, f"nothing is told of {path}: {told}"


@pytest.mark.parametrize("seed", range(RELEASES))
def test_only_what_was_approved_leaves(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1000 + seed)
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    names = ["Wurzelbacher^Anna", "Zwetschgenbaum^Otto", "Quittenfeld^Ida"]
    images = [
        image
        for number, name in enumerate(names[: rng.choice([2, 3])])
        for serial in range(rng.choice([1, 2]))
        for image in phantom_series(
            patient_id=f"7739{number}4821",
            patient_name=name,
            PatientBirthDate=f"193{number}0719",
            study_date=f"20200{number + 2}11",
            series_number=serial + 1,
            n_images=rng.choice([1, 2, 3]),
            rows=4,
            columns=4,
        )
    ]
    archive = write(images, tmp_path / "archive")
    with Gossip(World(seed, rng, tmp_path)) as pacs:
        pacs.add(archive)
        study = made_study(tmp_path, pacs)
        working = study.folder("de-identified")
        if again := rng.random() < 0.5:
            study.release()
            study = made_study(tmp_path, pacs)
            for path in rng.sample(sorted(working.rglob("*.dcm")), rng.choice([1, 2])):
                path.unlink()
        approved = {path.relative_to(working): path.read_bytes() for path in working.rglob("*.dcm")}
        study.release()
        release = Release(rng, study.folder("released"), list(archive), approved, doubtful=again)
        assert all((release.root / path).read_bytes() == content for path, content in approved.items())
        for path in rng.sample(sorted(approved), rng.choice([0, 1])):
            (working / path).write_bytes(archive[0].read_bytes())
        for _ in range(rng.choice([0, 1, 2, 3])):
            release.change()
        check_extraction_stays_out(release, pacs, tmp_path)
    check_disc(release, tmp_path / "disc")
    with Meddler(tmp_path / "research") as node:
        check_sent(release, node, *send(release.root, node, tmp_path / "logs"))
        # Again: nothing goes twice, and what is wrong is still said to be.
        node.offered.clear()
        result, _ = send(release.root, node, tmp_path / "again")
        assert not node.offered and result.code in release.codes, result.said
    check_part(release, tmp_path)
    check_copy(release, tmp_path)
    check_race(release, tmp_path)


def check_extraction_stays_out(release: Release, pacs: EmbeddedPacs, folder: Path) -> None:
    """No extraction begins in or around what is released."""
    before = sorted(release.root.rglob("*"))
    place = release.rng.choice(["more", "", sorted(release.fit)[0].parts[0], ".."])
    table = write_table(folder / "all.csv", [{"StudyDate": "20200101-"}])
    config = configured(pacs, folder / "pacs.json")
    assert command.extract(config, table, release.root / place, "--save").ended(2)
    assert sorted(release.root.rglob("*")) == before


def check_part(release: Release, folder: Path) -> None:
    """Of a part goes what was approved of that part."""
    part = release.untouched().parts[0]
    fit = [content for path, content in release.fit.items() if path.parts[0] == part]
    with Meddler(folder / "part") as node:
        result, _ = send(release.root / part, node, folder / "logs-part")
        assert node.holds() == bodies(fit), result.said
        result.ended(3 if any(path.parts[0] == part for path in release.gone | release.strange) else 0, 3)


def check_copy(release: Release, folder: Path) -> None:
    """A copy has no list, and is refused."""
    shutil.copytree(release.root, folder / "copy", symlinks=True)
    with Meddler(folder / "copied") as node:
        result, _ = send(folder / "copy", node, folder / "logs-copy")
        assert result.code not in (0, 3) and not node.offered, result.said


def check_race(release: Release, folder: Path) -> None:
    """What changes after stock was taken, and before it is read, does not leave."""
    victims = release.rng.sample(sorted(release.fit), min(2, len(release.fit)))
    identified = release.identified.pop().read_bytes()

    def meddle() -> None:
        for path in victims:
            release.put(path, identified)

    with Meddler(folder / "race", meddle) as node:
        result, _ = send(release.root, node, folder / "logs-race")
        sent, fit = node.holds(), bodies(release.fit.values())
        assert sent <= fit, result.said
        assert result.code in ({3} if sent != fit else release.codes), result.said
