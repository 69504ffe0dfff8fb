"""The processes that a launcher has started: read from its variables, or refused in one line."""

import pytest

from ssmlab.core.errors import UserError
from ssmlab.core.world import ALONE, World, world_of

TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_a_launcher_says_which_process_this_is():
    assert world_of(TWO) == World(rank=1, size=2, local_rank=1)
    for alone in ({}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}, TWO | {"WORLD_SIZE": "1", "RANK": "0"}):
        assert world_of(alone) == ALONE


MASTER = {name: TWO[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
ACCELERATE = {"ACCELERATE_DYNAMO_USE_FULLGRAPH": "False", "ACCELERATE_DYNAMO_BACKEND": "NO",
              "ACCELERATE_MIXED_PRECISION": "no"}  # fmt: skip


@pytest.mark.parametrize("names", [
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
])  # fmt: skip
def test_mpirun_says_it_in_its_own_words(names):
    own = dict(zip(names, ("4", "3", "1"), strict=True))
    assert world_of(MASTER | own) == world_of(MASTER | ACCELERATE | own) == World(rank=3, size=4, local_rank=1)
    assert world_of(TWO | own) == World(rank=1, size=2, local_rank=1), "a launcher within comes first"
    with pytest.raises(UserError, match=f"{names[0]} is 4 but MASTER_ADDR, MASTER_PORT are not set.*unset {names[0]}"):
        world_of(own)


def test_accelerate_starts_processes_and_nothing_more():
    assert world_of(ACCELERATE) == world_of(ACCELERATE | TWO | {"WORLD_SIZE": "1", "RANK": "0"}) == ALONE
    assert world_of(ACCELERATE | TWO).size == 2
    with pytest.raises(UserError, match="has started a single process, .*--multi_gpu --num_processes N -m ssmlab"):
        world_of(ACCELERATE | MASTER | {"ACCELERATE_USE_CPU": "True"})  # with --cpu --num_processes 2
    for name, value, key in (("MIXED_PRECISION", "bf16", "training.precision"), ("USE_FSDP", "true", "sharding"),
                             ("DYNAMO_BACKEND", "INDUCTOR", "nothing")):  # fmt: skip
        with pytest.raises(UserError, match=f"asks for ACCELERATE_{name}={value.lower()}.*recipe has .*{key}"):
            world_of(ACCELERATE | TWO | {f"ACCELERATE_{name}": value})
    assert world_of(TWO | {"ACCELERATE_MIXED_PRECISION": "bf16"}).size == 2, "transformers' own note"


@pytest.mark.parametrize(("variables", "message"), [
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not set; .*torchrun"),
    (TWO | {"MASTER_PORT": ""}, "MASTER_PORT is not set"), (TWO | {"RANK": "2"}, "RANK must be from 0 to 1"),
    ({"WORLD_SIZE": "x"}, "WORLD_SIZE must be a number.*'x'"), ({"WORLD_SIZE": "-2"}, "WORLD_SIZE must be a number"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a number"), (TWO | {"RANK": "one"}, "RANK must be a number"),
])  # fmt: skip
def test_other_variables_are_one_line(variables, message):
    with pytest.raises(UserError, match=message) as raised:
        world_of(variables)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_lie_side_by_side(size):
    for count in (0, 1, 2, 7, 8, 9, 64):
        shares = [list(range(count))[World(rank, size).share(count)] for rank in range(size)]
        assert [i for share in shares for i in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
