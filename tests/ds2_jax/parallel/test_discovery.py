"""Where a process finds its place among the others: flags, variables, launchers; no process is started."""

import pytest

from ds2_jax.parallel import discovery
from ds2_jax.parallel.discovery import Place, expected, find

NAMED = {"coordinator": "n1:7000", "num_processes": "4", "process_id": "3"}
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_NODELIST": "n[1-3]",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "6",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}
POD = {"JOB_COMPLETION_INDEX": "2", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setattr(discovery.glob, "glob", lambda pattern: [])


def test_a_process_without_a_launcher_is_alone():
    assert find({}, {}) is None
    assert find({}, SLURM | {"SLURM_NTASKS": "1"}) is None
    assert find({}, {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}) is None  # no srun
    assert find(NAMED | {"num_processes": "1"}, {}) is None


def test_flags_come_before_variables_and_these_before_launchers():
    variables = {"DS2_COORDINATOR": "n2:7000", "DS2_NUM_PROCESSES": "3", "DS2_PROCESS_ID": "1"}
    assert find(NAMED, variables | SLURM) == Place("flags or DS2_* variables", "n1:7000", 4, 3)
    assert find({}, variables | SLURM) == Place("flags or DS2_* variables", "n2:7000", 3, 1)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (SLURM, Place("flags or DS2_* variables, Slurm", "n1:7000", 5, 4)),
        (OPEN_MPI, Place("flags or DS2_* variables, Open MPI", "n1:7000", 6, 5)),
        (POD | {"DS2_NUM_PROCESSES": "3"}, Place("flags or DS2_* variables, Kubernetes", "n1:7000", 3, 2)),
    ],
)
def test_a_launcher_gives_the_numbers_that_are_not_named(environment, place):
    assert find({"coordinator": "n1:7000"}, environment) == place


def test_launchers_that_jax_knows_need_nothing_named():
    assert find({}, SLURM) == Place("Slurm", None, 5, 4)
    assert find({}, OPEN_MPI) == Place("Open MPI", None, 6, 5)
    assert find({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, on_tpu=True) == Place("TPU pod")
    assert find({}, POD | {"TPU_WORKER_HOSTNAMES": "a,b"}, on_tpu=True) == Place("TPU pod")
    assert find({}, {"TPU_WORKER_HOSTNAMES": "a"}, on_tpu=True) is None
    assert find({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, on_tpu=False) is None


@pytest.mark.parametrize(
    ("visible", "task", "devices"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, {"SLURM_LOCALID": "1"}, (2, 3)),  # two processes share four
        ({"CUDA_VISIBLE_DEVICES": "5"}, {"SLURM_LOCALID": "1"}, (0,)),  # each is shown its own
        ({"SLURM_GPUS_ON_NODE": "2"}, {"SLURM_LOCALID": "1"}, (1,)),  # one each
        ({"ROCR_VISIBLE_DEVICES": "0,1,2"}, {"SLURM_NODEID": "2"}, (0, 1, 2)),  # alone on its machine: all of them
        ({}, {}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "JAX_LOCAL_DEVICE_IDS": "1"}, {}, None),
    ],
)
def test_the_gpus_of_a_machine_are_shared_by_its_processes(visible, task, devices):
    place = find({}, SLURM | {"SLURM_NODEID": "0"} | visible | task)
    assert place is not None
    assert place.devices == devices


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"coordinator": "n1:7000"}, {}, "--num_processes .or DS2_NUM_PROCESSES. is not set"),
        (NAMED | {"process_id": "4"}, {}, "process_id is 4 of --num_processes=4: use 0 to 3"),
        (NAMED | {"process_id": "first"}, {}, "process_id is 'first': write a whole number"),
        (NAMED | {"num_processes": "0"}, {}, "num_processes is 0: use 1 or more"),
        (NAMED | {"coordinator": "n1"}, {}, "'n1': write HOST:PORT"),
        (NAMED | {"coordinator": "n1:99999"}, {}, "port from 1 to 65535"),
        ({}, SLURM | {"SLURM_PROCID": ""}, "Slurm started this, but SLURM_PROCID is not set"),
        ({}, SLURM | {"SLURM_PROCID": "5"}, "SLURM_PROCID is 5 of SLURM_NTASKS=5: use 0 to 4"),
        ({}, SLURM | {"SLURM_NODEID": "3", "SLURM_GPUS_ON_NODE": "2"}, "SLURM_NODEID is 3, but .* is of 3 nodes"),
        ({}, POD, "this is pod 2 of an indexed job"),
        ({}, {name: value for name, value in OPEN_MPI.items() if "uri" not in name}, "this Open MPI does not tell"),
        ({}, SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2", "SLURM_NODEID": "0"}, "3 GPUs cannot be shared by 2 processes"),
    ],
)
def test_what_is_missing_or_wrong_is_named(flags, environment, message):
    with pytest.raises(ValueError, match=message):
        find(flags, environment)


def test_expectations_come_from_flags_or_variables():
    variables = {"DS2_EXPECT_PROCESSES": "8"}
    assert expected("expect_processes", {"expect_processes": "2"}, variables) == 2
    assert expected("expect_processes", {"expect_processes": ""}, variables) == 8
    assert expected("expect_devices", {}, variables) == 0
    with pytest.raises(ValueError, match=r"--expect_processes .or DS2_EXPECT_PROCESSES. is 'all'"):
        expected("expect_processes", {}, {"DS2_EXPECT_PROCESSES": "all"})
