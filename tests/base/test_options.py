"""Options: each is defined once, as a field of a request, and stands in form, command, file and request."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import ConfigError, PathRefused
from pacsifier_ops.base.options import (
    IN_FILE,
    IN_FORM,
    OWNER,
    Flag,
    Section,
    any_file,
    option,
    options,
    params_of,
    request_of,
    result_folder,
    same,
    source_folder,
    standing,
)
from pacsifier_ops.cli.options import add_flags, request_from
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.extract.run import Request
from pacsifier_ops.query.options import Refused, read_options
from pacsifier_ops.state.tree import NAMINGS
from pacsifier_ops.study.project import Study, stages_for


@dataclass(frozen=True)
class Bread:
    """A request with an option of each kind."""

    flour: Path = option("Flour", "Where it is.", form="in", path=source_folder, flag=Flag("where it is", "-f"))
    oven: Path = option(
        "Oven", "Where it goes.", form=None, path=result_folder, like="flour", flag=Flag("where it goes")
    )
    crust: str = option(
        "Crust",
        "How it is.",
        Section.HOW,
        default="thin",
        choices={"thin": "like paper", "thick": "like bark"},
        flag=Flag("how it is", extra=True),
    )
    loaves: int | None = option("Loaves", "How many.", Section.HOW, default=None, most=9, flag=Flag("how many"))
    hours: float = option("Hours", "How long.", Section.HOW, default=2.5, least=0)
    salted: bool = option("Salted", "With salt.", default=True, flag=Flag("without salt", name="no_salt", off=True))
    seeds: tuple[str, ...] = option("Seeds", "Which.", default=(), choices=dict.fromkeys(("rye", "oat"), ""))
    recipe: str = option("Recipe", "A file.", default="", path=any_file, after="flour", flag=Flag("a file"))
    baker: str = ""


@dataclass(frozen=True)
class Breakfast:
    """A request with an option of another one."""

    crust: str = same(Bread, "crust", "thick", help="Of the bread.", section=Section.WHAT)
    loaves: int = same(Bread, "loaves")


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", str(tmp_path / "state"))
    (tmp_path / "data" / "studies" / "p").mkdir(parents=True)


def test_a_request_is_made_of_params(tmp_path: Path) -> None:
    folder, recipe = tmp_path / "data" / "a", str(tmp_path / "data" / "r.txt")
    params = {"flour": "a", "oven": None, "recipe": "r.txt", "hours": 1, "seeds": ["rye"], "salted": False}
    made = request_of(Bread, params, baker="anna")
    assert made == Bread(folder, folder, hours=1, salted=False, seeds=("rye",), recipe=recipe, baker="anna")


WRONG = {
    "nothing": ({"flour": ""}, "flour is empty; give a path below the data root"),
    "outside": ({"flour": "../a"}, "flour"),
    "somebody else's": ({"flour": "a", "oven": "studies/p"}, "oven lies in studies/"),
    "no such choice": ({"flour": "a", "crust": "SECRET"}, "crust: none of thin, thick"),
    "no number": ({"flour": "a", "loaves": "SECRET"}, "loaves: not a whole number above 0"),
    "too many": ({"flour": "a", "loaves": 10}, "loaves: above 9"),
    "no time": ({"flour": "a", "hours": 0.0}, "hours: not a whole number above 0"),
    "neither": ({"flour": "a", "salted": "SECRET"}, "salted: neither true nor false"),
    "no list": ({"flour": "a", "seeds": "rye"}, "seeds: not a list"),
}


@pytest.mark.parametrize(("params", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_is_of_the_wrong_kind_is_refused_by_its_name_and_without_its_value(
    params: dict[str, Any], reason: str
) -> None:
    with pytest.raises((ConfigError, PathRefused), match=reason) as refused:
        request_of(Bread, params)
    assert "SECRET" not in str(refused.value)


def test_a_study_may_write_to_its_own_folder() -> None:
    assert request_of(Bread, {"flour": "studies/p/x", OWNER: "studies/p"}).oven.name == "x"


def parsed(*arguments: str) -> Bread:
    parser = argparse.ArgumentParser()
    add_flags(parser, parser.add_argument_group("more"), Bread)
    return request_from(Bread, parser.parse_args(arguments), baker="anna")


def test_a_request_is_made_of_flags() -> None:
    here = Path.cwd()
    assert parsed("-f", "a") == Bread(here / "a", here / "a", baker="anna")
    made = parsed("--flour", "a", "--oven", "b", "--crust", "thick", "--loaves", "9", "--no_salt", "--recipe", "r.txt")
    assert made == Bread(here / "a", here / "b", "thick", 9, salted=False, recipe=str(here / "r.txt"), baker="anna")


@pytest.mark.parametrize("wrong", [[], ["-f", "a", "--loaves", "10"], ["-f", "a", "--crust", "burnt"]])
def test_flags_have_the_bounds_of_their_options(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed(*wrong)
    assert "usage" in capsys.readouterr().err


def test_a_file_has_the_bounds_of_its_options(tmp_path: Path) -> None:
    path = tmp_path / "bread.yaml"
    path.write_text("crust: thick\nloaves: 3\nsalted: no\nseeds: [oat]\n")
    assert read_options(path, standing(Bread, IN_FILE), lambda given: ()) == {
        "crust": "thick",
        "loaves": 3,
        "salted": False,
        "seeds": ("oat",),
    }
    path.write_text("crust: burnt\nloaves: 10\nsalted: maybe\nseeds: oat\nbaker: anna\n")
    with pytest.raises(Refused) as refused:
        read_options(path, standing(Bread, IN_FILE), lambda given: ())
    assert len(refused.value.reasons) == 5


def test_params_are_those_of_the_form_but_for_what_is_said() -> None:
    said = {"crust": "thick", "baker": "anna", "recipe": ""}
    assert params_of(Bread, said) == {
        "flour": "in",
        "recipe": None,
        "oven": None,
        "crust": "thick",
        "loaves": None,
        "hours": 2.5,
        "salted": True,
        "seeds": (),
    }


def test_an_option_of_another_request_is_the_same_but_for_what_is_given() -> None:
    mine, theirs = options(Breakfast)["crust"], options(Bread)["crust"]
    assert (mine.title, mine.choices) == (theirs.title, theirs.choices)
    assert (mine.help, mine.section, mine.default, mine.flag) == ("Of the bread.", Section.WHAT, "thick", None)
    assert Breakfast() == Breakfast("thick", 0)


def test_a_stage_is_asked_for_what_the_study_says() -> None:
    said: dict[str, Any] = {
        "delete_identifiable": False,
        "profile": "research",
        "identity": "folder",
        "devices": "d.json",
    }
    asked_for = stages_for(Study(queryfile="t.csv", **said), "run-12345678")["anonymize"] or {}
    assert {name: asked_for[name] for name in said} == said
    assert asked_for.keys() == standing(DeidRequest, IN_FORM).keys()


def test_names_of_files_are_those_that_trees_know() -> None:
    assert [*options(Request)["names"].choices] == [*NAMINGS]
