"""Simulate seeds: simulate.py --seed 7 --trace, or simulate.py --from 0 --count 1000 --processes 2.

Says how many seeds ran, how fast, and which of them broke an invariant; ends with 1 if any did.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from simulated.world import BrokenBooksError, World, prepare

AT_ONCE = 50


def say(*lines):
    """Tell whoever started this."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def simulate(seeds):
    """Run some seeds; return lives, turns, CPU seconds, and the seeds that broke with what they say."""
    started, lives, turns, broken = time.process_time(), 0, 0, {}
    for seed in seeds:
        world = World(seed, prepare())
        try:
            world.run()
        except BrokenBooksError as error:
            broken[seed] = str(error)
        lives, turns = lives + world.lives, turns + world.turns
    return lives, turns, time.process_time() - started, broken


def show(seed):
    """Run one seed and print everything that happened; return whether it broke."""
    world, broken = World(seed, prepare()), None
    try:
        world.run()
    except BrokenBooksError as error:
        broken = error
    say(*world.trace)
    say(world.digest())
    say(broken or "the books are right")
    return broken is not None


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", help="simulate this one")
    arguments.add_argument("--trace", action="store_true", help="show what happened")
    arguments.add_argument("--from", type=int, default=0, dest="first")
    arguments.add_argument("--count", type=int, default=300)
    arguments.add_argument("--processes", type=int, default=1)
    wish = arguments.parse_args()
    if wish.trace:
        return show(wish.seed)
    seeds = [wish.seed] if wish.seed is not None else [str(wish.first + n) for n in range(wish.count)]
    groups = [seeds[start : start + AT_ONCE] for start in range(0, len(seeds), AT_ONCE)]
    started, lives, turns, seconds, failed = time.monotonic(), 0, 0, 0.0, []
    with ProcessPoolExecutor(wish.processes, initializer=os.nice, initargs=(10,)) as pool:
        for more_lives, more_turns, more_seconds, broken in pool.map(simulate, groups):
            lives, turns, seconds = lives + more_lives, turns + more_turns, seconds + more_seconds
            failed += broken
            for said in broken.values():
                say(said)
    say(
        f"{len(seeds)} seeds, {lives} lives, {turns} turns in {time.monotonic() - started:.0f} s; "
        f"{seconds:.0f} s of a core, {len(seeds) / seconds:.1f} seeds/s of a core; broken: {failed or 'none'}"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
