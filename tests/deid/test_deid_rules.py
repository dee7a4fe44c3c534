"""What a compiled profile does to each attribute, against the standard's tables as they are."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
from pydicom.datadict import DicomDictionary

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.deid import profile
from pacsifier_ops.deid.profile import Profile
from pacsifier_ops.deid.rules import Action, ObjectRules, ProfileOption, Rules
from tests.support.deid_key import SHARED
from tests.support.places import REPO
from tools import iod_types, newer_attributes

TABLES = REPO / "pacsifier_ops" / "deid" / "tables"
PRESENTATION_STATE, ION_PLAN = "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.481.8"
CT, SEGMENTATION, UNKNOWN = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.3"

COLUMNS = {
    "rtn_uids": ProfileOption.UIDS,
    "rtn_dev_id": ProfileOption.DEVICE,
    "rtn_inst_id": ProfileOption.INSTITUTION,
    "rtn_pat_chars": ProfileOption.PATIENT_CHARACTERISTICS,
    "rtn_long_full_dates": ProfileOption.FULL_DATES,
    "rtn_long_modif_dates": ProfileOption.MODIFIED_DATES,
    "clean_desc": ProfileOption.CLEAN_DESCRIPTORS,
    "clean_struct": ProfileOption.CLEAN_STRUCTURED_CONTENT,
    "clean_graph": ProfileOption.CLEAN_GRAPHICS,
}
#: Where what is done is not the table's letter: a dummy that links, a UID that is its own dummy.
LINKING = {
    0x00100010: "P", 0x00100020: "P", 0x00120040: "P", 0x00080050: "T", 0x00200010: "T", 0x00120042: "T",
    0x00400512: "T", 0x00400551: "T", 0x006A0003: "U",
}  # fmt: skip
VERSIONS = (0x00080106, 0x0040DB06)
#: With the device retained: names that sites give machines are tokens, what people write of them is cleaned.
STATIONS = (0x00081010, 0x00181010, 0x00400010, 0x00400242, 0x04000563, 0x300A00B2, 0x3010002D)
WRITTEN = (0x00189373, 0x00500020, 0x00321020, 0x00400011)


def _table(name: str) -> list[dict[str, str]]:
    with (TABLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _tag(text: str) -> int:
    return int(text[1:5] + text[6:10], 16)


def _compiled(*options: ProfileOption) -> Rules:
    return profile.compile(Profile("basic", frozenset(options)))


def _vr(tag: int) -> str:
    return DicomDictionary[tag][0].split(" or ")[0] if tag in DicomDictionary else "LO"


ROWS = [row for row in _table("ps3_15_e1_1.csv") if not {"x", "g"} & set(row["tag"])]


@pytest.mark.parametrize(
    "options", [(), *((option,) for option in ProfileOption), (ProfileOption.DEVICE, ProfileOption.MODIFIED_DATES)]
)
def test_every_row_of_the_table_compiles_to_what_it_says(options: tuple[ProfileOption, ...]) -> None:
    found = _compiled(*options).of(UNKNOWN, "")
    assert len(ROWS) == 653
    for row in ROWS:
        tag = _tag(row["tag"])
        letters = {row[column] for column, option in COLUMNS.items() if option in options} - {""}
        basic = next(letter for letter in ("D", "Z", row["basic"]) if letter in row["basic"].split("/"))
        expected = basic = LINKING.get(tag, basic)
        if letters and not (ProfileOption.MODIFIED_DATES in options and tag in SHARED):
            expected = "C" if "C" in letters else "K"
            if expected == "C" and tag in VERSIONS:
                expected = "K"
            if row["rtn_dev_id"] in letters and tag in STATIONS + WRITTEN:
                expected = "T" if tag in STATIONS else "C"
            if expected == "C" and _vr(tag) in ("OB", "CS"):  # no words, so there is nothing to clean
                expected = basic
            if expected == "K" and (
                _vr(tag) == "AS" or (ProfileOption.FULL_DATES in options and _vr(tag) in ("SH", "UT"))
            ):
                expected = "C"  # ages over 89 years; text that ought to be a zone or a date
            if expected == "K" and _vr(tag) == "CS":
                expected = "W"
        rule = found.find(tag, _vr(tag))
        assert rule.action == expected, (row, options, rule)
        assert rule.id == "E.1-1" or (letters and rule.id.split("/")[1] in options), (row, rule)
        if rule.action is Action.CLEAN:
            assert rule.otherwise == basic, (row, rule)


def _types() -> dict[str, dict[tuple[int, bool], set[str]]]:
    """Types by SOP class, tag and whether it is in an item."""
    modules: dict[str, list[dict[str, str]]] = {}
    for row in _table("module_types.csv"):
        modules.setdefault(row["module"], []).append(row)
    found: dict[str, dict[tuple[int, bool], set[str]]] = {}
    for line in _table("iods.csv"):
        places = found.setdefault(line["sop_class_uid"], {})
        for row in (row for name in line["modules"].split() for row in modules[name]):
            places.setdefault((_tag(row["tag"]), row["level"] == "nested"), set()).add(row["type"])
    return found


def test_compound_actions_are_resolved_by_the_sop_class() -> None:
    rules = _compiled()
    compound = {_tag(row["tag"]): row["basic"].replace("*", "").split("/") for row in ROWS if "/" in row["basic"]}
    for sop_class, places in _types().items():
        found = rules.of(sop_class, "")
        for (tag, offered), nested in product(compound.items(), (False, True)):
            types = places.get((tag, nested), set())
            wanted = "UDZ" if types & {"1", "1C"} else "UZD" if types else "XZ"
            expected = next(letter for letter in wanted if letter in offered)
            expected = {"U": "C"}.get(LINKING.get(tag, expected), LINKING.get(tag, expected))
            rule = (found.nested if nested else found).find(tag, _vr(tag))
            assert rule.action == expected, (sop_class, hex(tag), nested)
    assert rules.of(CT, "CT").find(0x00080012, "DA").action is Action.REMOVE
    assert rules.of(UNKNOWN, "CT").find(0x00080012, "DA").action is Action.DUMMY
    # Of a class in which it is optional a description that nothing is left of goes, elsewhere it becomes a dummy.
    cleaned = _compiled(ProfileOption.CLEAN_DESCRIPTORS)
    assert cleaned.of(CT, "CT").find(0x00181030, "LO").otherwise is Action.REMOVE
    assert cleaned.of(UNKNOWN, "").find(0x00181030, "LO").otherwise is Action.DUMMY


@pytest.mark.parametrize(
    ("sop_class", "tag", "vr", "basic", "cleaned"),
    [
        (CT, 0x00102297, "PN", Action.EMPTY, None),  # ResponsiblePerson, 2C, which E.1-1 removes
        (CT, 0x00102294, "SQ", Action.EMPTY, None),  # BreedRegistrationSequence, 2C
        (PRESENTATION_STATE, 0x00700082, "DA", Action.DUMMY, None),  # PresentationCreationDate, 1, which E.1-1 removes
        (ION_PLAN, 0x00189080, "ST", Action.REMOVE, Action.REMOVE),  # MetaboliteMapDescription, of no such plan
    ],
)
def test_what_a_class_requires_is_not_removed(
    sop_class: str, tag: int, vr: str, basic: Action, cleaned: Action | None
) -> None:
    assert _compiled().of(sop_class, "").find(tag, vr).action is basic
    if cleaned:
        assert _compiled(ProfileOption.CLEAN_DESCRIPTORS).of(sop_class, "").find(tag, vr).otherwise is cleaned


def test_text_that_a_class_requires_in_items_is_not_removed_there() -> None:
    snout, material = 0x300A030F, 0x300A00E1  # SnoutID, type 1, and MaterialID, type 2, in items of an ion plan
    for tag, action in ((snout, Action.DUMMY), (material, Action.EMPTY)):
        plan = _compiled().of(ION_PLAN, "RTPLAN")
        assert plan.find(tag, "SH").action is Action.REMOVE and plan.nested.find(tag, "SH").action is action
        cleaned = _compiled(ProfileOption.CLEAN_DESCRIPTORS).of(ION_PLAN, "RTPLAN").nested.find(tag, "SH")
        assert (cleaned.action, cleaned.otherwise) == (Action.CLEAN, action)
        assert _compiled().of(CT, "CT").nested.find(tag, "SH").action is Action.REMOVE


def test_the_tables_of_types_are_what_their_tool_makes() -> None:
    source = os.environ.get("PACSIFIER_HIGHDICOM") or getattr(find_spec("highdicom"), "origin", None)
    if not source:
        pytest.skip("needs highdicom: install it, or name its wheel in PACSIFIER_HIGHDICOM")
    path = Path(source) if source.endswith(".whl") else Path(source).parent
    made = io.StringIO(newline=""), io.StringIO(newline="")
    iod_types.write(path, *made)
    for stream, file in zip(made, (iod_types.SOP_CLASSES, iod_types.TYPES), strict=True):
        assert stream.getvalue() == file.read_bytes().decode("utf-8"), file.name


def test_newer_attributes_are_treated_as_what_they_are() -> None:
    found = _compiled(ProfileOption.CLEAN_DESCRIPTORS).of(CT, "CT")
    applied, sequence = 0x00189391, 0x00189390  # MetalArtifactReductionApplied, MetalArtifactReductionSequence
    assert found.find(applied, "CS").id == "default/CS" and found.find(sequence, "SQ").action is Action.CLEAN
    assert found.find(0x00100041, "SQ").action is Action.REMOVE  # GenderIdentitySequence
    assert found.find(0x00102162, "UC").action is Action.REMOVE  # EthnicGroups
    assert found.find(0x0040B03B, "LT").action is Action.CLEAN  # MontageName


def test_the_table_of_newer_attributes_is_what_its_tool_makes() -> None:
    source = os.environ.get("PACSIFIER_DICOM_DIC")
    if not source:
        pytest.skip("needs DCMTK's dicom.dic of the table's edition: name it in PACSIFIER_DICOM_DIC")
    made = io.StringIO(newline="")
    newer_attributes.write(Path(source), made)
    assert made.getvalue() == newer_attributes.TABLE.read_bytes().decode("utf-8")


def _unlisted() -> dict[int, str]:
    """Public attributes of the dictionary that no table has, with their VRs."""
    listed = {_tag(row["tag"]) for name in ("unlisted.csv", "uid_rules.csv") for row in _table(name)}
    listed |= {_tag(row["tag"]) for row in ROWS}
    return {
        tag: entry[0]
        for tag, entry in DicomDictionary.items()
        if tag not in listed and tag >> 16 not in (0, 2, 4) and entry[0] != "NONE"
    }


@pytest.mark.parametrize("options", [(), *((option,) for option in ProfileOption)])
def test_what_no_table_lists_follows_its_vr(options: tuple[ProfileOption, ...]) -> None:
    found = _compiled(*options).of(UNKNOWN, "CT")
    dates = "K" if ProfileOption.FULL_DATES in options else "C" if ProfileOption.MODIFIED_DATES in options else "X"
    text = "C" if ProfileOption.CLEAN_DESCRIPTORS in options else "X"
    expected = {"CS": "W"} | dict.fromkeys("AT DS FD FL IS OD OF OL OV OW SL SS SV UL US UV".split(), "K")  # noqa: SIM905
    expected |= dict.fromkeys(("DA", "DT", "TM"), dates) | dict.fromkeys(("LO", "LT", "SH", "ST", "UC", "UT"), text)
    expected |= dict.fromkeys(("AE", "OB", "PN", "UN", "UR"), "X") | {"SQ": "C"}
    own = {_tag(row["tag"]) for row in _table("numbers.csv")} | {0x00120052, 0x00120053}
    unlisted = {tag: vrs for tag, vrs in _unlisted().items() if tag not in SHARED | own}
    assert len(unlisted) > 3000
    for tag, vrs in unlisted.items():
        for vr in vrs.split(" or "):
            rule = found.find(tag, vr)
            assert rule.action == expected[vr] and rule.id.startswith(f"default/{vr}"), (hex(tag), vr, rule)


def test_names_and_text_are_never_kept_as_they_are_unless_a_machine_wrote_them() -> None:
    kept = {_tag(row["tag"]) for row in _table("unlisted.csv") if row["basic"] == "K"}
    for name in profile.NAMES:
        found = profile.compile(profile.load(name)).of(CT, "CT")
        for tag, entry in DicomDictionary.items():
            vr, rule = entry[0], found.find(tag, entry[0])
            assert vr != "PN" or rule.action in (Action.REMOVE, Action.EMPTY, Action.DUMMY, Action.PSEUDONYM), entry
            if vr in ("LT", "ST", "UT", "UC", "LO", "SH") and rule.action is Action.KEEP:
                assert tag in kept or rule.id.endswith(("/device", "/patient_characteristics")), (name, entry)


def test_uids_are_remapped_unless_structural() -> None:
    for options, instance in (((), "U"), ((ProfileOption.UIDS,), "K")):
        found = _compiled(*options).of(CT, "CT")
        for row in _table("uid_rules.csv"):
            if not row["role"].startswith("table:"):
                structural = row["role"] == "keep_structural"
                assert found.find(_tag(row["tag"]), "UI").action == ("K" if structural else instance), row
        assert found.find(0x0020000D, "UI").action == instance


def test_what_nobody_knows_goes_and_a_wrong_vr_gains_nothing() -> None:
    found = _compiled(*(set(ProfileOption) - {ProfileOption.FULL_DATES, ProfileOption.UIDS})).of(CT, "CT")
    for tag, vr in ((0x00100999, "LO"), (0x00080000, "UL"), (0x00186789, "US"), (0x00280010, "UN"), (0x00280010, "??")):
        assert found.find(tag, vr).action is Action.REMOVE
    assert found.find(0x00280010, "LO").action is Action.CLEAN  # Rows that claim to be text
    assert found.find(0x0040A067, "CS").action is Action.REMOVE  # a name that claims to be a code
    assert found.find(0x00100010, "CS").action is Action.PSEUDONYM


def test_curves_and_overlays_go_with_their_whole_groups() -> None:
    for options in ((), (ProfileOption.CLEAN_GRAPHICS,)):
        found = _compiled(*options).of(CT, "CT")
        for group, element in product((0x6000, 0x601E, 0x60FE, 0x5000), (0x0010, 0x0022, 0x0050, 0x3000, 0x4000)):
            assert found.find(group << 16 | element, "US").action is Action.REMOVE
        assert found.find(0x54001010, "OW").action is Action.KEEP  # WaveformData
    assert found.find(0x00700001, "SQ").action is Action.CLEAN


def test_of_private_attributes_only_safe_ones_stay() -> None:
    safe = _compiled(ProfileOption.SAFE_PRIVATE).of(CT, "CT")
    basic = _compiled().of(CT, "CT")
    for row in _table("safe_private.csv"):
        group, low = row["tag_pattern"][1:5], row["tag_pattern"][8:10]
        tag = int(f"{group}10{low}", 16)
        for vr in filter(None, row["vr"].split("/")):
            rule = safe.find(tag, vr, row["private_creator"])
            expected = {"CS": "W", "UI": "U", "SQ": "C", "LO": "C", "SH": "C", "ST": "C", "LT": "C"}.get(vr, "K")
            if vr in ("DS", "FD", "FL", "IS", "SL", "SS", "UL", "US"):
                expected = "C"  # a number stays unless it is a date
            assert (rule.action, rule.id) == (expected, "safe-private"), row
            assert basic.find(tag, vr, row["private_creator"]).action is Action.REMOVE
            assert safe.find(tag, vr, "Somebody else").action is safe.find(tag, vr).action is Action.REMOVE
        assert safe.find(tag, "UN", row["private_creator"]).action is Action.REMOVE
    assert safe.find(0x00191023, "PN", "GEMS_ACQU_01").action is Action.REMOVE
    # Creators stay with what they are the creators of.
    assert safe.find(0x00190010, "LO", "GEMS_ACQU_01").action is Action.KEEP
    assert safe.find(0x00190010, "LO", "MUSTERMANN").action is Action.REMOVE
    assert safe.find(0x00190001, "LO", "GEMS_ACQU_01").action is Action.REMOVE


def test_every_concept_of_structured_reports_compiles_to_what_the_table_says() -> None:
    references = ("COMPOSITE", "IMAGE", "UIDREF", "WAVEFORM")
    columns = {f"{column}_opt": option for column, option in COLUMNS.items()}
    for options in ((), *((option,) for option in ProfileOption)):
        rules = _compiled(*options)
        for row in _table("sr_concepts_e3_4_1.csv"):
            rule = rules.concept(row["code_value"], row["coding_scheme_designator"], row["value_type"])
            letter = next((row[c] for c, option in columns.items() if option in options and row.get(c)), "")
            basic = "D" if "D" in row["basic_prof"] else "X"
            if basic == "D" and row["value_type"] in references:
                basic = "U"
            if row["code_value"] in ("121029", "121030"):
                basic = "P"
            if row["code_value"] == "113723" and ProfileOption.MODIFIED_DATES in options:
                letter = ""
            assert rule.action == ("C" if letter == "K" and row["value_type"] == "NUM" else letter or basic), row
            assert rule.id.startswith("E.3.4-1")
    assert rules.concept("121071", "DCM", "NUM").action is Action.KEEP
    # Codes of others for a subject's age and birth date.
    kept = _compiled(ProfileOption.PATIENT_CHARACTERISTICS, ProfileOption.MODIFIED_DATES)
    for value, scheme in (("30525-0", "LN"), ("424144002", "SCT")):
        assert rules.concept(value, scheme, "NUM").action is Action.REMOVE
        assert kept.concept(value, scheme, "NUM").action is Action.CLEAN
    assert kept.concept("21112-8", "LN", "DATE").action is Action.REMOVE
    assert (
        rules.concept("1", "99LOCAL", "TEXT").action is rules.concept("1", "99LOCAL", "PNAME").action is Action.REMOVE
    )
    assert rules.concept("1", "99LOCAL", "IMAGE").action is Action.UID
    assert rules.concept("121071", "DCM", "MYSTERY").action is Action.REMOVE


def test_what_key_objects_select_stays_selected() -> None:
    key_objects, report = "1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.5.1.4.1.1.88.33"
    for options in ((), (ProfileOption.CLEAN_STRUCTURED_CONTENT,)):
        rules = _compiled(*options)
        assert rules.of(key_objects, "KO").find(0x0040A730, "SQ").action is Action.CLEAN
        assert rules.of(report, "SR").find(0x0040A730, "SQ").action is (Action.CLEAN if options else Action.DUMMY)


def test_options_that_exclude_each_other_are_refused() -> None:
    for one, other in (
        (ProfileOption.FULL_DATES, ProfileOption.MODIFIED_DATES),
        (ProfileOption.UIDS, ProfileOption.MODIFIED_DATES),
    ):
        with pytest.raises(ConfigError, match=f"options {one} and {other} exclude each other"):
            profile.load("basic", add=[one, other])
        with pytest.raises(ConfigError, match="exclude each other"):
            _compiled(one, other)
    chosen = profile.load(
        "pacsifier", add=[ProfileOption.MODIFIED_DATES], drop=[ProfileOption.FULL_DATES, ProfileOption.SAFE_PRIVATE]
    )
    assert ProfileOption.SAFE_PRIVATE not in profile.compile(chosen).options


def test_the_manual_says_which_options_a_shipped_profile_has() -> None:
    text = (REPO / "docs" / "profiles.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text.split("## Options")[0], re.MULTILINE))
    parents = {"basic": [], "default": [], "research": ["default"], "pacsifier": []}
    assert told.keys() == parents.keys() == set(profile.NAMES)
    for name, line in told.items():
        named = {ProfileOption(word) for word in re.findall(r"`(\w+)`", line) if word in list(ProfileOption)}
        inherited = (profile.load(parent).options for parent in parents[name])
        assert profile.load(name).options == named.union(*inherited), name


def test_options_are_named_upon_a_shipped_profile() -> None:
    plain, more = profile.load("pacsifier"), profile.load("pacsifier+device+institution")
    assert more.options == plain.options | {ProfileOption.DEVICE, ProfileOption.INSTITUTION} and more.name == plain.name
    with pytest.raises(ConfigError, match=r"profile pacsifier: option devices is not known.*device"):
        profile.load("pacsifier+devices")
    for wrong in ("default+", "default,device", "+device"):
        with pytest.raises(ConfigError, match="is not known"):
            profile.load(wrong)
    with pytest.raises(ConfigError, match="exclude each other"):
        profile.load("research+uids")
    with pytest.raises(ConfigError, match=r"pacsifier\.yaml.device"):
        profile.load("pacsifier.yaml+device")


def test_shipped_profiles_are_what_they_are_called() -> None:
    assert profile.load("basic") == Profile("basic", frozenset())
    assert profile.load("research").options == {
        ProfileOption.CLEAN_DESCRIPTORS,
        ProfileOption.CLEAN_STRUCTURED_CONTENT,
        ProfileOption.CLEAN_GRAPHICS,
        ProfileOption.MODIFIED_DATES,
        ProfileOption.PATIENT_CHARACTERISTICS,
        ProfileOption.DEVICE,
        ProfileOption.SAFE_PRIVATE,
        ProfileOption.SAFE_PRIVATE_EXTENDED,
    }
    assert {path.stem for path in (REPO / "include" / "profiles").glob("*.yaml")} == set(profile.NAMES)
    for name in profile.NAMES:
        rules = profile.compile(profile.load(name))
        assert rules.codes[0] == ("113100", "DCM", "Basic Application Confidentiality Profile")
        assert len(rules.codes) == 1 + len(rules.options - {ProfileOption.SAFE_PRIVATE_EXTENDED})
        assert (
            all(len(value) <= 64 for value in rules.method.split("\\"))
            and name in rules.method
            and rules.digest[:12] in rules.method
        )


def test_codes_are_those_of_the_context_group() -> None:
    from pydicom.sr._concepts_dict import concepts

    meanings = {code: entry[0] for names in concepts["DCM"].values() for code, entry in names.items()}
    for option in ProfileOption:
        assert all(meanings[value] == meaning for value, _, meaning in _compiled(option).codes)


SITE = """
extends: research
options: [clean_graphics]
rules:
  - keyword: StudyDescription
    action: keep
    modality: [CT, MR]
  - tag: (0008,1030)
    action: remove
    sop_class: CTImageStorage
  - group: 0032
    action: remove
  - tag: (60xx,3000)
    action: keep
  - vr: OB
    action: keep
  - creator: SIEMENS CSA HEADER
    action: clean
  - creator: SIEMENS CSA HEADER
    tag: (0029,xx60)
    action: remove
"""


def _find(rules: ObjectRules, tag: int, vr: str, creator: str = "") -> tuple[str, str]:
    rule = rules.find(tag, vr, creator)
    return rule.action.value, rule.id


def test_a_site_has_the_last_word_the_more_so_the_fewer_objects_it_speaks_of(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(SITE, encoding="utf-8")
    rules = profile.compile(profile.load(path))
    ct, mr, us = rules.of(CT, "CT"), rules.of("1.2.840.10008.5.1.4.1.1.4", "MR"), rules.of(UNKNOWN, "US")
    assert _find(ct, 0x00081030, "LO") == ("X", "site/2")
    assert _find(mr, 0x00081030, "LO") == ("K", "site/1")
    assert _find(us, 0x00081030, "LO") == ("C", "E.1-1/clean_descriptors")
    assert _find(us, 0x00321060, "LO") == ("X", "site/3")
    assert _find(us, 0x60023000, "OW") == ("K", "site/4")
    assert _find(us, 0x60024000, "LT") == ("X", "E.1-1")
    assert _find(us, 0x04000120, "OB") == ("X", "unlisted")
    assert _find(us, 0x00160062, "OB") == ("K", "unlisted")
    assert _find(us, 0x00281408, "OB")[0] == "K"
    assert _find(us, 0x00291010, "OB", "SIEMENS CSA HEADER") == ("K", "site/6")
    assert _find(us, 0x00291008, "LO", "SIEMENS CSA HEADER") == ("C", "site/6")
    assert _find(us, 0x00291160, "OB", "SIEMENS CSA HEADER") == ("X", "site/7")
    assert ProfileOption.CLEAN_GRAPHICS in rules.options and ProfileOption.DEVICE in rules.options
    # What keeps more than the standard does is not called the standard's profile.
    assert "113100" not in [value for value, _, _ in rules.codes]
    assert "profile site" in rules.method and "ours" not in rules.method


def test_a_site_that_only_removes_more_stays_within_the_standard(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text("extends: basic\nrules:\n- {keyword: BodyPartExamined, action: remove}\n", encoding="utf-8")
    rules = profile.compile(profile.load(path))
    assert rules.codes[0][0] == "113100"
    assert _find(rules.of(CT, "CT"), 0x00180015, "CS") == ("X", "site/1")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "line 1: empty"),
        ("- a", "line 1: give keys and values"),
        ("extends: [basic", "line 1: is not YAML"),
        ("extends: research2", "line 1, extends: no profile to extend; there are basic, default, pacsifier, research"),
        ("option: [uids]", "line 1: option is not known (did you mean options?)"),
        ("options: [modified_date]", "options: modified_date is not known (did you mean modified_dates?)"),
        ("options: {uids: true}", "line 1, options: give a list"),
        ("options: [uids]\noptions: []", "line 2, options: there twice"),
        ("options: [uids, modified_dates]", "exclude each other"),
        ("rules:\n- keyword: StudyDate", "line 2, rules[1]: has no action; there are remove, empty, dummy"),
        ("rules:\n- action: keep", "line 2, rules[1]: give one of tag, keyword, group, vr, creator"),
        ("rules:\n- {keyword: A, vr: UT, action: keep}", "rules[1]: give one of"),
        (
            "rules:\n- keyword: StudyDate\n  action: kep",
            "line 3, rules[1].action: kep is not known (did you mean keep?)",
        ),
        (
            "rules:\n- {keyword: StudyDat, action: keep}",
            "rules[1].keyword: StudyDat is not known (did you mean StudyDate?)",
        ),
        ("rules:\n- {tag: '0008-1030', action: keep}", "rules[1].tag: no tag; write it as (gggg,eeee)"),
        ("rules:\n- {tag: '(0029,1010)', action: keep}", "rules[1].tag: a private attribute; give its private creator"),
        ("rules:\n- {tag: '(0002,0016)', action: keep}", "rules[1].tag: groups 0000, 0002 and 0004 follow no profile"),
        ("rules:\n- {tag: '(0010,0999)', action: keep}", "rules[1].tag: not in the dictionary"),
        ("rules:\n- {tag: '(0029,xxxx)', action: remove}", "rules[1].tag: private attributes are selected by their"),
        ("rules:\n- {group: 32, action: remove}", "rules[1].group: no group; write it as four hexadecimal digits"),
        ("rules:\n- {group: 0010, action: keep}", "rules[1].group: PatientName and PatientID are never kept"),
        ("rules:\n- {group: 60xx, action: clean}", "rules[1].group: attributes of several VRs can be removed, emptied"),
        ("rules:\n- {vr: XY, action: keep}", "rules[1].vr: no VR; there are AE, AS"),
        ("rules:\n- {vr: UN, action: keep}", "rules[1].vr: what is in an attribute of VR UN is not known"),
        ("rules:\n- {vr: US, action: uid}", "rules[1].vr: action uid does not fit; those that do are remove, empty"),
        ("rules:\n- {keyword: Modality, action: clean}", "rules[1].keyword: action clean does not fit its VR CS"),
        (
            "rules:\n- {keyword: PatientName, action: keep}",
            "rules[1].keyword: PatientName and PatientID are never kept",
        ),
        (
            "rules:\n- {creator: X, action: token}",
            "rules[1].creator: private attributes can be removed, kept, or cleaned",
        ),
        (
            "rules:\n- {creator: X, tag: '(0028,xx10)', action: keep}",
            "rules[1].tag: beside a creator, give a private tag",
        ),
        ("rules:\n- {keyword: StudyDate, action: keep, modality: ct}", "rules[1].modality: no modality"),
        ("rules:\n- {keyword: StudyDate, action: keep, sop_class: CT}", "rules[1].sop_class: no SOP class"),
        ("rules:\n- {keyword: StudyDate, action: [keep]}", "rules[1].action: give one value"),
        (
            "rules:\n- {keyword: StudyDate, action: keep}\n- {tag: '(0008,0020)', action: remove}",
            "line 3, rules[2]: selects for the same objects what rules[1] does",
        ),
    ],
)
def test_mistakes_name_file_line_and_key_and_say_what_to_do(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        profile.load(path)
    assert wrong in str(error.value)
    assert "exclude" in wrong or str(error.value).startswith("ours.yaml: line ")


def test_the_example_of_the_documentation_is_a_profile(tmp_path: Path) -> None:
    text = (REPO / "docs" / "profiles.md").read_text(encoding="utf-8")
    path = tmp_path / "ours.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    assert ProfileOption.INSTITUTION in profile.compile(profile.load(path)).options


def test_a_profile_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profile reserch is not known \(did you mean research\?\); there are basic"):
        profile.load("reserch")
    with pytest.raises(ConfigError, match="cannot be read"):
        profile.load(tmp_path / "none.yaml")


def test_the_digest_is_the_same_everywhere_and_changes_with_whatever_decides(tmp_path: Path) -> None:
    digest = "from pacsifier_ops.deid import profile; print(profile.compile(profile.load('research')).digest)"
    elsewhere = {
        subprocess.run(
            [sys.executable, "-c", digest],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert elsewhere == {profile.compile(profile.load("research")).digest}
    digests = {_compiled(*options).digest for options in ((), *((option,) for option in ProfileOption))}
    assert len(digests) == 1 + len(ProfileOption)
    path = tmp_path / "ours.yaml"
    for action, scope in product(("remove", "keep", "clean"), ("", "modality: CT", "modality: MR", "sop_class: 1.2.3")):
        path.write_text(f"rules:\n- keyword: StudyDescription\n  action: {action}\n  {scope}\n", encoding="utf-8")
        digests.add(profile.compile(profile.load(path)).digest)
    assert len(digests) == 1 + len(ProfileOption) + 12


def test_objects_cannot_fill_the_cache_with_what_they_say_of_themselves() -> None:
    rules = _compiled()
    assert rules.of(CT, "CT") is rules.of(CT, "whatever")
    assert rules.of("1.2.3.4", "") is rules.of("1.2.3.5", "X")
    assert rules.of(CT, "") is not rules.of(SEGMENTATION, "")
