"""Installation in containers: on the Pythons of Debian's releases, from a folder of wheels, behind a company's certificate."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.containers import CERTIFIED, LIMITS, TOOLS, base, checked, podman
from tests.runs import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.containers]

PYTHONS = {"bookworm": "3.11.2", "trixie": "3.13.", "testing": "3.14."}
USER = 1000
INSTALL_S, TEST_S = 3600, 7200
TRANSCRIBE = "--mode=infer --config.restore=models/an4 --audio=tests/clips/cen1-mtos-b.flac"
SERVER = """
import functools, http.server, ssl
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/wheels")
server = http.server.ThreadingHTTPServer(("", 8443), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/keys/mirror.pem", "/keys/mirror.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
AUTHORITY = """
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=Company' -addext keyUsage=keyCertSign,cRLSign \\
  -keyout company.key -out company.pem
openssl req -newkey rsa:2048 -nodes -subj /CN=mirror -keyout mirror.key -out mirror.csr
printf 'subjectAltName=DNS:mirror\\nextendedKeyUsage=serverAuth\\nauthorityKeyIdentifier=keyid' > names
openssl x509 -req -days 2 -in mirror.csr -CA company.pem -CAkey company.key -CAcreateserial -extfile names -out mirror.pem
"""


def download_commands() -> list[str]:
    """Return the commands of docs/install.md that fill a folder with wheels."""
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    block = text.partition("## Without network access")[2].partition("```bash\n")[2].partition("```")[0]
    commands = block.replace("\\\n", "").splitlines()
    assert [command for command in commands if command.startswith("python3 -m pip download")]
    return commands


def make_checkout(folder: Path) -> Path:
    """Copy the files of the repository into a new repository of the user of the containers."""
    folder.mkdir()
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    packed = subprocess.run(["tar", "--null", "-T", "-", "-cf", "-"], cwd=ROOT, input=names, capture_output=True)
    subprocess.run(["tar", "-xf", "-"], cwd=folder, input=packed.stdout, check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "--all"], [*identity, "commit", "-q", "-m", "a copy"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(folder)], check=True)
    return folder


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Return a copy of the repository."""
    return make_checkout(tmp_path / "checkout")


def shell(release: str, checkout: Path, script: str, *options: str, timeout_s: float = INSTALL_S) -> str:
    """Run commands in the checkout, in a container with tools for compiling, as a user without root; return the output."""
    user = (f"--user={USER}:{USER}", "--env=HOME=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")
    place = (f"--volume={checkout}:/checkout", "--workdir=/checkout")
    command = ("sh", "-ec", f"exec 2>&1\n{script}")
    return checked(
        *("run", "--rm", *LIMITS, *CERTIFIED, *user, *place, *options, base(TOOLS, release), *command),
        timeout_s=timeout_s,
    )


@pytest.mark.parametrize("release", PYTHONS)
def test_a_checkout_installs_trains_and_passes_its_tests_on_the_pythons_of_debian(release, checkout):
    """Took 25 to 60 minutes each on two cores in use."""
    network = "--network=host"
    output = shell(release, checkout, "python3 --version; make install", network)
    assert f"Python {PYTHONS[release]}" in output
    assert "native decoder: /checkout/decoding/native/_native." in output
    output = shell(release, checkout, f".venv/bin/python main.py {TRANSCRIBE}", "--network=none")
    assert "hypothesis: s m i t h" in output
    assert "decoding: native" in output
    assert "new sentences: WER" in shell(release, checkout, "make quickstart", network)
    output = shell(release, checkout, "make test", network, timeout_s=TEST_S)
    assert " failed" not in output


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """Return the folder of wheels of docs/install.md, and in it the wheel of this project."""
    checkout = make_checkout(tmp_path_factory.mktemp("online") / "checkout")
    build = "python3 -m venv /tmp/venv; /tmp/venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir=wheels ."
    shell("trixie", checkout, "\n".join([*download_commands(), build]), "--network=host")
    assert list((checkout / "wheels").glob("ds2_jax-*.whl"))
    return checkout / "wheels"


def test_a_checkout_installs_from_a_folder_of_wheels_without_network_and_root(wheels, checkout):
    options = (
        "--network=none",
        f"--volume={wheels}:/wheels:ro",
        "--env=PIP_NO_INDEX=1",
        "--env=PIP_FIND_LINKS=/wheels",
    )
    output = shell("trixie", checkout, f"make install\n.venv/bin/python main.py {TRANSCRIBE}", *options)
    assert "native decoder: /checkout/decoding/native/_native." in output
    assert "hypothesis: s m i t h" in output
    assert "decoding: native" in output
    source = ".venv/bin/python -c 'from decoding.lm import kenlm_source; print(kenlm_source.fetch())'"
    assert "build/kenlm-" in shell("trixie", checkout, source, *options)


def test_the_wheel_installs_without_an_index(wheels, checkout):
    script = (
        "python3 -m venv /tmp/venv\n"
        "/tmp/venv/bin/pip install --quiet --no-index --find-links=/wheels 'ds2-jax[train,live]'\n"
        f"cd /tmp && /tmp/venv/bin/ds2 {TRANSCRIBE.replace('tests', '/checkout/tests')}"
    )
    output = shell("trixie", checkout, script, "--network=none", f"--volume={wheels}:/wheels:ro")
    assert "hypothesis: s m i t h" in output


@pytest.fixture
def mirror(wheels, tmp_path):
    """Serve the folder of wheels over HTTPS, with a certificate of a company; return the options to reach and trust it."""
    keys = tmp_path / "keys"
    keys.mkdir()
    subprocess.run(["sh", "-ec", AUTHORITY], cwd=keys, check=True, capture_output=True)
    network = f"ds2-test-{tmp_path.name}"
    checked("network", "create", "--internal", network)
    serve = ("--volume", f"{wheels}:/wheels:ro", "--volume", f"{keys}:/keys:ro", base(TOOLS), "python3", "-c", SERVER)
    server = checked("run", "--detach", f"--network={network}", "--network-alias=mirror", *LIMITS, *serve)
    yield (
        *(f"--network={network}", f"--volume={keys}/company.pem:/company.pem:ro"),
        *("--env=PIP_NO_INDEX=1", "--env=PIP_FIND_LINKS=https://mirror:8443/"),
    )
    podman("rm", "--force", "--time=0", server)
    podman("network", "rm", "--force", network)


def test_a_checkout_installs_behind_the_certificate_of_a_company(mirror, checkout):
    trusted = ("--env=PIP_CERT=/company.pem", "--env=SSL_CERT_FILE=/company.pem")
    output = shell("trixie", checkout, f"make install\n.venv/bin/python main.py {TRANSCRIBE}", *mirror, *trusted)
    assert "native decoder: /checkout/decoding/native/_native." in output
    assert "hypothesis: s m i t h" in output
    page = "from input_pipeline.storage.download import read_page; print(read_page('https://mirror:8443/'))"
    assert "ds2_jax-" in shell("trixie", checkout, f'.venv/bin/python -c "{page}"', *mirror, *trusted)
    shutil.rmtree(checkout / ".venv")
    output = shell("trixie", checkout, "make install || true", *mirror)
    assert "CERTIFICATE_VERIFY_FAILED" in output or "certificate verify failed" in output
