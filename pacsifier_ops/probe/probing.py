"""The questions of a probe about one archive, from the association to the retrieval of an image."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import cast

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from pacsifier_ops.archive.check import SERVICES
from pacsifier_ops.archive.find import Finder, return_keys, values_of
from pacsifier_ops.archive.letters import Letters
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import Cancelled, PacsError, PacsifierError, ReceiverError, Unsupported
from pacsifier_ops.base.files import private_folder, storage_errors
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.waiting import pause
from pacsifier_ops.dimse.receiver import last_arrival, spooled
from pacsifier_ops.dimse.session import RetrieveResult, Session, query
from pacsifier_ops.dimse.sink import ReceivedObject
from pacsifier_ops.extract.quarantine import Quarantine
from pacsifier_ops.extract.recall import SLOW
from pacsifier_ops.extract.receiving import Receivers, series_lease
from pacsifier_ops.extract.retrieve import REGISTERED, likely_classes
from pacsifier_ops.probe.asking import Archive, TooManyMatches
from pacsifier_ops.probe.findings import NO, NOT_TESTED, PARTLY, YES, Fact, Findings, conclude
from pacsifier_ops.probe.keys import KeyTrials, Sample, uids_above
from pacsifier_ops.probe.sample import Sampler, spread
from pacsifier_ops.query.keys import FURTHER, KEYS, Level
from pacsifier_ops.runs.folder import now
from pacsifier_ops.state.leases import Leases
from pacsifier_ops.state.tree import Tree

#: Number of C-ECHO requests.
_ECHOES = 5
#: Maximum number of names that are queried as the archive returned them.
_NAMES = 10
#: Maximum and minimum number of studies, and of series, that are queried in detail.
_STUDIES, _STUDIES_AT_LEAST, _SERIES, _SERIES_AT_LEAST = 20, 8, 20, 8
#: The images of series with more images than this are not listed, if their number is known.
_MANY_IMAGES = 500
#: Maximum number of images that are requested until one arrives: a single one may be off-line.
_TARGETS = 3
#: Seconds to wait for an image after C-MOVE has ended: some archives end it before the image has arrived.
_ARRIVAL_GRACE = 5.0
#: Relative size of objects by modality, 2 for others; and modalities with large objects, which are not fetched.
_SIZES = {"PR": 0, "KO": 0, "SR": 0, "CT": 1, "MR": 1, "PT": 1, "OT": 1}
_LARGE = ("US", "XA", "RF", "IVUS", "ES", "SM", "NM", "OPT", "MG", "BTO", "RTDOSE", "SEG", "XC", "DOC")
_IMAGE_KEYS = tuple(key.keyword for key in KEYS.values() if key.level is Level.IMAGE)
_SERIES_KEYS = tuple(key.keyword for key in KEYS.values() if key.level is Level.SERIES)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """A small object to be fetched: an instance, or a series of one instance if the archive lists no instances.

    Attributes:
        study_uid, series_uid, modality: its study and series.
        name: PatientName as the archive returned it.
        instance_uid: SOP Instance UID; empty: the series is requested.
        sop_class, stored_as: UIDs of its SOP class and transfer syntax; empty if the archive did not return them.
    """

    study_uid: str
    series_uid: str
    modality: str
    name: str
    instance_uid: str = ""
    sop_class: str = ""
    stored_as: str = ""

    @property
    def series(self) -> SeriesId:
        """Study and Series Instance UID."""
        return SeriesId(self.study_uid, self.series_uid)

    @property
    def identifier(self) -> Dataset:
        """Identifier of the C-GET or C-MOVE request."""
        keys = {"StudyInstanceUID": self.study_uid, "SeriesInstanceUID": self.series_uid}
        if not self.instance_uid:
            return query("SERIES", **keys)
        return query("IMAGE", **keys, SOPInstanceUID=self.instance_uid)

    def is_requested(self, item: ReceivedObject) -> bool:
        """Return whether an object is the requested one."""
        series = (item.study_uid, item.series_uid)
        return series == self.series and self.instance_uid in ("", item.sop_instance_uid)


def _series_of(answer: Dataset) -> SeriesId:
    return SeriesId(str(answer.StudyInstanceUID), str(answer.SeriesInstanceUID))


def _target(series: Dataset, name: str) -> Target:
    uids = _uids(series)
    modality = str(series.get("Modality", ""))
    return Target(uids["StudyInstanceUID"], uids["SeriesInstanceUID"], modality, name)


class _NotTested(Exception):
    """A question cannot be asked; the text gives the reason."""


class Probing:
    """One probe of one archive.

    Args:
        node: the archive.
        workplace: folder for temporary files.
        incoming: folder below it for objects of C-GET.
        receivers: finds or starts the receiver for C-MOVE to us.
        leases: the leases that enforce the limits of the archive.
        cancelled: called regularly; True ends the probe.
        progress: called with the name of each question.

    Attributes:
        findings: the findings so far.
    """

    def __init__(
        self,
        node: PacsNode,
        workplace: Path,
        incoming: Path,
        receivers: Receivers,
        leases: Leases,
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> None:
        self.findings = Findings(node.name, node.host, node.port, node.called_aet, node.calling_aet, started=now())
        self._node, self._leases, self._receivers = node, leases, receivers
        self._cancelled, self._progress = cancelled, progress
        self._fetched = private_folder(workplace / "fetched")
        self._archive = Archive(node, leases, incoming, cancelled)
        self._studies: list[Dataset] = []
        self._series: list[Dataset] = []
        self._images: list[Dataset] = []
        self._sent_as: dict[str, str] = {}
        self._target: Target | None = None
        self._name_in_image = ""

    def run(self) -> Findings:
        """Ask all questions, and return the findings."""
        findings, started = self.findings, time.monotonic()
        with closing(self._archive.session):
            self._ask("association", self._association)
            findings.reachable = findings.of("association").state == YES
            if findings.reachable:
                self._ask("echo", self._echo)
                self._ask("study", self._study_level)
                findings.usable = findings.of("study").state == YES
            if findings.usable:
                self._queries()
                self._retrieval()
                self._ask("characters", self._characters)
            if findings.reachable:
                self._ask("latency", self._latency)
        findings.queries = self._archive.queries
        findings.seconds = round(time.monotonic() - started, 1)
        conclude(findings, self._node)
        return findings

    def _ask(self, question: str, answer: Callable[[], Fact]) -> None:
        """Ask one question. An error of it becomes its answer, so that the next one can be asked."""
        self._progress(question.replace("_", " "))
        facts = self.findings.facts
        try:
            facts[question] = answer()
        except Cancelled:
            raise
        except _NotTested as why:
            facts[question] = Fact(NOT_TESTED, f"not tested: {why}")
        except Unsupported as error:
            facts[question] = Fact(NO, self._text_of(error))
        except PacsifierError as error:
            state = NO if question == "association" else NOT_TESTED
            facts[question] = Fact(state, self._text_of(error))
        except Exception as error:  # an unexpected response affects one question only
            facts[question] = Fact(NOT_TESTED, f"the answer could not be read ({type(error).__name__})")

    def _text_of(self, error: PacsifierError) -> str:
        """Return the text of an error without the name of the archive."""
        return str(error).removeprefix(f"{self._node.name}: ")

    # Connection

    def _association(self) -> Fact:
        peer = self._archive.with_retry(self._archive.session.peer)
        accepted = {name: uid in peer.accepted for name, uid in SERVICES.items()}
        offered = [name for name, there in accepted.items() if there]
        refused = [name for name, there in accepted.items() if not there]
        text = f"Study Root: {', '.join(offered) or 'nothing'}"
        self.findings.facts["services"] = Fact(
            PARTLY if refused else YES,
            text + (f"; refused: {', '.join(refused)}" if refused else ""),
            ", ".join(offered),
        )
        software = peer.implementation_version or "no version name"
        longest = f"{peer.maximum_pdu:,} bytes" if peer.maximum_pdu else "unlimited"
        uid = peer.implementation_class_uid or "not given"
        self.findings.facts["peer"] = Fact(
            YES,
            f"{software}, implementation class UID {uid}; longest PDU {longest}",
            peer.implementation_version,
        )
        return Fact(YES, f"accepted by {self._node.called_aet} for {self._node.calling_aet}")

    def _echo(self) -> Fact:
        seconds = self._archive.echo_seconds(_ECHOES)
        return Fact(YES, f"answered, {_ms(seconds)} (median of {_ECHOES})", round(seconds * 1000, 1))

    def _latency(self) -> Fact:
        seconds = self._archive.find_seconds
        if seconds is None:
            raise _NotTested("no C-FIND was answered")
        return Fact(YES, f"C-FIND {_ms(seconds)} (median of {self._archive.queries})", round(seconds * 1000, 1))

    # Queries

    def _study_level(self) -> Fact:
        sampler = Sampler(self._archive)
        sampler.search()
        self._ask("result_limit", sampler.limit)
        for uid in spread(sampler.studies, _STUDIES):
            wanted = dict.fromkeys(return_keys("STUDY", FURTHER), "")
            identifier = query("STUDY", **{**wanted, "StudyInstanceUID": uid})
            self._studies += [m for m in self._archive.find(identifier).identifiers if m.get("StudyInstanceUID") == uid]
        if not sampler.studies:
            return Fact(
                YES,
                "answered, but no study was found: the archive is empty, or our AE title may not see its studies",
            )
        ranges = {
            True: "",
            False: "; it does not match on ranges of StudyDate",
            None: "; ranges of StudyDate find nothing",
        }[sampler.ranges_matched]
        self.findings.sample = f"{len(sampler.studies):,} studies {sampler.covered}".rstrip()
        return Fact(YES, f"answered{ranges}", len(sampler.studies))

    def _queries(self) -> None:
        self._ask("series", self._series_level)
        self._ask("count", self._counts)
        self._ask("availability", self._availability)
        self._ask("image", self._image_level)
        self._ask("sop_classes", self._sop_classes)
        self._ask("series_alone", partial(self._without_uids_above, "SERIES"))
        self._ask("image_alone", partial(self._without_uids_above, "IMAGE"))
        self._ask("relational", self._relational)
        sample = Sample(self._studies, self._series, self._images)
        if self._series:
            self.findings.sample += (
                f"; {len(self._studies)} of them in detail, with {len(self._series)} series, "
                f"{len(set(map(_series_of, self._images)))} of these image by image"
            )
        self.findings.keys = KeyTrials(self._archive, sample).findings(self._progress)

    def _series_level(self) -> Fact:
        if not self._studies:
            raise _NotTested("no study was found")
        for number, study in enumerate(self._studies):
            if number >= _STUDIES_AT_LEAST and len(self._series) >= _SERIES:
                break
            uid = str(study.StudyInstanceUID)
            wanted = dict.fromkeys(return_keys("SERIES", FURTHER), "")
            identifier = query("SERIES", **{**wanted, "StudyInstanceUID": uid})
            for series in self._archive.find(identifier).identifiers:
                if series.get("SeriesInstanceUID") and str(series.get("StudyInstanceUID") or uid) == uid:
                    series.StudyInstanceUID = uid
                    self._series.append(series)
        if not self._series:
            return Fact(NO, "answered, but the studies of the sample have no series")
        return Fact(YES, "answered within a study", len(self._series))

    def _counts(self) -> Fact:
        if not self._series:
            raise _NotTested("no series was found")
        counted, total = sum(_count(series) is not None for series in self._series), len(self._series)
        if counted:
            return Fact(YES if counted == total else PARTLY, f"returned for {counted} of {total} series")
        return Fact(NO, "NumberOfSeriesRelatedInstances is not returned; the images of a series must be listed instead")

    def _availability(self) -> Fact:
        """Return whether the archive returns InstanceAvailability; the value is the number of series to be recalled."""
        if not self._series:
            raise _NotTested("no series was found")
        values = [value for series in self._series for value in values_of(series, "InstanceAvailability")]
        if not values:
            return Fact(NO, "InstanceAvailability is not returned; a recall shows only by the silence of the archive")
        slow = sum(value in SLOW for value in values)
        return Fact(
            YES, f"InstanceAvailability is returned; {slow} of {len(self._series)} series have to be recalled", slow
        )

    def _image_level(self) -> Fact:
        if not self._series:
            raise _NotTested("no series was found")
        hidden = [key for key in _SERIES_KEYS if not any(values_of(series, key) for series in self._series)]
        wanted = ("SOPClassUID", "AvailableTransferSyntaxUID", "NumberOfFrames", *_IMAGE_KEYS, *hidden)
        fewest = sorted(self._series, key=lambda series: (_count(series) or _MANY_IMAGES, series.get("Modality", "")))
        short = [series for series in fewest if (_count(series) or 0) <= _MANY_IMAGES]
        if not short:
            raise _NotTested(f"no series with at most {_MANY_IMAGES} images was found")
        for number, series in enumerate(islice(_in_turns(short), _SERIES)):
            missing = [key for key in (*_IMAGE_KEYS, *hidden) if not any(values_of(i, key) for i in self._images)]
            if number >= _SERIES_AT_LEAST and not missing:
                break
            identifier = query("IMAGE", **dict.fromkeys(wanted, ""), **_uids(series), SOPInstanceUID="")
            try:
                images = self._archive.find(identifier).identifiers
            except TooManyMatches:
                continue
            for image in images:
                if image.get("SOPInstanceUID"):
                    image.StudyInstanceUID, image.SeriesInstanceUID = series.StudyInstanceUID, series.SeriesInstanceUID
                    self._images.append(image)
        if not self._images:
            return Fact(NO, "answered, but the series of the sample have no images")
        return Fact(YES, "answered within a series")

    def _sop_classes(self) -> Fact:
        if not self._images:
            raise _NotTested("no image was found")
        if all(image.get("SOPClassUID") for image in self._images):
            return Fact(YES, "returned at IMAGE level, as C-GET needs them")
        return Fact(NO, "not returned at IMAGE level; for C-GET they have to be guessed from the modality")

    def _without_uids_above(self, level: str) -> Fact:
        """Return whether a UID finds its entity without the UIDs of the levels above (relational query)."""
        entities = self._series if level == "SERIES" else self._images
        if not entities:
            raise _NotTested(f"nothing was found at {level} level")
        own = {"SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[level]
        uid = str(entities[0][own].value)
        keys = dict.fromkeys(uids_above(entities[0], level), "")
        try:
            found = self._archive.find(query(level, **{**keys, own: uid})).identifiers
        except TooManyMatches:
            return Fact(NO, f"{own} alone finds everything")
        if [str(match.get(own)) for match in found] == [uid]:
            return Fact(YES, f"{own} alone finds it")
        return Fact(NO, f"{own} alone finds {'nothing' if not found else 'more than it'}")

    def _relational(self) -> Fact:
        """Return whether the archive supports relational queries, as `Finder` determines it for a run."""
        finder = Finder(cast(Session, self._archive))  # has the same `find`, with a limit on the answer
        first_of = {str(series.StudyInstanceUID): series for series in reversed(self._series)}
        for study in self._studies:
            series = first_of.get(str(study.StudyInstanceUID))
            if series is None:
                continue
            try:
                works = finder.try_relational(study, series)
            except TooManyMatches:
                works = False
            if works:
                return Fact(YES, "keys of the patient are supported at SERIES level: one query per row is enough")
            if works is False:
                return Fact(NO, "not supported at SERIES level: rows are queried study by study, which is slower")
        raise _NotTested("no study with a suitable PatientID was found")

    def _characters(self) -> Fact:
        """Return whether letters of names are lost in responses. No name is kept.

        Names in responses are compared with queries that find them, and one of them with the name in an image.
        """
        sets = sorted(self._archive.character_sets)
        shown = "Responses are in " + (", ".join(sets) if sets else "ASCII, or without SpecificCharacterSet")
        letters = Letters(cast(Session, self._archive))
        named = [(str(s.StudyInstanceUID), values_of(s, "PatientName")) for s in self._studies]
        named = [(uid, name) for uid, name in named if name][:_NAMES]
        for study in self._studies:
            letters.learn(study)
        if named and letters.in_few_letters and letters.names_are_matched(named[0][0]):
            odd = sum(not letters.whole(uid, name) for uid, name in named)
            if odd:
                return Fact(
                    NO, f"{shown}; {odd} of {len(named)} names lack letters that the archive has", ", ".join(sets)
                )
        whole = None
        if self._name_in_image and not self._name_in_image.isascii() and self._target:
            whole = self._target.name == self._name_in_image
        if whole is False:
            return Fact(NO, f"{shown}; a name in a response lacks letters that the image has", ", ".join(sets))
        tested = (
            "a name beyond ASCII came whole"
            if whole
            else "no image with a name beyond ASCII was fetched, so names were not compared with images"
        )
        one_byte = bool(sets) and not any(name in ("ISO_IR 192", "GB18030", "GBK") for name in sets)
        if one_byte and len(sets) == 1 and "ISO 2022" not in sets[0]:
            return Fact(PARTLY, f"{shown}, which lacks the letters of other scripts; {tested}", ", ".join(sets))
        return Fact(YES if sets else NOT_TESTED, f"{shown}; {tested}", ", ".join(sets))

    # Retrieval

    def _retrieval(self) -> None:
        targets = list(islice(self._targets(), _TARGETS))
        for service, fetch in (("get", self._get), ("move", self._move)):
            self._ask(service, partial(self._fetch_one, service, fetch, targets))
        self._ask("kept", self._syntax_kept)

    def _targets(self) -> Iterator[Target]:
        """Yield small objects, the best first: one per series, without multi-frame images."""
        studies = {str(study.StudyInstanceUID): study for study in self._studies}
        series_of = {_series_of(series): series for series in self._series}

        def name(series: Dataset) -> str:
            return "".join(values_of(studies.get(str(series.StudyInstanceUID), Dataset()), "PatientName"))

        def rank(image: Dataset) -> tuple[bool, bool, int, int]:
            series = series_of[_series_of(image)]
            private = str(image.get("SOPClassUID") or "") not in REGISTERED | {""}
            size = _SIZES.get(str(series.get("Modality", "")), 2)
            # An image with a name beyond ASCII shows whether letters are lost.
            return private or size > 1, name(series).isascii(), size, _count(series) or _MANY_IMAGES

        first_of = {_series_of(image): image for image in reversed(self._images)}
        for image in sorted(first_of.values(), key=rank):
            series = series_of[_series_of(image)]
            modality = str(series.get("Modality", ""))
            if modality in _LARGE or str(image.get("NumberOfFrames") or "1") != "1":
                continue
            target = _target(series, name(series))
            yield replace(
                target,
                instance_uid=str(image.SOPInstanceUID),
                sop_class=str(image.get("SOPClassUID") or ""),
                stored_as=str(image.get("AvailableTransferSyntaxUID") or ""),
            )
        if not self._images:
            for series in self._series:
                if _count(series) == 1 and str(series.get("Modality", "")) not in _LARGE:
                    yield _target(series, name(series))

    def _fetch_one(self, service: str, fetch: Callable[[Target], Fact], targets: list[Target]) -> Fact:
        """Fetch the targets one after the other until one arrives."""
        if service == "move" and not self._node.receiver_port:
            raise _NotTested(
                f"receiver_port is not set. Ask the PACS team to declare AE title {self._node.destination} with the "
                "address of this machine and a port; set receiver_port to that port, and probe again"
            )
        if not targets:
            raise _NotTested("no small image was found")
        fact = Fact(NO, "")
        for target in targets:
            try:
                fact = fetch(target)
            except ReceiverError:
                raise
            except PacsError as error:
                fact = Fact(NO, self._text_of(error))
                if not error.of_series:
                    break
            if fact.state == YES:
                self._target = target
                break
        return fact

    def _get(self, target: Target) -> Fact:
        session = self._archive.session
        classes = [target.sop_class] if target.sop_class else likely_classes(target.modality)
        started = time.perf_counter()
        outcome = self._archive.with_retry(lambda: session.get(target.identifier, classes))
        return self._retrieve_fact("get", target, session.take(), outcome, time.perf_counter() - started)

    def _move(self, target: Target) -> Fact:
        with self._leases.acquire(series_lease(target.series), wait=0):
            spool = self._receivers.spool()
            for item in self._arrived(spool, target):
                item.path.unlink(missing_ok=True)  # left by a killed attempt; it must not count as the answer
            started = time.perf_counter()

            def move() -> RetrieveResult:
                return self._archive.session.move(
                    target.identifier, self._node.destination, partial(last_arrival, spool, target.series)
                )

            outcome = self._archive.with_retry(move)
            until = time.monotonic() + (0 if outcome.failed else _ARRIVAL_GRACE)
            while not (items := self._arrived(spool, target)) and time.monotonic() < until:
                pause(0.02, self._cancelled)
            seconds = time.perf_counter() - started
            return self._retrieve_fact("move", target, items, outcome, seconds)

    def _arrived(self, spool: Path, target: Target) -> list[ReceivedObject]:
        with storage_errors("the spool"):
            return [item for item in spooled(spool, target.series) if target.is_requested(item)]

    def _retrieve_fact(
        self, service: str, target: Target, items: list[ReceivedObject], outcome: RetrieveResult, seconds: float
    ) -> Fact:
        """Return the fact about a retrieval, and remove its objects.

        Args:
            service: get or move.
            target: what was requested.
            items: what arrived.
            outcome: the final response.
            seconds: duration.
        """
        try:
            requested = [item for item in items if target.is_requested(item)]
            if not requested:
                said = "reports success, but" if outcome.status == 0 else "does not send it, and"
                return Fact(NO, f"the archive {said} nothing arrived (0x{outcome.status:04X}, {outcome.failed} failed)")
            item = requested[0]
            if target.sop_class not in ("", item.sop_class_uid):
                return Fact(NO, "the object has another SOP class than the archive returned for it")
            self._sent_as[service] = item.transfer_syntax_uid
            head = dcmread(item.path, stop_before_pixels=True, specific_tags=["PatientName"])
            self._name_in_image = "".join(values_of(head, "PatientName"))
            uid = UID(item.sop_class_uid)
            kind = "private SOP class" if uid.is_private else uid.name
            size, syntax = max(1, item.size // 1024), _syntax(item.transfer_syntax_uid)
            text = f"one object ({kind}, {size:,} KiB, {syntax}) came whole in {_ms(seconds)}"
            return Fact(YES, text, round(seconds * 1000, 1))
        finally:
            for item in items:
                item.path.unlink(missing_ok=True)

    def _syntax_kept(self) -> Fact:
        """Return whether the archive sends images in the transfer syntax in which they are stored."""
        sent = self._sent_as
        if not sent:
            raise _NotTested("no image arrived")
        stored = self._target.stored_as if self._target else ""
        if stored:
            changed = [f"C-{service.upper()}" for service, syntax in sent.items() if syntax != stored]
            if changed:
                return Fact(NO, f"stored in {_syntax(stored)}, converted by {' and '.join(changed)}")
            return Fact(YES, f"sent in {_syntax(stored)}, as the archive has it")
        if len(set(sent.values())) > 1:
            return Fact(NO, f"C-GET sent {_syntax(sent['get'])}, C-MOVE {_syntax(sent['move'])}: one converts")
        ways = " and ".join(f"C-{service.upper()}" for service in sent)
        return Fact(
            NOT_TESTED,
            f"{ways} sent {_syntax(next(iter(sent.values())))}; the archive does not return the stored transfer syntax "
            "(AvailableTransferSyntaxUID)",
        )


def _uids(series: Dataset) -> dict[str, str]:
    keys = ("StudyInstanceUID", "SeriesInstanceUID")
    return {key: str(series[key].value) for key in keys}


def _count(series: Dataset) -> int | None:
    values = values_of(series, "NumberOfSeriesRelatedInstances")
    return int(values[0]) if values and values[0].isdigit() else None


def _in_turns(series: list[Dataset]) -> Iterator[Dataset]:
    """Yield one series of each modality, then the next of each, and so on."""
    by_modality: dict[str, list[Dataset]] = {}
    for item in series:
        by_modality.setdefault(str(item.get("Modality", "")), []).append(item)
    for turn in zip_longest(*by_modality.values()):
        yield from (item for item in turn if item is not None)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def _syntax(uid: str) -> str:
    return str(UID(uid).name)


def probe(
    node: PacsNode,
    workplace: Path,
    leases: Leases,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = lambda question: None,
) -> Findings:
    """Find out what an archive supports, over one association at a time and with narrow queries.

    A question that fails does not affect the others; its answer says that it was not tested. Fetched images are removed
    at once. The findings contain no values of patients.

    Args:
        node: the archive. C-MOVE to us is tested if it has a receiver_port.
        workplace: folder for temporary files; it is created, and removed at the end.
        leases: the leases that enforce the limits of the archive.
        cancelled: called regularly; True ends the probe.
        progress: called with the name of each question.

    Raises:
        Cancelled: `cancelled` returned True.
        StorageError: the workplace cannot be written.
    """
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, workplace, ignore_errors=True)
        with storage_errors("the folder of the run"):
            private_folder(workplace)
        tree = Tree(workplace, workplace)
        incoming = stack.enter_context(tree.workplace(leases))
        receivers = stack.enter_context(closing(Receivers(node, leases, tree, Quarantine(workplace / "quarantine"))))
        return Probing(node, workplace, incoming, receivers, leases, cancelled, progress).run()
