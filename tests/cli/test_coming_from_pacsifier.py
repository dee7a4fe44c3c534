"""Scripts of PACSIFIER's users still work: the lines of its manual, word for word, except the path of the programs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import ssl
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydicom import dcmread

from pacsifier_ops.cli.pacsifier import main
from pacsifier_ops.embedded.authority import Authority
from pacsifier_ops.embedded.deid_server import DeidServer
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from tests.support import old_pacsifier
from tests.support.command import arguments
from tests.support.embedded import config_of, series, serving
from tests.support.places import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
#: A Python without this package.
PYTHON = f"{sys.base_prefix}/bin/python3"
SCRIPTS = [REPO / name for name in PROJECT["tool"]["setuptools"]["script-files"]]

#: Lines of the manual: https://github.com/TranslationalML/pacsifier, README.md of version 1.0.
MANUAL = """
python pacsifier.py --save --info --queryfile my_query.csv --config my_config.json --out_directory data
python get_pseudonyms.py --config my_config_deid.json --queryfile my_query.csv --project_name "My Project" \
 --out_directory ./ {}
python anonymize_Dicoms.py --in_folder data --out_folder anonymized --new_ids "new_ids_My Project.json" \
 --delete_identifiable --fuzz_acq_dates --remove_private_tags --keep_patient_dir_names
python create_DICOMDIR.py --in_folder anonymized --out_folder out-path
python move_dumps.py --data_folder data --info_folder path-to-new-folder
python add_Karnak_tags.py --in_folder data --new_ids "new_ids_My Project.json" --day_shift "day_shift_My Project.json" \
 --album_name "My Project"
python pacsifier.py --move --queryfile my_query.csv --config my_config.json
python pacsifier.py --upload --config my_other_config.json
"""


def receiving(pacs: EmbeddedPacs, **changed: object) -> str:
    """A config.json with a receiver."""
    port = pacs.destinations["PACSIFIER"][1]
    return json.dumps(config_of(pacs, **{"move_AET": "MOVE", "move_port": port, "batch_size": 30} | changed))


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Return the folder in which scripts and commands are installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for script in SCRIPTS:
        shutil.copy(script, folder)
    for name in PROJECT["project"]["scripts"]:
        (folder / name).symlink_to(Path(sys.executable).with_name(name))
    return folder


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run a command in a folder, and return its output; it must succeed."""
    env = {**os.environ, "PYTHONPATH": str(REPO), **environment}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_script_is_installed_and_calls_a_command(programs: Path, tmp_path: Path) -> None:
    assert sorted(SCRIPTS) == sorted((REPO / "scripts").glob("*.py"))
    for name in (script.name for script in SCRIPTS):
        (tmp_path / name).symlink_to(programs / name)  # as in an old folder of a user
        said = run([PYTHON, name, "--help"], tmp_path)
        assert said.startswith("usage: pacsifier")
        image = ["sh", str(REPO / "docker" / "entrypoint.sh"), name, "--help"]
        assert run(image, tmp_path, PATH=f"{programs}:{os.environ['PATH']}") == said


@pytest.mark.archive
@pytest.mark.slow
def test_the_lines_of_the_manual(programs: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir(mode=0o755)
    images = [*series("123421", n_images=2, StudyDate="20150512"), *series("45322", series_number=2)]
    (tmp_path / "authority").mkdir()
    authority = Authority(tmp_path / "authority", "ca")
    tls = authority.issue("server", "127.0.0.1").context(ssl.Purpose.CLIENT_AUTH)
    away = EmbeddedPacs(aet="MOVE", folder=tmp_path / "away")
    with serving(images, tmp_path / "pacs") as pacs, away as other, DeidServer(tls, "t") as ids:
        pacs.destinations["MOVE"] = (other.host, other.port)
        (base / "my_config.json").write_text(receiving(pacs))
        (base / "my_other_config.json").write_text(receiving(pacs, port=other.port, server_AET="MOVE"))
        (base / "my_config_deid.json").write_text(json.dumps({"deid_URL": ids.url, "deid_token": ids.token}))
        (base / "my_query.csv").write_text("StudyDate,PatientID\n20150512,123421\n,45322\n20150512,\n")
        for line in MANUAL.format(f"--ca {authority.path}").strip().splitlines():
            _, script, *arguments = shlex.split(line)
            run([PYTHON, str(programs / script), *arguments], base, PACSIFIER_STATE_ROOT=str(tmp_path / "state"))
    people = json.loads((base / "new_ids_My Project.json").read_text())
    assert people.keys() == {"123421", "45322"}
    assert stat.S_IMODE(base.stat().st_mode) == 0o755
    made = [dcmread(path) for path in base.glob("anonymized/sub-*/ses-*/*/*.dcm")]
    assert {image.PatientID for image in made} == set(people.values()) and len(made) == 3
    assert len(list((base / "path-to-new-folder").glob("sub-*/ses-*/*.csv"))) == 2
    assert not list((base / "data").glob("sub-*/**/*.csv"))
    assert (base / "out-path" / "DICOMDIR").is_file()
    tagged = [dcmread(path) for path in base.glob("data/sub-*/ses-*/*/*.dcm")]
    assert len(tagged) == 3 and all(image[0x000B, 0x1002].value == "My Project" for image in tagged)
    assert len(other.stored) == 3


#: Descriptions and numbers for which PACSIFIER and the default here give different folder names.
HOSTILE = ["t1 mprage (sag)", "Schädel", "A/B", "O'Neil [a] b", "a[b", "", "x" * 64, "-.-"]


def listed(out: Path) -> dict[str, str]:
    """Return the files of an output folder, and the text of dumps, without blanks and non-ASCII letters."""
    found = {str(path.relative_to(out)): path for path in out.glob("sub-*/**/*") if path.is_file()}
    plain = str.maketrans("", "", " ")
    return {
        name: path.read_text().translate(plain).encode("ascii", "ignore").decode() if name.endswith(".csv") else ""
        for name, path in found.items()
    }


@pytest.mark.archive
@pytest.mark.peers
@pytest.mark.slow
def test_names_and_dumps_are_those_of_pacsifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folder by folder and file by file, against version 1.0.0."""
    programs = old_pacsifier.installed()
    images = [
        image
        for number, description in enumerate(HOSTILE, 1)
        for image in series("PT01", n_images=2, series_number=number, SeriesDescription=description)
    ]
    images += series("A-1", modality="MR", StudyTime="080000.5", SeriesDescription="Loc 2")
    images += series("A.2", modality="US", StudyTime="", SeriesDescription="Echo")
    table, config = tmp_path / "query.csv", tmp_path / "config.json"
    table.write_text("PatientID\nPT01\nA-1\nA.2\n")
    with serving(images, tmp_path / "pacs") as pacs:
        config.write_text(receiving(pacs))
        run([str(programs / "pacsifier"), *arguments(config, table, tmp_path / "old", "--save", "--info")], tmp_path)
        flags = ("--save", "--info", "--names", "pacsifier")
        assert main(arguments(config, table, tmp_path / "new", *flags)) == 0
        old, new = listed(tmp_path / "old"), listed(tmp_path / "new")
        assert new.keys() == old.keys() and len(old) == 28
        for name in old:
            # PACSIFIER's dumps lose text behind a bracket, and all slashes.
            assert new[name] == old[name] or re.search("/0000[1-8]-", name), name
            assert new[name].partition("\n")[0] == old[name].partition("\n")[0]

        capsys.readouterr()
        lost = next((tmp_path / "new").glob("sub-PT01/**/CT.*"))
        lost.unlink()
        sent = len(pacs.sent)
        assert main(arguments(config, table, tmp_path / "new", "--save")) == 0  # keeps its names, and heals
        assert listed(tmp_path / "new").keys() == old.keys() and len(pacs.sent) == sent + 1
        assert "17 were there, 1 received" in capsys.readouterr().out
        assert main(arguments(config, table, tmp_path / "new", "--save", "--names", "uid")) == 2
        assert "begun with names: pacsifier, and keeps them" in capsys.readouterr().err
        assert main(arguments(config, table, tmp_path / "uid", "--save")) == 0
        assert main(arguments(config, table, tmp_path / "uid", "--save", "--names", "pacsifier")) == 2
        assert len(list((tmp_path / "uid").glob("sub-*/**/*.dcm"))) == 18
