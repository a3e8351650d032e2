"""Work is divided among the cores that a process may use, not among those that the machine has."""

import os
import subprocess
import sys

import pytest

from input_pipeline import cores
from tests.runs import ROOT


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to cores")
def test_commands_bound_to_one_core_take_one_worker():
    code = """
import argparse, os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
from pathlib import Path
from decoding.settings import BeamSettings
from input_pipeline.cores import usable_cores
from input_pipeline.corpora import librispeech, synthetic
from input_pipeline.corpora.assemble import Preparation
from input_pipeline.manifest import doctor, join
print(usable_cores(), BeamSettings().thread_count, Preparation(Path()).workers, join.make_parser().get_default("workers"))
for module in (doctor, librispeech, synthetic):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    print(parser.get_default("workers"))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.split() == ["1"] * 7, ran.stderr


def test_a_quota_counts_as_whole_cores_and_libraries_take_as_many_threads(monkeypatch):
    monkeypatch.setattr(cores, "_bound_cores", lambda: 4)
    monkeypatch.setattr(cores.os, "environ", {"OMP_NUM_THREADS": "3"})
    for quota, expected in ((None, 4), (8.0, 4), (4.0, 4)):
        monkeypatch.setattr(cores.cgroup, "core_quota", lambda quota=quota: quota)
        cores.limit_libraries()
        assert (cores.usable_cores(), "PJRT_NPROC" in os.environ) == (expected, False)
    for quota, expected in ((0.5, 1), (1.5, 2)):
        monkeypatch.setattr(cores.cgroup, "core_quota", lambda quota=quota: quota)
        assert cores.usable_cores() == expected
    cores.limit_libraries()
    assert [os.environ[name] for name in cores.THREADS] == ["2", "2", "3"]
