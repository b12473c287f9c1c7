import pytest
import torch

from video_llama.common.dist import (
    World,
    first_host,
    gather_objects,
    process_group,
    read_world,
    sum_counts,
    sum_over_ranks,
)
from video_llama.common.errors import ConfigError


def test_without_a_launcher_there_is_one_process():
    assert read_world({}) == World(rank=0, size=1, local_rank=0)


def test_torchrun_is_read():
    environ = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert read_world(environ) == World(rank=5, size=8, local_rank=1)


def test_an_srun_step_is_read():
    environ = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
    assert read_world(environ) == World(rank=3, size=4, local_rank=1)


def test_torchrun_inside_an_srun_step_wins():
    environ = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
    environ |= {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}
    assert read_world(environ) == World(rank=9, size=16, local_rank=1)


def test_a_batch_script_outside_a_step_is_one_process():
    assert read_world({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}).size == 1


def test_a_half_set_environment_is_refused_by_name():
    with pytest.raises(ConfigError, match="WORLD_SIZE, LOCAL_RANK"):
        read_world({"RANK": "0"})


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(ConfigError, match="RANK=2 does not fit WORLD_SIZE=2"):
        read_world({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})


def test_each_of_several_processes_has_its_own_gpu():
    assert World(rank=5, size=8, local_rank=1).own_device("cuda") == "cuda:1"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_what_is_no_gpu_is_shared(device):
    assert World(rank=1, size=2, local_rank=1).own_device(device) == device


@pytest.mark.parametrize(("device", "own"), [("cuda", "cuda:0"), ("cuda:3", "cuda:3")])
def test_a_single_process_takes_the_gpu_it_was_told(device, own):
    assert World().own_device(device) == own


def test_the_current_gpu_is_set_by_its_number(monkeypatch):
    # torch.cuda.set_device takes no "cuda" without an index.
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with process_group("cuda"):
        assert chosen == ["cuda:0"]


def test_one_gpu_for_several_processes_is_refused():
    with pytest.raises(ConfigError, match=r"'cuda:3' is one GPU.*2 processes.*run.device: cuda"):
        World(rank=0, size=2, local_rank=0).own_device("cuda:3")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-05,9],x1", "gpu03"), ("a1,b2", "a1"), ("n[7,9]", "n7"), ("localhost", "localhost")],
)
def test_the_first_machine_of_a_slurm_list(nodes, first):
    assert first_host(nodes) == first


def test_a_single_process_gathers_and_sums_its_own():
    assert gather_objects("a") == ["a"]
    assert sum_over_ranks(torch.tensor([2.0])).item() == 2.0
    assert sum_counts([3, 0]) == [3, 0]
