"""launch/skypilot.yaml, read by SkyPilot's own parser in an environment of its own."""

import json
import os
import subprocess
import venv

import pytest

from tests.runs import ROOT

VERSION = "0.14.1"
CODE = """
import json, sys
import sky
task = sky.Task.from_yaml(sys.argv[1])
[resources] = task.resources
[mount] = task.storage_mounts.items()
print(json.dumps({
    "nodes": task.num_nodes, "accelerators": resources.accelerators, "spot": resources.use_spot,
    "recovery": resources.job_recovery, "mount": [mount[0], mount[1].source, mount[1].mode.value],
    "setup": task.setup, "run": task.run, "flags": task.envs["FLAGS"],
}))
"""


@pytest.mark.slow
def test_skypilot_reads_the_task(tmp_path):
    environment = ROOT / "build" / f"skypilot-{VERSION}"
    python = str(environment / "bin" / "python")
    if not (environment / "installed").exists():
        venv.create(environment, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"skypilot=={VERSION}"]
        result = subprocess.run(install, capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"SkyPilot cannot be installed here: {result.stderr.strip().splitlines()[-1]}")
        (environment / "installed").touch()
    command = [python, "-c", CODE, str(ROOT / "launch" / "skypilot.yaml")]
    variables = os.environ | {"HOME": str(tmp_path)}  # it writes its settings and logs there
    result = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    task = json.loads(result.stdout.splitlines()[-1])
    assert (task["nodes"], task["accelerators"], task["spot"]) == (2, {"A100": 8}, True)
    assert task["recovery"]["recover_on_exit_codes"] == [75]
    assert task["recovery"]["max_restarts_on_errors"] == 0
    assert task["mount"] == ["/bucket", "gs://YOUR-BUCKET", "MOUNT"]
    assert "make install ACCELERATOR=cuda" in task["setup"]
    assert "--expect_processes=" in task["run"]
    assert task["flags"].split()[:2] == ["--config=configs/librispeech.py:16", "--workdir=/bucket/runs/librispeech"]
