"""Simulated lives of the platform: in each of them the books are right, and a mistake is found.

`make soak-simulation SEEDS=...` runs as many as there is time for; a seed that breaks something prints what
came before and the command that shows it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from simulated.mutants import MUTANTS  # noqa: E402 - the folder of the simulation comes first
from simulated.world import BrokenBooksError, World, prepare  # noqa: E402

SEEDS = int(os.environ.get("TRITIUM_SIMULATED_SEEDS", "100"))
AT_ONCE = 20
PATIENCE = 150
TWICE = ["1", "4", "57", "a seed is any text"]
# A seed that finds the mutant; when the draws change, others are tried.
FIRST_SEEDS = {
    "answers_before_it_is_written": 2,
    "settles_before_the_sync": 5,
    "forgets_the_name_of_a_new_spool": 2,
    "applies_a_group_again": 2,
    "takes_in_more_on_a_second_attempt": 88,
    "removes_the_spool_before_it_is_in_the_books": 5,
    "writes_the_position_in_another_transaction": 2,
    "puts_a_request_back_twice": 5,
    "posts_nothing_for_what_expired": 12,
    "admits_beyond_the_limit": 8,
    "settles_only_while_the_client_stays": 4,
    "logs_money_outside_of_the_transaction": 1,
    "takes_a_number_outside_of_the_transaction": 15,
    "pays_again_under_the_same_key": 8,
    "finalizes_again_what_is_final": 1,
    "bills_a_use_twice": 1,
    "keeps_the_uses_of_a_void_invoice": 2,
    "shows_an_invoice_to_anybody": 2,
    "does_not_look_for_what_is_logged_already": 5,
    "forgets_the_first_of_two_failures_of_the_disk": 1639,
    "leaves_the_names_of_the_log_unsynced": 39,
}


def run(seed):
    return World(seed, prepare()).run()


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_the_books_are_right_in_every_simulated_life(first):
    for seed in range(first, min(first + AT_ONCE, SEEDS)):
        run(str(seed))


def test_a_seed_is_one_run_byte_for_byte():
    once = [run(seed) for seed in TWICE]
    again = [run(seed) for seed in reversed(TWICE)]
    assert [each.trace for each in once] == [each.trace for each in reversed(again)]
    assert [each.digest() for each in once] == [each.digest() for each in reversed(again)]
    assert len({each.digest() for each in once}) == len(TWICE)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_is_the_same_run_in_another_process(hash_seed):
    command = [sys.executable, str(HERE / "simulate.py"), "--seed", "4", "--trace"]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    here = run("4")
    assert done.stdout.splitlines()[:-1] == [*here.trace, here.digest()]


def seeds_until_found(mutant):
    """Return which seed finds a mutant, and what it says."""
    for seed in [FIRST_SEEDS.get(mutant, 0), *range(PATIENCE)]:
        with MUTANTS[mutant]():
            try:
                run(str(seed))
            except BrokenBooksError as broken:
                return seed, broken
    pytest.fail(f"{mutant} lives through {PATIENCE} seeds")


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mistake_in_the_code_is_found(mutant):
    seeds_until_found(mutant)


def test_a_broken_seed_tells_what_came_before_and_how_to_see_it_again():
    seed, broken = seeds_until_found("answers_before_it_is_written")
    said = str(broken)
    assert f"seed {seed}: I1" in said
    assert "ended after" in said
    assert f"simulate.py --seed {seed} --trace" in said
