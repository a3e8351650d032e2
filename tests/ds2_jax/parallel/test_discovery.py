"""Process discovery from flags, variables and launchers; no process is started."""

import pytest

from ds2_jax.parallel import discovery
from ds2_jax.parallel.discovery import ProcessInfo, discover, expected_count

FLAGS = {"coordinator": "n1:7000", "num_processes": "4", "process_id": "3"}
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
    assert discover({}, {}) is None
    assert discover({}, SLURM | {"SLURM_NTASKS": "1"}) is None
    assert (
        discover({}, {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}) is None
    )  # no srun
    assert discover(FLAGS | {"num_processes": "1"}, {}) is None


def test_flags_take_precedence_over_variables_and_variables_over_launchers():
    variables = {"DS2_COORDINATOR": "n2:7000", "DS2_NUM_PROCESSES": "3", "DS2_PROCESS_ID": "1"}
    assert discover(FLAGS, variables | SLURM) == ProcessInfo("flags or DS2_* variables", "n1:7000", 4, 3)
    assert discover({}, variables | SLURM) == ProcessInfo("flags or DS2_* variables", "n2:7000", 3, 1)


@pytest.mark.parametrize(
    ("environment", "info"),
    [
        (SLURM, ProcessInfo("flags or DS2_* variables, Slurm", "n1:7000", 5, 4)),
        (OPEN_MPI, ProcessInfo("flags or DS2_* variables, Open MPI", "n1:7000", 6, 5)),
        (POD | {"DS2_NUM_PROCESSES": "3"}, ProcessInfo("flags or DS2_* variables, Kubernetes", "n1:7000", 3, 2)),
    ],
)
def test_missing_numbers_come_from_the_launcher(environment, info):
    assert discover({"coordinator": "n1:7000"}, environment) == info


def test_launchers_that_jax_supports_need_no_flags():
    assert discover({}, SLURM) == ProcessInfo("Slurm", None, 5, 4)
    assert discover({}, OPEN_MPI) == ProcessInfo("Open MPI", None, 6, 5)
    assert discover({}, SLURM | {"SLURM_PROCID": "0"}) == ProcessInfo("Slurm", None, 5, 0)
    assert discover({}, OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0"}) == ProcessInfo("Open MPI", None, 6, 0)
    assert discover({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, on_tpu=True) == ProcessInfo("TPU pod")
    assert discover({}, POD | {"TPU_WORKER_HOSTNAMES": "a,b"}, on_tpu=True) == ProcessInfo("TPU pod")
    assert discover({}, {"TPU_WORKER_HOSTNAMES": "a"}, on_tpu=True) is None
    assert discover({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, on_tpu=False) is None


@pytest.mark.parametrize(
    ("visible", "task", "devices"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, {"SLURM_LOCALID": "1"}, (2, 3)),  # two processes share four
        ({"CUDA_VISIBLE_DEVICES": "5"}, {"SLURM_LOCALID": "1"}, (0,)),  # each sees only its own
        ({"SLURM_GPUS_ON_NODE": "2"}, {"SLURM_LOCALID": "1"}, (1,)),  # one each
        ({"ROCR_VISIBLE_DEVICES": "0,1,2"}, {"SLURM_NODEID": "2"}, (0, 1, 2)),  # alone on its machine: all of them
        ({}, {}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "JAX_LOCAL_DEVICE_IDS": "1"}, {}, None),
    ],
)
def test_the_gpus_of_a_machine_are_divided_among_its_processes(visible, task, devices):
    info = discover({}, SLURM | {"SLURM_NODEID": "0"} | visible | task)
    assert info is not None
    assert info.devices == devices


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"coordinator": "n1:7000"}, {}, "--num_processes .or DS2_NUM_PROCESSES. is not set"),
        (FLAGS | {"process_id": "4"}, {}, "process_id is 4, but --num_processes is 4: use 0 to 3"),
        (FLAGS | {"process_id": "first"}, {}, "process_id is 'first': use a whole number"),
        (FLAGS | {"num_processes": "0"}, {}, "num_processes is 0: use 1 or more"),
        (FLAGS | {"coordinator": "n1"}, {}, "'n1': use HOST:PORT"),
        (FLAGS | {"coordinator": "n1:99999"}, {}, "port from 1 to 65535"),
        ({}, SLURM | {"SLURM_PROCID": ""}, "Slurm started this process, but SLURM_PROCID is not set"),
        ({}, SLURM | {"SLURM_PROCID": "5"}, "SLURM_PROCID is 5, but SLURM_NTASKS is 5: use 0 to 4"),
        ({}, SLURM | {"SLURM_NODEID": "3", "SLURM_GPUS_ON_NODE": "2"}, "SLURM_NODEID is 3, but .* lists 3 nodes"),
        ({}, POD, "this is pod 2 of an indexed job"),
        (
            {},
            {name: value for name, value in OPEN_MPI.items() if "uri" not in name},
            "this version of Open MPI does not",
        ),
        ({}, SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2", "SLURM_NODEID": "0"}, "3 GPUs cannot be divided among 2 proc"),
    ],
)
def test_the_error_names_what_is_missing_or_wrong(flags, environment, message):
    with pytest.raises(ValueError, match=message):
        discover(flags, environment)


def test_expected_counts_come_from_flags_or_variables():
    variables = {"DS2_EXPECT_PROCESSES": "8"}
    assert expected_count("expect_processes", {"expect_processes": "2"}, variables) == 2
    assert expected_count("expect_processes", {"expect_processes": ""}, variables) == 8
    assert expected_count("expect_devices", {}, variables) == 0
    with pytest.raises(ValueError, match=r"--expect_processes .or DS2_EXPECT_PROCESSES. is 'all'"):
        expected_count("expect_processes", {}, {"DS2_EXPECT_PROCESSES": "all"})
