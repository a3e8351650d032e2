"""The pods of a JobSet as containers on this machine: expanded by the rules of JobSet and Kubernetes, on a network of their own."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.containers import LIMITS, checked, podman

INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
BYTES = {"Gi": "g", "Mi": "m"}  # units of Kubernetes, and of podman


@dataclass(frozen=True)
class Pod:
    """One pod: its host name, its name on the network, and the options and arguments of its container."""

    name: str
    dns: str
    options: tuple[str, ...]
    image: str
    arguments: tuple[str, ...]
    grace_s: int


def expand(jobset: dict[str, Any], claims: dict[str, Path]) -> list[Pod]:
    """Return the pods of a JobSet. claims: the folders of its persistent volumes and buckets, by name."""
    spec = jobset["spec"]
    pods = []
    for job in spec["replicatedJobs"]:
        template = job["template"]["spec"]
        assert template["completionMode"] == "Indexed"
        for replica in range(job["replicas"]):
            for index in range(template["completions"]):
                name = f"{jobset['metadata']['name']}-{job['name']}-{replica}-{index}"
                pods.append(_pod(name, index, spec["network"]["subdomain"], template["template"]["spec"], claims))
    return pods


def _pod(name: str, index: int, subdomain: str, pod: dict[str, Any], claims: dict[str, Path]) -> Pod:
    [container] = pod["containers"]
    user, own = pod["securityContext"], container["securityContext"]
    assert user["runAsNonRoot"]
    assert pod["restartPolicy"] == "Never"
    environment = {"JOB_COMPLETION_INDEX": str(index), "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    for variable in container["env"]:
        reference = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        assert reference in (None, INDEX)
        environment[variable["name"]] = variable["value"] if reference is None else str(index)
    limits = container.get("resources", {}).get("limits", {})
    options = [
        f"--user={user['runAsUser']}:{user['runAsGroup']}",
        f"--group-add={user['fsGroup']}",
        *(f"--cap-drop={capability}" for capability in own["capabilities"]["drop"]),
        *([] if own["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]),
        *(f"--env={variable}={value}" for variable, value in environment.items()),
        *([f"--memory={_bytes(limits['memory'])}"] if "memory" in limits else []),
        *([f"--cpus={limits['cpu']}"] if "cpu" in limits else []),
    ]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "emptyDir" in volume:
            assert (volume["emptyDir"]["medium"], mount["mountPath"]) == ("Memory", "/dev/shm")
            options.append(f"--shm-size={_bytes(volume['emptyDir']['sizeLimit'])}")
        else:
            claim = (
                volume.get("persistentVolumeClaim", {}).get("claimName")
                or volume["csi"]["volumeAttributes"]["bucketName"]
            )
            folder = claims[claim] / mount.get("subPath", "")
            options.append(f"--volume={folder}:{mount['mountPath']}")
    dns = f"{name}.{subdomain}"
    return Pod(
        name, dns, tuple(options), container["image"], tuple(container["args"]), pod["terminationGracePeriodSeconds"]
    )


def _bytes(size: str) -> str:
    [(number, unit)] = re.findall(r"^(\d+)(\w+)$", size)
    return f"{number}{BYTES[unit]}"


def decide(jobset: dict[str, Any], code: int) -> str:
    """Return what the policies of a JobSet with one job do after a pod ended with this exit code: RestartJobSet, FailJobSet."""
    [job] = jobset["spec"]["replicatedJobs"]
    reason = "BackoffLimitExceeded"  # backoffLimit is 0
    for rule in job["template"]["spec"]["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes and codes["operator"] == "In" and code in codes["values"]:
            assert rule["action"] == "FailJob"
            reason = "PodFailurePolicy"
            break
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        if reason in rule.get("onJobFailureReasons", [reason]):
            return rule["action"]
    raise AssertionError("a JobSet restarts without a rule: this test expects one")


class Pods:
    """The running containers of pods."""

    def __init__(self, pods: list[Pod], network: str):
        self.pods, self.network = pods, network
        self.running = [self._start(pod) for pod in pods]
        self._evicted: set[int] = set()

    def _start(self, pod: Pod) -> str:
        place = ("--network", self.network, f"--network-alias={pod.dns}", f"--hostname={pod.name}")
        return checked("run", "--detach", *place, *LIMITS, *pod.options, pod.image, *pod.arguments)

    def code(self, index: int) -> int | None:
        """Return the exit code of a pod, None if it runs."""
        state = checked("inspect", "--format={{.State.Running}} {{.State.ExitCode}}", self.running[index]).split()
        return None if state[0] == "true" else int(state[1])

    def logs(self, index: int) -> str:
        """Return what a pod has printed."""
        result = podman("logs", self.running[index])
        return result.stdout + result.stderr

    def wait(self, timeout_s: float = 600) -> list[int]:
        """Wait until a pod fails or all end; end the others as Kubernetes does then, and return the exit codes."""
        deadline = time.monotonic() + timeout_s
        while True:
            codes = [self.code(index) for index in range(len(self.pods))]
            if any(codes) or None not in codes:
                break
            assert time.monotonic() < deadline, "\n".join(map(self.logs, range(len(self.pods))))
            time.sleep(0.5)
        for index, (container, code, pod) in enumerate(zip(self.running, codes, self.pods, strict=True)):
            if code is None and index not in self._evicted:
                podman("stop", f"--time={pod.grace_s}", container)  # SIGTERM, and SIGKILL after the grace time
            elif code is None:
                checked("wait", container, timeout_s=pod.grace_s)
        return [code for code in (self.code(index) for index in range(len(self.pods))) if code is not None]

    def freeze(self, index: int) -> None:
        """Stop the processes of a pod without ending them."""
        for process in checked("top", self.running[index], "hpid").split()[1:]:
            os.kill(int(process), signal.SIGSTOP)

    def cut_off(self, index: int) -> None:
        """Disconnect a pod from the others."""
        checked("network", "disconnect", "--force", self.network, self.running[index])

    def evict(self, index: int) -> None:
        """Send SIGTERM to a pod, as its node does."""
        self._evicted.add(index)
        checked("kill", "--signal=TERM", self.running[index])

    def kill(self, index: int) -> None:
        """Kill a pod."""
        checked("kill", "--signal=KILL", self.running[index])


@contextlib.contextmanager
def started_pods(pods: list[Pod], network: str) -> Iterator[Pods]:
    """Start pods; their containers are removed at the end."""
    running = Pods(pods, network)
    try:
        yield running
    finally:
        for container in running.running:
            podman("rm", "--force", "--time=0", container)
