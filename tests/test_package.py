"""The installed package: its contents, and that it works outside this repository."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import ds2_jax
from tests.runs import ROOT
from tests.test_documented_commands import DOCUMENTED, check

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENTS = ROOT / "requirements"
LINE = re.compile(r"(?P<requirement>[^#]+?)(?P<reason> +# .+)?$")
TRANSCRIPT = "n e l s o n"  # of CLIP
CLIP = ROOT / "tests" / "clips" / "cen1-fjdn-b.flac"
MANIFEST = CLIP.parent / "manifest.jsonl"
PIP_S, RUN_S = 900, 300  # an installation downloads half a gigabyte


def requirements_in(name: str) -> list[str]:
    """Return the requirements of a file; each must have a comment that says what it is for."""
    requirements, above = [], ""
    for line in (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            parts = LINE.match(line)
            assert parts, line
            assert parts["reason"] or above, f"requirements/{name}.txt: add a comment that says what {line} is for"
            requirements.append(parts["requirement"])
        above = line if line.startswith("#") else ""
    return requirements


def test_each_version_is_given_once_and_every_requirements_file_is_used():
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]
    extras = dynamic["optional-dependencies"]
    assert dynamic["dependencies"]["file"] == ["requirements/base.txt"]
    assert all(extras[name]["file"] == [f"requirements/{name}.txt"] for name in extras)
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    included = [
        line.removeprefix("-r requirements/").removesuffix(".txt") for line in lines if not line.startswith("#")
    ]
    assert included == ["base", "train", "lm", "live", "onnx", "hub", "build"]
    assert {path.stem for path in REQUIREMENTS.iterdir()} == {"base", "build", "cpu", *extras}
    requirements = [requirement for path in REQUIREMENTS.iterdir() for requirement in requirements_in(path.stem)]
    packages = [re.split(r"[<>=]", requirement)[0] for requirement in requirements if re.search(r"[<>=]", requirement)]
    assert len(set(packages)) == len(packages)
    assert set(requirements_in("build")) < set(PROJECT["build-system"]["requires"])


def test_the_version_in_a_checkout_is_that_of_the_project():
    assert ds2_jax.__version__ == PROJECT["project"]["version"]
    with pytest.raises(AttributeError, match="no attribute 'versoin'"):
        ds2_jax.versoin  # noqa: B018


class Environment:
    """A new virtual environment; its programs run in a project folder that has its own configs/, models/ and main.py."""

    def __init__(self, folder: Path):
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / "bin"
        self.folder = folder / "project"
        self.variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS")}
        for path, content in {
            "configs/__init__.py": "",
            "configs/base.py": "raise SystemExit('a foreign recipe was read')",
            "configs/mine.py": "NAME = 'mine'",
            "models/an4/config.json": "{}",
            "main.py": "import configs.mine, ds2_jax.configs.base\nprint(configs.mine.NAME)",
        }.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(content)

    def pip(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        """Run `pip install`, which must succeed."""
        command = [str(self.bin / "python"), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
        result = subprocess.run(
            command, env=self.variables | variables, cwd="/", capture_output=True, text=True, timeout=PIP_S
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
        return result

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess:
        """Run one of the environment's programs in the project folder."""
        command = [str(self.bin / program), *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=RUN_S
        )

    def transcribe(self) -> str:
        """Transcribe a clip with the released model and return the log."""
        result = self.run("ds2", "--mode=infer", "--config.restore=an4", f"--audio={CLIP}")
        assert result.returncode == 0, result.stderr
        assert f"\n  hypothesis: {TRANSCRIPT}\n" in result.stdout
        assert re.search(r"^decoding: \w+, \S+/ds2_jax/models/an4/lm\.bin,", result.stderr, re.MULTILINE)
        return result.stderr


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Copy the repository without files ignored by git, such as build results."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    folder = tmp_path_factory.mktemp("sources")
    present = b"\0".join(name for name in names if name and os.path.lexists(os.path.join(os.fsencode(ROOT), name)))
    archive = subprocess.run(["tar", "--null", "-T", "-", "-cf", "-"], cwd=ROOT, input=present, capture_output=True)
    subprocess.run(["tar", "-xf", "-"], cwd=folder, input=archive.stdout, check=True)
    return folder


@pytest.fixture(scope="module")
def distributions(sources, tmp_path_factory) -> dict[str, Path]:
    """Build the source distribution and from it the wheel; return their paths by suffix."""
    folder = tmp_path_factory.mktemp("build")
    builder = Environment(folder)
    builder.pip("build")
    result = builder.run("python", "-m", "build", "--outdir", str(folder / "dist"), str(sources))
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    return {path.suffix: path for path in (folder / "dist").iterdir()}


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory) -> Environment:
    """Install the wheel with the base dependencies only."""
    environment = Environment(tmp_path_factory.mktemp("installed"))
    environment.pip(str(distributions[".whl"]))
    return environment


@pytest.mark.slow
def test_the_wheel_contains_the_package_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions[".whl"]) as wheel:
        names = wheel.namelist()
        [metadata] = [wheel.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    version = PROJECT["project"]["version"]
    assert {name.split("/")[0] for name in names} == {
        "ds2_jax", "input_pipeline", "decoding", f"ds2_jax-{version}.dist-info"
    }  # fmt: skip
    assert len([name for name in names if name.startswith("decoding/native/_native.")]) == 1
    assert {f"{room}/py.typed" for room in ("ds2_jax", "input_pipeline", "decoding")} <= set(names)
    configs = [path for path in (ROOT / "configs").iterdir() if path.is_file()]
    assert {f"ds2_jax/configs/{path.name}" for path in configs} <= set(names)
    model = [f"ds2_jax/models/an4/{path.name}" for path in (ROOT / "models" / "an4").iterdir()]
    assert sorted(name for name in names if "/models/" in name) == sorted(model)
    assert not [name for name in names if name.endswith((".cc", ".hh", ".so.tmp")) or "third_party/README" in name]
    assert {"LICENSE", "COPYING"} <= {Path(name).name for name in names if "/licenses/" in name}
    assert f"\nVersion: {version}\n" in metadata
    required = re.findall(r"^Requires-Dist: ([\w-]+)", metadata, re.MULTILINE)
    assert required[: len(requirements_in("base"))] == [re.split(r"[<>=;]", r)[0] for r in requirements_in("base")]


@pytest.mark.slow
def test_the_source_distribution_contains_what_the_build_needs(distributions):
    with tarfile.open(distributions[".gz"]) as archive:
        members = {member.name.partition("/")[2]: member for member in archive}
    assert {"decoding/native/third_party/kenlm/lm/model.cc", "requirements/base.txt", "setup.py"} <= set(members)
    assert members["ds2_jax/configs/tiny.py"].isfile()
    assert {name.split("/")[2] for name in members if name.startswith("ds2_jax/models/")} == {"an4"}
    assert not [name for name in members if name.endswith(".so") or name.startswith("tests")]
    assert not [name for name, member in members.items() if member.issym()]


@pytest.mark.slow
def test_an_installed_wheel_transcribes_with_the_native_decoder_from_any_folder(installed):
    assert "decoding: native, " in installed.transcribe()


@pytest.mark.slow
def test_an_installed_wheel_and_a_project_with_the_same_names_do_not_interfere(installed):
    result = installed.run("python", "main.py")
    assert (result.stdout, result.stderr) == ("mine\n", "")
    result = installed.run("ds2")
    assert result.returncode == 0
    assert "  ds2 --config=an4 --workdir=runs/an4\n" in result.stdout
    code = "import ds2_jax; print(ds2_jax.__version__)"
    assert installed.run("python", "-c", code).stdout == f"{PROJECT['project']['version']}\n"
    code = "from input_pipeline.corpora import next_step; print(next_step.train('configs/an4.py', next_step.Path('a')))"
    assert installed.run("python", "-c", code).stdout.startswith("ds2 --config=configs/an4.py ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("input_pipeline.manifest", "check", str(MANIFEST)),
        ("input_pipeline.prepare", "--help"),
        ("input_pipeline.stats", "--help"),
        ("input_pipeline.text", "--help"),
        ("decoding.lm", "--help"),
        ("decoding.lm", "download", "--list"),
        ("ds2_jax.cli.check_device",),
    ],
    ids=" ".join,
)
def test_the_modules_of_an_installed_wheel_run(arguments, installed):
    result = installed.run("python", "-m", *arguments)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in DOCUMENTED if not c[0].startswith("benchmarks")], ids=" ".join)
def test_documented_commands_can_be_typed_with_an_installed_wheel(command, installed):
    check(command, str(installed.bin / "python"), cwd=installed.folder, env=installed.variables)


@pytest.mark.slow
def test_a_missing_extra_is_reported_in_one_line(installed):
    result = installed.run("ds2", f"--config.data.train={MANIFEST}", "--workdir=run")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "pip install 'ds2-jax[train]'" in line
    for name in ("onnx", "stablehlo"):
        result = installed.run("ds2", "--mode=export", f"--format={name}", "--config.restore=an4", "--output=exported")
        assert result.returncode == 1
        [line] = result.stderr.splitlines()
        assert "pip install 'ds2-jax[onnx]'" in line
    result = installed.run("python", "-m", "input_pipeline.pack", str(MANIFEST), "--output=packed")
    assert result.returncode == 1
    assert "pip install 'ds2-jax[train]'" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_extra_for_exports_is_all_that_they_need(distributions, tmp_path):
    environment = Environment(tmp_path)
    environment.pip(f"{distributions['.whl']}[onnx]")
    for name in ("onnx", "stablehlo"):
        result = environment.run(
            "ds2", "--mode=export", f"--format={name}", "--config.restore=an4", "--output=exported"
        )
        assert result.returncode == 0, result.stderr
    assert {"model.onnx", "model.stablehlo"} <= {path.name for path in (environment.folder / "exported").iterdir()}


@pytest.mark.slow
def test_the_commit_of_a_surrounding_project_is_not_recorded(installed):
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=installed.bin.parents[1], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "--message=a project that contains its environment")
    code = "from ds2_jax.artifacts.run_record import commit; print(repr(commit()))"
    assert installed.run("python", "-c", code).stdout == "''\n"


@pytest.mark.slow
def test_sources_install_without_a_compiler_and_train_from_another_folder(sources, distributions, tmp_path):
    environment = Environment(tmp_path)
    options = ["--verbose", "--no-deps", "--no-cache-dir"]  # pip caches the wheels that it builds, by source path
    log = environment.pip(*options, str(distributions[".gz"]), PATH=str(environment.bin)).stderr
    assert len(re.findall(r"the native decoder is left out, .*: no C\+\+ compiler was found", log)) == 1
    environment.pip("--requirement", str(sources / "requirements" / "base.txt"))
    log = environment.transcribe()
    assert "the native decoder is not built; ctc_beam_decoder decodes instead" in log
    assert "decoding: ctc_beam_decoder, " in log

    left_behind = sources / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "ds2_jax"
    left_behind.mkdir(parents=True)
    (left_behind / "renamed_since.py").write_text("")
    environment.pip(f"{sources}[train]")
    assert not list(environment.bin.parent.rglob("renamed_since.py"))
    assert "decoding: native, " in environment.transcribe()
    sets = [f"--config.data.{name}={MANIFEST}" for name in ("train", "dev", "test")]
    size = [
        "--config.batch.size=4",
        "--config.batch.buckets=1",
        "--config.train.epochs=1",
        "--config.train.max_steps=3",
    ]
    augment = "--config.augment.file=configs/augmentation.json"  # part of the package
    result = environment.run("ds2", "--config=tiny", "--workdir=run", *sets, *size, augment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["utterances"] == len(MANIFEST.read_text().splitlines())
    record = json.loads((environment.folder / "run" / "run.json").read_text())[-1]
    assert record["commit"] == ""
    assert record["versions"]["ds2-jax"] == PROJECT["project"]["version"]
    assert sys.version.startswith(record["versions"]["python"])
