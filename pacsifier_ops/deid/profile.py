"""Profiles: options of PS3.15 Annex E and rules of a site, compiled into `Rules`.

A profile is a YAML file. Profiles that come with the package are called by name. `docs/profiles.md` describes the
format.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops import __version__
from pacsifier_ops.base.errors import ConfigError, not_known
from pacsifier_ops.base.given import Unusable, read_given, yaml_of
from pacsifier_ops.deid import codes, imaging, machine, tables, vocabulary
from pacsifier_ops.deid.rules import (
    Action,
    Layer,
    Mask,
    PrivateRule,
    ProfileOption,
    Rule,
    Rules,
    Scoped,
    leaves_more,
)

if TYPE_CHECKING:
    import yaml

_SHIPPED = Path(__file__).parent / "profiles"
#: Names of the profiles that come with the package.
NAMES = tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))

#: Options that exclude each other, and the reason.
CONFLICTS = (
    (ProfileOption.FULL_DATES, ProfileOption.MODIFIED_DATES, "dates are either kept or shifted"),
    (ProfileOption.UIDS, ProfileOption.MODIFIED_DATES, "UIDs hold dates and times, which would tell the shift"),
)

#: Code values and meanings of PS3.16 CID 7050; the coding scheme is DCM.
_BASIC_CODE = ("113100", "Basic Application Confidentiality Profile")
_CODES = {
    ProfileOption.CLEAN_GRAPHICS: ("113103", "Clean Graphics Option"),
    ProfileOption.CLEAN_STRUCTURED_CONTENT: ("113104", "Clean Structured Content Option"),
    ProfileOption.CLEAN_DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    ProfileOption.FULL_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    ProfileOption.MODIFIED_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ProfileOption.PATIENT_CHARACTERISTICS: ("113108", "Retain Patient Characteristics Option"),
    ProfileOption.DEVICE: ("113109", "Retain Device Identity Option"),
    ProfileOption.UIDS: ("113110", "Retain UIDs Option"),
    ProfileOption.SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
    ProfileOption.INSTITUTION: ("113112", "Retain Institution Identity Option"),
}

#: Text for DeidentificationMethod where no code of CID 7050 applies: private elements stay that the standard's table
#: does not list.
_EXTENDED = "private elements of MR devices kept or rewritten by a list"

_PATIENT_NAME, _PATIENT_ID = 0x00100010, 0x00100020
#: Attributes that name the patient, and attributes that link objects: both get a substitute instead of a dummy (Z, D).
_PSEUDONYMS = frozenset({_PATIENT_NAME, _PATIENT_ID, 0x00120040})
_TOKENS = frozenset({0x00080050, 0x00200010, 0x00120042, 0x00400512, 0x00400551})
#: LongitudinalTemporalOffsetFromEvent, LongitudinalTemporalEventType.
_OFFSET, _EVENT = 0x00120052, 0x00120053
#: Names that a site gives its devices. Where the device is retained, each becomes one token. StationName,
#: TreatmentMachineName, RadiationMachineName, DeviceID, SecondaryCaptureDeviceID, ScheduledStationName,
#: PerformedStationName, ModifyingSystem, DeviceLabel.
_STATIONS = frozenset({0x00081010, 0x300A00B2, 0x30020020, 0x00181003, 0x00181010, 0x00400010, 0x00400242}) | {
    0x04000563,
    0x3010002D,
}
#: Typed text about devices and places. Where the device is retained, it is cleaned by the vocabulary. TimeSource,
#: NTPSourceAddress, XRayDetectorLabel, DeviceDescription, ScheduledStudyLocation, ScheduledProcedureStepLocation.
_WRITTEN = frozenset({0x00181801, 0x00181803, 0x00189373, 0x00500020, 0x00321020, 0x00400011})
#: Curves and overlays with all their attributes: drawings cannot be cleaned without being interpreted.
_DRAWN = (Mask(0xFF000000, 0x50000000), Mask(0xFF000000, 0x60000000))

_CONTENT_SEQUENCE = 0x0040A730
#: SOP class Key Object Selection Document Storage.
_KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"

_TEXT = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UT"})
_DATES = frozenset({"DA", "DT", "TM"})
_NUMBERS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_MEASURES = _NUMBERS | {"AT", "CS", "OD", "OF", "OL", "OV", "OW"}
_CLEANABLE = _TEXT | _DATES | _NUMBERS | {"AS", "SQ"}
#: VRs for which an action is possible, where it is not possible for all.
_FITS = {
    Action.CLEAN: _CLEANABLE,
    Action.KNOWN: _TEXT - {"AE"} | {"CS", "SQ", "UI", "UR"},
    Action.UID: frozenset({"UI"}),
    Action.PSEUDONYM: _TEXT | {"PN"},
    Action.TOKEN: _TEXT | {"CS"},
}

#: References to other objects in structured reports. Their dummy is a replacement UID.
_REFERENCES = frozenset({"COMPOSITE", "IMAGE", "UIDREF", "WAVEFORM"})
#: Content items without text of their own. The codes and measurements in them have their own rules.
_CONTENT = ("CODE", "CONTAINER", "NUM", "SCOORD", "SCOORD3D", "TABLE", "TCOORD")
_SUBJECT = frozenset({("121029", "DCM"), ("121030", "DCM")})
#: Text that devices write: manufacturers, models, algorithms (TID 1004, 1021, 10013, 4019).
_OF_MACHINES = ("111001", "111003", "113878", "113879", "113961", "121014", "121015", "121194", "121195", "122405")
#: Other codes of devices for a subject's age and birth date, by the code of the table.
_ALSO = {
    ("121033", "DCM", "NUM"): (("30525-0", "LN"), ("29553-5", "LN"), ("397669002", "SCT"), ("424144002", "SCT")),
    ("121031", "DCM", "DATE"): (("21112-8", "LN"), ("184099003", "SCT"), ("F-04F9A", "SRT")),
}
#: A birth date, with a time or without.
_BORN = "121031", "DCM", "DATE"


@dataclass(frozen=True)
class SiteRule:
    """A rule of a site, and its scope.

    Attributes:
        layer: the rule.
        key: canonical form of the selector, to find duplicates.
        sop_classes, modalities: objects to which it applies; all where empty.
    """

    layer: Layer
    key: str
    sop_classes: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """Options in effect and rules of a site; later rules take precedence.

    Attributes:
        name: name of a profile of the package, else `site`.
        options: options in effect.
        site: rules of the site.
    """

    name: str
    options: frozenset[ProfileOption]
    site: tuple[SiteRule, ...] = ()


def is_shipped(name: str) -> bool:
    """Return whether a profile comes with the package; it may have options appended (`pacsifier+device`)."""
    return name.partition("+")[0] in NAMES


def load(name: str | Path, add: Iterable[ProfileOption] = (), drop: Iterable[ProfileOption] = ()) -> Profile:
    """Read a profile.

    Args:
        name: name of a profile of the package, with options after plus signs (`pacsifier+device`), or path of a YAML
            file.
        add, drop: options to add, and to remove.

    Raises:
        ConfigError: the profile does not exist, it is invalid (with file, line, key and what to do), or its options
            exclude each other.
    """
    plain, *more = str(name).split("+") if is_shipped(str(name)) else [str(name)]
    if "" in more:
        raise ConfigError(f"profile {plain}: an option is not known: there is none behind a plus sign; remove the sign")
    for option in more:
        if option not in list(ProfileOption):
            raise ConfigError(
                f"profile {plain}: option {not_known(option, ProfileOption)}; there are {', '.join(ProfileOption)}"
            )
    found = _load(plain)
    add = {*add, *map(ProfileOption, more)}
    found = replace(found, options=(found.options - set(drop)) | set(add))
    _check(found.options)
    return found


def compile(profile: Profile) -> Rules:
    """Compile a profile into rules for the engine.

    Raises:
        ConfigError: its options exclude each other.
    """
    options = profile.options
    _check(options)
    standard = _standard(options)
    base, site = standard.base, list(_site(profile.site))
    codes = [(value, "DCM", meaning) for option, (value, meaning) in _CODES.items() if option in options]
    if not any(_leaves_more(rule.layer, base) for rule in profile.site):
        codes.insert(0, (_BASIC_CODE[0], "DCM", _BASIC_CODE[1]))
    own = [(scoped.sop_class, scoped.modality, _plain_layer(scoped.layer)) for scoped in site]
    digest = _hashed([*standard.attributes, own, *standard.content])
    method = [f"pacsifier-ops {__version__}, profile {profile.name}, rules {digest[:12]}"]
    if ProfileOption.SAFE_PRIVATE_EXTENDED in options:
        method.append(_EXTENDED)
    return Rules(
        base,
        standard.classes,
        site,
        tables.dictionary(),
        standard.concepts,
        standard.by_type,
        digest=digest,
        options=options,
        codes=codes,
        method="\\".join(method),
    )


def _check(options: frozenset[ProfileOption]) -> None:
    for one, other, why in CONFLICTS:
        if {one, other} <= options:
            raise ConfigError(f"options {one} and {other} exclude each other: {why}; give one of them")


# The standard's tables


@dataclass(frozen=True)
class _Standard:
    """What options make of the tables; the same for every profile that has them.

    Attributes:
        base, classes, concepts, by_type: see `Rules`.
        attributes, content: all that decides on attributes, and on content, as values of JSON.
    """

    base: Layer
    classes: Mapping[str, tuple[Layer, Layer]]
    concepts: Mapping[tuple[str, str, str], Rule]
    by_type: Mapping[str, Rule]
    attributes: Sequence[object]
    content: Sequence[object]


@cache
def _standard(options: frozenset[ProfileOption]) -> _Standard:
    base, classes = _base(options), _classes(options)
    if base.tags[_CONTENT_SEQUENCE].action is Action.DUMMY:
        # Its content consists of references and their author (PS3.16 TID 2010). Cleaned item by item, it is a valid
        # dummy.
        own = {_CONTENT_SEQUENCE: Rule(Action.CLEAN, "E.1-1/key-objects", Action.DUMMY)}
        top, nested = (replace(layer, tags={**layer.tags, **own}) for layer in classes[_KEY_OBJECTS])
        classes[_KEY_OBJECTS] = top, nested
    concepts, by_type = _concepts(options), _by_type(options)
    # Many classes share their layers.
    hashes = {id(layers): _hashed([*map(_plain_layer, layers)]) for layers in classes.values()}
    attributes = [
        __version__,
        sorted(options),
        _plain_layer(base),
        [(sop_class, hashes[id(layers)]) for sop_class, layers in sorted(classes.items())],
    ]
    content = [
        [(*key, *_plain(rule)) for key, rule in sorted(concepts.items())],
        [(kind, *_plain(rule)) for kind, rule in sorted(by_type.items())],
        vocabulary.shipped().digest,
        imaging.digest() if ProfileOption.SAFE_PRIVATE_EXTENDED in options else "",
        machine.shipped().digest,
        codes.digest(),
    ]
    return _Standard(base, classes, concepts, by_type, attributes, content)


def _base(options: frozenset[ProfileOption]) -> Layer:
    listed, _ = tables.attributes()
    tags = {tag: _compiled(tag, row, options, _unresolved(row.basic), "E.1-1") for tag, row in listed.items()}
    tags |= {
        tag: _compiled(tag, row, options, _unresolved(row.basic), "unlisted") for tag, row in tables.unlisted().items()
    }
    tags |= _date_rules(options, tags)
    remapped = (
        Rule(Action.KEEP, f"uid/{ProfileOption.UIDS}")
        if ProfileOption.UIDS in options
        else Rule(Action.UID, "uid/remap")
    )
    tags |= {
        tag: Rule(Action.KEEP, "uid/keep") if structural else remapped for tag, structural in tables.uids().items()
    }
    private: dict[tuple[str, int], PrivateRule] = {}
    if ProfileOption.SAFE_PRIVATE in options:
        # Text that the device writes there is safe, but E.1-1 says C: text is cleaned nevertheless, and UIDs are
        # remapped.
        safe = Rule(Action.CLEAN, "safe-private")
        private = {key: PrivateRule(safe, vrs) for key, vrs in tables.safe_private().items()}
    if ProfileOption.SAFE_PRIVATE_EXTENDED in options:
        physics = Rule(Action.CLEAN, imaging.RULE)
        private |= {key: PrivateRule(physics, frozenset(form.vrs)) for key, form in imaging.private().items()}
        private |= {(creator.upper(), tag): rule for (creator, tag), rule in private.items()}
    return Layer(tags, {mask: Rule(Action.REMOVE, "E.1-1") for mask in _DRAWN}, _defaults(options), private)


def _date_rules(options: frozenset[ProfileOption], listed: Mapping[int, Rule]) -> dict[int, Rule]:
    """Return rules for dates that E.1-1 does not list, and for other attributes that reveal dates."""
    found: dict[int, Rule] = {}
    if ProfileOption.MODIFIED_DATES in options:
        shared = (tag for tag, kind in tables.dates()[0].items() if kind == "shared" and tag not in listed)
        found = {tag: Rule(Action.REMOVE, "dates/shared") for tag in shared}
    if ProfileOption.FULL_DATES in options:
        return found
    found |= {tag: Rule(Action.CLEAN, "dates/numbers", Action.EMPTY) for tag in tables.numbers()}
    # The time since an event reveals as much as a date does (PS3.15 E.3.6).
    moved = ProfileOption.MODIFIED_DATES in options
    offset = Rule(Action.CLEAN, "dates/offset") if moved else Rule(Action.REMOVE, "dates/offset")
    return found | dict.fromkeys((_OFFSET, _EVENT), offset)


def _classes(options: frozenset[ProfileOption]) -> dict[str, tuple[Layer, Layer]]:
    """Return layers by SOP class, for the top of an object and for items; many classes share them."""
    compiled = cache(partial(_resolved_rule, options))
    made: dict[int, tuple[Layer, Layer]] = {}
    found = {}
    for sop_class, types in tables.types().items():
        if id(types) not in made:
            made[id(types)] = _of_class(compiled, types.top), _of_class(compiled, types.nested)
        found[sop_class] = made[id(types)]
    return found


def _of_class(compiled: Callable[[int, str], Rule | None], types: Mapping[int, str]) -> Layer:
    """Return the layer of a SOP class: its required attributes stay, empty or as a dummy."""
    tags, required = {}, {}
    for tag in {*_compound(), *types}:
        kind = types.get(tag, "")
        if rule := compiled(tag, kind):
            tags[tag] = rule
        else:
            required[tag] = _instead(kind)
    return Layer(tags, required=required)


def _instead(kind: str) -> Action:
    """Return the action that replaces removal for an attribute of a type."""
    return Action.DUMMY if kind in ("1", "1C") else Action.EMPTY


def _resolved_rule(options: frozenset[ProfileOption], tag: int, kind: str) -> Rule | None:
    """Return the rule of an attribute of a type; None if no table has it."""
    if row := tables.attributes()[0].get(tag):
        return _compiled(tag, row, options, _resolved(row.basic, kind), "E.1-1")
    if row := tables.unlisted().get(tag):
        return _compiled(tag, row, options, _resolved(row.basic, kind), "unlisted")
    if ProfileOption.MODIFIED_DATES in options and tables.dates()[0].get(tag) == "shared":
        return Rule(_instead(kind), "dates/shared")
    return None


@cache
def _compound() -> tuple[int, ...]:
    return tuple(tag for tag, row in tables.attributes()[0].items() if "/" in row.basic)


def _unresolved(basic: str) -> str:
    """Return the action where the SOP class is unknown: D is always conformant, then Z."""
    offered = basic.split("/")
    return next((action for action in "DZ" if action in offered), offered[0])


def _resolved(basic: str, kind: str) -> str:
    """Resolve a compound action for an attribute of a type (PS3.3; empty: type 3, it may be absent).

    A required sequence of references is kept with remapped UIDs where `U` is an alternative: emptied, it would
    contradict other attributes of the object (PS3.3 C.12.2). Where the table removes or empties an attribute that a
    class requires, it becomes a dummy (type 1) or is emptied (type 2); one of type 1C may be absent.
    """
    offered = basic.replace("*", "").split("/")
    if not kind:
        return next((action for action in "XZ" if action in offered), offered[0])
    if "U" in offered:
        return "U"
    if basic in ("X", "Z"):
        return "D" if kind == "1" else "Z" if kind != "1C" else basic
    wanted = "DZ" if kind in ("1", "1C") else "ZD"
    return next((action for action in wanted if action in offered), offered[0])


def _compiled(tag: int, row: tables.Row, options: frozenset[ProfileOption], basic: str, source: str) -> Rule:
    """Return the rule of one attribute; `basic` is one letter."""
    vr = tables.dictionary().get(tag, ("",))[0]
    without = _basic_action(tag, vr, basic)
    # Where one option keeps and another cleans, such as for dates of a retained device, cleaning wins.
    chosen = sorted((action, option) for option, action in row.options.items() if option in options)
    if not chosen:
        return Rule(without, source)
    letter, option = chosen[0]
    action = Action(letter)
    date_kind = tables.dates()[0].get(tag)
    if option == ProfileOption.MODIFIED_DATES and date_kind == "shared":
        return Rule(without, source)
    if action is Action.CLEAN and date_kind == "kept":
        action = Action.KEEP
    elif option == ProfileOption.DEVICE and tag in _STATIONS:
        return Rule(Action.TOKEN, f"{source}/{option}")
    elif option == ProfileOption.DEVICE and tag in _WRITTEN:
        action = Action.CLEAN
    elif action is Action.KEEP and vr == "CS":
        action = Action.KNOWN
    elif action is Action.KEEP and (vr == "AS" or (vr in _TEXT and option == ProfileOption.FULL_DATES)):
        action = Action.CLEAN  # ages have a limit, and a time zone or date of a text VR could be any text
    elif action is Action.CLEAN and vr and vr not in _CLEANABLE:
        return Rule(without, source)
    return Rule(action, f"{source}/{option}", without if action is Action.CLEAN else Action.REMOVE)


def _basic_action(tag: int, vr: str, basic: str) -> Action:
    if tag in _PSEUDONYMS:
        return Action.PSEUDONYM
    if tag in _TOKENS:
        return Action.TOKEN
    if basic == "D" and vr == "UI":
        return Action.UID
    if basic == "U" and vr == "SQ":
        return Action.CLEAN
    return Action(basic)


def _defaults(options: frozenset[ProfileOption]) -> dict[str, Rule]:
    """Return the rules, by VR, for public attributes that no table lists. VRs without a rule are removed.

    Names, free text, URIs, opaque bytes (OB) and unknown VRs (UN) are removed: they can contain anything. Numbers stay:
    they are measurements, and the engine removes invalid ones. So do AT, which names attributes, and arrays of samples.
    Code strings (CS) stay where they are terms of PS3.3 or of devices: they carry the meaning of an object, and an IOD
    is invalid without them.
    """
    date, why = _date_rule(options)
    defaults = {vr: Rule(date, f"default/{vr}{why}") for vr in _DATES}
    defaults |= {vr: Rule(Action.KEEP, f"default/{vr}") for vr in _MEASURES}
    defaults["CS"] = Rule(Action.KNOWN, "default/CS")
    defaults |= {vr: Rule(Action.REMOVE, f"default/{vr}") for vr in (*_TEXT, "AS", "OB", "PN", "UN", "UR")}
    defaults |= {"SQ": Rule(Action.CLEAN, "default/SQ"), "UI": Rule(Action.UID, "default/UI")}
    if ProfileOption.CLEAN_DESCRIPTORS in options:
        words = _TEXT - {"AE"}
        defaults |= {vr: Rule(Action.CLEAN, f"default/{vr}/{ProfileOption.CLEAN_DESCRIPTORS}") for vr in words}
    if ProfileOption.PATIENT_CHARACTERISTICS in options:
        defaults["AS"] = Rule(Action.CLEAN, f"default/AS/{ProfileOption.PATIENT_CHARACTERISTICS}")
    if ProfileOption.UIDS in options:
        defaults["UI"] = Rule(Action.KEEP, f"default/UI/{ProfileOption.UIDS}")
    return dict(sorted(defaults.items()))


def _date_rule(options: frozenset[ProfileOption]) -> tuple[Action, str]:
    """Return the action for dates that no table lists, and the end of the rule's id."""
    if ProfileOption.FULL_DATES in options:
        return Action.KEEP, f"/{ProfileOption.FULL_DATES}"
    if ProfileOption.MODIFIED_DATES in options:
        return Action.CLEAN, f"/{ProfileOption.MODIFIED_DATES}"
    return Action.REMOVE, ""


# Structured reports


def _concepts(options: frozenset[ProfileOption]) -> dict[tuple[str, str, str], Rule]:
    found = {}
    for concept, row in tables.concepts().items():
        without = Action(_unresolved(row.basic))
        if without is Action.DUMMY and concept.value_type in _REFERENCES:
            without = Action.UID
        if (concept.value, concept.scheme) in _SUBJECT:
            without = Action.PSEUDONYM
        rule = Rule(without, "E.3.4-1")
        chosen = sorted((action, option) for option, action in row.options.items() if option in options)
        if (
            ProfileOption.MODIFIED_DATES in options
            and tables.dates()[1].get((concept.value, concept.scheme)) == "shared"
        ):
            chosen = []
        if chosen:
            action = Action(chosen[0][0])
            if action is Action.KEEP and concept.value_type == "NUM":
                action = Action.CLEAN  # a subject's age
            rule = Rule(action, f"E.3.4-1/{chosen[0][1]}", without if action is Action.CLEAN else Action.REMOVE)
        found[concept.value, concept.scheme, concept.value_type] = rule
    for listed, others in _ALSO.items():
        for value, scheme in others:
            found[value, scheme, listed[2]] = found[listed]
    for value, scheme in (_BORN[:2], *_ALSO[_BORN]):
        found[value, scheme, "DATETIME"] = found[_BORN]
    return found | {(value, "DCM", "TEXT"): Rule(Action.KNOWN, "default/TEXT/machine") for value in _OF_MACHINES}


def _by_type(options: frozenset[ProfileOption]) -> dict[str, Rule]:
    """Return the rules, by value type, for content items that the table does not list. Other types are removed."""
    date, why = _date_rule(options)
    found = {kind: Rule(date, f"default/{kind}{why}") for kind in ("DATE", "DATETIME", "TIME")}
    kept = Action.KEEP if ProfileOption.UIDS in options else Action.UID
    found |= {kind: Rule(kept, f"default/{kind}") for kind in sorted(_REFERENCES)}
    found |= {kind: Rule(Action.KEEP, f"default/{kind}") for kind in _CONTENT}
    found["TEXT"] = Rule(Action.REMOVE, "default/TEXT")
    if ProfileOption.CLEAN_DESCRIPTORS in options:
        found["TEXT"] = Rule(Action.CLEAN, f"default/TEXT/{ProfileOption.CLEAN_DESCRIPTORS}")
    found["PNAME"] = Rule(Action.REMOVE, "default/PNAME")
    return found


# A site's rules


def _site(rules: Iterable[SiteRule]) -> Iterator[Scoped]:
    """Yield the layers in order of precedence: for all objects, for modalities, for SOP classes."""
    ordered = sorted(rules, key=lambda rule: (bool(rule.sop_classes), bool(rule.modalities)))
    for rule in ordered:
        for sop_class, modality in product(rule.sop_classes or ("",), rule.modalities or ("",)):
            yield Scoped(rule.layer, sop_class, modality)


def _leaves_more(layer: Layer, base: Layer) -> bool:
    """Return whether a site's rule leaves more of a value than the standard's options in effect do."""
    if any(rule.rule.action is not Action.REMOVE for rule in layer.private.values()):
        return True
    if any(rule.action is not Action.REMOVE for rule in layer.masks.values()):
        return True
    return any(leaves_more(rule, base.defaults[vr]) for vr, rule in layer.defaults.items()) or any(
        leaves_more(rule, _least(tag, base)) for tag, rule in layer.tags.items()
    )


def _least(tag: int, base: Layer) -> Rule:
    """Return the least strict rule for an attribute that the standard allows."""
    row = tables.attributes()[0].get(tag)
    if row and row.basic.endswith("U*") and base.tags[tag].action is not Action.KEEP:
        return Rule(Action.CLEAN, "")
    return base.tags.get(tag) or base.defaults[tables.dictionary()[tag][0]]


def _hashed(value: object) -> str:
    """Return the SHA-256 of a value of JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def _plain_layer(layer: Layer) -> list[object]:
    return [
        [(tag, *_plain(rule)) for tag, rule in sorted(layer.tags.items())],
        [(mask.mask, mask.value, *_plain(rule)) for mask, rule in layer.masks.items()],
        [(vr, *_plain(rule)) for vr, rule in sorted(layer.defaults.items())],
        [(*key, *_plain(found.rule), *sorted(found.vrs)) for key, found in sorted(layer.private.items())],
        sorted(layer.required.items()),
    ]


def _plain(rule: Rule) -> tuple[str, str, str]:
    return rule.action, rule.id, rule.otherwise


# Files


class _Wrong(Exception):
    """An error in a file: line, key, and what to do."""

    def __init__(self, line: int, key: str, text: str) -> None:
        super().__init__(f"line {line}, {key}: {text}" if key else f"line {line}: {text}")


def _load(name: str) -> Profile:
    shipped = name in NAMES
    path = _SHIPPED / f"{name}.yaml" if shipped else Path(name)
    if not shipped and "/" not in name and not path.suffix:
        raise ConfigError(
            f"profile {not_known(name, NAMES)}; there are {', '.join(NAMES)}, with options upon one after plus signs "
            "(default+device), or give the path of a YAML file"
        )
    try:
        return _read(path, name if shipped else "site")
    except _Wrong as wrong:
        raise ConfigError(f"{path.name}: {wrong}") from None


def _read(path: Path, source: str) -> Profile:
    try:
        top = yaml_of(read_given(path))
    except Unusable as error:
        if error.line:
            raise _Wrong(error.line, "", str(error)) from None
        raise ConfigError(f"{path.name}: {error}; check the path of the profile") from None
    if top is None:
        raise _Wrong(1, "", "empty; name a profile that it extends, or options")
    keys = _mapping(top, "", ("extends", "options", "rules"))
    parent = Profile("", frozenset())
    if "extends" in keys:
        value = _text(keys["extends"], "extends")
        if value not in NAMES or value == source:
            raise _Wrong(_line(keys["extends"]), "extends", f"no profile to extend; there are {', '.join(NAMES)}")
        parent = _load(value)
    options = set(parent.options)
    for node in _list(keys.get("options"), "options"):
        value = _text(node, "options")
        if value not in list(ProfileOption):
            raise _Wrong(
                _line(node), "options", f"{not_known(value, ProfileOption)}; there are {', '.join(ProfileOption)}"
            )
        options.add(ProfileOption(value))
    rules: list[SiteRule] = []
    seen: dict[tuple[str, str, str], int] = {}
    for number, node in enumerate(_list(keys.get("rules"), "rules"), 1):
        rule = _rule(node, f"rules[{number}]", f"{source}/{number}")
        for sop_class, modality in product(rule.sop_classes or ("",), rule.modalities or ("",)):
            first = seen.setdefault((rule.key, sop_class, modality), number)
            if first != number:
                raise _Wrong(
                    _line(node),
                    f"rules[{number}]",
                    f"selects for the same objects what rules[{first}] does; remove one",
                )
        rules.append(rule)
    return Profile(source, frozenset(options), (*parent.site, *rules))


_SELECTORS = ("tag", "keyword", "group", "vr", "creator")
_ACTIONS = {action.name.lower(): action for action in Action}


def _rule(node: yaml.Node, where: str, rule_id: str) -> SiteRule:
    keys = _mapping(node, where, (*_SELECTORS, "action", "modality", "sop_class"))
    if "action" not in keys:
        raise _Wrong(_line(node), where, f"has no action; there are {', '.join(_ACTIONS)}")
    name = _text(keys["action"], f"{where}.action")
    if name not in _ACTIONS:
        raise _Wrong(
            _line(keys["action"]), f"{where}.action", f"{not_known(name, _ACTIONS)}; there are {', '.join(_ACTIONS)}"
        )
    action = _ACTIONS[name]
    given = [key for key in _SELECTORS if key in keys]
    if given not in (["tag"], ["keyword"], ["group"], ["vr"], ["creator"], ["tag", "creator"]):
        raise _Wrong(_line(node), where, f"give one of {', '.join(_SELECTORS)} (tag may stand beside creator)")
    selector = given[-1]
    try:
        layer, key = _SELECT[selector](_text(keys[selector], f"{where}.{selector}"), Rule(action, rule_id))
        if given == ["tag", "creator"]:
            selector = "tag"
            layer, key = _private_tag(layer, _text(keys["tag"], f"{where}.tag"))
    except ValueError as error:
        raise _Wrong(_line(keys[selector]), f"{where}.{selector}", str(error)) from None
    return SiteRule(
        layer,
        key,
        tuple(_sop_class(item, f"{where}.sop_class") for item in _list(keys.get("sop_class"), f"{where}.sop_class")),
        tuple(_modality(item, f"{where}.modality") for item in _list(keys.get("modality"), f"{where}.modality")),
    )


def _by_tag(text: str, rule: Rule) -> tuple[Layer, str]:
    tag, mask = tables.parse_tag(text)
    if mask != 0xFFFFFFFF:
        return _by_mask(tag, mask, rule)
    if tag >> 16 & 1:
        raise ValueError("a private attribute; give its private creator as well (creator: …)")
    if tag >> 16 in (0, 2, 4):
        raise ValueError("groups 0000, 0002 and 0004 follow no profile; remove the rule")
    vrs = tables.dictionary().get(tag)
    if vrs is None and tag not in tables.attributes()[0]:
        raise ValueError("not in the dictionary of PS3.6: it is removed anyway; remove the rule")
    vr = vrs[0] if vrs else ""
    if vr and vr not in _FITS.get(rule.action, {vr}):
        raise ValueError(f"action {rule.action.name.lower()} does not fit its VR {vr}; {_fitting(vr)}")
    if tag in (_PATIENT_NAME, _PATIENT_ID):
        _refuse_person(rule)
    if rule.action is Action.CLEAN:
        row = tables.attributes()[0].get(tag)
        without = _basic_action(tag, vr, _unresolved(row.basic)) if row else Action.REMOVE
        # A sequence is cleaned item by item, which always leaves something.
        rule = replace(rule, otherwise=without if without is not Action.CLEAN else Action.EMPTY)
    return Layer({tag: rule}), f"{tag:08X}"


def _by_keyword(text: str, rule: Rule) -> tuple[Layer, str]:
    from pydicom.datadict import keyword_dict

    tag = keyword_dict.get(text)
    if tag is None:
        raise ValueError(f"{not_known(text, keyword_dict)}; give a keyword of PS3.6, or the tag")
    return _by_tag(f"({tag >> 16:04X},{tag & 0xFFFF:04X})", rule)


def _by_group(text: str, rule: Rule) -> tuple[Layer, str]:
    if not re.fullmatch(r"[0-9a-fA-FxX]{4}", text):
        raise ValueError("no group; write it as four hexadecimal digits, x for any, such as 60xx")
    return _by_mask(*tables.parse_tag(f"({text},xxxx)"), rule)


def _by_mask(tag: int, mask: int, rule: Rule) -> tuple[Layer, str]:
    if mask >> 16 & 1 and tag >> 16 & 1:
        raise ValueError("private attributes are selected by their private creator (creator: …)")
    if rule.action not in (Action.REMOVE, Action.EMPTY, Action.KEEP):
        raise ValueError("attributes of several VRs can be removed, emptied or kept; give them one by one for more")
    if any(person & mask == tag for person in (_PATIENT_NAME, _PATIENT_ID)):
        _refuse_person(rule)
    return Layer(masks={Mask(mask, tag): rule}), f"{tag:08X}&{mask:08X}"


def _by_vr(text: str, rule: Rule) -> tuple[Layer, str]:
    if text not in _defaults(frozenset()):
        raise ValueError(f"no VR; there are {', '.join(_defaults(frozenset()))}")
    if text not in _FITS.get(rule.action, {text}):
        raise ValueError(f"action {rule.action.name.lower()} does not fit; {_fitting(text)}")
    if text == "UN" and rule.action not in (Action.REMOVE, Action.EMPTY):
        raise ValueError("what is in an attribute of VR UN is not known; it can be removed or emptied")
    return Layer(defaults={text: rule}), text


def _by_creator(text: str, rule: Rule) -> tuple[Layer, str]:
    if not 0 < len(text) <= 64 or "\\" in text:
        raise ValueError("no private creator; give 1 to 64 characters, without a backslash")
    if rule.action not in (Action.REMOVE, Action.KEEP, Action.CLEAN):
        raise ValueError("private attributes can be removed, kept, or cleaned")
    return Layer(private={(text, 0): PrivateRule(rule)}), text


def _private_tag(layer: Layer, text: str) -> tuple[Layer, str]:
    tag, mask = tables.parse_tag(text)
    if mask != 0xFFFF00FF or not tag >> 16 & 1:
        raise ValueError("beside a creator, give a private tag with its block left open, such as (0029,xx10)")
    ((creator, _), rule) = next(iter(layer.private.items()))
    return Layer(private={(creator, tag): rule}), f"{creator}:{tag:08X}"


_SELECT = {"tag": _by_tag, "keyword": _by_keyword, "group": _by_group, "vr": _by_vr, "creator": _by_creator}


def _refuse_person(rule: Rule) -> None:
    if rule.action in (Action.KEEP, Action.CLEAN):
        raise ValueError("PatientName and PatientID are never kept; let the rule be pseudonym, or remove it")


def _fitting(vr: str) -> str:
    return "those that do are " + ", ".join(name for name, action in _ACTIONS.items() if vr in _FITS.get(action, {vr}))


def _sop_class(node: yaml.Node, key: str) -> str:
    from pydicom.uid import UID_dictionary

    text = _text(node, key)
    for uid, (_, kind, _, _, keyword) in UID_dictionary.items():
        if kind == "SOP Class" and text in (uid, keyword):
            return uid
    if re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", text) and len(text) <= 64:
        return text
    raise _Wrong(_line(node), key, "no SOP class; give its UID, or its keyword such as CTImageStorage")


def _modality(node: yaml.Node, key: str) -> str:
    text = _text(node, key)
    if not re.fullmatch(r"[A-Z0-9_ ]{1,16}", text):
        raise _Wrong(_line(node), key, "no modality; give a value of Modality (0008,0060) such as MR")
    return text


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _mapping(node: yaml.Node, where: str, known: tuple[str, ...]) -> dict[str, yaml.Node]:
    """Return the values of a mapping by key. Each key must be known and unique."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise _Wrong(_line(node), where, f"give keys and values; the keys are {', '.join(known)}")
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = str(key.value)
        if name not in known:
            raise _Wrong(_line(key), where, f"{not_known(name, known)}; there are {', '.join(known)}")
        if name in found:
            raise _Wrong(_line(key), f"{where}.{name}".lstrip("."), "there twice; remove one")
        found[name] = value
    return found


def _list(node: yaml.Node | None, key: str) -> list[yaml.Node]:
    """Return the items of a list. A single value is a list of one; a missing or empty key gives none."""
    import yaml

    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
        return []
    if isinstance(node, yaml.MappingNode):
        raise _Wrong(_line(node), key, "give a list: one item per line, each after a dash")
    return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]


def _text(node: yaml.Node, key: str) -> str:
    """Return a value as it is written: 0032 is a group and no number."""
    import yaml

    if not isinstance(node, yaml.ScalarNode) or not node.value:
        raise _Wrong(_line(node), key, "give one value")
    return str(node.value)
