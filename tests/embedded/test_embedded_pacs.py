"""The embedded PACS over real associations: what it answers, what it sends, and each of its faults."""

from __future__ import annotations

import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.dsutils import split_dataset

from pacsifier_ops.dimse.transport import HANDLERS, Secure, tuned
from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults, keep_responses, matches
from pacsifier_ops.embedded.phantoms import demo_cohort, phantom_series, write
from tests.support.certificates import PASSPHRASE, Certificates, make
from tests.support.peers import Storescp, Tls, contents
from tests.support.processes import PATIENCE, started

pytestmark = pytest.mark.archive

VERIFICATION = "1.2.840.10008.1.1"
PATIENT_ROOT, STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1", "1.2.840.10008.5.1.4.1.2.2"
FIND, MOVE, GET = ".1", ".2", ".3"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return demo_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def pacs(cohort: list[Path]) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs() as running:
        running.add(cohort)
        yield running


class Receiver:
    """A storage SCP that keeps what it gets: data sets as encoded, by SOP Instance UID."""

    def __init__(self) -> None:
        self.got: dict[str, bytes] = {}

    def __call__(self, event: Any) -> int:
        self.got[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return 0x0000


def identifier(level: str, **keys: Any) -> Dataset:
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def associate(pacs: EmbeddedPacs, contexts: list[Any], **more: Any) -> Any:
    assoc = AE(more.pop("calling", "CLIENT")).associate(
        pacs.host, pacs.port, contexts=contexts, ae_title=more.pop("called", pacs.aet), **more
    )
    keep_responses(assoc)
    return assoc


def find(pacs: EmbeddedPacs, level: str, root: str = STUDY_ROOT, **keys: Any) -> tuple[int, list[Dataset]]:
    assoc = associate(pacs, [build_context(root + FIND)])
    responses = list(assoc.send_c_find(identifier(level, **keys), root + FIND))
    assoc.release()
    return responses[-1][0].Status, [answer for _, answer in responses if answer is not None]


def storage_contexts(paths: list[Path]) -> list[Any]:
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    pairs = sorted({(h.SOPClassUID, h.file_meta.TransferSyntaxUID) for h in headers})
    return [build_context(*pair) for pair in pairs]


def get(
    pacs: EmbeddedPacs, contexts: list[Any], level: str, root: str = STUDY_ROOT, **keys: Any
) -> tuple[list[Any], dict[str, bytes]]:
    """All (status, identifier) responses of a C-GET, and what was received."""
    receiver = Receiver()
    assoc = associate(
        pacs,
        [build_context(root + GET), *contexts],
        ext_neg=[build_role(uid, scp_role=True) for uid in {cx.abstract_syntax for cx in contexts}],
        evt_handlers=[(evt.EVT_C_STORE, receiver)],
    )
    responses = list(assoc.send_c_get(identifier(level, **keys), root + GET))
    assoc.release()
    return responses, receiver.got


@pytest.fixture(scope="module")
def storage_scp(cohort: list[Path]) -> Iterator[tuple[Receiver, int]]:
    """A storage SCP and its port."""
    kept = Receiver()
    entity = AE("RECEIVER")
    for context in storage_contexts(cohort):
        entity.add_supported_context(context.abstract_syntax, context.transfer_syntax)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, kept)])
    assert server is not None
    yield kept, server.server_address[1]
    server.shutdown()


@pytest.fixture
def receiver(pacs: EmbeddedPacs, storage_scp: tuple[Receiver, int]) -> Receiver:
    """The storage SCP, empty, known to the PACS as RECEIVER."""
    kept, port = storage_scp
    kept.got.clear()
    pacs.destinations["RECEIVER"] = ("127.0.0.1", port)
    return kept


def move(
    pacs: EmbeddedPacs, level: str, destination: str = "RECEIVER", root: str = STUDY_ROOT, **keys: Any
) -> list[Any]:
    assoc = associate(pacs, [build_context(root + MOVE)])
    responses = list(assoc.send_c_move(identifier(level, **keys), destination, root + MOVE))
    assoc.release()
    return responses


def series_of(pacs: EmbeddedPacs, **keys: Any) -> Dataset:
    """The first series that answers the keys."""
    asked = {"StudyInstanceUID": "", "SeriesInstanceUID": "", "NumberOfSeriesRelatedInstances": None} | keys
    return find(pacs, "SERIES", **asked)[1][0]


def uids(series: Dataset) -> dict[str, str]:
    return {key: series[key].value for key in ("StudyInstanceUID", "SeriesInstanceUID")}


def instances(pacs: EmbeddedPacs, series: Dataset) -> list[str]:
    return [answer.SOPInstanceUID for answer in find(pacs, "IMAGE", **uids(series), SOPInstanceUID="")[1]]


def counts(response: Any) -> tuple[int, ...]:
    """Completed, failed, warning of a response."""
    names = ("Completed", "Failed", "Warning")
    return tuple(response[0][f"NumberOf{name}Suboperations"].value for name in names)


def failed(response: Any) -> list[str]:
    """The failed SOP Instance UIDs that a response names; one alone is not a list."""
    named = response[1].FailedSOPInstanceUIDList
    return [named] if isinstance(named, str) else list(named)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("keyword", "wanted", "stored", "answer"),
    [
        ("PatientID", "A1", "A1", True),
        ("PatientID", "a1", "A1", False),
        ("PatientID", "A.", "AB", False),
        ("PatientID", "A?", "AB", True),
        ("PatientID", "", "", True),
        ("PatientID", "*", "", True),
        ("PatientID", "A*", "", False),
        ("PatientID", "A", None, False),
        ("PatientName", "MÜLLER^jürgen", "Müller^Jürgen", True),
        ("PatientName", "Müller*", "Müller^Jürgen^^^", True),
        ("PatientName", "Doe^John", "Doe^John^^", True),
        ("PatientName", "Muller*", "Müller^Jürgen", False),
        ("PatientName", "山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("StudyDate", "20150512", "20150512", True),
        ("StudyDate", "20150512", "2015.05.12", True),
        ("StudyDate", "20150501-20150531", "20150512", True),
        ("StudyDate", "20150513-", "20150512", False),
        ("StudyDate", "-20150512", "20150512", True),
        ("StudyDate", "-20150511", "20150512", False),
        ("StudyDate", "20150501-", "", False),
        ("StudyTime", "10", "103000.25", True),
        ("StudyTime", "1000-1030", "103059", True),
        ("StudyTime", "103001-", "1030", True),
        ("StudyTime", "1031-", "103059.999", False),
        ("SeriesNumber", "3", "03", True),
        ("SeriesNumber", "3", "30", False),
        ("ImageType", "PRIMARY", ["ORIGINAL", "PRIMARY", "AXIAL"], True),
        ("ImageType", "PRIM*", ["ORIGINAL", "PRIMARY", "AXIAL"], True),
        ("ImageType", ["AXIAL", "PRIMARY"], ["ORIGINAL", "PRIMARY", "AXIAL"], True),
        ("ImageType", ["AXIAL", "SECONDARY"], ["ORIGINAL", "PRIMARY", "AXIAL"], False),
        ("SeriesInstanceUID", ["1.2", "1.3"], "1.3", True),
        ("SeriesInstanceUID", ["1.2", "1.3"], "1.4", False),
        ("SeriesInstanceUID", "1*", "1.4", False),
    ],
)
def test_matching(keyword: str, wanted: Any, stored: Any, answer: bool) -> None:
    asked, held = Dataset(), Dataset()
    setattr(asked, keyword, wanted)
    if stored is not None:
        setattr(held, keyword, stored)
    assert matches(asked[keyword], held.get(asked[keyword].tag)) is answer


def test_sequences_match_item_by_item() -> None:
    def coded(*values: str) -> DataElement:
        holder = Dataset()
        holder.ProcedureCodeSequence = [Dataset() for _ in values]
        for item, value in zip(holder.ProcedureCodeSequence, values, strict=True):
            item.CodeValue = value
        return holder["ProcedureCodeSequence"]

    assert matches(coded("B"), coded("A", "B"))
    assert not matches(coded("C"), coded("A", "B"))
    assert matches(coded(""), None)
    assert matches(coded(), coded("A"))


def test_echo_and_called_ae_title(pacs: EmbeddedPacs) -> None:
    assoc = associate(pacs, [build_context(VERIFICATION)])
    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()
    assert associate(pacs, [build_context(VERIFICATION)], called="STRANGER").is_rejected


def test_every_level_lists_everything(pacs: EmbeddedPacs, cohort: list[Path]) -> None:
    headers = [dcmread(path, stop_before_pixels=True) for path in cohort]
    for level, key, root in (
        ("PATIENT", "PatientID", PATIENT_ROOT),
        ("STUDY", "StudyInstanceUID", STUDY_ROOT),
        ("SERIES", "SeriesInstanceUID", STUDY_ROOT),
        ("IMAGE", "SOPInstanceUID", PATIENT_ROOT),
    ):
        status, answers = find(pacs, level, root, **{key: ""})
        assert status == 0x0000
        assert sorted(a[key].value for a in answers) == sorted({h[key].value for h in headers})
        assert {a.QueryRetrieveLevel for a in answers} == {level}
        assert {a.RetrieveAETitle for a in answers} == {pacs.aet}


def test_counts_and_modalities(pacs: EmbeddedPacs) -> None:
    counted = {"ModalitiesInStudy": "", "NumberOfStudyRelatedSeries": "", "NumberOfStudyRelatedInstances": ""}
    _, (study,) = find(pacs, "STUDY", StudyInstanceUID="", PatientID="200316", **counted)
    assert list(study.ModalitiesInStudy) == ["CT", "MR"]
    assert (study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == (4, 21)
    assert not find(pacs, "STUDY", PatientID="200316", ModalitiesInStudy="US")[1]
    series = find(pacs, "SERIES", PatientID="200316", SeriesNumber="", NumberOfSeriesRelatedInstances="")[1]
    held = {s.SeriesNumber: s.NumberOfSeriesRelatedInstances for s in series}
    assert held == {1: 10, 501: 1, 2: 6, 3: 4}


def test_keys_of_lower_levels_are_no_keys_above(pacs: EmbeddedPacs) -> None:
    _, (study,) = find(pacs, "STUDY", PatientID="200316", SeriesDescription="Nothing like it")
    assert "SeriesDescription" not in study


def test_series_answers_for_its_first_image_and_images_for_themselves(pacs: EmbeddedPacs) -> None:
    series = series_of(pacs, PatientID="200316", SeriesDescription="Flow", ImageType="")
    assert list(series.ImageType) == ["ORIGINAL", "PRIMARY", "OTHER"]
    images = find(pacs, "IMAGE", **uids(series), SOPInstanceUID="", ImageType="DERIVED")[1]
    assert [list(image.ImageType) for image in images] == [["DERIVED", "PRIMARY", "PHASE MAP"]] * 3


@pytest.mark.parametrize(
    ("wanted", "patient", "charset"),
    [
        ("Müller^Jürgen", "200311", "ISO_IR 100"),
        ("müller^käthe", "200312", "ISO_IR 192"),
        ("Иванов*", "200313", "ISO_IR 144"),
        ("*太郎*", "200314", "['', 'ISO 2022 IR 87']"),
    ],
)
def test_names_in_their_character_set(pacs: EmbeddedPacs, wanted: str, patient: str, charset: str) -> None:
    _, answers = find(pacs, "STUDY", PatientName=wanted, PatientID=patient, StudyInstanceUID="")
    assert answers
    for answer in answers:
        assert str(answer.SpecificCharacterSet) == charset
        stored = pacs._index["STUDY"][answer.StudyInstanceUID][0]
        assert str(answer.PatientName) == str(stored.PatientName)


def test_query_in_another_character_set(pacs: EmbeddedPacs) -> None:
    _, answers = find(pacs, "STUDY", SpecificCharacterSet="ISO_IR 100", PatientName="Müller*", PatientID="")
    assert {answer.PatientID for answer in answers} == {"200311", "200312"}


def test_levels_that_the_model_lacks(pacs: EmbeddedPacs) -> None:
    assert find(pacs, "PATIENT", STUDY_ROOT, PatientID="123421")[0] == 0xA900
    assert find(pacs, "NONSENSE", PATIENT_ROOT, PatientID="123421")[0] == 0xA900


def test_get_sends_every_object_as_it_is_stored(pacs: EmbeddedPacs, cohort: list[Path]) -> None:
    studies = [answer.StudyInstanceUID for answer in find(pacs, "STUDY", StudyInstanceUID="")[1]]
    responses, got = get(pacs, storage_contexts(cohort), "STUDY", StudyInstanceUID=studies)
    stored = {}
    for path in cohort:
        meta, offset = split_dataset(path)
        stored[meta.MediaStorageSOPInstanceUID] = path.read_bytes()[offset:]
    assert got == stored
    assert len(responses) == len(cohort) + 1
    assert [r[0].NumberOfRemainingSuboperations for r in responses[:-1]] == list(range(len(cohort)))[::-1]
    assert responses[-1][0].Status == 0x0000
    assert counts(responses[-1]) == (len(cohort), 0, 0)
    assert sorted(pacs.sent) == sorted(stored)
    assert pacs.suboperations == {"completed": len(cohort)}


def test_get_fails_where_no_context_fits(pacs: EmbeddedPacs, cohort: list[Path]) -> None:
    series = series_of(pacs, PatientID="200316", SeriesDescription="Body 1.5 packed")
    other = series_of(pacs, PatientID="123421", SeriesDescription="Topogram")
    explicit = [build_context(CTImageStorage, ExplicitVRLittleEndian)]
    responses, got = get(pacs, explicit, "SERIES", **uids(series))
    assert (responses[-1][0].Status, counts(responses[-1]), got) == (0xA702, (0, 4, 0), {})
    assert sorted(responses[-1][1].FailedSOPInstanceUIDList) == sorted(instances(pacs, series))
    both = [uids(series)["SeriesInstanceUID"], uids(other)["SeriesInstanceUID"]]
    responses, got = get(pacs, explicit, "SERIES", SeriesInstanceUID=both)
    assert (responses[-1][0].Status, counts(responses[-1])) == (0xB000, (1, 4, 0))
    assert list(got) == instances(pacs, other)


def test_first_proposed_transfer_syntax_of_a_context_is_taken(pacs: EmbeddedPacs) -> None:
    series = series_of(pacs, PatientID="123421", SeriesDescription="Topogram")
    several = [build_context(CTImageStorage, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])]
    assert counts(get(pacs, several, "SERIES", **uids(series))[0][-1]) == (0, 1, 0)


def test_move_by_image_series_study_and_patient(pacs: EmbeddedPacs, receiver: Receiver) -> None:
    series = series_of(pacs, PatientID="200316", SeriesNumber="1")
    images = instances(pacs, series)
    responses = move(pacs, "IMAGE", **uids(series), SOPInstanceUID=images[2:5])
    assert counts(responses[-1]) == (3, 0, 0)
    assert list(receiver.got) == images[2:5] == pacs.sent
    move(pacs, "SERIES", **uids(series))
    assert sorted(receiver.got) == sorted(images)
    assert counts(move(pacs, "STUDY", StudyInstanceUID=series.StudyInstanceUID)[-1]) == (21, 0, 0)
    assert counts(move(pacs, "PATIENT", root=PATIENT_ROOT, PatientID="A.1")[-1]) == (3, 0, 0)
    assert len(receiver.got) == 24
    assert [(service, level) for service, level, _ in pacs.retrieves] == [
        ("C-MOVE", level) for level in ("IMAGE", "SERIES", "STUDY", "PATIENT")
    ]


def test_retrieve_needs_the_unique_key(pacs: EmbeddedPacs, receiver: Receiver) -> None:
    assert move(pacs, "SERIES", PatientID="123421")[-1][0].Status == 0xA900
    assert move(pacs, "PATIENT", PatientID="123421")[-1][0].Status == 0xA900
    assert not receiver.got


def test_move_to_nobody(pacs: EmbeddedPacs) -> None:
    series = series_of(pacs, PatientID="123421")
    assert move(pacs, "SERIES", "NOBODY", **uids(series))[-1][0].Status == 0xA801
    pacs.destinations["DEAF"] = ("127.0.0.1", 1)
    responses = move(pacs, "SERIES", "DEAF", **uids(series))
    assert (responses[-1][0].Status, counts(responses[-1])) == (0xA702, (0, len(instances(pacs, series)), 0))
    assert sorted(failed(responses[-1])) == sorted(instances(pacs, series))


def test_move_to_nobody_after_somebody(pacs: EmbeddedPacs, receiver: Receiver) -> None:
    series = series_of(pacs, PatientID="123421")
    assoc = associate(pacs, [build_context(STUDY_ROOT + MOVE)])
    for destination, status in (("RECEIVER", 0x0000), ("NOBODY", 0xA801)):
        responses = list(assoc.send_c_move(identifier("SERIES", **uids(series)), destination, STUDY_ROOT + MOVE))
        assert responses[-1][0].Status == status
    assoc.release()


def test_private_sop_class(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    private = "1.2.826.0.1.3680043.9.9999.1"
    (path,) = write(phantom_series(patient_id="P", patient_name="P", n_images=1, SOPClassUID=private), tmp_path)
    assert pacs.add([path]) == 1
    contexts = [build_context(private, ExplicitVRLittleEndian)]
    study = find(pacs, "STUDY", PatientID="P", StudyInstanceUID="")[1][0].StudyInstanceUID
    assert counts(get(pacs, contexts, "STUDY", StudyInstanceUID=study)[0][-1]) == (1, 0, 0)


def test_store_keeps_what_it_gets_and_restart_keeps_the_port(cohort: list[Path], tmp_path: Path) -> None:
    pacs = EmbeddedPacs(folder=tmp_path / "received")
    for _ in range(2):
        with pacs:
            assoc = associate(pacs, storage_contexts(cohort[:1]))
            assert assoc.send_c_store(dcmread(cohort[0])).Status == 0x0000
            assoc.release()
            port = pacs.port
            assert len(find(pacs, "IMAGE", SOPInstanceUID="")[1]) == 1
        assert pacs.port == port
    (kept,) = (tmp_path / "received").iterdir()
    assert dcmread(kept) == dcmread(cohort[0])
    with EmbeddedPacs() as without:
        assoc = associate(without, storage_contexts(cohort[:1]))
        assert assoc.send_c_store(dcmread(cohort[0])).Status == 0x0124
        assoc.release()


def test_add_passes_over_what_it_cannot_serve_and_over_doubles(cohort: list[Path], tmp_path: Path) -> None:
    text, copy = tmp_path / "notes.txt", tmp_path / "copy.dcm"
    text.write_text("no image")
    shutil.copy(cohort[0], copy)
    assert EmbeddedPacs().add([text, cohort[0], copy]) == 1


def test_peak_counts_only_what_is_open_at_once(pacs: EmbeddedPacs) -> None:
    for _ in range(5):
        find(pacs, "STUDY", StudyInstanceUID="")
    assert pacs.peak_associations == 1
    held = [associate(pacs, [build_context(VERIFICATION)]) for _ in range(3)]
    for assoc in held:
        assoc.release()
    assert pacs.peak_associations == 3


# ---- faults, each once


@pytest.mark.parametrize("status", [0x0000, 0xA700])
def test_fault_result_limit(pacs: EmbeddedPacs, status: int) -> None:
    pacs.faults.result_limit, pacs.faults.result_limit_status = 3, status
    final, answers = find(pacs, "SERIES", SeriesInstanceUID="")
    assert (final, len(answers)) == (status, 3)
    final, answers = find(pacs, "SERIES", PatientID="45322")
    assert (final, len(answers)) == (0x0000, 3)


def test_fault_not_relational(pacs: EmbeddedPacs, receiver: Receiver) -> None:
    series = series_of(pacs, PatientID="123421")
    pacs.faults.relational = False
    assert find(pacs, "SERIES", PatientID="123421")[0] == 0xA900
    assert find(pacs, "SERIES", StudyInstanceUID=series.StudyInstanceUID)[0] == 0x0000
    assert find(pacs, "IMAGE", SeriesInstanceUID=series.SeriesInstanceUID)[0] == 0xA900
    assert len(find(pacs, "IMAGE", **uids(series))[1]) == series.NumberOfSeriesRelatedInstances
    assert move(pacs, "SERIES", SeriesInstanceUID=series.SeriesInstanceUID)[-1][0].Status == 0xA900
    assert move(pacs, "SERIES", **uids(series))[-1][0].Status == 0x0000


def test_fault_no_image_level(pacs: EmbeddedPacs) -> None:
    pacs.faults.image_level = False
    assert find(pacs, "IMAGE", SOPInstanceUID="")[0] == 0xA900


def test_fault_keys(pacs: EmbeddedPacs) -> None:
    everything = len(find(pacs, "SERIES", SeriesInstanceUID="")[1])
    pacs.faults.ignored_keys = {"ProtocolName"}
    answers = find(pacs, "SERIES", ProtocolName="BEAT*")[1]
    assert len(answers) == everything
    pacs.faults.unreturned_keys, pacs.faults.emptied_keys = {"ProtocolName"}, {"Modality"}
    answers = find(pacs, "SERIES", ProtocolName="BEAT*", Modality="MR")[1]
    assert not any("ProtocolName" in answer for answer in answers)
    assert {answer.Modality for answer in answers} == {""}
    assert 0 < len(answers) < everything


@pytest.mark.parametrize("service", ["C-GET", "C-MOVE"])
@pytest.mark.parametrize("silently", [False, True])
def test_fault_withhold(
    pacs: EmbeddedPacs, cohort: list[Path], receiver: Receiver, service: str, silently: bool
) -> None:
    series = series_of(pacs, PatientID="200316", SeriesNumber="1")
    images = instances(pacs, series)
    (pacs.faults.withhold_silently if silently else pacs.faults.withhold).update(images[:2])
    if service == "C-GET":
        responses, got = get(pacs, storage_contexts(cohort), "SERIES", **uids(series))
    else:
        responses, got = move(pacs, "SERIES", **uids(series)), receiver.got
    assert sorted(got) == sorted(images[2:])
    assert counts(responses[-1]) == ((10, 0, 0) if silently else (8, 2, 0))
    if not silently:
        assert failed(responses[-1]) == images[:2]


@pytest.mark.parametrize("service", ["C-GET", "C-MOVE"])
def test_fault_abort_heals_itself(pacs: EmbeddedPacs, cohort: list[Path], receiver: Receiver, service: str) -> None:
    series = series_of(pacs, PatientID="200316", SeriesNumber="1")

    def retrieve() -> tuple[list[Any], dict[str, bytes]]:
        if service == "C-GET":
            return get(pacs, storage_contexts(cohort), "SERIES", **uids(series))
        return move(pacs, "SERIES", **uids(series)), receiver.got

    pacs.faults.abort_after = 4
    responses, got = retrieve()
    assert "Status" not in responses[-1][0]
    assert len(got) == 4
    responses, got = retrieve()
    assert counts(responses[-1]) == (10, 0, 0)
    assert len(got) == 10


def test_fault_success_without_suboperations(pacs: EmbeddedPacs, receiver: Receiver) -> None:
    series = series_of(pacs, PatientID="123421")
    pacs.faults.success_without_suboperations = True
    responses = move(pacs, "SERIES", **uids(series))
    assert (responses[-1][0].Status, counts(responses[-1]), receiver.got) == (0x0000, (0, 0, 0), {})


def test_fault_retrieve_status(pacs: EmbeddedPacs, cohort: list[Path], receiver: Receiver) -> None:
    series = series_of(pacs, PatientID="123421", SeriesDescription="Topogram")
    pacs.faults.retrieve_status, pacs.faults.retrieve_status_times = 0xA702, 2
    assert get(pacs, storage_contexts(cohort), "SERIES", **uids(series))[0][-1][0].Status == 0xA702
    assert move(pacs, "SERIES", **uids(series))[-1][0].Status == 0xA702
    assert move(pacs, "SERIES", **uids(series))[-1][0].Status == 0x0000
    assert len(receiver.got) == 1


def test_fault_intruders(pacs: EmbeddedPacs, receiver: Receiver, tmp_path: Path) -> None:
    series = series_of(pacs, PatientID="123421", SeriesDescription="Topogram")
    stranger = phantom_series(patient_id="Stranger", patient_name="Stranger", n_images=1, modality="MR")
    pacs.faults.intruders = write(stranger, tmp_path)
    assert counts(move(pacs, "SERIES", **uids(series))[-1]) == (2, 0, 0)
    assert sorted(receiver.got) == sorted([*instances(pacs, series), stranger[0].SOPInstanceUID])
    assert not find(pacs, "STUDY", PatientID="Stranger")[1]


def test_fault_delay_and_stop_in_the_middle(pacs: EmbeddedPacs, receiver: Receiver) -> None:
    series = series_of(pacs, PatientID="200316", SeriesNumber="1")
    pacs.faults.delay = 0.05
    assoc = associate(pacs, [build_context(STUDY_ROOT + MOVE)])
    responses = assoc.send_c_move(identifier("SERIES", **uids(series)), "RECEIVER", STUDY_ROOT + MOVE)
    assert next(responses)[0].Status == 0xFF00
    pacs.stop()
    assert "Status" not in list(responses)[-1][0]
    assert len(receiver.got) < 10
    pacs.faults.delay = 0
    pacs.start()
    assert counts(move(pacs, "SERIES", **uids(series))[-1]) == (10, 0, 0)


def test_fault_reject(pacs: EmbeddedPacs) -> None:
    def rejection() -> tuple[int, int, int]:
        assoc = associate(pacs, [build_context(VERIFICATION)])
        assert assoc.is_rejected
        reply = assoc.acceptor.primitive
        return reply.result, reply.result_source, reply.diagnostic

    pacs.faults.reject = "transient"
    assert rejection() == (2, 3, 2)
    pacs.faults.reject = "called_aet"
    assert rejection() == (1, 1, 7)
    pacs.faults.reject = None
    pacs.faults.allowed_calling_aets = {"SOMEBODY"}
    assert rejection() == (1, 1, 3)
    pacs.faults.allowed_calling_aets = {"CLIENT"}
    assoc = associate(pacs, [build_context(VERIFICATION)])
    assert assoc.is_established
    assoc.release()
    assert pacs.peak_associations == 1


def test_fault_get_not_supported(pacs: EmbeddedPacs) -> None:
    contexts = [build_context(STUDY_ROOT + GET), build_context(STUDY_ROOT + MOVE)]
    pacs.faults.get_supported = False
    assoc = associate(pacs, contexts)
    assert [cx.abstract_syntax for cx in assoc.accepted_contexts] == [STUDY_ROOT + MOVE]
    assoc.release()


@pytest.mark.parametrize("service", ["C-GET", "C-MOVE"])
def test_fault_answers_without_list_or_counts(
    pacs: EmbeddedPacs, cohort: list[Path], receiver: Receiver, service: str
) -> None:
    series = series_of(pacs, PatientID="200316", SeriesNumber="1")
    pacs.faults.withhold.update(instances(pacs, series)[:2])

    def final() -> Any:
        if service == "C-GET":
            return get(pacs, storage_contexts(cohort), "SERIES", **uids(series))[0][-1]
        return move(pacs, "SERIES", **uids(series))[-1]

    assert (final()[0].Status, set(failed(final())), counts(final())) == (0xB000, pacs.faults.withhold, (8, 2, 0))
    pacs.faults.failed_list = False
    assert (final()[1] or None, counts(final())) == (None, (8, 2, 0))
    pacs.faults.counts = False
    assert final()[0].Status == 0xB000
    assert not any("Suboperations" in element.keyword for element in final()[0])


# ---- as a destination of C-STORE


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    """An empty one that stores."""
    with EmbeddedPacs(aet="ARCHIVE", folder=tmp_path / "archive") as running:
        yield running


def store(pacs: EmbeddedPacs, paths: list[Path]) -> list[int]:
    """Status of the C-STORE of each file, until one is not answered."""
    assoc = associate(pacs, [build_context(VERIFICATION), *storage_contexts(paths)], evt_handlers=HANDLERS)
    statuses = takewhile(lambda status: status is not None, (assoc.send_c_store(p).get("Status") for p in paths))
    answered = list(statuses)
    if len(answered) == len(paths):
        assoc.release()
    return answered


def kept(pacs: EmbeddedPacs) -> dict[str, bytes]:
    """The data sets in its folder, as they are encoded."""
    assert pacs.folder is not None
    return {path.stem: path.read_bytes()[split_dataset(path)[1] :] for path in pacs.folder.glob("*")}


def uid_of(path: Path) -> str:
    return str(split_dataset(path)[0].MediaStorageSOPInstanceUID)


def test_moved_data_sets_arrive_as_they_are(
    pacs: EmbeddedPacs, cohort: list[Path], archive: EmbeddedPacs, tmp_path: Path
) -> None:
    pacs.destinations["ARCHIVE"] = (archive.host, archive.port)
    studies = [answer.StudyInstanceUID for answer in find(pacs, "STUDY", StudyInstanceUID="")[1]]
    assert move(pacs, "STUDY", "ARCHIVE", StudyInstanceUID=studies)[-1][0].Status == 0x0000
    assert kept(archive) == {uid_of(path): path.read_bytes()[split_dataset(path)[1] :] for path in cohort}
    assert archive.stored == archive.offered == pacs.sent
    syntaxes = [
        {uid_of(path): split_dataset(path)[0].TransferSyntaxUID for path in paths}
        for paths in (cohort, tmp_path.glob("archive/*"))
    ]
    assert syntaxes[0] == syntaxes[1]


def test_fault_store_status(cohort: list[Path], archive: EmbeddedPacs) -> None:
    archive.faults.store_status, archive.faults.store_status_from = 0xA700, 2
    archive.faults.store_status_times = 2
    assert store(archive, cohort[:6]) == [0, 0, 0xA700, 0xA700, 0, 0]
    assert archive.stored == [uid_of(path) for path in (*cohort[:2], *cohort[4:6])]
    assert store(archive, cohort[:6]) == [0] * 6
    assert len(archive.offered) == 12
    assert sorted(archive.stored) == sorted(uid_of(path) for path in cohort[:6])
    archive.faults.store_status_times = None
    assert store(archive, cohort[6:9]) == [0xA700] * 3
    archive.faults.store_status = 0xB000
    assert store(archive, cohort[6:9]) == [0xB000] * 3
    assert len(kept(archive)) == len(archive.stored) == 9


def test_fault_store_abort(cohort: list[Path], archive: EmbeddedPacs) -> None:
    archive.faults.store_abort_after = 2
    assert store(archive, cohort[:4]) == [0, 0]
    assert store(archive, cohort[:4]) == [0] * 4
    assert archive.stored == [uid_of(path) for path in cohort[:4]]


def test_fault_store_unlisted(cohort: list[Path], archive: EmbeddedPacs) -> None:
    archive.faults.store_unlisted = {uid_of(cohort[1])}
    assert store(archive, cohort[:3]) == [0] * 3
    assert {a.SOPInstanceUID for a in find(archive, "IMAGE", SOPInstanceUID="")[1]} == set(archive.stored)
    assert archive.stored == [uid_of(cohort[0]), uid_of(cohort[2])]
    assert set(kept(archive)) == set(archive.stored)


def test_fault_refused_classes_and_syntaxes(pacs: EmbeddedPacs, cohort: list[Path], archive: EmbeddedPacs) -> None:
    kinds = {(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) for meta, _ in map(split_dataset, cohort)}
    sop_class, _ = next(kind for kind in sorted(kinds) if kind[1] == ExplicitVRLittleEndian)
    archive.faults.refused_classes = {str(sop_class)}
    archive.faults.refused_syntaxes = {syntax for _, syntax in kinds if syntax != ExplicitVRLittleEndian}
    assoc = associate(archive, [build_context(VERIFICATION), *(build_context(*kind) for kind in sorted(kinds))])
    accepted = {(cx.abstract_syntax, cx.transfer_syntax[0]) for cx in assoc.accepted_contexts}
    refused = {(cx.abstract_syntax, cx.transfer_syntax[0]): cx.result for cx in assoc.rejected_contexts}
    assoc.release()
    good = {kind for kind in kinds if kind[0] != sop_class and kind[1] == ExplicitVRLittleEndian}
    assert accepted - {(VERIFICATION, next(s for c, s in accepted if c == VERIFICATION))} == good
    # PS3.8 Table 9-18: 3 is abstract syntax not supported, 4 transfer syntaxes not supported.
    assert refused == {kind: 3 if kind[0] == sop_class else 4 for kind in kinds - good}


def test_destination_fails_in_the_middle_of_a_move(pacs: EmbeddedPacs, archive: EmbeddedPacs) -> None:
    series = series_of(pacs, PatientID="200316", SeriesNumber="1")
    images = instances(pacs, series)
    pacs.destinations["ARCHIVE"] = (archive.host, archive.port)
    archive.faults.store_status, archive.faults.store_status_from = 0xA700, 4
    responses = move(pacs, "SERIES", "ARCHIVE", **uids(series))
    assert (responses[-1][0].Status, counts(responses[-1])) == (0xB000, (4, 6, 0))
    assert failed(responses[-1]) == images[4:]
    archive.faults.store_status = None
    archive.faults.store_abort_after = len(archive.offered) + 3
    responses = move(pacs, "SERIES", "ARCHIVE", **uids(series))
    assert (responses[-1][0].Status, counts(responses[-1])) == (0xB000, (3, 7, 0))
    archive.faults.store_status = 0xB007
    responses = move(pacs, "SERIES", "ARCHIVE", **uids(series))
    assert (responses[-1][0].Status, counts(responses[-1])) == (0xB000, (0, 0, 10))
    assert sorted(archive.stored) == sorted(images)


# ---- over TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure_archive(tmp_path: Path, certificates: Certificates) -> Iterator[EmbeddedPacs]:
    """An empty one that stores, and talks only to those who show a certificate."""
    tls = certificates.server.context(ssl.Purpose.CLIENT_AUTH, certificates.ca)
    with EmbeddedPacs(aet="ARCHIVE", folder=tmp_path / "archive", tls=tls) as running:
        yield running


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls(secure_archive: EmbeddedPacs, certificates: Certificates, version: ssl.TLSVersion) -> None:
    def echoes(context: ssl.SSLContext | None) -> bool:
        handlers = HANDLERS
        if context is not None:
            context.maximum_version = version
            handlers = tuned(Secure(context, secure_archive.host))
        assoc = associate(secure_archive, [build_context(VERIFICATION)], evt_handlers=handlers)
        answered = assoc.is_established and assoc.send_c_echo().get("Status") == 0x0000
        if assoc.is_established:
            assoc.release()
        return bool(answered)

    assert not echoes(None)
    assert not echoes(ssl.create_default_context(cafile=str(certificates.ca)))
    assert not echoes(certificates.stranger.context(ssl.Purpose.SERVER_AUTH, certificates.ca))
    assert not echoes(certificates.client.context(ssl.Purpose.SERVER_AUTH, certificates.other_ca))
    assert echoes(certificates.client.context(ssl.Purpose.SERVER_AUTH, certificates.ca))


def test_move_over_tls(pacs: EmbeddedPacs, secure_archive: EmbeddedPacs, certificates: Certificates) -> None:
    pacs.destinations["ARCHIVE"] = (secure_archive.host, secure_archive.port)
    series = series_of(pacs, PatientID="200316", SeriesNumber="1")
    assert move(pacs, "SERIES", "ARCHIVE", **uids(series))[-1][0].Status == 0xA702
    pacs.move_tls = certificates.client.context(ssl.Purpose.SERVER_AUTH, certificates.ca)
    assert move(pacs, "SERIES", "ARCHIVE", **uids(series))[-1][0].Status == 0x0000
    assert sorted(secure_archive.stored) == sorted(instances(pacs, series))


def test_faults_are_each_pacs_own() -> None:
    one, other = EmbeddedPacs(), EmbeddedPacs(faults=Faults(result_limit=1))
    one.faults.withhold.add("1.2.3")
    assert not other.faults.withhold


# ---- DCMTK as the peer


@pytest.fixture
def dcmtk(pacs: EmbeddedPacs, tmp_path: Path) -> Callable[..., str]:
    """Run one of DCMTK's tools against the PACS; returns what it says."""
    if not all(shutil.which(tool) for tool in ("findscu", "getscu", "movescu")):
        pytest.skip("needs DCMTK: install the package dcmtk")

    def run(tool: str, *options: str) -> str:
        command = [tool, "-v", "-aet", "DCMTK", "-aec", pacs.aet, *options, pacs.host, str(pacs.port)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


@pytest.mark.peers
def test_dcmtk_findscu(pacs: EmbeddedPacs, dcmtk: Callable[..., str], tmp_path: Path) -> None:
    keys = ("QueryRetrieveLevel=SERIES", "PatientName=O'NEIL*", "SeriesInstanceUID", "SeriesNumber=3")
    dcmtk("findscu", "-S", "-X", *(part for key in keys for part in ("-k", key)))
    assert len(list(tmp_path.glob("rsp*.dcm"))) == 2


@pytest.mark.peers
def test_dcmtk_getscu(pacs: EmbeddedPacs, dcmtk: Callable[..., str], tmp_path: Path) -> None:
    series = series_of(pacs, PatientID="200316", SeriesNumber="1")
    keys = ("QueryRetrieveLevel=SERIES", *(f"{key}={uid}" for key, uid in uids(series).items()))
    dcmtk("getscu", "-S", *(part for key in keys for part in ("-k", key)))
    got = {re.sub(r"^\w+\.(?=\d)", "", path.name) for path in tmp_path.iterdir()}
    assert got == set(instances(pacs, series))


@pytest.mark.peers
def test_dcmtk_movescu(pacs: EmbeddedPacs, dcmtk: Callable[..., str], receiver: Receiver) -> None:
    series = series_of(pacs, PatientID="200316", SeriesNumber="1")
    keys = ("QueryRetrieveLevel=SERIES", *(f"{key}={uid}" for key, uid in uids(series).items()))
    dcmtk("movescu", "-S", "-aem", "RECEIVER", *(part for key in keys for part in ("-k", key)))
    assert sorted(receiver.got) == sorted(instances(pacs, series))


@pytest.mark.peers
def test_dcmtk_storescu_over_tls(secure_archive: EmbeddedPacs, certificates: Certificates, cohort: list[Path]) -> None:
    explicit = [path for path in cohort if split_dataset(path)[0].TransferSyntaxUID == ExplicitVRLittleEndian][:5]
    shown = ["+tls", str(certificates.client.locked_key), str(certificates.client.certificate), "+pw", PASSPHRASE]
    command = ["storescu", "-R", "-aec", "ARCHIVE", *shown, "+cf", str(certificates.ca), secure_archive.host]
    done = subprocess.run(
        [*command, str(secure_archive.port), *map(str, explicit)], capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert secure_archive.stored == [uid_of(path) for path in explicit]


@pytest.mark.peers
def test_move_to_dcmtk_storescp_over_tls(pacs: EmbeddedPacs, certificates: Certificates, tmp_path: Path) -> None:
    peer = Storescp(tmp_path / "storescp", tls=Tls(certificates.server, certificates.ca))
    pacs.destinations["STORESCP"] = ("127.0.0.1", peer.port)
    pacs.move_tls = certificates.client.context(ssl.Purpose.SERVER_AUTH, certificates.ca)
    series = series_of(pacs, PatientID="200316", SeriesNumber="1")
    try:
        peer.start()
        assert move(pacs, "SERIES", "STORESCP", **uids(series))[-1][0].Status == 0x0000
        assert set(contents(peer)) == set(instances(pacs, series))
    finally:
        peer.stop()


# ---- in the foreground


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground_stops_cleanly(cohort: list[Path], number: signal.Signals) -> None:
    folder = str(cohort[0].parent)
    command = [sys.executable, "-m", "pacsifier_ops.embedded", "--port", "0", "--folder", folder]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        said = re.fullmatch(r"DEMOPACS listens on 127\.0\.0\.1:(\d+) with (\d+) instances\n", process.stdout.readline())
        assert said is not None
        assert int(said[2]) == len(cohort)
        assoc = AE("CLIENT").associate("127.0.0.1", int(said[1]), [build_context(VERIFICATION)], "DEMOPACS")
        assert assoc.send_c_echo().Status == 0x0000
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE) == 0
        assert process.stderr.read() == ""
        assoc.abort()
