"""Identifiers where sites and devices really plant them, and what must stay beside them: the key of `test_deid_world`.

Written from PS3.15 Annex E, from rules that other tools publish, and from what their users report; it knows nothing of
the engine. Each function is a situation. Its objects are of persons of their own, so what becomes of one does not hide
what becomes of another.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.datadict import dictionary_VR
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from tests.support import deid_devices as devices
from tests.support.deid_devices import (
    ALL,
    CLEANED,
    DAY_SHIFT,
    MOVED,
    PERSON,
    PRIVATE,
    ROOT,
    Person,
    Planted,
    Stay,
    Thing,
    World,
    code,
    content,
    ct,
    item,
    mr,
    private,
    value_at,
)

SITUATIONS: dict[str, Callable[[World, str], None]] = {}


def situation(make: Callable[[World, str], None]) -> Callable[[World, str], None]:
    """Register a situation by the first line of its docstring."""
    SITUATIONS[(make.__doc__ or "").splitlines()[0].rstrip(".")] = make
    return make


def world() -> list[Thing]:
    """All things of all situations."""
    made = World()
    for title, make in SITUATIONS.items():
        make(made, title)
    for thing in made.things:
        # What a situation wrote over is not what the device made.
        thing.stays = [
            stay for stay in thing.stays if stay.profiles is not ALL or value_at(thing.dataset, stay) == stay.value
        ]
    return made.things


def words(path: str | tuple[str | int, ...], text: str, profiles: frozenset[str] = CLEANED) -> list[Stay]:
    """Words that must stay in a text."""
    place = (path,) if isinstance(path, str) else path
    return [Stay(place, word.strip(".%,"), profiles, True) for word in re.split(r"[\s_]+", text) if word]


def named(*texts: str) -> list[Planted]:
    """Names."""
    return [Planted("name", text, len(text) < 4 and text.isascii()) for text in texts]


# --- texts -----------------------------------------------------------------------------------------------------------


@situation
def ordinary(world: World, this: str) -> None:
    """Objects as their devices make them, with nothing but the attributes of a person."""
    for title in ("ct", "mr", "pet", "cr", "dx", "mg", "xa", "nm", "rtstruct", "rtplan", "rtdose", "seg"):
        world.add(this, title, getattr(devices, title), [])
    world.add(this, "slide", devices.slide, [Planted("id", "S23-0471188")])
    world.add(this, "ecg", devices.ecg, [])


@situation
def descriptions(world: World, this: str) -> None:
    """Names in descriptions, comments and names of protocols."""
    for keyword, text, names, kept in (
        ("SeriesDescription", "Thorax nativ Frau Oberhuberin", ["Oberhuberin"], "Thorax nativ"),
        ("SeriesDescription", "T2 TSE sag 4mm BRUNNMEISTER,KURT", ["BRUNNMEISTER", "KURT"], "T2 TSE sag"),
        ("StudyDescription", "MRI KNEE LEFT - SMITHERSON, JONATHAN", ["SMITHERSON", "JONATHAN"], "MRI KNEE LEFT"),
        ("StudyDescription", "IRM genou gauche M. Delacroisette", ["Delacroisette"], "genou gauche"),
        ("StudyDescription", "TC addome Sig.ra Mastrogiacomo", ["Mastrogiacomo"], "TC addome"),
        ("ProtocolName", "Sella_Hr_Wagenknechtl", ["Wagenknechtl"], "Sella"),
        ("ProtocolName", "Head_Studie_Piotrowiczka_v2", ["Piotrowiczka"], "Head"),
        ("ImageComments", "motion; repeated by tech Fitzsimmonsen", ["Fitzsimmonsen"], "motion"),
        ("PerformedProcedureStepDescription", "CT Abdomen for nurse Wojtkiewiczowa", ["Wojtkiewiczowa"], "CT Abdomen"),
        ("RequestedProcedureDescription", "Schädel, bitte an Praxis Nüsslibacher faxen", ["Nüsslibacher"], "Schädel"),
        ("AcquisitionProtocolDescription", "Liver 3 phase (protocol of Krzyzewskian)", ["Krzyzewskian"], "Liver"),
        ("AdditionalPatientHistory", "Pt of Dr Quigleyson; fell at Millbrookside", ["Quigleyson", "Millbrookside"], ""),
        ("ReasonForStudy", "Kontrolle nach OP durch Bodenhaupter", ["Bodenhaupter"], ""),
        ("PatientComments", "wife Gertrudina drives, dog Waldolino", ["Gertrudina", "Waldolino"], ""),
        ("AcquisitionDeviceProcessingDescription", "reviewed Houlihanson", ["Houlihanson"], ""),
        ("DerivationDescription", "MPR by MTRA Steinbrechler", ["Steinbrechler"], "MPR"),
        ("ContrastBolusAgent", "Iohexol 350 / Schwester Hiltrudis", ["Hiltrudis"], ""),
        ("InterventionDrugName", "Buscopan Fr. Altmannsbergerin", ["Altmannsbergerin"], ""),
        ("OperatorsName", "MTRA Zurfluhbacher^Nadja", ["Zurfluhbacher", "Nadja"], ""),
        ("PhysiciansOfRecord", "Leimgruberman^Otto", ["Leimgruberman"], ""),
        ("NameOfPhysiciansReadingStudy", "Radiomann^Kurt", ["Radiomann"], ""),
    ):
        if keyword == "InterventionDrugName":
            made = world.add(this, f"{keyword}: {text}", devices.nm, named(*names))
            made.InterventionSequence = Sequence([item(InterventionDrugName=text)])
            continue
        made = world.add(this, f"{keyword}: {text}", mr, named(*names), stays=words(keyword, kept))
        setattr(made, keyword, text)


@situation
def titles(world: World, this: str) -> None:
    """Names that are words of anatomy, beside a title or in a name's place."""
    for text, name, kept in (
        ("Dr. Stein Thorax", "Stein", "Thorax"),
        ("Prof. Lang Schädel", "Lang", "Schädel"),
        ("Becken Herr Fuss", "Fuss", "Becken"),
        ("knee by Long", "Long", "knee"),
        ("Mme Blanc genou", "Blanc", "genou"),
        ("Sig. Testa torace", "Testa", "torace"),
        ("chest ref Dr Hand", "Hand", "chest"),
        ("LWS Überweiser: Kopf", "Kopf", "LWS"),
        ("Mrs Head abdomen", "Head", "abdomen"),
        ("Thorax, Frau Weiss", "Weiss", "Thorax"),
        ("Abdomen Dr.med. Klein", "Klein", "Abdomen"),
        ("MRT Knie PD Dr. Winter", "Winter", "Knie"),
        ("Fuss rechts; Arzt: Bein", "Bein", "Fuss"),
        ("c/o Dr Foot, pelvis", "Foot", "pelvis"),
    ):
        made = world.add(this, text, ct, [Planted("name", name, True)], stays=words("SeriesDescription", kept))
        made.SeriesDescription = text


@situation
def short(world: World, this: str) -> None:
    """Initials, nicknames, and names of two letters."""
    for keyword, text, token in (
        ("SeriesDescription", "J.D.K. knee", "J.D.K"),
        ("StudyDescription", "KNEE JDK", "JDK"),
        ("ProtocolName", "brain_Wu", "Wu"),
        ("SeriesDescription", "t1 Ng post", "Ng"),
        ("SeriesDescription", "thorax O'Dwyerty", "Dwyerty"),
        ("StudyDescription", "CT Kopf (Opa Schorschi)", "Schorschi"),
        ("PatientComments", "aka Billyboyo", "Billyboyo"),
        ("SeriesDescription", "abdomen v.d.Meerschweiner", "Meerschweiner"),
    ):
        made = world.add(this, f"{keyword}: {text}", ct, named(token))
        setattr(made, keyword, text)


@situation
def numbers(world: World, this: str) -> None:
    """Record numbers in descriptions, StudyID, names of protocols and private text."""
    for keyword, text, token in (
        ("StudyID", "MRN4471-90213", "4471-90213"),
        ("StudyID", "0044719022", "0044719022"),
        ("SeriesDescription", "LWS 0044719023", "0044719023"),
        ("SeriesDescription", "Fall-Nr. 22-90114-7 Thorax", "90114"),
        ("StudyDescription", "CT HEAD W/O #X83-77120", "77120"),
        ("ProtocolName", "PID4471990244", "4471990244"),
        ("ImageComments", "MRN: 44 71 99 02 55", "44 71 99 02 55"),
        ("RequestedProcedureID", "RP99120871", "RP99120871"),
        ("ScheduledProcedureStepID", "SPS99120872", "SPS99120872"),
        ("PerformedProcedureStepID", "PPS99120873", "PPS99120873"),
        ("FillerOrderNumberImagingServiceRequest", "FON99120874", "FON99120874"),
        ("AdmissionID", "ADM99120875", "ADM99120875"),
        ("OtherPatientIDs", "OTH99120876", "OTH99120876"),
        ("MedicalRecordLocator", "MRL99120877", "MRL99120877"),
        ("ClinicalTrialSubjectReadingID", "CTS99120878", "CTS99120878"),
        ("ServiceEpisodeID", "SEP99120879", "SEP99120879"),
        ("ReasonForTheRequestedProcedure", "see case 99120880 of dept", "99120880"),
        ("IssuerOfPatientID", "KSMH-ISSUER-99120", "99120"),
        ("TrackingID", "PAT99120881-L1", "99120881"),
    ):
        made = world.add(this, f"{keyword}: {text}", mr, [Planted("id", token, len(token) < 8)])
        setattr(made, keyword, text)
    who = world.person()
    made = world.add(
        this, "the PatientID in SeriesDescription", ct, [], who=who, stays=words("SeriesDescription", "Thorax")
    )
    made.SeriesDescription = f"{who.mrn} Thorax"
    who = world.person()
    made = world.add(this, "the PatientID without its letter in StudyID", ct, [Planted("id", who.mrn[1:])], who=who)
    made.StudyID = who.mrn[1:]


@situation
def contacts(world: World, this: str) -> None:
    """Addresses, telephones, insurance numbers, rooms."""
    for keyword, text, token in (
        ("PatientAddress", "Hinterdorfgasse 17a, 9999 Musterhausen", "Hinterdorfgasse"),
        ("PatientTelephoneNumbers", "+41 44 255 11 11", "255 11 11"),
        ("AdditionalPatientHistory", "call daughter (555) 867-5309", "867-5309"),
        ("ImageComments", "ring 0049-171-5551234 after", "5551234"),
        ("StudyDescription", "Thorax, Befund an max.hausarztl@praxis.example", "hausarztl"),
        ("PatientComments", "AHV 756.9217.0769.85", "9217.0769"),
        ("RequestAttributesSequence.ReasonForTheRequestedProcedure", "SSN 123-45-6789", "123-45-6789"),
        ("ImageComments", "NHS 943 476 5919", "943 476 5919"),
        ("SeriesDescription", "NIR 2550814168025 genou", "2550814168025"),
        ("SeriesDescription", "Zimmer 4127 Bettenhaus Ostflügli", "Ostflügli"),
        ("CurrentPatientLocation", "Station B7 Nordtrakt", "Nordtrakt"),
        ("StudyDescription", "CT NCCT (Notfall Koje 12) Rega Zermattli", "Zermattli"),
        ("PatientInstitutionResidence", "Altersheim Abendrotli", "Abendrotli"),
        ("RegionOfResidence", "Appenzelland", "person:Appenzelland"),
        ("Occupation", "Gemeindepräsidentin Musterdorfs", "Musterdorfs"),
        ("MilitaryRank", "Oberstkorpskommandantli", "Oberstkorpskommandantli"),
        ("PatientReligiousPreference", "Zoroastrianisch", "Zoroastrianisch"),
        ("InsurancePlanIdentification", "KK80756001234567890123", "80756001234567890123"),
        ("ReferringPhysicianAddress", "Praxisplatzli 3", "Praxisplatzli"),
        ("ReferringPhysicianTelephoneNumbers", "071 555 44 33", "555 44 33"),
        ("InstitutionAddress", "Rorschacherstr. 95, 9007 Musterhausen", "Rorschacherstr"),
        ("ResponsiblePerson", "Vormundlin^Petra", "Vormundlin"),
    ):
        kind, _, token = token.rpartition(":")
        made = world.add(this, f"{keyword}: {text}", ct, [Planted(kind or "contact", token)])
        outer, _, inner = keyword.rpartition(".")
        target = made
        if outer:
            target = Dataset()
            setattr(made, outer, Sequence([target]))
        setattr(target, inner, text)


@situation
def dates_in_text(world: World, this: str) -> None:
    """Dates, ages and birth dates in texts, as people write them."""
    for keyword, text, token in (
        ("SeriesDescription", "Thorax 17.01.2023", "17.01.2023"),
        ("SeriesDescription", "Thorax 17/1/23", "17/1/23"),
        ("SeriesDescription", "thorax_2023-01-17", "2023-01-17"),
        ("StudyDescription", "CT Jan 17 2023", "Jan 17"),
        ("StudyDescription", "genou du 17 janvier 2023", "17 janvier"),
        ("StudyDescription", "LWS 17. Jänner 2023", "17. Jänner"),
        ("ImageComments", "compared 17JAN2023", "17JAN2023"),
        ("SeriesDescription", "胸部 2023年1月17日", "1月17日"),
        ("SeriesDescription", "ct 17012023", "17012023"),
        ("ProtocolName", "brain_230117", "230117"),
        ("SeriesDescription", "pre-op 14-03", "14-03"),
        ("SeriesDescription", "Kontrolle März 23", "März 23"),
        ("SeriesDescription", "KW03/2023 Thorax", "KW03"),
        ("ImageComments", "2023-01-17T10:15:00Z", "2023-01-17"),
        ("StudyDescription", "Thorax geb. 03.02.1951", "03.02.1951"),
        ("StudyDescription", "CT DOB 2/3/1951", "2/3/1951"),
        ("SeriesDescription", "*03.02.51 Abdomen", "03.02.51"),
        ("SeriesDescription", "Knie 72 J.", "72 J"),
        ("SeriesDescription", "73y male knee", "73y"),
        ("StudyDescription", "CT age 94", "94"),
        ("StudyDescription", "94-jährige Pat., Hüfte", "94-j"),
        ("ImageComments", "AM 17.1. NÜCHTERN", "17.1."),
        ("SeriesDescription", "PET d17 m01 y2023", "y2023"),
        ("StudyID", "20230117", "20230117"),
        ("ContrastBolusAgent", "Lot 230117B exp 2025-06", "230117B"),
    ):
        exact = len(token) < 8 and not (set(token) - set("0123456789"))
        kind = "person" if token in ("72 J", "73y") else "birth"  # an age below 90, which some options keep
        made = world.add(this, f"{keyword}: {text}", ct, [Planted(kind, token, exact or token == "94")])
        setattr(made, keyword, text)
    who = world.person()
    made = world.add(this, "an age over 89 in PatientAge", ct, [Planted("birth", "093Y")], who=who)
    made.PatientAge = "093Y"


@situation
def look_alikes(world: World, this: str) -> None:
    """Dates and record numbers that look like harmless numbers, units and codes."""
    for keyword, text, token, kind in (
        ("SeriesDescription", "T2 17 01 23", "17 01 23", "birth"),
        ("SeriesDescription", "T2 2023 01 17", "2023 01 17", "birth"),
        ("SeriesDescription", "T1_17_01_23", "17_01_23", "birth"),
        ("SeriesDescription", "ax 17-01-23", "17-01-23", "birth"),
        ("SeriesDescription", "230117 mm", "230117", "birth"),
        ("SeriesDescription", "20230117ms", "20230117", "birth"),
        ("SeriesDescription", "17.01 mm 23", "17.01", "birth"),
        ("SeriesDescription", "b230117", "b230117", "birth"),
        ("SeriesDescription", "TE230117", "TE230117", "birth"),
        ("SeriesDescription", "T20230117w", "20230117", "birth"),
        ("ProtocolName", "L4711990", "L4711990", "id"),
        ("ProtocolName", "head 4471990 244", "4471990", "id"),
        ("StudyDescription", "CT 4 4 7 1 9 9 0", "4 4 7 1 9 9 0", "id"),
        ("StudyDescription", "CT 471 990 21 mm", "471 990", "id"),
        ("StudyDescription", "B71990f", "B71990f", "id"),
        ("StudyDescription", "T1w 044 255 11 11", "255 11 11", "contact"),
        ("StudyDescription", "CT 1951", "1951", "birth"),
        ("StudyDescription", "Q1 2023 Thorax", "2023", "birth"),
        ("SeriesDescription", "Abdomen 10.15 17.1.", "17.1", "birth"),
        ("SeriesDescription", "17 Jan axial", "17 Jan", "birth"),
        ("SeriesDescription", "MAI 23 CT", "MAI 23", "birth"),
    ):
        setattr(world.add(this, f"{keyword}: {text}", ct, [Planted(kind, token, len(token) < 8)]), keyword, text)
    for age in ("1128M", "4893W", "999Y"):
        world.add(this, f"PatientAge {age}", ct, [Planted("birth", age)]).PatientAge = age


@situation
def compounds(world: World, this: str) -> None:
    """Surnames that are made of words, and first names that are words."""
    for text, token in (
        ("CT Weisskopf", "Weisskopf"),
        ("Thorax Breitkopf", "Breitkopf"),
        ("Langbein LWS", "Langbein"),
        ("Grosskopf MRT", "Grosskopf"),
        ("knee Lightfoot", "Lightfoot"),
        ("Whitehead brain", "Whitehead"),
        ("Handschuh Thorax", "Handschuh"),
        ("Kniebein Becken", "Kniebein"),
        ("Halsbrust CT", "Halsbrust"),
        ("Armknecht Schulter", "Armknecht"),
        ("THORAXSCHNEIDERLIN", "SCHNEIDERLIN"),
        ("SchneiderlinThorax", "Schneiderlin"),
        ("Baby Rosenzweigl", "Rosenzweigl"),
        ("Annelise's knee", "Annelise"),
        ("HAND, LAURALEE", "LAURALEE"),
        ("HAND^LAURALEE", "HAND^"),
        ("Foot, Michael J", "Foot"),
        ("Kopf Hansruedi", "Kopf"),
        ("Brust, A.", "Brust"),
        ("Iris Fingerhut", "Fingerhut"),
    ):
        made = world.add(this, text, mr, [Planted("name", token, token in ("Kopf", "Foot", "Brust"))])
        made.StudyDescription = text


@situation
def dates_as_numbers(world: World, this: str) -> None:
    """The date of the study as a number."""

    def epoch(who: Person) -> str:
        day = date(int(who.study[:4]), int(who.study[4:6]), int(who.study[6:]))
        return str(int(datetime(day.year, day.month, day.day, 10, 15, tzinfo=UTC).timestamp()))

    def plant(title: str, spell: Callable[[Person], str], keyword: str, **rest: Any) -> None:
        who = world.person()
        text = spell(who)
        made = world.add(this, title, mr, [Planted("date", text, len(text) < 8)], who=who, **rest)
        if keyword.startswith("x"):
            vr = keyword[3:]
            value = int(text) if vr == "SL" else text
            private(made, 0x2001, "Philips Imaging DD 001", **{keyword[:3]: (vr, value)})
        else:
            made.add_new(keyword, dictionary_VR(keyword), text if dictionary_VR(keyword) in ("IS", "DS") else int(text))

    spellings: dict[str, Callable[[Person], str]] = {
        "YYYYMMDD": lambda who: who.study,
        "YYMMDD": lambda who: who.study[2:],
        "DDMMYYYY": lambda who: who.study[6:] + who.study[4:6] + who.study[:4],
        "MMDDYYYY": lambda who: who.study[4:] + who.study[:4],
        "epoch": epoch,
        "DDMMYY": lambda who: who.study[6:] + who.study[4:6] + who.study[2:4],
        "with the hour": lambda who: who.study[2:] + "10",
    }
    for title, spell in spellings.items():
        for keyword in ("SeriesNumber", "AcquisitionNumber"):
            plant(f"{keyword} {title}", spell, keyword)
    plant("InstanceNumber YYMMDD", spellings["YYMMDD"], "InstanceNumber")
    # No order and no text: nobody can say what else it would be, so it may be kept back.
    for keyword in ("TemporalPositionIndex", "ReferencedFrameNumber", "TriggerTime"):
        plant(keyword, spellings["YYYYMMDD"], keyword, ordinary=False)
    plant("FD in FrameAcquisitionDuration", epoch, "FrameAcquisitionDuration", ordinary=False)
    plant("a safe private IS, YYYYMMDD", spellings["YYYYMMDD"], "x08IS", ordinary=False)
    plant("a safe private SL, YYYYMMDD", spellings["YYYYMMDD"], "x13SL", ordinary=False)
    plant("a safe private DS, epoch in milliseconds", lambda who: epoch(who) + "000", "x23DS", ordinary=False)


@situation
def shared_dates(world: World, this: str) -> None:
    """Dates that stand outside of the person's story, or beside it, in DA, TM, DT."""
    for keyword, value in (
        ("DateOfLastCalibration", "20221117"),
        ("DateOfManufacture", "20191213"),
        ("DateOfInstallation", "20200114"),
        ("ClinicalTrialProtocolEthicsCommitteeApprovalEffectivenessStartDate", "20210915"),
        ("LastMenstrualDate", "20221228"),
        ("AdmittingDate", "20230114"),
        ("ScheduledProcedureStepStartDate", "20230116"),
        ("PatientDeathDateInAlternativeCalendar", "5783-07-21"),
        ("PatientBirthDateInAlternativeCalendar", "昭和26年2月13日"),
        ("InstanceCreationDate", "20230118"),
        ("DateTimeOfLastCalibration", "20221118093000"),
        ("PatientBirthTime", "034417"),
        ("IssueDateOfImagingServiceRequest", "20230113"),
        ("StructureSetDate", "20230119"),
    ):
        kind = "birth" if "Birth" in keyword or "Death" in keyword else "date"
        made = world.add(this, f"{keyword} {value}", ct, [Planted(kind, value, keyword == "PatientBirthTime")])
        setattr(made, keyword, value)
    who = world.person()
    world.add(this, "start of the radiopharmaceutical", devices.pet, [Planted("date", who.study + "0915")], who=who)
    made = world.add(this, "strength of a source", devices.rtplan, [Planted("date", "20221014")])
    made.SourceSequence = Sequence(
        [item(SourceNumber=1, SourceStrengthReferenceDate="20221014", SourceIsotopeName="Ir-192")]
    )


@situation
def devices_and_sites(world: World, this: str) -> None:
    """The hospital in what a device says of itself."""
    for keyword, text, token, kind in (
        ("StationName", "KSMHCT2", "KSMHCT2", "device"),
        ("DeviceSerialNumber", "SN770144321", "SN770144321", "device"),
        ("GantryID", "GANTRY-KSMH-1", "GANTRY-KSMH", "device"),
        ("DetectorID", "DET77014", "DET77014", "device"),
        ("PlateID", "PLATE77014", "PLATE77014", "device"),
        ("CassetteID", "CASS77014", "CASS77014", "device"),
        ("PerformedStationName", "KSMHCT3", "KSMHCT3", "device"),
        ("PerformedStationAETitle", "KSMHAE3", "KSMHAE3", "device"),
        ("ScheduledProcedureStepLocation", "Trakt Q Süd", "Trakt Q", "device"),
        ("ScheduledStudyLocation", "HausWest77", "HausWest77", "device"),
        ("PerformedLocation", "Röntgen Haus 44", "Haus 44", "institution"),
        ("SoftwareVersions", "syngo CT VB20 KSMH-Radiologie", "KSMH", "institution"),
        ("ManufacturerModelName", "Skyra Stadtspital Musterli", "Musterli", "institution"),
        ("InstitutionalDepartmentName", "Klinik fuer Neuromustrologie", "Neuromustrologie", "institution"),
        ("RetrieveAETitle", "KSMHPACS", "KSMHPACS", "institution"),
        ("SequenceName", "*fl3d_KSMH", "KSMH", "institution"),
        ("BodyPartExamined", "KOPF KSMH", "KSMH", "institution"),
        ("ProtocolName", "KSMH_Hirn_Standard", "KSMH", "institution"),
        ("ContentLabel", "INSELMUSTER", "INSELMUSTER", "institution"),
        ("SeriesDescription", "Spital Musterikon Thorax", "Musterikon", "institution"),
        ("FilterType", "FLAT KSMH", "KSMH", "institution"),
        ("ConvolutionKernel", "B30f KSMH", "KSMH", "institution"),
        ("ReceiveCoilName", "Head_32 KSMH", "KSMH", "institution"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "KSMH"], "KSMH", "institution"),
        ("AttenuationCorrectionMethod", "measured,/MAR^CT Muellerino 3.0", "Muellerino", "name"),
        ("ReconstructionMethod", "OSEM Prof Bildrechner", "Bildrechner", "name"),
        ("PatientPosition", "HFS KSMH", "KSMH", "institution"),
        ("ViewPosition", "KSMH AP", "KSMH", "institution"),
        ("CollimatorGridName", "Grid Musterlin", "Musterlin", "institution"),
    ):
        made = world.add(this, f"{keyword}: {text}", ct, [Planted(kind, token)])
        setattr(made, keyword, text)
    made = world.add(this, "TreatmentMachineName", devices.rtplan, [Planted("device", "TrueBeamKSMH")])
    made.BeamSequence[0].TreatmentMachineName = "TrueBeamKSMH"
    made = world.add(
        this,
        "a workstation that added to it",
        mr,
        [Planted("institution", "Neuromusterlabor"), *named("Postprozessor")],
    )
    made.ContributingEquipmentSequence = Sequence(
        [
            item(
                Manufacturer="ACME",
                InstitutionName="Neuromusterlabor",
                OperatorsName="Postprozessor^Udo",
                ContributionDescription="sent by Postprozessor",
                PurposeOfReferenceCodeSequence=[code("109103", "DCM", "Modifying Equipment")],
            )
        ]
    )


@situation
def scripts(world: World, this: str) -> None:
    """Names in scripts without blanks, with the character set that is declared."""
    for charset, name, text, tokens, kept in (
        ("ISO_IR 192", "Wang^XiaoMing=王^小明", "王小明胸部CT", ["小明"], "CT"),
        ("ISO_IR 192", "Li^Na=李^娜", "胸部 李娜 增强", ["李娜"], ""),
        ("ISO_IR 192", "Ou^Yang=王^伟", "王 T1 sag", ["王"], "T1"),
        ("GB18030", "Zhang^Weiguo=张^卫国", "张卫国 腹部", ["卫国"], ""),
        ("GB18030", "Zhuge^Liangliang=诸葛^亮亮", "诸葛亮亮CT2", ["亮亮"], ""),
        (["", "ISO 2022 IR 87"], "Yamadao^Tarou=山田^太郎=やまだ^たろう", "山田太郎様 胸部", ["山田", "太郎"], ""),
        ("ISO_IR 192", "Suzuki^Hanakoo=鈴木^花子=スズキ^ハナコ", "スズキハナコ MRI", ["スズキ", "ハナコ"], "MRI"),
        ("ISO_IR 13", "ﾔﾏﾓﾄ^ｹﾝｼﾞ", "ﾔﾏﾓﾄｹﾝｼﾞ", ["ﾔﾏﾓﾄ", "ｹﾝｼﾞ"], ""),
        (["", "ISO 2022 IR 149"], "Gim^Huijung=金^熙中=김^희중", "김희중MRI", ["희중"], ""),
        ("ISO_IR 192", "Park^Jisoong=박^지성", "박지성 무릎", ["지성"], ""),
        ("ISO_IR 144", "Кузнецовина^Анастасия", "Кузнецовина А.П. грудь", ["Кузнецовина"], ""),
        ("ISO_IR 126", "Παπαδοπουλίδης^Γιώργος", "Παπαδοπουλίδης κρανίο", ["Παπαδοπουλίδης"], ""),
        ("ISO_IR 127", "السعيدي^محمد", "محمد السعيدي صدر", ["السعيدي"], ""),
        ("ISO_IR 138", "כהנוביץ^משהלה", "כהנוביץ חזה", ["כהנוביץ"], ""),
        ("ISO_IR 166", "สมชายศักดิ์^ใจดี", "สมชายศักดิ์", ["สมชายศักดิ์"], ""),
        ("ISO_IR 148", "Çağlayangöz^Gülşenay", "Thorax Gülşenay", ["Gülşenay"], "Thorax"),
        ("ISO_IR 101", "Šimůnkovič^Jiřinka", "Šimůnkovič koleno", ["Šimůnkovič"], ""),
    ):
        who = world.person(charset=charset, name=name, family="", given="")
        parts = [part for group in name.split("=") for part in group.split("^") if len(part) > 2]
        made = world.add(
            this, f"{charset}: {text}", ct, named(*tokens, *parts), who=who, stays=words("SeriesDescription", kept)
        )
        made.SeriesDescription = text
        other = world.add(
            this, f"{charset}, another's name: {text}", ct, named(*tokens), who=world.person(charset=charset)
        )
        other.SeriesDescription = text


@situation
def wrong_scripts(world: World, this: str) -> None:
    """Names in another character set than is declared."""
    for declared, used, text in (
        ("", "utf-8", "Grünwaldmüller"),
        ("ISO_IR 100", "utf-8", "Grünwaldmüllerin"),
        ("ISO_IR 192", "latin-1", "Grünwaldmüllers"),
        ("", "gb18030", "张卫国兵"),
        ("ISO_IR 100", "gb18030", "诸葛亮明"),
        ("ISO_IR 100", "cp1251", "Кузнецовский"),
        ("", "iso8859-7", "Παπαδοπουλάκης"),
        ("", "shift_jis", "山田花子様"),
        ("", "euc_kr", "김희중철"),
        ("ISO_IR 192", "cp1255", "כהנוביצר"),
    ):
        placeholder = "QXJ" * len(text.encode(used))
        placeholder = placeholder[: len(text.encode(used))]

        def finish(raw: bytes, mark: str = placeholder, name: bytes = text.encode(used)) -> bytes:
            return raw.replace(mark.encode(), name)

        made = world.add(this, f"{used} declared as {declared or 'nothing'}", ct, named(text), finish=finish)
        made.SpecificCharacterSet = declared
        made.SeriesDescription = f"CT {placeholder}"
        made.OperatorsName = placeholder
        if declared == "":
            del made.SpecificCharacterSet


# --- codes, UIDs, private elements ------------------------------------------------------------------------------------


@situation
def local_codes(world: World, this: str) -> None:
    """Codes of the hospital's own."""
    local = [Planted("code", "KSMH-THX-2"), Planted("code", "99KSMH")]
    standard = Stay(("ProcedureCodeSequence", 0, "CodeValue"), "399208008", CLEANED)
    made = world.add(this, "ProcedureCodeSequence", ct, [*local, *named("Meierhansli")])
    made.ProcedureCodeSequence = Sequence([code("KSMH-THX-2", "99KSMH", "Thorax Prof. Meierhansli")])
    made = world.add(this, "ProcedureCodeSequence of SNOMED stays", ct, [], stays=[standard])
    made.ProcedureCodeSequence = Sequence([code("399208008", "SCT", "Plain chest X-ray")])
    made = world.add(this, "PerformedProtocolCodeSequence", mr, local)
    made.PerformedProtocolCodeSequence = Sequence([code("KSMH-THX-2", "99KSMH", "Hirn Standard")])
    made = world.add(this, "RequestedProcedureCodeSequence", mr, local)
    made.RequestedProcedureCodeSequence = Sequence([code("KSMH-THX-2", "99KSMH", "Hirn Standard")])
    made = world.add(this, "AnatomicRegionSequence with the scheme in a version", ct, local)
    made.AnatomicRegionSequence = Sequence([code("KSMH-THX-2", "L", "Thorax", CodingSchemeVersion="99KSMH")])
    made = world.add(this, "scheme by UID", ct, [Planted("code", "1.2.756.99.7701.5")])
    made.ProcedureCodeSequence = Sequence([code("T1", "99ZZZ", "Thorax", CodingSchemeUID="1.2.756.99.7701.5")])
    made = world.add(
        this, "CodingSchemeIdentificationSequence", ct, [*local, Planted("institution", "Musterspitalverbund")]
    )
    made.CodingSchemeIdentificationSequence = Sequence(
        [
            item(
                CodingSchemeDesignator="99KSMH",
                CodingSchemeName="KSMH-THX-2 list",
                CodingSchemeResponsibleOrganization="Musterspitalverbund",
            )
        ]
    )
    made = world.add(this, "a long code and a URN", ct, [Planted("code", "urn:oid:1.2.756.99.7702")])
    made.ProcedureCodeSequence = Sequence([item(URNCodeValue="urn:oid:1.2.756.99.7702", CodeMeaning="Thorax")])
    made = world.add(this, "RT structure of a local scheme", devices.rtstruct, local)
    made.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence = Sequence([code("KSMH-THX-2", "99KSMH", "Herz")])


@situation
def uids(world: World, this: str) -> None:
    """UIDs that name the hospital, the day, or the birth date."""
    hospital = [Planted("uid", ROOT)]
    for keyword in (
        *("FrameOfReferenceUID", "InstanceCreatorUID", "SynchronizationFrameOfReferenceUID", "IrradiationEventUID"),
        *("DeviceUID", "ConcatenationUID", "DimensionOrganizationUID", "StorageMediaFileSetUID", "TrackingUID"),
        *("PaletteColorLookupTableUID", "FiducialUID", "SpecimenUID", "UID", "DoseReferenceUID"),
    ):
        who = world.person()
        # That of a device is the device's, and no birth date is in it.
        value, planted = f"{ROOT}.555.{who.birth}.1", hospital
        if keyword == "DeviceUID":
            value, planted = f"{ROOT}.555.77", [Planted("device", f"{ROOT}.555")]
        setattr(world.add(this, keyword, ct, planted, who=who), keyword, value)
    made = world.add(this, "in nested references", ct, hospital)
    reference = item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=f"{ROOT}.4711.8")
    made.ReferencedImageSequence = Sequence([reference])
    made.ReferencedStudySequence = Sequence([reference])
    made.SourceImageSequence = Sequence([reference])
    made = world.add(this, "in a text", ct, hospital)
    made.ImageComments = f"from {ROOT}.4712.1"
    made.SeriesDescription = f"{ROOT}.4712.2"
    made = world.add(this, "in a private UI, LO and OB", mr, hospital)
    private(
        made,
        0x0011,
        "ACME SPECIAL",
        x01=("UI", f"{ROOT}.4713.1"),
        x02=("LO", f"{ROOT}.4713.2"),
        x03=("OB", f"{ROOT}.4713.3".encode()),
    )
    made = world.add(this, "with a character too much, in upper case text", ct, hospital)
    made.StudyComments = f"UID={ROOT}.4714 ."


@situation
def private_text(world: World, this: str) -> None:
    """Names and numbers in private elements, as text, JSON, XML and binary headers."""
    who = world.person()
    full = f"{who.family}^{who.given}"
    csa = b"SV10\4\3\2\1" + struct.pack("<I", 1) + b"M\0\0\0"
    csa += b"PatientName".ljust(64, b"\0") + struct.pack("<i4sIII", 1, b"PN\0\0", 0, 1, 77)
    csa += struct.pack("<4I", len(full), len(full), 77, len(full)) + full.encode().ljust(32, b"\0")
    phoenix = (
        f'<XProtocol>{{<ParamString."PatientName">{{"{full}"}}<ParamString."tOperator">{{"Kabelmannli"}}}}'.encode()
    )
    made = world.add(this, "Siemens CSA headers", mr, named("Kabelmannli"), who=who)
    private(
        made,
        0x0029,
        "SIEMENS CSA HEADER",
        x08=("CS", "IMAGE NUM 4"),
        x10=("OB", csa),
        x20=("OB", phoenix + b" " * (len(phoenix) % 2)),
    )
    made = world.add(this, "GE protocol block, compressed", mr, named("Kabelmannla"))
    block = gzip.compress(b'set PATIENTNOTE "operator Kabelmannla"', mtime=0)
    block = struct.pack("<I", len(block)) + block
    private(made, 0x0025, "GEMS_SERS_01", x1B=("OB", block + bytes(len(block) % 2)))
    made = world.add(this, "JSON", ct, [*named("Kabelmannlo"), Planted("contact", "kabelmannlo@ksmh.example")])
    told = json.dumps({"operator": "Kabelmannlo", "mail": "kabelmannlo@ksmh.example"})
    private(made, 0x0077, "AI RESULT", x10=("UT", told), x11=("OB", told.encode("utf-16-le")))
    made = world.add(this, "XML", ct, named("Kabelmannlu"))
    private(made, 0x0079, "ACME XML", x10=("UN", b"<user name='Kabelmannlu'/>"))
    for group, creator, vr in (
        (0x0009, "GEMS_IDEN_01", "LO"),
        (0x0011, "GEMS_PATI_01", "LO"),
        (0x0009, "SPI RELEASE 1", "LO"),
        (0x0021, "SIEMENS MED", "LO"),
        (0x0033, "SIEMENS MED NM", "LO"),
        (0x2005, "Philips MR Imaging DD 001", "LO"),
        (0x7005, "TOSHIBA_MEC_CT3", "LO"),
        (0x0031, "AGFA PACS Archive Mirroring 1.0", "LO"),
        (0x01F1, "ELSCINT1", "PN"),
        (0x200D, "Philips US Imaging DD 001", "LT"),
        (0x3253, "Varian Medical Systems VISION 3253", "OB"),
        (0x0019, "GEMS_ACQU_01", "LO"),
        (0x2001, "Philips Imaging DD 001", "LO"),
    ):
        made = world.add(this, creator, mr, [*named("Kabelmannix"), Planted("id", "Z66012345")])
        value: Any = "Kabelmannix Z66012345"
        element = 0x9E if creator == "GEMS_ACQU_01" else 0xC8 if creator == "Philips Imaging DD 001" else 0x40
        made.private_block(group, creator, create=True).add_new(
            element, vr, value.encode() + b" " if vr == "OB" else value
        )
    who = world.person()
    made = world.add(this, "the study's date in private LO, DA and SL", mr, [Planted("id", "20221103")], who=who)
    private(made, 0x0029, "SIEMENS CSA HEADER", x09=("LO", "20221103"), x19=("LO", who.study))
    private(made, 0x0009, "GEMS_IDEN_01", x27=("SL", 1667467800), x30=("DA", who.study))
    world.things[-1].planted.append(Planted("id", "1667467800"))
    made = world.add(this, "without a creator", mr, named("Kabelmannax"))
    made.add_new(0x00111040, "LO", "Kabelmannax")
    made = world.add(this, "a creator that is a name", mr, named("Kabelmannex"))
    private(made, 0x0011, "KABELMANNEX NOTES", x01=("IS", "5"))
    made = world.add(this, "a sequence in a private sequence", mr, named("Kabelmannox"))
    inner = Dataset()
    inner.PatientName, inner.OperatorsName = "Kabelmannox^Uli", "Kabelmannox"
    private(made, 0x2005, "Philips MR Imaging DD 005", x0E=("SQ", Sequence([inner])))


@situation
def private_physics(world: World, this: str) -> None:
    """Private physics that is known to be safe (PS3.15 Table E.3.10-1) beside private text that is not."""
    stays = [
        Stay(("2001,1003", "Philips Imaging DD 001"), "1000", PRIVATE),
        Stay(("2001,1013", "Philips Imaging DD 001"), "47", PRIVATE),
    ]
    made = world.add(this, "Philips MR diffusion", mr, named("Kabelmannyx"), stays=stays)
    private(made, 0x2001, "Philips Imaging DD 001", x03=("FL", 1000.0), x13=("SL", 47), xC8=("LO", "Kabelmannyx"))
    stays = [
        Stay(("0019,1023", "GEMS_ACQU_01"), "39.37", PRIVATE),
        Stay(("0043,1027", "GEMS_PARM_01"), "0.984:1", PRIVATE),
    ]
    made = world.add(this, "GE CT pitch", ct, named("Kabelmannzx"), stays=stays)
    private(made, 0x0019, "GEMS_ACQU_01", x23=("DS", "39.37"))
    private(made, 0x0043, "GEMS_PARM_01", x27=("SH", "0.984:1"), x31=("LO", "Kabelmannzx"))
    stays = [Stay(("7053,1000", "Philips PET Private Group"), "0.000546", PRIVATE)]
    made = world.add(this, "Philips PET SUV factor", devices.pet, named("Kabelmannwx"), stays=stays)
    private(made, 0x7053, "Philips PET Private Group", x00=("DS", "0.000546"), x03=("ST", "Kabelmannwx.raw"))


# --- places beside the values ----------------------------------------------------------------------------------------


@situation
def retired(world: World, this: str) -> None:
    """Retired attributes, and some that only other systems write."""
    for tag, vr in (
        *(
            (0x00084000, "LT"),
            (0x00204000, "LT"),
            (0x00324000, "LT"),
            (0x00384000, "LT"),
            (0x40084000, "ST"),
            (0x40000010, "LT"),
        ),
        *(
            (0x40004000, "LT"),
            (0x40080114, "PN"),
            (0x4008010B, "ST"),
            (0x40080118, "SH"),
            (0x00101060, "PN"),
            (0x00101005, "PN"),
        ),
        *(
            (0x00321032, "PN"),
            (0x00321060, "LO"),
            (0x00880904, "LO"),
            (0x00880910, "LO"),
            (0x00184000, "LT"),
            (0x00281080, "LO"),
        ),
        *(
            (0x20300020, "LO"),
            (0x00080010, "LO"),
            (0x00404051, "UT"),
            (0x00741246, "LO"),
            (0x00402001, "LO"),
            (0x00380300, "LO"),
        ),
        *(
            (0x00102297, "PN"),
            (0x00401101, "SQ"),
            (0x00720066, "LO"),
            (0x04000561, "SQ"),
            (0x04000565, "CS"),
            (0x00080201, "SH"),
        ),
        *(
            (0x00283010, "SQ"),
            (0x00081195, "UI"),
            (0x00400254, "LO"),
            (0x00142002, "ST"),
            (0x30060085, "SH"),
            (0x300A0003, "LO"),
        ),
    ):
        token = "Altlastenmann"
        made = world.add(this, f"{tag:08X} {vr}", mr, named(token) if vr != "UI" else [Planted("uid", f"{ROOT}.88")])
        value: Any = token if vr not in ("SQ", "UI") else f"{ROOT}.88"
        if vr == "CS":
            value = token.upper()
        if vr == "SQ":
            value = Sequence([item(PatientName=token, LUTExplanation=token, PatientComments=token)])
        made.add_new(tag, vr, value)


@situation
def nested(world: World, this: str) -> None:
    """Deep in sequences."""
    made = world.add(this, "names of before in OriginalAttributesSequence", ct, named("Maedchenname"))
    original = item(
        AttributeModificationDateTime="20230117101500",
        ModifyingSystem="KSMHPACS",
        ReasonForTheAttributeModification="COERCE",
        ModifiedAttributesSequence=[item(PatientName="Maedchenname^Erna", PatientID="Z55012345")],
    )
    made.OriginalAttributesSequence = Sequence([original])
    made = world.add(this, "OtherPatientIDsSequence", ct, [Planted("id", "Z55012346")])
    made.OtherPatientIDsSequence = Sequence([item(PatientID="Z55012346", TypeOfPatientID="TEXT")])
    made = world.add(this, "RequestAttributesSequence", mr, named("Tiefenbacherin"))
    inner = item(RequestedProcedureDescription="Hirn Tiefenbacherin", RequestedProcedureID="Z55012347")
    inner.ScheduledProtocolCodeSequence = Sequence(
        [item(CodeMeaning="Hirn Tiefenbacherin", CodeValue="1", CodingSchemeDesignator="DCM")]
    )
    made.RequestAttributesSequence = Sequence([inner])
    made = world.add(this, "five levels down", mr, named("Tiefenbacherli"))
    level: Dataset = item(PatientName="Tiefenbacherli", ImageComments="Tiefenbacherli", TextValue="Tiefenbacherli")
    for _ in range(5):
        level = item(ReferencedPerformedProcedureStepSequence=[level])
    made.ReferencedPerformedProcedureStepSequence = Sequence([level])
    made = world.add(this, "a signature with its certificate", ct, named("Signatarius"))
    made.DigitalSignaturesSequence = Sequence(
        [
            item(
                MACIDNumber=1,
                DigitalSignatureUID=f"{ROOT}.9",
                CertificateOfSigner=b"CN=Signatarius, O=KSMH",
                Signature=b"12345678",
            )
        ]
    )
    made = world.add(this, "EncryptedAttributesSequence", ct, named("Signatariux"))
    made.EncryptedAttributesSequence = Sequence(
        [item(EncryptedContentTransferSyntaxUID="1.2.840.10008.1.2.1", EncryptedContent=b"Signatariux!")]
    )
    made = world.add(this, "who did it, by code", ct, [Planted("code", "P77014"), *named("Codemann")])
    made.PerformingPhysicianIdentificationSequence = Sequence(
        [item(PersonIdentificationCodeSequence=[code("P77014", "99KSMH", "Codemann, Ulf")], InstitutionName="KSMH")]
    )
    made = world.add(this, "functional groups", ct, named("Rahmenmann"))
    made.PerFrameFunctionalGroupsSequence = Sequence(
        [
            item(
                FrameContentSequence=[
                    item(FrameComments="Rahmenmann", FrameLabel="Rahmenmann", FrameAcquisitionNumber=1)
                ]
            )
        ]
    )
    made = world.add(this, "acquisition context", ct, named("Kontextmann"))
    made.AcquisitionContextSequence = Sequence(
        [content("TEXT", ("109054", "DCM", "Patient State"), TextValue="Kontextmann nüchtern")]
    )


@situation
def outside(world: World, this: str) -> None:
    """Preamble, file meta information, padding, bytes after the end."""
    who = world.person()
    made = world.add(this, "a preamble with text", ct, named("Praeambelius"), who=who)
    made.preamble = b"Praeambelius export 2023".ljust(128, b"\0")
    for keyword, value, token in (
        ("SourceApplicationEntityTitle", "KSMHSEND", "KSMHSEND"),
        ("SendingApplicationEntityTitle", "KSMHSEN2", "KSMHSEN2"),
        ("ReceivingApplicationEntityTitle", "KSMHRECV", "KSMHRECV"),
        ("ImplementationVersionName", "KSMH_PACS_7", "KSMH_PACS"),
        ("SourcePresentationAddress", "pacs.ksmh.example", "ksmh.example"),
    ):
        made = world.add(this, f"file meta {keyword}", ct, [Planted("institution", token)])
        setattr(made.file_meta, keyword, value)
    made = world.add(this, "file meta private information", ct, named("Metaphysikus"))
    made.file_meta.PrivateInformationCreatorUID = f"{ROOT}.3"
    made.file_meta.PrivateInformation = b"Metaphysikus"
    made = world.add(this, "trailing padding", ct, named("Polsterer"))
    made.add_new(0xFFFCFFFC, "OB", b"Polsterer^Hans\0\0")
    world.add(
        this,
        "bytes after the data set",
        ct,
        named("Anhaengsel"),
        ordinary=False,
        finish=lambda raw: raw + b"Anhaengsel^Otto, KSMH",
    )
    made = world.add(this, "bytes after the pixels", ct, named("Pixelschwanz"), ordinary=False)
    made.PixelData = bytes(128) + b"Pixelschwanz"
    made = world.add(this, "a group length and a length to end", ct, [])
    made.add_new(0x00080001, "UL", 4711)
    made = world.add(this, "implicit VR", ct, named("Implizitius"))
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made.OperatorsName, made.SeriesDescription = "Implizitius", "Abdomen Implizitius"
    made = world.add(this, "a text longer than its VR allows", ct, named("Langatmiger"))
    made.SeriesDescription = "Abdomen " * 9 + "Langatmiger"
    made = world.add(this, "a name in a date", ct, named("Datumsmann"))
    made.add_new(0x00080023, "LO", "Datumsmann")
    made = world.add(this, "a name in a number", ct, named("Zahlenmann"))
    made.add_new(0x00180060, "LO", "Zahlenmann")
    made = world.add(this, "a name in a code string, lower case", ct, named("Codestringer"))
    made.add_new(0x00080060, "CS", "CT")
    made.add_new(0x00185101, "CS", "codestringer")
    made = world.add(this, "several values, one of them a name", ct, named("Mehrwertig"))
    made.SeriesDescription = "Abdomen"
    made.add_new(0x00181020, "LO", ["VB20A", "Mehrwertig"])
    made = world.add(this, "attributes that no dictionary knows", ct, named("Zukunftler"))
    made.add_new(0x00187FF1, "LO", "Zukunftler")
    made.add_new(0x00187FF3, "UN", b"Zukunftler")


@situation
def inside_pixels(world: World, this: str) -> None:
    """Text that lies in the pixel data, and in what comes with them."""
    comment = b"Kommentarine, KSMH"
    for title, spot in (("a comment in a JPEG", 2), ("bytes after the end of a JPEG", None)):
        made = world.add(this, title, devices.xa, named("Kommentarine"))
        stream = BytesIO()
        Image.new("L", (16, 16), 7).save(stream, "JPEG")
        coded = stream.getvalue()
        marked = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
        coded = coded[:spot] + marked + coded[spot:] if spot else coded + comment
        devices.pixels(made, 16, 16, 8)
        made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        made.LossyImageCompression, made.LossyImageCompressionMethod = "01", "ISO_10918_1"
        made.PixelData = encapsulate([coded + bytes(len(coded) % 2)])
        made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made = world.add(this, "an overlay in the high bits", mr, [Planted("burned", "00800000" * 4)])
    made.BitsStored, made.HighBit = 12, 11
    made.PixelData = bytes.fromhex("00800000" * 32)
    for element, vr, value in (
        *((0x10, "US", 8), (0x11, "US", 8), (0x40, "CS", "G"), (0x50, "SS", [1, 1])),
        *((0x100, "US", 16), (0x102, "US", 15)),
    ):
        made.add_new(0x60000000 + element, vr, value)
    made = world.add(
        this, "an ICC profile with a scanner's name", devices.slide, [Planted("institution", "Scannermuster")]
    )
    made.OpticalPathSequence = Sequence(
        [item(OpticalPathIdentifier="1", ICCProfile=b"ICC desc Scannermuster KSMH 7701")]
    )
    made = world.add(
        this,
        "where a photograph was taken",
        devices.slide,
        [Planted("contact", "47.4231"), Planted("contact", "9.3841")],
    )
    made.add_new(0x00160072, "DS", ["47.4231", "0", "0"])
    made.add_new(0x00160074, "DS", ["9.3841", "0", "0"])
    made = world.add(this, "addresses of servers", mr, [Planted("institution", "ksmh.example")])
    made.RetrieveURL, made.RetrieveURI = "https://pacs.ksmh.example/wado", "https://pacs.ksmh.example/x"


@situation
def graphics(world: World, this: str) -> None:
    """Icons, overlays, curves."""
    made = world.add(this, "an icon", ct, named("Ikonografin"))
    made.IconImageSequence = Sequence(
        [
            item(
                Rows=4,
                Columns=4,
                SamplesPerPixel=1,
                PhotometricInterpretation="MONOCHROME2",
                BitsAllocated=8,
                BitsStored=8,
                HighBit=7,
                PixelRepresentation=0,
                PixelData=b"Ikonografin!    ",
            )
        ]
    )
    made = world.add(this, "an overlay", ct, named("Ueberlagerin"))
    for element, vr, value in (
        *((0x10, "US", 8), (0x11, "US", 8), (0x22, "LO", "Ueberlagerin"), (0x40, "CS", "G"), (0x50, "SS", [1, 1])),
        *((0x100, "US", 1), (0x102, "US", 0), (0x1500, "LO", "Ueberlagerin"), (0x3000, "OW", b"Ueberlagerin")),
        (0x4000, "LT", "Ueberlagerin"),
    ):
        made.add_new(0x60000000 + element, vr, value)
    made = world.add(this, "a curve", ct, named("Kurvenmann"))
    for element, vr, value in (
        (0x5, "US", 1),
        (0x10, "US", 2),
        (0x22, "LO", "Kurvenmann"),
        (0x3000, "OW", b"Kurvenmann  "),
    ):
        made.add_new(0x50000000 + element, vr, value)
    made = world.add(this, "overlay of group 6002", ct, named("Ueberlagero"))
    made.add_new(0x60023000, "OW", b"Ueberlagero ")
    made = world.add(this, "an explanation of a table", ct, named("Tabellenmann"))
    made.ModalityLUTSequence = Sequence(
        [item(LUTDescriptor=[4, 0, 16], LUTExplanation="Tabellenmann", ModalityLUTType="HU", LUTData=b"\0" * 8)]
    )
    del made.RescaleSlope, made.RescaleIntercept, made.RescaleType


# --- other kinds of objects -------------------------------------------------------------------------------------------


@situation
def radiotherapy(world: World, this: str) -> None:
    """Structure sets, plans, doses, segmentations."""
    stays = words(("StructureSetROISequence", 0, "ROIName"), "GTV") + words(
        ("StructureSetROISequence", 1, "ROIName"), "SpinalCord"
    )
    made = world.add(this, "ROIName", devices.rtstruct, named("Volumenmann", "Konturina"), stays=stays)
    made.StructureSetROISequence[0].ROIName = "GTV_Volumenmann"
    made.StructureSetROISequence[0].ROIDescription = "contoured by Konturina"
    made.RTROIObservationsSequence[0].ROIInterpreter = "Konturina^Eva"
    made = world.add(this, "StructureSetLabel", devices.rtstruct, named("Etikettmann"))
    made.StructureSetLabel, made.StructureSetName = "RS: Etikettmann", "Etikettmann 17.01.23"
    made = world.add(this, "RTPlanLabel, approval", devices.rtplan, named("Planungsmann", "Freigeberin"))
    made.RTPlanLabel, made.RTPlanName, made.RTPlanDescription = "P1 Planungsm", "Brain Planungsmann", "Planungsmann"
    made.ReviewerName, made.ReviewDate = "Freigeberin^Ida", "20230118"
    made.BeamSequence[0].BeamName, made.BeamSequence[0].BeamDescription = "Planungsmann1", "Planungsmann"
    made.FractionGroupSequence[0].FractionGroupDescription = "for Planungsmann"
    made.PatientSetupSequence = Sequence([item(PatientSetupNumber=1, SetupTechniqueDescription="Mask of Planungsmann")])
    made = world.add(this, "DoseComment", devices.rtdose, named("Dosismann"))
    made.DoseComment = "Dosismann 2nd try"
    made = world.add(
        this,
        "SegmentLabel",
        devices.seg,
        named("Segmentina"),
        stays=words(("SegmentSequence", 0, "SegmentLabel"), "Liver"),
    )
    made.SegmentSequence[0].SegmentLabel = "Liver Segmentina"
    made.SegmentSequence[0].SegmentDescription = "drawn by Segmentina"
    made.SegmentSequence[0].TrackingID = "Segmentina-1"
    made.ContentCreatorName, made.ContentLabel = "Segmentina", "SEGMENTINA"


@situation
def reports(world: World, this: str) -> None:
    """Structured reports, dose reports, selections of images, presentation states."""
    dlp = size = ("*", "NumericValue")
    who = world.person()
    planted = [*named("Strahlemann"), Planted("device", "CTKSMH2")]
    world.add(this, "dose report", devices.rdsr, planted, stays=[Stay(dlp, "214.5", CLEANED)], who=who)
    world.things[-1].stays = [stay for stay in world.things[-1].stays if stay.profiles is CLEANED]
    world.add(this, "measurements", devices.measurements, [], stays=[Stay(size, "17.25", CLEANED)])
    world.things[-1].stays = [stay for stay in world.things[-1].stays if stay.profiles is CLEANED]
    world.add(this, "key objects", devices.key_object, named("Hasenfratz"))
    world.things[-1].stays = [Stay(("ConceptNameCodeSequence", 0, "CodeValue"), "113000", CLEANED)]
    world.add(this, "presentation state", devices.presentation, named("Hasenfratz", "Befunderin"))
    world.things[-1].stays = [Stay(("GraphicLayerSequence", 0, "GraphicLayer"), "LAYER1", CLEANED)]
    made = world.add(
        this,
        "a verified report",
        devices.measurements,
        [*named("Pruefmeister"), Planted("institution", "Prueforganisation")],
    )
    made.VerificationFlag = "VERIFIED"
    made.VerifyingObserverSequence = Sequence(
        [
            item(
                VerifyingObserverName="Pruefmeister^Jan",
                VerifyingOrganization="Prueforganisation",
                VerificationDateTime="20230118101500",
                VerifyingObserverIdentificationCodeSequence=[code("P1", "99KSMH", "Pruefmeister")],
            )
        ]
    )
    world.things[-1].stays = []
    made = world.add(this, "free text", devices.measurements, named("Hausarztmann"))
    made.ContentSequence.append(
        content("TEXT", ("121071", "DCM", "Finding"), TextValue="Bekannt bei Dr. Hausarztmann, 17.01.2023")
    )
    world.things[-1].stays = []


@situation
def content_of_reports(world: World, this: str) -> None:
    """Items of structured reports that tell who, where and when."""
    items: tuple[tuple[str, str, tuple[str, str, str], dict[str, Any], str, str], ...] = (
        (
            "TEXT",
            "Finding",
            ("121071", "DCM", "Finding"),
            {"TextValue": "wie bei Zuweiserin Berichtlos"},
            "name",
            "Berichtlos",
        ),
        (
            "TEXT",
            "Comment",
            ("121106", "DCM", "Comment"),
            {"TextValue": "rep. by MTRA Berichtlis"},
            "name",
            "Berichtlis",
        ),
        ("TEXT", "Subject ID", ("121030", "DCM", "Subject ID"), {"TextValue": "Z77012345"}, "id", "Z77012345"),
        ("TEXT", "Accession", ("121022", "DCM", "Accession Number"), {"TextValue": "A77012346"}, "id", "A77012346"),
        (
            "TEXT",
            "Serial",
            ("121016", "DCM", "Device Observer Serial Number"),
            {"TextValue": "SN77012347"},
            "device",
            "SN77012347",
        ),
        (
            "TEXT",
            "Location",
            ("121017", "DCM", "Device Observer Physical Location"),
            {"TextValue": "Trakt W77"},
            "device",
            "W77",
        ),
        (
            "TEXT",
            "Procedure",
            ("121065", "DCM", "Procedure Description"),
            {"TextValue": "CT Berichtlus"},
            "name",
            "Berichtlus",
        ),
        (
            "TEXT",
            "Protocol",
            ("125203", "DCM", "Acquisition Protocol"),
            {"TextValue": "Thorax_Berichtlas"},
            "name",
            "Berichtlas",
        ),
        (
            "TEXT",
            "Tracking",
            ("112039", "DCM", "Tracking Identifier"),
            {"TextValue": "Berichtlix 1"},
            "name",
            "Berichtlix",
        ),
        ("PNAME", "Subject", ("121029", "DCM", "Subject Name"), {"PersonName": "Berichtlex^Ida"}, "name", "Berichtlex"),
        (
            "PNAME",
            "Authorizing",
            ("113850", "DCM", "Irradiation Authorizing"),
            {"PersonName": "Berichtlax"},
            "name",
            "Berichtlax",
        ),
        ("DATE", "Birth", ("121031", "DCM", "Subject Birth Date"), {"Date": "19510213"}, "birth", "19510213"),
        ("DATE", "Study", ("111060", "DCM", "Study Date"), {"Date": "20230217"}, "date", "20230217"),
        (
            "DATETIME",
            "End",
            ("113810", "DCM", "End of X-Ray Irradiation"),
            {"DateTime": "20230218101500"},
            "date",
            "20230218",
        ),
        (
            "TEXT",
            "Date as text",
            ("121071", "DCM", "Finding"),
            {"TextValue": "VU vom 17.02.2023"},
            "birth",
            "17.02.2023",
        ),
        (
            "CODE",
            "Local code",
            ("121071", "DCM", "Finding"),
            {"ConceptCodeSequence": [code("KSMH-B-7", "99KSMH", "Befund Berichtlox")]},
            "name",
            "Berichtlox",
        ),
        (
            "TEXT",
            "Local concept",
            ("KSMH-B-8", "99KSMH", "Feld Berichtlux"),
            {"TextValue": "normal"},
            "name",
            "Berichtlux",
        ),
        ("UIDREF", "UID", ("113769", "DCM", "Irradiation Event UID"), {"UID": f"{ROOT}.66.1"}, "uid", f"{ROOT}.66"),
    )
    for make in (devices.rdsr, devices.measurements):
        for kind, title, concept, values, what, token in items:
            made = world.add(this, f"{make.__name__}: {title}", make, [Planted(what, token, len(token) < 4)])
            world.things[-1].stays = []
            made.ContentSequence.append(content(kind, concept, **values))
    made = world.add(
        this, "who took part", devices.measurements, [*named("Teilnehmerli"), Planted("institution", "Verwahrstelle")]
    )
    world.things[-1].stays = []
    made.AuthorObserverSequence = Sequence(
        [item(PersonName="Teilnehmerli^Jo", InstitutionName="Verwahrstelle", ObserverType="PSN")]
    )
    made.ParticipantSequence = Sequence(
        [item(PersonName="Teilnehmerli^Jo", ParticipationType="ENT", ObserverType="PSN")]
    )
    made.CustodialOrganizationSequence = Sequence([item(InstitutionName="Verwahrstelle")])
    made.ReferencedRequestSequence = Sequence(
        [item(RequestedProcedureDescription="CT fuer Teilnehmerli", AccessionNumber="A1")]
    )
    made = world.add(
        this, "layers of a presentation state", devices.presentation, named("Hasenfratz", "Befunderin", "Ebenenmann")
    )
    world.things[-1].stays = []
    made.GraphicLayerSequence[0].GraphicLayerDescription = "von Ebenenmann"
    made.GraphicLayerSequence[0].GraphicLayer = made.GraphicAnnotationSequence[0].GraphicLayer = "EBENENMANN"
    made.ContentLabel = "EBENENMANN"


@situation
def mended(world: World, this: str) -> None:
    """Text where a reader that forgives does not look."""

    def element(tag: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value

    def before(raw: bytes, tag: int, more: bytes) -> bytes:
        at = raw.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 132)
        return raw[:at] + more + raw[at:]

    twice = element(0x00081070, b"PN", b"Doppelmann^X")
    odd = element(0x00081070, b"PN", b"Ungerademann^")
    for title, finish, token in (
        (
            "an element there twice",
            lambda raw: before(raw, 0x00081090, twice + element(0x00081070, b"PN", b"")),
            "Doppelmann",
        ),
        ("an element out of order", lambda raw: before(raw, 0x00180060, twice), "Doppelmann"),
        ("an element after the pixels", lambda raw: raw + twice, "Doppelmann"),
        ("a value of odd length", lambda raw: before(raw, 0x00081090, odd), "Ungerademann"),
        ("zeros, then text, after the data set", lambda raw: raw + bytes(64) + b"Nullenmann", "Nullenmann"),
        (
            "padding after a value's end",
            lambda raw: before(raw, 0x00081090, element(0x00081070, b"PN", b"A\0Fuellmann^")),
            "Fuellmann",
        ),
    ):
        world.add(this, title, ct, named(token), ordinary=False, finish=finish)
    made = world.add(this, "bytes after a deflated data set", ct, named("Anhaengslein"), ordinary=False)
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    world.things[-1].finish = lambda raw: raw + b"Anhaengslein^Otto"
    made = world.add(this, "a label map", devices.seg, named("Labelmann"))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    made.SegmentationType, made.BitsAllocated, made.BitsStored, made.HighBit = "LABELMAP", 8, 8, 7
    made.PixelData = bytes(256)
    made.SegmentSequence[0].SegmentLabel, made.SegmentSequence[0].SegmentDescription = "Liver Labelmann", "Labelmann"
    made = world.add(this, "a class that nobody knows", ct, named("Klassenmann"), ordinary=False)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.999.1"
    made.SeriesDescription, made.OperatorsName = "Klassenmann", "Klassenmann"


def csa(*fields: tuple[str, str, tuple[bytes, ...]]) -> bytes:
    """A Siemens CSA header of the second version: of each field its name, VR and values."""
    raw = b"SV10\4\3\2\1" + struct.pack("<II", len(fields), 77)
    for name, vr, values in fields:
        raw += name.encode().ljust(64, b"\0") + struct.pack("<i4sIII", 1, vr.encode(), 0, len(values), 77)
        for value in values:
            raw += struct.pack("<4I", len(value), len(value), 77, len(value)) + value + bytes(-len(value) % 4)
    return raw + bytes(len(raw) % 2)


@situation
def csa_headers(world: World, this: str) -> None:
    """Siemens CSA headers with names in fields, in their padding, and in the protocol."""
    asc = b'### ASCCONV BEGIN ###\ntProtocolName = "Hirn_Csamannli"\nsSliceArray.lSize = 35\n### ASCCONV END ###\n'
    for title, image, series, token in (
        (
            "a name in a field",
            csa(("B_value", "IS", (b"1000\0",)), ("PatientName", "PN", (b"Csamannla^U\0",))),
            b"",
            "Csamannla",
        ),
        (
            "a name in a field of numbers",
            csa(("MosaicRefAcqTimes", "FD", (b"0.0\0", b"Csamannlo\0"))),
            b"",
            "Csamannlo",
        ),
        (
            "what was in memory before",
            csa(("NumberOfImagesInMosaic", "US", (b"35\0Csamannlu^Vorher",))),
            b"",
            "Csamannlu",
        ),
        ("a name of a field", csa(("Csamannle", "IS", (b"1\0",))), b"", "Csamannle"),
        ("bytes after the last field", csa(("B_value", "IS", (b"5\0",))) + b"Csamannly^After", b"", "Csamannly"),
        ("the protocol", csa(("B_value", "IS", (b"5\0",))), csa(("MrPhoenixProtocol", "UN", (asc,))), "Csamannli"),
        (
            "a coil and a sequence",
            csa(("ImaCoilString", "LO", (b"HEA Csamannlb\0",)), ("SequenceFileOwnerName", "LO", (b"Csamannlb\0",))),
            b"",
            "Csamannlb",
        ),
    ):
        made = world.add(this, title, mr, named(token))
        private(made, 0x0029, "SIEMENS CSA HEADER", x08=("CS", "IMAGE NUM 4"), x10=("OB", image))
        if series:
            private(made, 0x0029, "SIEMENS CSA HEADER", x20=("OB", series))
        private(made, 0x0019, "SIEMENS MR HEADER", x08=("CS", "IMAGE NUM 4"), x0F=("SH", token), x0B=("DS", "2.5"))


@situation
def pixels_and_documents(world: World, this: str) -> None:
    """Documents, screens, ultrasound: what a header cannot tell."""
    world.add(this, "a PDF", devices.document, [], ordinary=False)
    world.add(this, "a screen", devices.capture, [], ordinary=False)
    made = world.add(this, "a screen that says it is an original", ct, [], ordinary=False)
    made.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    made = world.add(this, "burned in, and says so", devices.cr, [], ordinary=False)
    made.BurnedInAnnotation = "YES"
    who = world.person()
    banner = Planted("burned", devices.us(who).PixelData[96 * 2 : 96 * 4].hex())
    world.add(this, "ultrasound with a banner", devices.us, [banner], ordinary=False, who=who)
    for title, frames in (("ultrasound whose region is all of it", 0), ("the same, of two frames", 2)):
        who = world.person()
        made = world.add(this, title, devices.us, [banner], ordinary=False, who=who)
        region = made.SequenceOfUltrasoundRegions[0]
        region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
        region.RegionLocationMaxX1 = region.RegionLocationMaxY1 = 95
        if frames:
            made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
            made.NumberOfFrames, made.FrameTime, made.FrameIncrementPointer = 2, 33, 0x00181063
            made.PixelData = bytes(96 * 96) + made.PixelData
    made = world.add(this, "ultrasound without regions", devices.us, [banner], ordinary=False)
    del made.SequenceOfUltrasoundRegions
    made = world.add(this, "the label of a slide", devices.slide, [Planted("id", "S23-0471188")], ordinary=False)
    made.ImageType, made.LabelText, made.BarcodeValue = (
        ["ORIGINAL", "PRIMARY", "LABEL", "NONE"],
        "S23-0471188",
        "S23-0471188",
    )
    made.SpecimenLabelInImage = "YES"
    written = bytes(range(64))
    made = world.add(
        this,
        "the overview of a slide, with its label",
        devices.slide,
        [Planted("burned", written.hex())],
        ordinary=False,
    )
    made.ImageType, made.SpecimenLabelInImage = ["ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"], "YES"
    made.PixelData = written


@situation
def references(world: World, this: str) -> None:
    """Objects of one person that refer to each other."""
    who = world.person()
    image = world.add(this, "the image", ct, [], who=who)
    reference = item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
    for number, make in ((2, devices.seg), (3, devices.rtstruct), (4, devices.rtdose)):
        made = world.add(this, f"its {make.__name__}", make, [], who=who)
        made.SeriesInstanceUID = f"{image.StudyInstanceUID}.{number}"
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"{image.StudyInstanceUID}.{number}.1"
        made.ReferencedSeriesSequence = Sequence(
            [item(SeriesInstanceUID=image.SeriesInstanceUID, ReferencedInstanceSequence=[reference])]
        )
        world.things[-1].stays += words("SeriesDescription", "CT Thorax")
        made.SeriesDescription = "CT Thorax"


@situation
def names_of_files(world: World, this: str) -> None:
    """Names of files and folders."""
    who = world.person()
    name = f"sub-{who.mrn}/{who.family} {who.given}/CT_{who.birth}_Dateinamer.dcm"
    world.add(this, "a folder for everybody", ct, named("Dateinamer"), who=who, file=name)


@situation
def persons(world: World, this: str) -> None:
    """Sex, age, size and weight stay where the option keeps them."""
    stays = [
        *(
            Stay(("PatientAge",), "054Y", PERSON),
            Stay(("PatientWeight",), "71", PERSON),
            Stay(("PatientSize",), "1.68", PERSON),
        ),
        *(
            Stay(("PatientSex",), "F", PERSON),
            Stay(("SmokingStatus",), "NO", PERSON),
            Stay(("PregnancyStatus",), "1", PERSON),
        ),
    ]
    made = world.add(this, "a PET of somebody of 54", devices.pet, [], stays=stays)
    made.PatientAge, made.PatientWeight, made.PatientSize = "054Y", 71, 1.68
    made.SmokingStatus, made.PregnancyStatus = "NO", 1


@situation
def dates_moved(world: World, this: str) -> None:
    """Dates of a person move together, by the days that are told."""
    who = world.person()
    moved = date.fromordinal(date(int(who.study[:4]), int(who.study[4:6]), int(who.study[6:])).toordinal() + DAY_SHIFT)
    after = moved.strftime("%Y%m%d")
    item0 = ("RadiopharmaceuticalInformationSequence", 0)
    stays = [
        *(Stay((keyword,), after, MOVED) for keyword in ("StudyDate", "SeriesDate", "ContentDate", "AcquisitionDate")),
        *(Stay((keyword,), "101500", MOVED) for keyword in ("StudyTime", "SeriesTime")),
        Stay((*item0, "RadiopharmaceuticalStartDateTime"), after + "091500", MOVED),
        Stay((*item0, "RadiopharmaceuticalStartTime"), "091500", MOVED),
    ]
    world.add(this, "a PET", devices.pet, [], stays=stays, who=who)


@situation
def deidentified(world: World, this: str) -> None:
    """Objects that are de-identified already, or whose code is a word."""
    for title, fill in (
        (
            "REMOVED everywhere",
            {"ReferringPhysicianName": "REMOVED", "PatientName": "REMOVED", "OperatorsName": "Removed by CTP"},
        ),
        (
            "a code that holds a part of the body",
            {"PatientName": "QIN-HEADNECK-01-0077", "BodyPartExamined": "HEADNECK"},
        ),
        (
            "names that are the maker's",
            {"ContentCreatorName": "ACME", "Manufacturer": "ACME", "SeriesDescription": "ACME"},
        ),
        ("a StudyID of zeros", {"StudyID": "00000000", "SoftwareVersions": "00000000"}),
        (
            "an accession number of one letter",
            {"AccessionNumber": "1", "PatientName": "1", "ReferringPhysicianName": "1"},
        ),
        (
            "Anonymous",
            {"PatientName": "Anonymous", "InstitutionName": "anonymous", "SeriesDescription": "T1 Anonymous"},
        ),
        ("a name that is a word", {"PatientName": "Axial^Head", "SeriesDescription": "Head axial"}),
    ):
        made = world.add(this, title, mr, [])
        world.things[-1].planted = world.things[-1].planted[2:]
        for keyword, value in fill.items():
            setattr(made, keyword, value)


#: Written down from memory of worklists and consoles in four languages before the command was run on any; every word of
#: them says what was done, and none of them who.
HARMLESS = (
    *("CT THORAX LOW DOSE", "CTA ABDOMEN PELVIS RUNOFF", "CT CHEST W CONTRAST PE PROTOCOL", "CT HEAD W/O CONTRAST"),
    *("LUNG 1.25 mm", "BONE 0.6 mm axial", "SOFT TISSUE 3 mm COR MPR", "Topogram 0.6 T20f", "CALCIUM SCORE 3.0 mm"),
    *("PREMONITORING", "MONITORING", "Arterial phase", "Portal venous phase", "DELAYED 5 MIN", "Scout"),
    *(
        "t1_mprage_sag_p2_iso",
        "t2_tse_tra_448",
        "ep2d_diff_tra_b1000_ADC",
        "t2_space_dark-fluid_sag",
        "localizer_3plane",
    ),
    *("AX T2 FLAIR FS", "SAG T1 FSE POST GAD", "COR STIR LEFT HIP", "3D TOF MRA COW", "SWI minIP", "ASL 3D perfusion"),
    *(
        "bold_rest_mb8_TR800",
        "dwi_dir98_AP",
        "gre_field_mapping 2 mm",
        "MoCoSeries",
        "ep2d_bold_MoCo",
        "TRACEW",
        "cine SSFP 4CH",
    ),
    *(
        "LGE short axis PSIR",
        "T1 map MOLLI",
        "VIBE Dixon water",
        "MRCP HASTE radial",
        "RESOLVE DWI prostate",
        "DCE TWIST",
    ),
    *(
        "XR KNEE LT 2 VIEWS",
        "XR CHEST PA AND LATERAL",
        "RT ANKLE AP",
        "MAMMOGRAM SCREENING R CC",
        "L MLO TOMO",
        "ABDOMEN SUPINE",
    ),
    *(
        "PET CT SKULL BASE TO THIGH FDG",
        "WB 3D AC",
        "CTAC 3.75 mm",
        "NAC",
        "Ga-68 PSMA",
        "BONE SCAN ANTERIOR POSTERIOR",
    ),
    *(
        "Thorax nativ und KM",
        "Abdomen venös",
        "Schädel CT axial",
        "LWS sagittal",
        "Knie rechts 2 Ebenen",
        "Becken a.p.",
    ),
    *(
        "Hüfte links axial",
        "HWS seitlich",
        "Oberbauch nativ",
        "Felsenbein hochauflösend",
        "Lunge Knochenfenster",
        "Herz kurze Achse",
    ),
    *(
        "TDM thorax sans injection",
        "IRM cérébrale avec gadolinium",
        "Genou gauche face",
        "Rachis lombaire profil",
        "Angio IRM cou",
    ),
    *(
        "TC torace senza mdc",
        "RM encefalo con contrasto",
        "Ginocchio destro",
        "Addome fase portale",
        "Rachide cervicale",
    ),
    *(
        "CT TAP STAGING",
        "CT COLONOGRAPHY PRONE",
        "HRCT INSPIRATION EXPIRATION",
        "CT ENTEROGRAPHY ORAL CONTRAST",
        "CTV HEAD NECK",
    ),
    *(
        "NCCT BRAIN 5 mm",
        "PULMONARY ANGIO THIN",
        "SINUSES COR BONE",
        "Recon 2: LUNG",
        "TEMPORAL BONE RIGHT",
        "MIP AXIAL 10x2",
    ),
    *(
        "AX DWI b50_400_800",
        "dADC map",
        "Ax T2 Propeller",
        "SAG PD FS",
        "CUBE T2 FLAIR",
        "LAVA-Flex",
        "BRAVO 1 mm",
        "FIESTA CISS IAC",
    ),
    *(
        "WIP sT1W_3D_TFE",
        "Survey SHC",
        "T2W_TSE clear",
        "dS_B1000",
        "B0 map",
        "eTHRIVE dyn",
        "mDIXON quant",
        "PCA 2D QFlow aorta",
    ),
    *(
        "fl2d flow through plane venc 150",
        "trufi bSSFP sax stack",
        "t2*-map liver",
        "tirm tra knee",
        "pd_tse_fs_cor_320",
    ),
    *(
        "cs_t1_vibe_dixon_tra_bh",
        "t1_fl2d_opp-in_tra",
        "ge_qsm_1mm_iso",
        "MEMPRAGE RMS",
        "hippocampus T2 hires",
        "NODDI multishell",
    ),
    *(
        "Wirbelsäule ganz stehend",
        "Handgelenk rechts dorsopalmar",
        "Patella tangential",
        "Ellenbogen links seitlich",
        "Angulus",
    ),
    *(
        "MRT Sprunggelenk links nativ",
        "MR Schulter re mit KM",
        "CT Polytrauma Spirale",
        "CT NNH coronar",
        "MR Leber dynamisch",
    ),
    *(
        "Scanner abdomino-pelvien temps portal",
        "IRM hypophyse dynamique",
        "Radio poumon face",
        "Épaule droite neutre",
        "Arthro-IRM hanche",
    ),
    *("RM ginocchio sinistro DP FAT SAT", "TC rocche petrose", "Eco addome superiore", "RX mano destra due proiezioni"),
    *(
        "CT TAVR PLANNING",
        "CT UROGRAM",
        "CTA CORONARY 75%",
        "ICA LEFT DSA",
        "UE VENOUS DUPLEX",
        "TTE APICAL 4 CHAMBER",
        "EKG gated",
    ),
)


@situation
def harmless(world: World, this: str) -> None:
    """Harmless words of four languages stay."""
    for first in range(0, len(HARMLESS), 2):
        texts = HARMLESS[first : first + 2]
        keywords = ("SeriesDescription", "StudyDescription")[: len(texts)]
        stays = [stay for keyword, text in zip(keywords, texts, strict=True) for stay in words(keyword, text)]
        made = world.add(this, " / ".join(texts), mr, [], stays=stays)
        for keyword, text in zip(keywords, texts, strict=True):
            setattr(made, keyword, text)


def write(things: list[Thing], folder: Path) -> None:
    """Write the objects below `folder`, and new_ids.json and day_shift.json beside it."""
    for thing in things:
        path = folder / (thing.file or f"{thing.pseudonym}/{thing.dataset.Modality}.dcm")
        path.parent.mkdir(parents=True, exist_ok=True)
        dcmwrite(
            path,
            thing.dataset,
            implicit_vr=thing.dataset.file_meta.TransferSyntaxUID.is_implicit_VR,
            little_endian=True,
        )
        if thing.finish:
            path.write_bytes(thing.finish(path.read_bytes()))
    people = {str(thing.dataset.PatientID): thing.pseudonym for thing in things}
    folder.with_name("new_ids.json").write_text(json.dumps(people))
    folder.with_name("day_shift.json").write_text(json.dumps(dict.fromkeys(people, DAY_SHIFT)))
