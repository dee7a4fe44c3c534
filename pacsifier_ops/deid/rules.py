"""The compiled form of a profile (PS3.15 Annex E): which action applies to each attribute.

Rules are stacked layers: the standard's table, the compound actions as each SOP class resolves them, and the rules of a
site. `Rules.of` merges them into one `ObjectRules` per kind of object; `ObjectRules.find` looks up a rule.

The meaning of an action depends on the value representation (PS3.5 6.2):

| action      | on a value                                                                  | on a sequence       |
|-------------|-----------------------------------------------------------------------------|---------------------|
| `REMOVE`    | the element is removed                                                      | it is removed       |
| `EMPTY`     | zero length                                                                 | no items            |
| `DUMMY`     | a fixed value of the same VR without meaning                                | items of dummies    |
| `UID`       | the replacement UID, unless the UID is registered in PS3.6                  | never               |
| `KEEP`      | unchanged, if it is valid for its VR                                        | items de-identified |
| `KNOWN`     | Text and CS: terms and words of devices stay. UI: registered UIDs stay.     | items de-identified |
|             | Codes of public schemes stay, others become tokens                          |                     |
| `CLEAN`     | DA, DT: shifted by the patient's days. TM: kept. AS: over 89 years, `090Y`. | items de-identified |
|             | Text: words of the vocabulary stay. Numbers: a date is shifted in a number  |                     |
|             | that only orders things, and removed in any other (see `numbers`)           |                     |
| `PSEUDONYM` | the patient's pseudonym                                                     | never               |
| `TOKEN`     | a substitute for the VR, from the secret; its domain is the keyword         | never               |

`Rule.otherwise` is the action where `CLEAN` is impossible (an invalid date, a VR without cleaning) or leaves nothing of
a value. Where `KNOWN` leaves nothing, the type of the attribute decides: removed, emptied, or a dummy.

Decisions of this module:
- PatientName, PatientID and ClinicalTrialSubjectID become the pseudonym.
- PatientBirthDate is emptied under every option.
- PatientAge is `CLEAN` where patient characteristics are retained, and removed otherwise.
- AccessionNumber, StudyID, ClinicalTrialSubjectReadingID, ContainerIdentifier and SpecimenIdentifier become tokens.
- `tables/dates.csv` says what each date is. A date that many patients share, or that is known elsewhere (a calibration,
  the measurement of a source, an expiry), is removed where dates are shifted: it would reveal the number of days. With
  full dates it stays. Versions of the standard's context groups and templates are kept wherever dates are.
- Numbers that only order or name things (`tables/numbers.csv`) are `CLEAN` unless dates stay unchanged.
- LongitudinalTemporalOffsetFromEvent and its event are removed without an option for dates, and stay with full dates.
  Where dates are shifted they stay if the event belongs to the patient alone.
- `U` of `X/Z/U*` is `CLEAN` on the sequence: the UIDs in its items are remapped by their own rules.
- ContentSequence of key object selections is `CLEAN` under every option, so that the references stay. In structured
  reports it is `CLEAN` where structured content is cleaned, else a dummy.
- CodeMeaning is `CLEAN` under every option: the meaning of a standard's code may stay.
- Code strings are `KNOWN` wherever they are kept. Codes are `KNOWN` where descriptors are cleaned. Otherwise they stay,
  because E.1-1 does not list them.
- Text of structured reports of up to 64 characters in one line is cleaned like a description. Longer text is narrative:
  it is removed, unless narratives are cleaned.
- Digital signatures, overlays (60xx) and curves (50xx) are removed under every option.
- File meta information (0002), directory records (0004) and commands (0000) have no rules here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Action(StrEnum):
    """Actions on attributes: the letters of PS3.15 Table E.1-1a, and three of our own."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"
    KEEP = "K"
    KNOWN = "W"
    CLEAN = "C"
    PSEUDONYM = "P"
    TOKEN = "T"


class ProfileOption(StrEnum):
    """Options of PS3.15 E.3 by their names in profiles, and two of our own."""

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
    """An action and where it comes from.

    Attributes:
        action: what happens to the attribute.
        id: source of the rule: `E.1-1`, `E.1-1/<option>`, `default/<VR>`, `unlisted`, `uid/keep`, `uid/remap`,
            `safe-private`, `imaging-private`, `private`, `E.3.4-1`, `site/<number>`.
        otherwise: the action where `CLEAN` is impossible or leaves nothing.
    """

    action: Action
    id: str
    otherwise: Action = Action.REMOVE


#: Rule for an unknown attribute.
UNKNOWN = Rule(Action.REMOVE, "default/unknown")
#: Rule for a private attribute that no list calls safe (last row of E.1-1).
PRIVATE = Rule(Action.REMOVE, "private")

#: Actions in the order of strictness; `K` leaves most.
_STRICTNESS = {action: place for place, action in enumerate("KWCUTPDZX")}


def leaves_more(one: Rule, other: Rule) -> bool:
    """Return whether one rule leaves more of a value than the other."""
    return _STRICTNESS[one.action] < _STRICTNESS[other.action]


def stricter(one: Rule, other: Rule) -> Rule:
    """Return the rule that leaves less of a value."""
    return other if leaves_more(one, other) else one


@dataclass(frozen=True, slots=True)
class Mask:
    """Attributes of repeating groups or of a whole group, such as `(60xx,3000)`."""

    mask: int
    value: int

    def fits(self, tag: int) -> bool:
        return tag & self.mask == self.value


@dataclass(frozen=True, slots=True)
class PrivateRule:
    """A rule for private attributes. `vrs` are the VRs for which it applies; any VR where empty."""

    rule: Rule
    vrs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Layer:
    """Rules that take precedence over those of the layers below.

    Attributes:
        tags: rules by integer tag.
        masks: rules for all attributes of groups; they override `tags` of the layers below.
        defaults: rules by VR, for attributes that no `tags` contain.
        private: rules by private creator and tag without its block (`(0029,xx10)` is 0x00290010); tag 0 is for all
            attributes of a creator.
        required: actions for required attributes whose VR alone would have them removed.
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
        known: VRs of the public attributes of PS3.6, by tag.
        nested: rules for items of sequences; the same rules where not given.
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
        """Return the rule of an attribute of the data set. For an attribute in an item, ask `nested`.

        Args:
            tag: tag of the attribute.
            vr: VR of the element in the object.
            creator: private creator of the block of a private attribute, without padding; for a private creator
                element, its own value. Empty where the block has none: such attributes are removed.
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
            # Text with VR CS must not bypass the rule for text.
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
            # Keep the creator of a block with attributes that may stay. The engine removes it if none did.
            return Rule(Action.KEEP, "private") if tag & 0xFF >= 0x10 and creator in self._creators else PRIVATE
        found = self._private.get((creator, tag & 0xFFFF00FF)) or self._private.get((creator, 0))
        if found is None or (found.vrs and vr not in found.vrs):
            return PRIVATE
        if found.rule.action is not Action.CLEAN:
            return found.rule
        action = _CLEANED.get(vr, Action.REMOVE)
        return found.rule if action is Action.CLEAN else Rule(action, found.rule.id)


#: The effect of `CLEAN` on private attributes by VR. Other VRs are removed, and dates are: no date rule covers them.
_CLEANED = {
    **dict.fromkeys(("AS", "LO", "LT", "SH", "SQ", "ST", "UC", "UT"), Action.CLEAN),
    **dict.fromkeys(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"), Action.CLEAN),
    **dict.fromkeys(("AT", "OB", "OD", "OF", "OL", "OV", "OW"), Action.KEEP),
    "CS": Action.KNOWN,
    "UI": Action.UID,
}


@dataclass(frozen=True)
class Scoped:
    """A layer of a site and its scope: objects of a SOP class, or of a modality, or all."""

    layer: Layer
    sop_class: str = ""
    modality: str = ""

    def fits(self, sop_class: str, modality: str) -> bool:
        return self.sop_class in ("", sop_class) and self.modality in ("", modality)


class Rules:
    """A compiled profile.

    Args:
        base: the lowest layer.
        classes: layers by SOP Class UID, for the top of an object and for items. Other classes have `base` alone.
        site: layers of a site, from the lowest to the highest.
        known: see `ObjectRules`.
        concepts: rules by code value, coding scheme and value type of concept names of structured reports (PS3.15 Table
            E.3.4-1).
        by_type: rules by value type, for other concepts.

    Attributes:
        digest: SHA-256, in hexadecimal digits, of everything that determines the result.
        options: options in effect.
        codes: code value, coding scheme designator and code meaning of each method (PS3.16 CID 7050).
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
        options: frozenset[ProfileOption],
        codes: list[tuple[str, str, str]],
        method: str,
    ) -> None:
        self._base, self._classes, self._site, self._known = base, classes, tuple(site), known
        self._concepts, self._by_type = concepts, by_type
        self.digest, self.options, self.codes, self.method = digest, options, codes, method
        self._cache: dict[tuple[str, str], ObjectRules] = {}
        # All other SOP classes and modalities share one entry, so that values in objects cannot fill the cache.
        self._sop_classes = set(classes) | {scoped.sop_class for scoped in self._site}
        self._modalities = {scoped.modality for scoped in self._site}

    def of(self, sop_class: str, modality: str) -> ObjectRules:
        """Return the rules for objects of a SOP class (UID) and modality (0008,0060)."""
        key = sop_class if sop_class in self._sop_classes else "", modality if modality in self._modalities else ""
        found = self._cache.get(key)
        if found is None:
            site = [scoped.layer for scoped in self._site if scoped.fits(*key)]
            top, nested = self._classes.get(key[0], (Layer(), Layer()))
            within = ObjectRules([self._base, nested, *site], self._known)
            found = self._cache[key] = ObjectRules([self._base, top, *site], self._known, within)
        return found

    def concept(self, value: str, scheme: str, value_type: str) -> Rule:
        """Return the rule of a content item (PS3.3 C.17.3), by the code of its concept name and its value type.

        `REMOVE` removes the item and everything below it. On references (COMPOSITE, IMAGE, WAVEFORM, UIDREF) `UID`
        remaps the UIDs. `CLEAN` acts as on values: DATE and DATETIME are shifted, TIME is kept, TEXT is cleaned by the
        vocabulary, NUM is a capped age (only for the table's concept of a subject's age). Items below follow their own
        rules.
        """
        return self._concepts.get((value, scheme, value_type)) or self._by_type.get(value_type, UNKNOWN)
