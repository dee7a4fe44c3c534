"""What is done to each attribute: the compiled form of a profile (PS3.15 Annex E), which the engine asks.

Rules are layers that lie one upon the other: the standard's table, what the SOP class makes of its compound actions,
and what a site says. `Rules.of` folds them into one `ObjectRules` per kind of object; `ObjectRules.find` looks up.

What an action means depends on the value representation (PS3.5 6.2):

| action      | on a value                                                                  | on a sequence       |
|-------------|-----------------------------------------------------------------------------|---------------------|
| `REMOVE`    | the element goes                                                            | it goes             |
| `EMPTY`     | zero length                                                                 | no items            |
| `DUMMY`     | a fixed value of the same VR that says nothing                              | items of dummies    |
| `UID`       | the UID that stands for it, unless it is registered in PS3.6                | never               |
| `KEEP`      | as it is, if it is a valid value of its VR                                  | items de-identified |
| `KNOWN`     | Text and CS: terms and words of machines stay. UI: what PS3.6 registers.    | items de-identified |
|             | Of codes those of public schemes stay, the others become tokens             |                     |
| `CLEAN`     | DA, DT: shifted by the patient's days. TM: kept. AS: over 89 years, `090Y`. | items de-identified |
|             | Text: words of the vocabulary stay. Numbers: those that are a date move, or |                     |
|             | go where they are more than an order (see `numbers`)                        |                     |
| `PSEUDONYM` | the patient's pseudonym                                                     | never               |
| `TOKEN`     | a substitute that fits the VR, by the secret; its domain is the keyword     | never               |

Where `CLEAN` cannot be done (an invalid date, a VR that has no cleaning) or leaves nothing of a value, `Rule.otherwise`
says what is done instead. Where `KNOWN` leaves nothing, the attribute's type does: removed, emptied, or a dummy.

Decided here, so that nobody decides it twice:
- PatientName, PatientID and ClinicalTrialSubjectID become the pseudonym.
- PatientBirthDate is emptied under every option.
- PatientAge is `CLEAN` where patient characteristics are retained, and removed otherwise.
- AccessionNumber, StudyID, ClinicalTrialSubjectReadingID, ContainerIdentifier and SpecimenIdentifier become tokens.
- What every date is, `tables/dates.csv` says. Those that many patients have in common, or that are known outside (a
  machine calibrated, a source measured, a product expired), go where dates are moved: they would tell by how many days.
  With full dates they stay. Versions of the standard's context groups and templates are kept wherever dates are.
- Numbers that are but an order or a name (`tables/numbers.csv`) are `CLEAN` unless dates stay as they are.
- LongitudinalTemporalOffsetFromEvent and its event go without an option for dates, and stay with full dates; where
  dates are moved they stay if the event is one of the patient's own.
- `U` of `X/Z/U*` is `CLEAN` on the sequence: the UIDs in its items are remapped by their own rules.
- ContentSequence of key object selections is `CLEAN` under every option, so that what they select stays selected; of
  structured reports it is where structured content is cleaned, else a dummy.
- CodeMeaning is `CLEAN` under every option: who knows that a code is a standard's may keep its meaning.
- Code strings are `KNOWN` wherever they are kept. Codes are where descriptors are cleaned; without, they stay as E.1-1,
  which does not list them, leaves them.
- Text of structured reports is cleaned as a description is, if it is no longer than one (64 characters, one line). A
  longer one is narrative: it goes, unless narratives are cleaned.
- A digital signature, an overlay (60xx) and a curve (50xx) go under every option.
- File meta information (0002) and directory records (0004) are not asked about here; nor are commands (0000).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Action(StrEnum):
    """What is done to an attribute; the letters of PS3.15 Table E.1-1a, and three of our own."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"
    KEEP = "K"
    KNOWN = "W"
    CLEAN = "C"
    PSEUDONYM = "P"
    TOKEN = "T"


class Option(StrEnum):
    """The options of PS3.15 E.3 that say what is kept, by their names in profiles, and two of our own."""

    SAFE_PRIVATE = "safe_private"
    #: Ours: private elements of MR devices that `imaging_private.csv` lists.
    SAFE_PRIVATE_EXTENDED = "safe_private_extended"
    UIDS = "uids"
    DEVICE = "device"
    INSTITUTION = "institution"
    PATIENT_CHARACTERISTICS = "patient_characteristics"
    FULL_DATES = "full_dates"
    MODIFIED_DATES = "modified_dates"
    CLEAN_DESCRIPTORS = "clean_descriptors"
    CLEAN_STRUCTURED_CONTENT = "clean_structured_content"
    CLEAN_GRAPHICS = "clean_graphics"
    #: Ours: text of reports that is longer than a description.
    CLEAN_NARRATIVES = "clean_narratives"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done, and by which rule.

    Attributes:
        id: where it comes from: `E.1-1`, `E.1-1/<option>`, `default/<VR>`, `unlisted`, `uid/keep`, `uid/remap`,
            `safe-private`, `imaging-private`, `private`, `E.3.4-1`, `site/<number>`.
        otherwise: what is done where `CLEAN` cannot be, or leaves nothing.
    """

    action: Action
    id: str
    otherwise: Action = Action.REMOVE


#: An attribute that nothing is known of.
UNKNOWN = Rule(Action.REMOVE, "default/unknown")
#: A private attribute that nothing says is safe (E.1-1's last row).
PRIVATE = Rule(Action.REMOVE, "private")

#: From the one that leaves most to the one that leaves least.
_STRICTNESS = {action: place for place, action in enumerate("KWCUTPDZX")}


def leaves_more(one: Rule, other: Rule) -> bool:
    """Whether one rule leaves more of a value than the other."""
    return _STRICTNESS[one.action] < _STRICTNESS[other.action]


def stricter(one: Rule, other: Rule) -> Rule:
    """Which of two rules leaves less of a value."""
    return other if leaves_more(one, other) else one


@dataclass(frozen=True, slots=True)
class Mask:
    """Attributes of repeating groups or of a whole group, `(60xx,3000)` for one."""

    mask: int
    value: int

    def fits(self, tag: int) -> bool:
        return tag & self.mask == self.value


@dataclass(frozen=True, slots=True)
class PrivateRule:
    """A rule for private attributes, and the VRs that they must have for it (any where empty)."""

    rule: Rule
    vrs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Layer:
    """Rules that lie upon those before them.

    Attributes:
        tags: by integer tag.
        masks: for all attributes of groups, before `tags` of the layers below.
        defaults: by VR, for attributes that no `tags` list.
        private: by private creator and tag without its block (`(0029,xx10)` is 0x00290010); for all of a
            creator's by 0.
        required: what is done to attributes that an object must have, where their VR alone would have them removed.
    """

    tags: Mapping[int, Rule] = field(default_factory=dict)
    masks: Mapping[Mask, Rule] = field(default_factory=dict)
    defaults: Mapping[str, Rule] = field(default_factory=dict)
    private: Mapping[tuple[str, int], PrivateRule] = field(default_factory=dict)
    required: Mapping[int, Action] = field(default_factory=dict)


class ObjectRules:
    """The rules for objects of one SOP class and modality.

    Args:
        layers: from the lowest to the highest.
        known: VRs of the public attributes that the dictionary (PS3.6) has, by tag.
        nested: the rules for what is in items of sequences; the same where there are no others.
    """

    __slots__ = ("_creators", "_defaults", "_known", "_masks", "_private", "_required", "_tags", "nested")

    def __init__(
        self, layers: Iterable[Layer], known: Mapping[int, tuple[str, ...]], nested: ObjectRules | None = None
    ) -> None:
        self.nested = nested or self
        self._tags: dict[int, Rule] = {}
        self._masks: list[tuple[int, int, Rule]] = []
        self._defaults: dict[str, Rule] = {}
        self._private: dict[tuple[str, int], PrivateRule] = {}
        self._required: dict[int, Action] = {}
        self._known = known
        for layer in layers:
            self._lay(layer)
        self._creators = {creator for creator, _ in self._private}

    def _lay(self, layer: Layer) -> None:
        for mask, rule in layer.masks.items():
            for tag in [tag for tag in self._tags if mask.fits(tag)]:
                del self._tags[tag]
            self._masks.insert(0, (mask.mask, mask.value, rule))
        self._tags.update(layer.tags)
        self._defaults.update(layer.defaults)
        self._required.update(layer.required)
        for creator in [creator for creator, tag in layer.private if not tag]:
            for key in [key for key in self._private if key[0] == creator]:
                del self._private[key]
        self._private.update(layer.private)

    def find(self, tag: int, vr: str, creator: str = "") -> Rule:
        """What is done to an attribute of the data set; of one in an item, ask `nested`.

        Args:
            vr: VR of the element as it is in the object.
            creator: private creator of the block that a private attribute is in, without padding; of a private creator
                element, its own value. Empty where there is none: such attributes go.
        """
        rule = self._tags.get(tag)
        if rule is not None:
            return rule
        if tag & 0x10000:
            return self._of_private(tag, vr, creator)
        for mask, value, rule in self._masks:
            if tag & mask == value:
                return rule
        vrs = self._known.get(tag)
        if vrs is None:
            return UNKNOWN
        rule = self._defaults.get(vr, UNKNOWN)
        if vr not in vrs:
            # Text that claims to be a code string does not get round the rule for text.
            rule = stricter(self._defaults.get(vrs[0], UNKNOWN), rule)
        required = self._required.get(tag)
        if required is None:
            return rule
        if rule.action is Action.REMOVE:
            return replace(rule, action=required)
        return replace(rule, otherwise=required) if rule.action is Action.CLEAN else rule

    def _of_private(self, tag: int, vr: str, creator: str) -> Rule:
        if not creator:
            return PRIVATE
        if tag & 0xFF00 == 0:
            # The creator of a block that something may be kept of; the engine takes it out again if nothing was.
            return Rule(Action.KEEP, "private") if tag & 0xFF >= 0x10 and creator in self._creators else PRIVATE
        found = self._private.get((creator, tag & 0xFFFF00FF)) or self._private.get((creator, 0))
        if found is None or (found.vrs and vr not in found.vrs):
            return PRIVATE
        if found.rule.action is not Action.CLEAN:
            return found.rule
        action = _CLEANED.get(vr, Action.REMOVE)
        return found.rule if action is Action.CLEAN else Rule(action, found.rule.id)


#: What cleaning makes of a private attribute; one of another VR goes. Dates go too: no date rule knows of them.
_CLEANED = {
    **dict.fromkeys(("AS", "LO", "LT", "SH", "SQ", "ST", "UC", "UT"), Action.CLEAN),
    **dict.fromkeys(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"), Action.CLEAN),
    **dict.fromkeys(("AT", "OB", "OD", "OF", "OL", "OV", "OW"), Action.KEEP),
    "CS": Action.KNOWN,
    "UI": Action.UID,
}


@dataclass(frozen=True)
class Scoped:
    """A site's layer, and the objects that it is for: those of a SOP class, or of a modality, or all."""

    layer: Layer
    sop_class: str = ""
    modality: str = ""

    def fits(self, sop_class: str, modality: str) -> bool:
        return self.sop_class in ("", sop_class) and self.modality in ("", modality)


class Rules:
    """A compiled profile.

    Args:
        base: the lowest layer.
        classes: what the SOP class makes of them, by its UID: at the top of an object and in items. Of the others what
            `base` says.
        site: a site's layers, from the lowest to the highest.
        known: see `ObjectRules`.
        concepts: by value, coding scheme and value type of concept names of structured reports (PS3.15 Table E.3.4-1).
        by_type: for other concepts, by value type.

    Attributes:
        digest: SHA-256, in hexadecimal digits, of everything that decides.
        options: what is retained and cleaned.
        codes: code value, coding scheme designator and meaning of what was done (PS3.16 CID 7050).
        method: text for DeidentificationMethod (0012,0063), values of at most 64 characters.
    """

    def __init__(
        self,
        base: Layer,
        classes: Mapping[str, tuple[Layer, Layer]],
        site: Iterable[Scoped],
        known: Mapping[int, tuple[str, ...]],
        concepts: Mapping[tuple[str, str, str], Rule],
        by_type: Mapping[str, Rule],
        *,
        digest: str,
        options: frozenset[Option],
        codes: list[tuple[str, str, str]],
        method: str,
    ) -> None:
        self._base, self._classes, self._site, self._known = base, classes, tuple(site), known
        self._concepts, self._by_type = concepts, by_type
        self.digest, self.options, self.codes, self.method = digest, options, codes, method
        self._cache: dict[tuple[str, str], ObjectRules] = {}
        # Others are all alike, so that what an object says of itself cannot fill the cache.
        self._sop_classes = set(classes) | {scoped.sop_class for scoped in self._site}
        self._modalities = {scoped.modality for scoped in self._site}

    def of(self, sop_class: str, modality: str) -> ObjectRules:
        """The rules for objects of a SOP class (UID) and modality (0008,0060)."""
        key = sop_class if sop_class in self._sop_classes else "", modality if modality in self._modalities else ""
        found = self._cache.get(key)
        if found is None:
            site = [scoped.layer for scoped in self._site if scoped.fits(*key)]
            top, nested = self._classes.get(key[0], (Layer(), Layer()))
            within = ObjectRules([self._base, nested, *site], self._known)
            found = self._cache[key] = ObjectRules([self._base, top, *site], self._known, within)
        return found

    def concept(self, value: str, scheme: str, value_type: str) -> Rule:
        """What is done to a content item (PS3.3 C.17.3), by the code of its concept name and its value type.

        `REMOVE` takes the item with all below it. On references (COMPOSITE, IMAGE, WAVEFORM, UIDREF) `UID` remaps the
        UIDs. `CLEAN` is as on values: DATE and DATETIME shifted, TIME kept, TEXT by the vocabulary, NUM an age that is
        capped (the table's concept of a subject's age alone has it). What is below an item follows its own rules.
        """
        return self._concepts.get((value, scheme, value_type)) or self._by_type.get(value_type, UNKNOWN)
