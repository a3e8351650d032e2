"""The copy of KenLM's sources is what its README says: complete, unchanged, and with its licences."""

import hashlib
import io
import re
import subprocess
import sys
import tarfile

import pytest

from decoding.lm.kenlm_source import VERSION
from decoding.native.build import BUILD, KENLM, sources
from tests.runs import ROOT

ARCHIVE = BUILD / f"kenlm-{VERSION}.tar.gz"
README = (KENLM.parent / "README.md").read_text(encoding="utf-8")


def is_kept(name: str) -> bool:
    """Tell whether a file of the archive belongs to the copy, as the README says."""
    kept = r"LICENSE|COPYING\S*|(lm|util)/[^/]+\.(cc|hh)|util/double-conversion/([^/]+\.(cc|h)|LICENSE)"
    return re.fullmatch(kept, name) is not None and not name.endswith(("_test.cc", "_main.cc"))


@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"build/{ARCHIVE.name} is not here; make kenlm downloads it")
def test_the_copy_is_the_archives():
    assert hashlib.sha256(ARCHIVE.read_bytes()).hexdigest() in README
    with tarfile.open(ARCHIVE) as archive:
        expected = {}
        for member in archive:
            if member.isfile() and is_kept(name := member.name.partition("/")[2]):
                expected[name] = (archive.extractfile(member) or io.BytesIO()).read()
    assert {
        path.relative_to(KENLM).as_posix(): path.read_bytes() for path in KENLM.rglob("*") if path.is_file()
    } == expected


def test_version_and_licences_are_named():
    assert f"KenLM](https://kheafield.com/code/kenlm/) {VERSION} " in README
    assert f"`kenlm-{VERSION}.tar.gz`" in README
    assert {"LICENSE", "COPYING", "COPYING.3", "COPYING.LESSER.3"} <= {path.name for path in KENLM.iterdir()}


def test_tests_and_programs_are_not_compiled():
    assert len(sources()) > 40
    assert not [path for path in sources() if path.stem.endswith(("_test", "_main"))]


def test_a_compiler_that_does_not_exist_is_named():
    program = "import os, sys; os.environ['CXX'] = 'none -O2'; from decoding.native.build import main; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "no C++ compiler was found (CXX=none -O2)" in line
    optional = program.replace("sys.exit", "sys.argv.append('--optional'); sys.exit")
    assert subprocess.run([sys.executable, "-c", optional], cwd=ROOT, capture_output=True).returncode == 0
