"""De-identifies an object by its rules (PS3.15 E.1): every element, at every depth.

Only valid values pass. The engine checks each element that a rule keeps. A value that is invalid for its VR (a name in
a code string, letters in a number) is emptied; the other values of the element stay. An element whose VR differs from
PS3.6 must be valid for both VRs, and is removed where that is not possible. An object that cannot be interpreted is
refused as a whole.

Dates
- All dates of a patient are shifted by the same number of days, DA and DT alike. Precision, fraction, zone and form
  stay. Times are not shifted, and a DT keeps its time of day.
- Dates in the form before 1993 (`YYYY.MM.DD`) keep that form. In a DT without day or month, the first one is shifted
  and the missing part is cut off again. A DA without day or month is invalid, and so is a range: such values are not
  shifted but emptied, removed or replaced by 1 January 1900, as the rule says. The same applies to placeholders such as
  1 January 1900 or 1970: shifted, they would reveal the number of days. The first days of newer calendars, such as 1
  January 2000, are placeholders unless another date of the patient is within a year of them.
- The version of a context group or template is no date. One within 60 days of a date of the patient becomes a dummy.
- A date that does not belong to the patient alone, such as that of a calibration, follows its rule
  (`tables/dates.csv`).
- Dates in numbers: those in an order (SeriesNumber) are shifted, others are removed with their element (see `numbers`).
- The time since an event stays where the event belongs to the patient, as the differences of shifted dates do.

Birth date and age
- The birth date is never shifted. Beside an age and a study date, or a birth date from another source, it would reveal
  the shift of all other dates. Rules empty it. Another date with the same value is treated as invalid, unless the
  patient was examined on that day: a newborn.
- An age of 90 years and more becomes `090Y`, in PatientAge and in measurements of structured reports.

UIDs
- Each UID is replaced by one that is computed from the project's secret, the same in every object. Registered UIDs of
  PS3.6 stay. An unregistered UID that merely begins like a registered one is replaced. So is a value that is no UID.

Memory
- What an element becomes is remembered with all that decides it, because most elements of a series are the same in
  every image (see `Engine`). An element whose treatment looks at the elements beside it is decided anew.

Text and pixels
- Text stays in the character sets that its data set, or its item, declares. Text that they cannot decode is invalid.
- The meaning of a code is the standard's where the code is; else it is what the vocabulary leaves.
- Pixel data are neither decoded nor encoded again. Data after the last native pixel are removed. In streams such as
  JPEG, bytes that are not pixels become zeros (see `remarks`), as text in colour profiles does (see `icc`).
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeAlias

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import (
    codes,
    icc,
    imaging,
    leftout,
    machine,
    markers,
    reading,
    remarks,
    sr,
    tables,
    values,
    vocabulary,
    writing,
)
from pacsifier_ops.deid.numbers import BirthDateFound, Calendar, numbers_in
from pacsifier_ops.deid.rules import PRIVATE, Action, ObjectRules, ProfileOption, Rule, Rules
from pacsifier_ops.dicom import vrs
from pacsifier_ops.dicom.charsets import DEFAULT, Charset
from pacsifier_ops.dicom.encoding import PIXEL_DATA, Elements, Fragments, Stretch, Syntax, Value, pieces
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.secret import Secret

_MEANING = 0x00080104
#: LongitudinalTemporalOffsetFromEvent, LongitudinalTemporalEventType.
_OFFSET, _EVENT = 0x00120052, 0x00120053
#: Events that belong to one patient (PS3.3 C.7.2.3, and terms of trial archives). An event on the same day for all
#: patients is none.
_OWN_EVENTS = frozenset(("BASELINE", "DIAGNOSIS", "ENROLLMENT", "RANDOMIZATION", "REGISTRATION"))
_INSTANCE_NUMBER = 0x00200013
_NO_DATES = Calendar()
#: Maximum number of digits of a number that may count images.
_COUNTED = 7
#: CodeValue, LongCodeValue, URNCodeValue; CodingSchemeDesignator, CodingSchemeVersion.
_CODE_VALUES, _DESIGNATOR, _VERSION = (0x00080100, 0x00080119, 0x00080120), 0x00080102, 0x00080103
#: ContextIdentifier and TemplateIdentifier are numbers of PS3.16; MappingResource is PS3.16 itself, or a vendor's
#: resource.
_NUMBERED, _RESOURCE = (0x0008010F, 0x0040DB00), 0x00080105
_NUMBER = re.compile(r"\d{1,5}|99_\d{1,4}", re.ASCII)
_SCHEMES, _TEXT_VALUE, _MANUFACTURER = 0x00080110, 0x0040A160, 0x00080070
#: FrameLabelVector, StackID, OpticalPathIdentifier and references to it, GraphicLayer: they distinguish parts of an
#: object.
_PARTS = frozenset((0x00182002, 0x00209056, 0x00480106, 0x006A000E, 0x00700002))
_CHARACTER_SET, _SOP_CLASS, _SOP_INSTANCE, _MODALITY = 0x00080005, 0x00080016, 0x00080018, 0x00080060
#: PatientName, OtherPatientNames, PatientBirthName.
_PATIENT_NAMES = (0x00100010, 0x00101001, 0x00101005)
_COLOUR_PROFILE = 0x00282000
_BINARY = frozenset(vrs.SIZES) | {"OB"}
#: SamplesPerPixel, Rows, Columns and BitsAllocated; NumberOfFrames.
_DIMENSIONS, _FRAMES = (0x00280002, 0x00280010, 0x00280011, 0x00280100), 0x00280008
#: Maximum number of cached plans and UIDs, so that no file can exhaust the memory.
_MOST = 100_000
#: Maximum number of decisions of one kind of data set, and of patients (or calendars) that have any: series come one
#: after the other, so few are needed.
_MOST_DECISIONS, _MOST_PATIENTS = 20_000, 8
#: Maximum number of runs with decisions, for each kind of data set.
_MOST_RUNS = 100
#: Maximum length in bytes of values whose decision is remembered.
_SHORT = 256


@dataclass(frozen=True)
class Deidentified:
    """A de-identified object, ready for `writing.write`.

    Attributes:
        elements: its elements.
        syntax: their transfer syntax.
        charset: names of their character sets, as pydicom calls them.
        counts: number of elements by rule id.
        uids: replacement UIDs by original UID.
    """

    elements: Elements
    syntax: Syntax
    charset: str | list[str]
    counts: dict[str, int]
    uids: dict[str, str]

    @cached_property
    def dataset(self) -> Dataset:
        """The object as a data set of pydicom. Changes of it do not change `elements`."""
        return writing.dataset_of(self.elements, self.syntax, self.charset)

    @property
    def uid(self) -> str:
        """SOP Instance UID."""
        return sr.text_of(self.elements, _SOP_INSTANCE)


#: Counts, uids and dates, see `_Deidentifier`.
_More: TypeAlias = tuple[Counter[str], dict[str, str], set[str]]


class _Decision(NamedTuple):
    """What an element becomes, and what that adds to the account of the object.

    Attributes:
        rule: id of the rule that was applied.
        element: VR and new value; None: the element is removed.
        more: None where nothing is added.
    """

    rule: str
    element: tuple[str, Value] | None
    more: _More | None = None


class _Decided(NamedTuple):
    """What the elements of a run become.

    Attributes:
        rules: ids of the rules that were applied.
        elements: those that are left, with their new values.
        more: what they add to the account of the object, see `_Decision`.
        creators: private creators among them, by block.
    """

    rules: tuple[str, ...]
    elements: Elements
    more: tuple[_More, ...]
    creators: dict[int, str]


@dataclass(slots=True)
class _Decisions:
    """Decisions on elements of one kind of data set or item.

    Attributes:
        by_element: decisions by tag, VR, value and private creator.
        by_run: decisions by run and private creators before it (see `reading.Run`).
    """

    by_element: dict[tuple[int, str, Value, str], _Decision] = field(default_factory=dict)
    by_run: dict[tuple[Hashable, ...], _Decided] = field(default_factory=dict)


class Engine:
    """De-identifies objects.

    It remembers decisions on elements. The key of a decision is all that it depends on, in three levels: the patient
    and the object; the data set or item; the element, or a run of elements (see `_Deidentifier.elements`).

    Args:
        rules: the compiled profile.
        secret: secret of the project; UIDs and tokens are computed with it.
        remembers: remember decisions. The result is the same without.
    """

    def __init__(self, rules: Rules, secret: Secret, *, remembers: bool = True) -> None:
        self.rules, self.secret, self.remembers = rules, secret, remembers
        self.decisions: dict[_Whose, dict[_Where, _Decisions]] = {}
        self.narratives = ProfileOption.CLEAN_NARRATIVES in rules.options
        self.uids: dict[str, str] = {}
        self.plans: dict[ObjectRules, dict[tuple[int, str], _Plan]] = {}

    def deidentify(
        self,
        ds: Dataset,
        person: Person,
        calendar: Calendar = _NO_DATES,
        without: Collection[int] = (),
        names: Iterable[str] = (),
    ) -> Deidentified:
        """De-identify an object; `ds` does not change.

        Args:
            ds: data set from `reading.read`. Any other data set is encoded first, as its file meta information says.
            person: pseudonym and date shift of the patient.
            calendar: dates of the patient's objects, which must not stay in numbers.
            without: tags that are emptied at every depth (see `leftout`).
            names: names of the patient from other objects or the folder; the object may lack them.

        Raises:
            Unfit: the object contains something that cannot be interpreted, or a number is the date of birth.
        """
        parsed = ds if isinstance(ds, reading.Parsed) else _parsed(ds)
        sop_class = sr.text_of(parsed.elements, _SOP_CLASS)
        if not sop_class or not sr.text_of(parsed.elements, _SOP_INSTANCE):
            raise Unfit("it has no SOP Class UID or no SOP Instance UID")
        rules = self.rules.of(sop_class, sr.text_of(parsed.elements, _MODALITY))
        deidentifier = _Deidentifier(self, rules, person, calendar, big_endian=not parsed.syntax.little)
        deidentifier.without, deidentifier.names = frozenset(without), frozenset(names)
        elements = deidentifier.data_set(parsed.elements, parsed.layout if self.remembers else None)
        if not sr.text_of(elements, _SOP_CLASS) or not sr.text_of(elements, _SOP_INSTANCE):
            raise Unfit("its SOP Class UID or its SOP Instance UID is not valid")
        if not parsed.syntax.encapsulated and _remove_data_after_pixels(elements, parsed.syntax):
            deidentifier.counts["mended/behind-pixels"] += 1
        markers.mark(elements, self.rules.method, self.rules.codes, deidentifier.date_status())
        charset = parsed.original_character_set
        return Deidentified(elements, parsed.syntax, charset, dict(deidentifier.counts), deidentifier.uids)

    def uid(self, uid: str) -> str:
        """Return the UID that replaces another."""
        new = self.uids.get(uid)
        if new is None:
            if len(self.uids) > _MOST:
                self.uids.clear()
            new = self.uids[uid] = self.secret.uid(uid)
        return new

    def decided(self, whose: _Whose) -> dict[_Where, _Decisions]:
        """Return the decisions on elements of a patient so far, by the kind of data set."""
        found = self.decisions.get(whose) if self.remembers else {}
        if found is None:
            if len(self.decisions) >= _MOST_PATIENTS:
                self.decisions.clear()
            found = self.decisions[whose] = {}
        return found

    def plan(self, rules: ObjectRules, tag: int, vr: str) -> _Plan:
        """Return the plan for a public element, from the cache where possible."""
        plans = self.plans.setdefault(rules, {})
        plan = plans.get((tag, vr))
        if plan is None:
            if len(plans) > _MOST:
                plans.clear()
            plan = plans[tag, vr] = _make_plan(rules, tag, vr)
        return plan


def _is_creator(tag: int) -> bool:
    """Return whether an element is a private creator (PS3.5 7.8.1)."""
    return bool(tag & 0x10000) and 0x10 <= tag & 0xFFFF <= 0xFF


def _remove_data_after_pixels(elements: Elements, syntax: Syntax) -> bool:
    """Remove data after the last pixel (PS3.5 8.1.1), mostly padding. No viewer would show an identifier there.

    Returns:
        Whether the element changed.

    Raises:
        Unfit: the data are a frame or more, so the description of the pixels is wrong.
    """
    numbers = []
    for tag in _DIMENSIONS:
        value = elements[tag][1] if tag in elements else b""
        if not isinstance(value, bytes) or len(value) != 2:
            return False
        numbers.append(int.from_bytes(value, "little" if syntax.little else "big"))
    frames = sr.text_of(elements, _FRAMES) or "1"
    vr, pixels = elements.get(PIXEL_DATA, ("", b""))
    if not isinstance(pixels, bytes | Stretch) or not frames.isdecimal():
        return False
    frame = math.prod(numbers)
    length = (frame * int(frames) + 7) // 8
    if not syntax.little:
        length += length & 1  # bytes are swapped within words: the last one is a pixel, the one before it the padding
    if len(pixels) <= length or not any(map(any, pieces(pixels, length))):
        return False
    if (len(pixels) - length) * 8 >= frame > 8:
        raise Unfit("its pixel data are longer than its description says, and what follows is not zero")
    elements[PIXEL_DATA] = vr, pixels[:length] + b"\0" * (length & 1)
    return True


def _parsed(ds: Dataset) -> reading.Parsed:
    """Encode a data set from memory, and read it like a file."""
    buffer = io.BytesIO()
    try:
        ds.save_as(buffer, enforce_file_format=True)
    except Exception:  # pydicom raises many types of exception here
        raise Unfit("it cannot be encoded as a file") from None
    return reading.parse(buffer.getvalue())


_NUMBERS = frozenset(["AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"])
#: Root of every UID that the standard registers (PS3.5 9.3, PS3.6 Annex A).
_ROOT = "1.2.840.10008."

#: What a decision depends on beside the element: the patient and the object (rules, pseudonym and shift, dates,
#: names, byte order, attributes to be emptied); the data set or item (rules, character sets, whether it is in a dummy).
_Whose: TypeAlias = tuple[ObjectRules, Person, Calendar, str, bool, frozenset[int]]
_Where: TypeAlias = tuple[ObjectRules, Charset, bool]

#: Applies a rule to a value. Arguments: value, VR, tag, rule and character set. Returns None where the element is
#: removed.
_Treatment: TypeAlias = "Callable[[_Deidentifier, Value, str, int, Rule, Charset], Value | None]"


@dataclass(frozen=True, slots=True)
class _Plan:
    """The treatment of an element.

    Attributes:
        rule: the rule that applies.
        vr: the VR by which the value is treated and written.
        treat: the method that treats the value; None: the element is removed.
    """

    rule: Rule
    vr: str
    treat: _Treatment | None


#: Elements of groups 0000 to 0007 are not allowed in a data set. Group lengths are retired (PS3.5 7.2).
_REMOVED_GROUP = _Plan(Rule(Action.REMOVE, "group"), "", None)
_PRIVATE = _Plan(PRIVATE, "", None)
_LEFT_OUT = _Plan(Rule(Action.REMOVE, leftout.RULE), "", None)


def _make_plan(rules: ObjectRules, tag: int, vr: str) -> _Plan:
    if tag < 0x00080000 or not tag & 0xFFFF:
        return _REMOVED_GROUP
    vr = _known_vr(tag, vr)
    rule = rules.find(tag, vr)
    if tag == _CHARACTER_SET:
        rule = replace(rule, action=Action.KEEP)  # without it, text would be decoded wrongly
    return _plan_for_tag(rule, tag, vr)


def _plan_to_empty(tag: int) -> _Plan:
    """Return the plan for an attribute of `without`: no value, or a dummy where a SOP class may require a value."""
    action = Action.DUMMY if tag in leftout.NEEDED else Action.EMPTY
    return _plan_for_vr(Rule(action, leftout.RULE), tables.dictionary()[tag][0])


def _known_vr(tag: int, vr: str) -> str:
    """Return the VR of a public element; for VR UN, the one of PS3.6 where it is unique (PS3.5 6.2.2)."""
    known = tables.dictionary().get(tag, ())
    return known[0] if vr == "UN" and len(known) == 1 else vr


def _plan_for_tag(rule: Rule, tag: int, vr: str) -> _Plan:
    """Return the plan for a public element, where its VR may differ from PS3.6."""
    known = tables.dictionary().get(tag, ())
    if known and vr not in known:
        if vr in vrs.STRINGS and known[0] in vrs.STRINGS:
            vr = known[0]
        elif not (vr in _BINARY and known[0] in _BINARY):
            rule, vr = _without_value(rule), known[0]
    own = _OWN.get(rule.action, {}).get(tag)
    if own is None and rule.action is Action.CLEAN and tag in tables.numbers():
        own = _Deidentifier.ordinal
    if rule.action is Action.KNOWN:
        rule = replace(rule, otherwise=_least_action(tag))
    return _Plan(rule, vr, own) if own else _plan_for_vr(rule, vr)


def _least_action(tag: int) -> Action:
    """Return the action for an attribute with no known part: what its type allows in every IOD."""
    with_value = tables.required().get(tag)
    return Action.REMOVE if with_value is None else Action.DUMMY if with_value else Action.EMPTY


def _without_value(rule: Rule) -> Rule:
    """Return the rule to apply where the value cannot be interpreted."""
    if rule.action is Action.CLEAN:
        return replace(rule, action=rule.otherwise)
    kept = (Action.KEEP, Action.KNOWN, Action.UID, Action.TOKEN)
    return replace(rule, action=Action.REMOVE) if rule.action in kept else rule


def _plan_for_vr(rule: Rule, vr: str) -> _Plan:
    """Return the plan for an element of this VR."""
    if rule.action is Action.CLEAN and vr not in _CLEAN:
        rule = replace(rule, action=rule.otherwise)
    action = rule.action
    if vr == "UN" and action is not Action.EMPTY:
        action = Action.REMOVE
    treat: _Treatment | None = None
    match action:
        case Action.EMPTY:
            treat = _Deidentifier.emptied
        case Action.CLEAN:
            treat = _CLEAN[vr]
        case Action.DUMMY:
            treat = {"SQ": _Deidentifier.dummy_items, "UI": _Deidentifier.remapped}.get(vr, _Deidentifier.dummy)
        case Action.KEEP:
            treat = _KEEP.get(vr, _Deidentifier.kept_text if vr in vrs.STRINGS else _Deidentifier.kept_binary)
        case Action.KNOWN if vr in vrs.STRINGS:
            treat = _Deidentifier.known
        case Action.KNOWN:
            treat = _Deidentifier.items if vr == "SQ" else _Deidentifier.kept_binary
        case Action.UID if vr == "UI":
            treat = _Deidentifier.remapped
        case Action.PSEUDONYM if vr in vrs.TEXT:
            treat = _Deidentifier.pseudonym
        case Action.TOKEN if vr in vrs.STRINGS:
            treat = _Deidentifier.token
    return _Plan(rule, vr, treat)


class _Deidentifier:
    """De-identifies one object, element by element. Methods that a plan names have the signature of `_Treatment`.

    Attributes:
        counts: number of elements by rule id, and of corrections.
        uids: replacement UIDs by original UID.
        dates: `markers.MODIFIED` and `markers.UNMODIFIED`, where dates are left that are.
    """

    def __init__(
        self, engine: Engine, rules: ObjectRules, person: Person, calendar: Calendar, *, big_endian: bool
    ) -> None:
        self._engine, self._rules, self._person, self.big_endian = engine, rules, person, big_endian
        self._calendar = calendar
        self.counts: Counter[str] = Counter()
        self.uids: dict[str, str] = {}
        self.without: frozenset[int] = frozenset()
        self.names: frozenset[str] = frozenset()
        self._positions = sr.Positions()
        self._place: tuple[int, ...] = (1,)
        self._source: Elements = {}
        self._alone = False  # the treatment has looked at no other element so far
        self._patient = ""  # names of the patient
        self._in_dummy = False  # inside a dummy: only code strings, which structure the object, and new UIDs stay
        self.dates: set[str] = set()
        self._decided: dict[_Where, _Decisions] = {}

    def data_set(self, source: Elements, layout: reading.Layout | None = None) -> Elements:
        """De-identify the data set of the object. With its layout, decisions on runs are remembered."""
        letters, *names = (source.get(tag, ("", b""))[1] for tag in (_CHARACTER_SET, *_PATIENT_NAMES))
        if isinstance(letters, bytes):
            own = {Charset.of(letters).decode(name) or "" for name in names if isinstance(name, bytes) and name}
            self._patient = vocabulary.names_of(self.names | own)
        whose = self._rules, self._person, self._calendar, self._patient, self.big_endian, self.without
        self._decided = self._engine.decided(whose)
        elements = self.elements(source, DEFAULT, rules=self._rules, layout=layout)
        if sr.CONTENT in elements:
            self._positions.rewrite_references(elements, self.big_endian)
        return elements

    def date_status(self) -> str:
        """Return the value of LongitudinalTemporalInformationModified (0028,0303); removed where no date is left."""
        found = (status for status in (markers.MODIFIED, markers.UNMODIFIED) if status in self.dates)
        return next(found, markers.REMOVED)

    @property
    def _beside(self) -> Elements:
        """The elements of the same data set or item. A decision that depends on them is not remembered."""
        self._alone = False
        return self._source

    def elements(
        self,
        source: Elements,
        charset: Charset,
        own: Mapping[int, Rule] = {},
        rules: ObjectRules | None = None,
        layout: reading.Layout | None = None,
    ) -> Elements:
        """De-identify the elements of a data set or an item.

        Args:
            source: the elements.
            charset: character set of the enclosing data set.
            own: rules that take precedence over the object's.
            rules: rules for the data set; the object's rules for items where none are given.
            layout: see `reading.Parsed`.
        """
        if _CHARACTER_SET in source:
            value = source[_CHARACTER_SET][1]
            charset = Charset.of(value if isinstance(value, bytes) else b"?")
        rules = rules or self._rules.nested
        decisions = _Decisions()
        if not own and self._engine.remembers:  # those depend on the content item
            decisions = self._decided.setdefault((rules, charset, self._in_dummy), decisions)
        above, self._source = self._source, source
        made: list[_Decided] = []
        creators: dict[int, str] = {}
        tags: list[int] = []
        for piece in [*(source if layout is None else layout), None]:
            if isinstance(piece, int):
                tags.append(piece)
                continue
            if tags:
                made.append(self._of_tags(tags, charset, own, rules, creators, decisions))
                tags = []
            if piece is not None:
                made.append(self._of_run(piece, charset, rules, creators, decisions))
        self._source = above
        self._alone = False  # for an element whose value this data set is
        self.counts.update([rule for decided in made for rule in decided.rules])
        for counts, uids, dates in [more for decided in made for more in decided.more]:
            self.counts.update(counts)
            self.uids.update(uids)
            self.dates |= dates
        found: Elements = {}
        for decided in made:
            found.update(decided.elements)
        private = [tag for tag in found if tag & 0x10000]
        kept = {tag >> 8 for tag in private if tag & 0xFF00}
        for tag in private:
            if not tag & 0xFF00 and _block(tag) not in kept:
                del found[tag]
        return found

    def _of_run(
        self, run: reading.Run, charset: Charset, rules: ObjectRules, creators: dict[int, str], decisions: _Decisions
    ) -> _Decided:
        """Return what the elements of a run become, and add its private creators to those before it."""
        key = run, *creators.items()
        decided = decisions.by_run.get(key)
        if decided is not None:
            creators.update(decided.creators)
            return decided
        decided = self._of_tags(run.elements, charset, {}, rules, creators, decisions)
        if self._alone:
            if len(decisions.by_run) >= _MOST_RUNS:
                decisions.by_run.clear()
            decisions.by_run[key] = decided
        return decided

    def _of_tags(
        self,
        tags: Iterable[int],
        charset: Charset,
        own: Mapping[int, Rule],
        rules: ObjectRules,
        creators: dict[int, str],
        decisions: _Decisions,
    ) -> _Decided:
        """Return what elements become, and add private creators among them to those before them.

        `_alone` says afterwards whether nothing beside each of them mattered.

        Args:
            tags: their tags, in order.
            charset, own, rules: see `elements`.
            creators: private creators before them, by block.
            decisions: decisions so far.
        """
        made: list[tuple[int, _Decision]] = []
        new: dict[int, str] = {}
        alone = True
        for tag in tags:
            vr, value = self._source[tag]
            creator = ""
            if tag & 0x10000:
                if _is_creator(tag):
                    creator = value.strip(b" \0").decode("latin-1") if isinstance(value, bytes) else ""
                    creators[_block(tag)] = new[_block(tag)] = creator
                else:
                    creator = creators.get(tag >> 8, "")
            short = type(value) is bytes and len(value) <= _SHORT
            decision = decisions.by_element.get((tag, vr, value, creator)) if short else None
            if decision is None:
                decision = self._decide(self._plan(tag, vr, creator, own, rules), value, tag, charset)
                alone &= self._alone
                if short and self._alone and self._engine.remembers:
                    if len(decisions.by_element) >= _MOST_DECISIONS:
                        decisions.by_element.clear()
                    decisions.by_element[tag, vr, value, creator] = decision
            made.append((tag, decision))
        self._alone = alone
        return _Decided(
            tuple([decision.rule for _, decision in made]),
            {tag: decision.element for tag, decision in made if decision.element is not None},
            tuple([decision.more for _, decision in made if decision.more is not None]),
            new,
        )

    def _decide(self, plan: _Plan, value: Value, tag: int, charset: Charset) -> _Decision:
        """Decide what an element becomes. `_alone` says afterwards whether nothing beside it mattered."""
        self._alone = True
        if plan.treat is None:
            return _Decision(plan.rule.id, None)
        before = self.counts, self.uids, self.dates
        counts, uids, dates = self.counts, self.uids, self.dates = Counter[str](), dict[str, str](), set[str]()
        new = plan.treat(self, value, plan.vr, tag, plan.rule, charset)
        self.counts, self.uids, self.dates = before
        if isinstance(new, list):
            self._alone = False  # other objects must not share its items
        more = (counts, uids, dates) if counts or uids or dates else None
        return _Decision(plan.rule.id, None if new is None else (plan.vr, new), more)

    def _plan(self, tag: int, vr: str, creator: str, own: Mapping[int, Rule], rules: ObjectRules) -> _Plan:
        """Return the plan for an element."""
        if tag & 0x10000:
            return self._private(tag, vr, creator)
        if tag in self.without:
            return _plan_to_empty(tag)
        if tag in own:
            return _plan_for_tag(own[tag], tag, _known_vr(tag, vr))
        return self._engine.plan(rules, tag, vr)

    def _private(self, tag: int, vr: str, creator: str) -> _Plan:
        """Return the plan for a private element (PS3.5 7.8), or for a private creator element."""
        if tag < 0x00090000 or tag >= 0xFFFF0000 or not tag & 0xFFFF:
            return _REMOVED_GROUP
        if self._in_dummy:
            return _PRIVATE
        if 0x10 <= tag & 0xFFFF <= 0xFF:
            vr = "LO"
        elif vr == "UN" and not self.big_endian:
            known = reading.private_vr(tag, creator)
            vr = known if known in _BINARY or known in vrs.STRINGS else vr
        if tag in self.without:
            return _LEFT_OUT
        rule = self._rules.find(tag, vr, creator)
        if rule is PRIVATE:
            return _PRIVATE
        if rule.id == imaging.RULE and vr != "SQ":
            return _Plan(rule, vr, _fit_for_imaging(creator))
        return _plan_for_vr(rule, vr)

    def items(self, source: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """De-identify each item of a sequence."""
        items = _items(source)
        found: list[Elements] = []
        for number, item in enumerate(items[:1] if self._in_dummy else items, 1):
            new = self._item(item, charset, number if tag == sr.CONTENT else 0)
            if new is not None:
                found.append(new)
        # Without any item, the element is removed: an empty ContentSequence is not allowed (PS3.3 C.17.3).
        return None if items and not found and tag == sr.CONTENT else found

    def _item(self, item: Elements, charset: Charset, number: int) -> Elements | None:
        """De-identify an item. Return None where a content item is removed as a whole."""
        if self._in_dummy or sr.VALUE_TYPE not in item:
            new = self.elements(item, charset)
            if number:
                self._positions.record(new, (*self._place, number))
            return new
        rule, value_type = sr.rule_of(item, self._engine.rules)
        if rule.action in (Action.REMOVE, Action.EMPTY):
            self.counts[rule.id] += 1
            return None
        above = self._place
        self._place = (*above, number)
        tag = sr.VALUES.get(value_type, 0)
        new = self.elements(item, charset, {tag: rule} if tag else {})
        self._positions.record(new, self._place)
        self._place = above
        if tag and tag in item and tag not in new:
            return None
        if not tag:
            self.counts[rule.id] += 1
            if value_type == "NUM" and not sr.cap_age(new) and rule.action is Action.CLEAN:
                return None
        return new

    def dummy_items(self, source: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return one item with the elements of the first one and dummies as values."""
        items = _items(source)
        bare, self._in_dummy = self._in_dummy, True
        found = [self.elements(items[0], charset)] if items else []
        self._in_dummy = bare
        return found

    def emptied(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        return [] if vr == "SQ" else b""

    def dummy(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        if self._in_dummy and vr in vrs.SIZES and isinstance(value, bytes) and value:
            return bytes(len(value))  # as many values as before
        return vrs.padded(values.dummy(vr), vr)

    def pseudonym(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        text = self._person.pseudonym
        if not values.is_valid(vr, text):
            text = values.token(self._engine.secret, "pseudonym", text)
        return vrs.padded(text.encode("ascii"), vr)

    def token(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        name = keyword_for_tag(tag) or f"{tag:08X}"
        texts = [text.strip(" \0") for text in _texts(value, vr, charset)]
        made = [values.token(self._engine.secret, name, text) if text else "" for text in texts]
        return vrs.padded("\\".join(made).encode("ascii"), vr)

    def remapped(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        uids = [uid.strip(" \0") for uid in _texts(value, vr, charset)]
        for place, uid in enumerate(uids):
            if uid and uid not in tables.registered_uids():
                uids[place] = self.uids[uid] = self._engine.uid(uid)
        return vrs.padded("\\".join(uids).encode("ascii"), vr)

    def kept_text(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the valid part of the value."""
        if self._in_dummy and vr not in ("CS", "UI"):
            return self.dummy(value, vr, tag, rule, charset)
        if not isinstance(value, bytes):
            return b""
        if vr in ("DA", "DT") and value:
            if not rule.id.startswith("site/") and any(map(self._calendar.is_birth, _texts(value, vr, charset))):
                return self._fall_back(value, vr, tag, rule, charset)
            self.dates.add(markers.UNMODIFIED)
        return _valid(value, vr, charset)

    def known(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the known part of a device's text; of UIDs, those that are registered."""
        if self._in_dummy and vr not in ("CS", "UI"):
            return self.dummy(value, vr, tag, rule, charset)
        if not isinstance(value, bytes) or not value.strip(b" \0"):
            return value if isinstance(value, bytes) else b""
        if vr == "UI":
            known = all(codes.is_public_uid(uid.strip(" \0")) for uid in _texts(value, vr, charset))
            return value if known else self._fall_back(value, vr, tag, rule, charset)
        return _known(value, vr, charset, self._patient) or self._fall_back(value, vr, tag, rule, charset)

    def manufacturer(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the known part of a manufacturer if its first word is known.

        Other words alone could name another manufacturer.
        """
        new = self.known(value, vr, tag, rule, charset)
        before, after = (" ".join(_texts(one or b"", vr, charset)).split()[:1] for one in (value, new))
        return new if before == after else self._fall_back(value, vr, tag, rule, charset)

    def part_identifier(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return an identifier of a part of the object: unchanged where it is known completely, else a token."""
        bare = self._in_dummy and vr != "CS"
        if bare or not isinstance(value, bytes) or _known(value, vr, charset, self._patient) == value:
            return self.known(value, vr, tag, rule, charset)
        texts = [text.strip(" \0") for text in _texts(value, vr, charset)]
        made = [values.token(self._engine.secret, "part", text) if text else "" for text in texts]
        return vrs.padded("\\".join(made).encode("ascii"), vr)

    def code_attribute(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return an attribute of a code: unchanged where the code is public, else its substitute."""
        if self._in_dummy:
            return self.dummy(value, vr, tag, rule, charset)
        if not isinstance(value, bytes) or not value.strip(b" \0"):
            return b""
        code, scheme = sr.code_in(self._beside)
        if codes.is_public(code, scheme):
            return _valid(value, vr, charset) if tag != _VERSION else self.known(value, vr, tag, rule, charset)
        if tag == _VERSION:
            return None
        made = codes.LOCAL if tag == _DESIGNATOR else codes.substitute(self._engine.secret, code, scheme)
        return vrs.padded(made.encode("ascii"), vr)

    def context_identifier(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the number of a context group or template of the standard; a site's own is removed."""
        text = value.strip(b" \0").decode("latin-1") if isinstance(value, bytes) else ""
        public = text == "DCMR" or codes.is_public("", text) if tag == _RESOURCE else _NUMBER.fullmatch(text)
        return value if public or not text else self._fall_back(value, vr, tag, rule, charset)

    def schemes(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the coding schemes (PS3.3 C.12.1.1.11) that are public; those of sites are removed."""
        public = [item for item in _items(value) if codes.is_public("", sr.code_in(item)[1])]
        return self.items(public, vr, tag, rule, charset) if public else None

    def kept_uids(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the UIDs. Invalid ones, and unregistered ones below the standard's root, are replaced."""
        if not isinstance(value, bytes) or _valid(value, vr, charset) != value:
            return self.remapped(value, vr, tag, rule, charset)
        uids = [uid.strip(" \0") for uid in _texts(value, vr, charset)]
        forged = any(uid.startswith(_ROOT) and uid not in tables.registered_uids() for uid in uids)
        return self.remapped(value, vr, tag, rule, charset) if forged else value

    def kept_binary(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        if self._in_dummy:
            return self.dummy(value, vr, tag, rule, charset)
        size = vrs.SIZES.get(vr, 0)
        if isinstance(value, list) or (size and len(value) % size):
            return None
        # More numbers than PS3.6 allows have room for text.
        most = tables.most_values(tag) if vr in _NUMBERS and not tag & 0x10000 else 0
        return None if most and len(value) > size * most else value

    def pixels(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the pixels without any other data."""
        kept = self.kept_binary(value, vr, tag, rule, charset)
        if type(kept) is not Fragments:
            return kept
        frames = sr.text_of(self._beside, _FRAMES)
        new = remarks.cleaned(kept, int(frames) if frames.isdecimal() and len(frames) < 10 else 1)
        if new is not kept:
            self.counts["mended/beside-pixels"] += 1
        return new

    def colour_profile(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return a colour profile without text; remove a value that is not a profile."""
        kept = self.kept_binary(value, vr, tag, rule, charset)
        if self._in_dummy or not kept or not isinstance(kept, bytes):
            return kept
        new = icc.cleaned(kept)
        if new != kept:
            self.counts["mended/colour-profile"] += 1
        return new

    def cleaned_text(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        if not value and not self._in_dummy:
            return b""
        new = b"" if self._in_dummy or not isinstance(value, bytes) else _cleaned(value, vr, charset, self._patient)
        return new or self._fall_back(value, vr, tag, rule, charset)

    def text_value(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the text of any content item, cleaned; narrative text is removed."""
        if isinstance(value, bytes) and sr.is_narrative(value) and not self._engine.narratives:
            self.counts["narrative"] += 1
            return self._fall_back(value, vr, tag, rule, charset)
        return self.cleaned_text(value, vr, tag, rule, charset)

    def cleaned_time(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return a time (TM) unchanged: it reveals no day."""
        new = self.kept_text(value, vr, tag, rule, charset)
        return new if new or not value else self._fall_back(value, vr, tag, rule, charset)

    def meaning(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the required meaning of a code (PS3.3 8.8): the standard's, or what the vocabulary leaves of it."""
        new = b"" if self._in_dummy or not isinstance(value, bytes) else _cleaned(value, vr, charset, self._patient)
        if not self._in_dummy and isinstance(value, bytes) and new.strip() != value.strip(b" \0"):
            known = values.fitting(vr, codes.meaning(*sr.code_in(self._beside)))
            new = charset.encode(known) or new
        return vrs.padded(new, vr) if new else self.dummy(value, vr, tag, rule, charset)

    def moved(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return dates, shifted by the patient's days; one invalid date invalidates the whole value."""
        move = values.shifted_date if vr == "DA" else values.shifted_datetime
        texts = [text.strip(" \0") for text in _texts(value, vr, charset)]
        still = any(self._calendar.is_birth(text) or self._calendar.is_placeholder(text) for text in texts if text)
        moved = [None if still else move(text, self._person.shift) if text else "" for text in texts]
        if self._in_dummy or not any(texts) or None in moved:
            return self._fall_back(value, vr, tag, rule, charset) if any(texts) or self._in_dummy else b""
        self.dates.add(markers.MODIFIED if self._person.shift else markers.UNMODIFIED)
        return vrs.padded("\\".join(map(str, moved)).encode("ascii"), vr)

    def context_version(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the version of a context group or template.

        A possible date of the patient becomes a dummy, because it would stay unshifted.
        """
        kept = self.kept_text(value, vr, tag, rule, charset)
        ambiguous = self._calendar and any(map(self._calendar.may_be_patient_date, _texts(value, vr, charset)))
        return self.dummy(value, vr, tag, rule, charset) if ambiguous and kept else kept

    def ordinal(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return numbers that only order or name things, with dates in them shifted."""
        if tag in _PARTS and isinstance(value, bytes) and not value.strip(b" \0").isdigit():
            return self.part_identifier(value, vr, tag, rule, charset)
        binary = vr in vrs.SIZES
        kept = (self.kept_binary if binary else self.kept_text)(value, vr, tag, rule, charset)
        if not self._calendar or self._in_dummy or not isinstance(kept, bytes):
            return kept
        least = tables.numbers()[tag]
        if tag == _INSTANCE_NUMBER and self._calendar.counted:
            least = max(least, _COUNTED + 1)
        if not binary:
            texts = [text.strip(" \0") for text in kept.decode("latin-1").split("\\")]
        elif len(kept) == vrs.SIZES[vr]:
            texts = [str(int(number)) for number in numbers_in(vr, kept, not self.big_endian)]
        else:
            return kept
        try:
            moved = [self._calendar.moved(text.lstrip("+-"), least) for text in texts]
        except BirthDateFound:
            raise Unfit(f"the result still tells who it is: PatientBirthDate found in {_place(tag)}") from None
        if not any(moved):
            return kept
        texts = [("-" * text.startswith("-") + new) if new else text for new, text in zip(moved, texts, strict=True)]
        if binary:
            return int(texts[0]).to_bytes(len(kept), "big" if self.big_endian else "little")
        return vrs.padded("\\".join(texts).encode("latin-1"), vr)

    def number(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return numbers, unless one of them is a date."""
        kept = (self.kept_binary if vr in vrs.SIZES else self.kept_text)(value, vr, tag, rule, charset)
        if kept and isinstance(kept, bytes) and self.contains_patient_date(vr, kept):
            return self._fall_back(value, vr, tag, rule, charset)
        return kept if kept or not value else self._fall_back(value, vr, tag, rule, charset)

    def contains_patient_date(self, vr: str, value: bytes) -> bool:
        """Return whether one of the numbers of a value is a date of the patient."""
        return bool(self._calendar) and any(
            map(self._calendar.is_patient_date, numbers_in(vr, value, not self.big_endian))
        )

    def event_offset(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        """Return the time since an event and its type, where the event belongs to the patient alone."""
        if sr.text_of(self._beside, _EVENT) not in _OWN_EVENTS:
            return self._fall_back(value, vr, tag, rule, charset)
        return (self.number if vr == "FD" else self.kept_text)(value, vr, tag, rule, charset)

    def age(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        ages = [values.capped_age(text.strip(" \0")) for text in _texts(value, vr, charset)]
        if self._in_dummy or None in ages:
            return self._fall_back(value, vr, tag, rule, charset) if value else b""
        return vrs.padded("\\".join(map(str, ages)).encode("ascii"), vr)

    def _fall_back(self, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        match rule.otherwise:
            case Action.EMPTY:
                return self.emptied(value, vr, tag, rule, charset)
            case Action.DUMMY:
                return self.dummy(value, vr, tag, rule, charset)
            case Action.PSEUDONYM:
                return self.pseudonym(value, vr, tag, rule, charset)
        return None


_CLEAN: dict[str, _Treatment] = {
    **dict.fromkeys(("AE", "LO", "LT", "SH", "ST", "UC", "UT"), _Deidentifier.cleaned_text),
    **dict.fromkeys(("DA", "DT"), _Deidentifier.moved),
    **dict.fromkeys(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"), _Deidentifier.number),
    "AS": _Deidentifier.age,
    "SQ": _Deidentifier.items,
    "TM": _Deidentifier.cleaned_time,
}
_KEEP: dict[str, _Treatment] = {"SQ": _Deidentifier.items, "UI": _Deidentifier.kept_uids}
#: Special treatment of attributes, by action and tag. `ordinal` cleans those of `tables.numbers`.
_OWN: dict[Action, dict[int, _Treatment]] = {
    Action.CLEAN: {
        _MEANING: _Deidentifier.meaning,
        _OFFSET: _Deidentifier.event_offset,
        _EVENT: _Deidentifier.event_offset,
        _TEXT_VALUE: _Deidentifier.text_value,
    },
    Action.KNOWN: {
        **dict.fromkeys((*_CODE_VALUES, _DESIGNATOR, _VERSION), _Deidentifier.code_attribute),
        **dict.fromkeys((*_NUMBERED, _RESOURCE), _Deidentifier.context_identifier),
        **dict.fromkeys(_PARTS, _Deidentifier.part_identifier),
        _SCHEMES: _Deidentifier.schemes,
        _MANUFACTURER: _Deidentifier.manufacturer,
    },
    Action.KEEP: {
        **dict.fromkeys(
            (tag for tag, kind in tables.dates()[0].items() if kind == "kept"), _Deidentifier.context_version
        ),
        PIXEL_DATA: _Deidentifier.pixels,
        _COLOUR_PROFILE: _Deidentifier.colour_profile,
    },
}


def _place(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


@lru_cache(maxsize=256)
def _fit_for_imaging(creator: str) -> _Treatment:
    """Return the method that applies `imaging` to private elements of a creator."""

    def fit(deidentifier: _Deidentifier, value: Value, vr: str, tag: int, rule: Rule, charset: Charset) -> Value | None:
        kept = imaging.kept(creator, tag, vr, value, deidentifier.big_endian) if isinstance(value, bytes) else None
        return None if kept and deidentifier.contains_patient_date(vr, kept) else kept

    return fit


def _block(tag: int) -> int:
    """Return group and block that a private creator element reserves."""
    return tag >> 16 << 8 | tag & 0xFF


def _items(value: Value) -> list[Elements]:
    """Return the items of a sequence, which may be of VR UN."""
    return value if isinstance(value, list) else reading.sequence(bytes(value))


def _texts(value: Value, vr: str, charset: Charset) -> list[str]:
    """Return the values of an element. Where the text cannot be decoded, each byte becomes one character."""
    if not isinstance(value, bytes):
        return []
    text = charset.decode(value) if vr in vrs.TEXT else None
    return (value.decode("latin-1") if text is None else text).split("\\")


def _valid(value: bytes, vr: str, charset: Charset) -> bytes:
    """Return the valid part of a value."""
    return (_valid_short if len(value) <= _SHORT else _valid_any)(value, vr, charset)


def _valid_any(value: bytes, vr: str, charset: Charset) -> bytes:
    text = charset.decode(value) if vr in vrs.TEXT else DEFAULT.decode(value)
    if text is None:
        return b""
    texts = [text] if vr in vrs.SINGLE else text.split("\\")
    valid = [values.is_valid(vr, one.strip(" \0")) for one in texts]
    if all(valid):
        return value
    left = "\\".join(one if good else "" for one, good in zip(texts, valid, strict=True))
    return vrs.padded(charset.encode(left) or b"", vr) if left.strip(" \0\\") else b""


def _cleaned(value: bytes, vr: str, charset: Charset, patient: str) -> bytes:
    """Return what the vocabulary leaves of a descriptive text."""
    return (_cleaned_short if len(value) <= _SHORT else _cleaned_any)(value, vr, charset, patient)


def _cleaned_any(value: bytes, vr: str, charset: Charset, patient: str) -> bytes:
    text = (charset if vr in vrs.TEXT else DEFAULT).decode(value)
    if text is None:
        text = value.decode("ascii", "replace").replace("\ufffd", "ø")  # a letter that no word of the vocabulary has
    texts = [text] if vr in vrs.SINGLE else text.split("\\")
    left = [values.fitting(vr, vocabulary.clean(one, patient)) for one in texts]
    return vrs.padded(charset.encode("\\".join(left)) or b"", vr) if any(left) else b""


def _known(value: bytes, vr: str, charset: Charset, patient: str) -> bytes:
    """Return the known part of a text that a device wrote."""
    return (_known_short if len(value) <= _SHORT else _known_any)(value, vr, charset, patient)


def _known_any(value: bytes, vr: str, charset: Charset, patient: str) -> bytes:
    text = (charset if vr in vrs.TEXT else DEFAULT).decode(value)
    if text is None:
        return b""
    texts = [text] if vr in vrs.SINGLE else text.split("\\")
    left = [machine.clean(one.strip(" \0"), patient) for one in texts]
    if all(one == before.strip(" \0") for one, before in zip(left, texts, strict=True)):
        return value
    return vrs.padded(charset.encode("\\".join(left)) or b"", vr) if any(left) else b""


_valid_short, _cleaned_short, _known_short = (
    lru_cache(maxsize=16384)(function) for function in (_valid_any, _cleaned_any, _known_any)
)
