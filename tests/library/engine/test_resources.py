from __future__ import annotations

import mmap
import os
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.resources import MemoryBudget, MemoryReading, read_memory

GIB = 2**30
MEMINFO = "MemTotal:       8388608 kB\nMemFree: 100 kB\nMemAvailable:   2097152 kB\n"  # 8 GiB, 2 left
STATM = "1000 250 100 1 0 500 0\n"


def reading_of(files, *, address_limit=None):
    return read_memory(files.get, address_limit=lambda: address_limit)


def by_name(reading):
    return {budget.name: (budget.limit_bytes, budget.used_bytes) for budget in reading.budgets}


def test_a_system_that_tells_nothing_presses_nobody():
    reading = reading_of({})
    assert reading == MemoryReading()
    assert reading.pressure(needed_bytes=2**60) == 0
    assert reading.headroom_bytes(0.9) is None


def test_the_machine_counts_what_a_new_process_could_not_have():
    reading = reading_of({"/proc/meminfo": MEMINFO, "/proc/self/statm": STATM})
    assert by_name(reading) == {"machine": (8 * GIB, 6 * GIB)}
    assert reading.pressure(needed_bytes=3 * GIB) == 0.75
    assert reading.pressure(needed_bytes=2 * GIB) == 0  # as much is left
    assert reading.headroom_bytes(0.875) == GIB
    assert reading.resident_bytes == 250 * os.sysconf("SC_PAGE_SIZE")


def test_a_group_of_version_two_counts_without_files_that_are_idle():
    files = {
        "/proc/meminfo": MEMINFO,
        "/proc/self/cgroup": "0::/a/b\n",
        "/sys/fs/cgroup/a/b/memory.max": f"{GIB}\n",
        "/sys/fs/cgroup/a/b/memory.current": f"{GIB}\n",
        "/sys/fs/cgroup/a/b/memory.stat": f"anon 1\ninactive_file {GIB // 4}\n",
    }
    assert by_name(reading_of(files))["group"] == (GIB, GIB * 3 // 4)


def test_the_limit_of_a_group_around_it_holds_too_and_max_is_none():
    files = {
        "/proc/self/cgroup": "0::/a/b\n",
        "/sys/fs/cgroup/a/b/memory.max": "max\n",
        "/sys/fs/cgroup/a/b/memory.current": "5\n",
        "/sys/fs/cgroup/a/memory.max": "1000\n",
        "/sys/fs/cgroup/a/memory.current": "900\n",
    }
    assert by_name(reading_of(files)) == {"group": (1000, 900)}


def test_a_container_that_sees_the_path_of_its_host_finds_its_own_limit_at_the_root():
    files = {
        "/proc/self/cgroup": "0::/docker/0123\n",
        "/sys/fs/cgroup/memory.max": "1000\n",
        "/sys/fs/cgroup/memory.current": "10\n",
    }
    assert by_name(reading_of(files)) == {"group": (1000, 10)}


def test_a_group_of_version_one_and_its_figure_for_no_limit():
    files = {
        "/proc/meminfo": MEMINFO,
        "/proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/y\n0::/\n",
        "/sys/fs/cgroup/memory/y/memory.limit_in_bytes": f"{GIB}\n",
        "/sys/fs/cgroup/memory/y/memory.usage_in_bytes": f"{GIB // 2}\n",
        "/sys/fs/cgroup/memory/y/memory.stat": f"cache 3\ntotal_inactive_file {GIB // 4}\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
    }
    assert by_name(reading_of(files)) == {"machine": (8 * GIB, 6 * GIB), "group": (GIB, GIB // 4)}


def test_the_limit_of_the_address_space_counts_the_whole_space():
    page = os.sysconf("SC_PAGE_SIZE")
    reading = reading_of({"/proc/self/statm": STATM}, address_limit=2000 * page)
    assert by_name(reading) == {"address_space": (2000 * page, 1000 * page)}
    assert reading.pressure(needed_bytes=2**60) == 0.5


@pytest.mark.parametrize(
    ("group", "machine", "stalled"), [("4.20", "1.00", 0.042), (None, "7.50", 0.075), (None, None, None)]
)
def test_stalls_are_the_groups_where_it_tells_them(group, machine, stalled):
    texts = {"/sys/fs/cgroup/g/memory.pressure": group, "/proc/pressure/memory": machine}
    files = {"/proc/self/cgroup": "0::/g\n"} | {
        path: f"some avg10={share} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0 avg300=0 total=0\n"
        for path, share in texts.items()
        if share
    }
    assert reading_of(files).stalled == (None if stalled is None else pytest.approx(stalled))


def test_a_tenth_of_the_time_at_a_stand_is_as_bad_as_nothing_left():
    budget = MemoryBudget(name="machine", limit_bytes=100, used_bytes=30)
    for stalled, expected in ((0.05, 0.5), (0.5, 1.0), (0.0, 0.3)):
        reading = MemoryReading(budgets=(budget,), stalled=stalled)
        assert reading.pressure(needed_bytes=1000) == expected
    assert MemoryReading(budgets=(budget,), stalled=0.05).pressure(needed_bytes=1) == 0.5


@given(limit=st.integers(0, 2**50), used=st.integers(0, 2**50), share=st.floats(0, 1))
def test_headroom_is_never_negative_and_never_passes_the_share(limit, used, share):
    budget = MemoryBudget(name="group", limit_bytes=limit, used_bytes=used)
    more = budget.headroom_bytes(share)
    assert more >= 0
    assert more == 0 or used + more <= share * limit


def test_this_process_is_read_as_it_is():
    psutil = pytest.importorskip("psutil")
    with mmap.mmap(-1, 64 * 2**20) as memory:
        memory.write(b"\1" * (64 * 2**20))
        reading = read_memory()
        assert abs(reading.resident_bytes - psutil.Process().memory_info().rss) < 16 * 2**20
        machine = by_name(reading)["machine"]
        assert machine[0] == psutil.virtual_memory().total
    assert (resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY) == (
        "address_space" not in by_name(reading)
    )
