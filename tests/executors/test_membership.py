"""Which machine of a run this is: by options, by torchrun, by srun."""

from __future__ import annotations

import pytest

from harness.core.errors import InputError, MachineError
from harness.core.machine import Machine, nodes_filled
from harness.executors import membership
from harness.executors.membership import Membership, membership_of

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "t1",
    "GROUP_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
SRUN = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "localhost,n2",
}


def of(environ=None, nnodes=None, rank=None, rendezvous=None, interface=""):
    return membership_of(nnodes, rank, rendezvous, interface, environ or {})


def test_without_a_word_this_machine_is_alone():
    assert of() == Membership(nodes=1)


def test_options_say_it():
    assert of(nnodes=3, rank=2, rendezvous="10.0.0.1:29400") == Membership(3, 2, "10.0.0.1", 29400)
    assert of(nnodes=2, rank=0, rendezvous="[fd00::1]:29400").host == "fd00::1"


def test_options_go_before_a_launcher():
    assert of(TORCHRUN, nnodes=3, rank=2, rendezvous="h:1").nodes == 3
    assert of(TORCHRUN, nnodes=1) == Membership()


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"nnodes": 2}, "--node-rank is missing"),
        ({"rank": 0, "rendezvous": "h:1"}, "--nnodes is missing"),
        ({"nnodes": 2, "rank": 2, "rendezvous": "h:1"}, "--node-rank 2: of 2 nodes the ranks are 0 to 1"),
        ({"nnodes": 2, "rank": 0, "rendezvous": "h"}, "--rendezvous h: write HOST:PORT"),
        ({"nnodes": 2, "rank": 0, "rendezvous": "h:port"}, "--rendezvous h:port: write HOST:PORT"),
        ({"nnodes": 2, "rank": 0, "rendezvous": "h:70000"}, "write HOST:PORT"),
    ],
)
def test_what_is_missing_or_wrong_is_said(given, wrong):
    with pytest.raises(InputError, match=wrong):
        of(**given)


def test_torchrun_says_it_and_its_store_knows_the_port():
    assert of(TORCHRUN) == Membership(2, 1, "10.0.0.1", 29500, store=True)
    assert of({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "False"}).master
    assert of({**TORCHRUN, "LOCAL_RANK": "3"}).idle
    assert of({**TORCHRUN, "GROUP_WORLD_SIZE": "1"}) == Membership()


def test_srun_says_it_and_all_tasks_of_a_step_find_one_port(monkeypatch):
    monkeypatch.setattr(membership, "_scontrol", lambda *words: "localhost\nn2\n")
    found = of(SRUN)
    assert (found.nodes, found.rank, found.host, found.idle) == (2, 1, "localhost", False)
    assert found.port == of({**SRUN, "SLURM_NODEID": "0"}).port
    assert found.port != of({**SRUN, "SLURM_STEP_ID": "3"}).port
    assert 20_000 <= found.port < 30_000
    assert of({**SRUN, "SLURM_LOCALID": "1"}).idle
    assert of({**SRUN, "SLURM_STEP_NUM_NODES": "1"}) == Membership()


def test_a_name_that_does_not_resolve_is_asked_of_slurm(monkeypatch):
    answers = {"hostnames": "no-such-host.invalid\nn2\n", "node": "NodeName=x NodeAddr=10.79.0.1 State=IDLE"}
    monkeypatch.setattr(membership, "_scontrol", lambda *words: answers[words[1]])
    assert of(SRUN).host == "10.79.0.1"


def test_slurm_without_its_tools_is_an_error_in_words(monkeypatch):
    monkeypatch.setattr(membership.shutil, "which", lambda name: None)
    with pytest.raises(MachineError, match="scontrol is not there"):
        of(SRUN)


@pytest.mark.parametrize(
    ("devices", "of_each", "nodes", "filled"), [(1, 8, 2, 1), (8, 8, 2, 1), (9, 8, 2, 2), (40, 8, 2, 2), (4, 1, 4, 4)]
)
def test_a_cell_fills_as_few_nodes_as_hold_it(devices, of_each, nodes, filled):
    assert nodes_filled(devices, of_each, nodes) == filled


def test_a_machine_of_several_nodes_is_as_many_equal_ones():
    machine = Machine(16, 8, "NVIDIA H200", 2)
    assert machine.one_node == Machine(8, 4, "NVIDIA H200")
    assert machine.devices_of_node("cuda", 1) == 4
    assert machine.devices_of_node("cpu", 2) == 4
