"""Run a real Slurm cluster of two nodes on this machine for tests, with its configuration, key and daemons in one folder.

Needs root and Debian's slurm-wlm and munge (`make test-slurm` installs them). While it runs, /etc/hosts contains the names
n1 and n2. A job in partition `high` preempts one in `low`, which receives SIGTERM and is requeued.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.runs import ROOT

HOSTS = Path("/etc/hosts")
MARK = "  # added by a test of DS2-JAX, which removes it"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
GRACE_S = 60  # between a preempted job's SIGTERM and SIGKILL
CONFIGURATION = """
ClusterName=ds2test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
MinJobAge=600
KillWait=10
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime={grace} State=UP
PartitionName=high Nodes=n1,n2 PriorityTier=2 PreemptMode=OFF State=UP
"""


def why_not() -> str:
    """Return the reason why the cluster cannot run on this machine, or '' if it can."""
    if os.geteuid() != 0:
        return "a local Slurm cluster needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)" if missing else ""


class SlurmCluster:
    """A running cluster and its commands."""

    def __init__(self, folder: Path):
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "XLA"))}
        self.environment = kept | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        """Run a command in the repository's folder and return its output. Raises RuntimeError if it fails."""
        variables = self.environment | environment
        result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)
        if check and result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.stderr or result.stdout}")
        return result.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """Return the fields of `scontrol show job`: JobState, Restarts, ExitCode, ..."""
        words = self.run("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, *states: str, timeout_s: float = 240) -> dict[str, str]:
        """Wait until a job is in one of these states and return its fields. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while (job := self.job(number))["JobState"] not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {number} is {job['JobState']}, not {states}, after {timeout_s} s: {job}")
            time.sleep(0.2)
        return job

    def start_daemons(self, stack: contextlib.ExitStack) -> None:
        """Start munged, slurmctld and two slurmd in the foreground; they end with the stack."""
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        munge = [f"--{name}={self.folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        self._start(stack, "munged", "--foreground", "--force", f"--key-file={key}", *munge)
        _wait_for(lambda: (self.folder / "munge.socket").exists(), "munged", self.folder)
        self._start(stack, "slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            self._start(stack, "slurmd", "-D", "-N", node)
        _wait_for(
            lambda: self.run("sinfo", "-h", "-t", "idle", "-p", "low", "-o", "%D", check=False) == "2",
            "both nodes",
            self.folder,
        )

    def _start(self, stack: contextlib.ExitStack, *command: str) -> None:
        number = len(list(self.folder.glob("*.out")))
        log = stack.enter_context((self.folder / f"{number}-{command[0]}.out").open("w"))
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        stack.callback(_end, process)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(condition, what: str, folder: Path, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in sorted(folder.glob("*.out")))
            raise TimeoutError(f"{what} did not start within {timeout_s} s:\n{logs}")
        time.sleep(0.1)


@contextlib.contextmanager
def names_in_hosts(*names: str) -> Iterator[None]:
    """Make names refer to this machine by /etc/hosts, which is restored at exit, or after a killed test by the next one."""
    before = "".join(line for line in HOSTS.read_text().splitlines(keepends=True) if MARK not in line)
    HOSTS.write_text(f"127.0.0.1 {' '.join(names)}{MARK}\n{before}")  # overwritten in place: it may be a mount
    try:
        yield
    finally:
        HOSTS.write_text(before)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Run a cluster with its files in `folder`; at exit, cancel its jobs and stop its daemons."""
    ports, host = _free_ports(3), socket.gethostname().split(".")[0]
    text = CONFIGURATION.format(folder=folder, ports=ports, host=host, grace=GRACE_S)
    (folder / "slurm.conf").write_text(text)
    (folder / "state").mkdir()
    for node in ("n1", "n2"):
        (folder / f"spool-{node}").mkdir()
    with contextlib.ExitStack() as stack:
        stack.enter_context(names_in_hosts("n1", "n2"))
        cluster = SlurmCluster(folder)
        cluster.start_daemons(stack)
        stack.callback(cluster.run, "scancel", "--user=root", check=False)
        yield cluster
