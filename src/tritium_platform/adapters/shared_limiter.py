"""The limits of all gateways of a machine: one table in shared memory, under one lock of the kernel.

The table is a file that every gateway maps. It is changed under `flock`, which the kernel takes back from a
process that dies, and no death leaves half a change: a tenant's rates stand there twice, and one byte says
which of the two counts. A gateway has a *seat*, a file that it keeps locked as long as it lives. Its running
requests are counted in a cell per tenant and seat, together with the generation of the
seat; whoever takes the seat, or finds that its holder is dead, begins a new generation, and with that all
places of the one before are free.

    header   magic, boot id of the machine, 32 generations of 8 bytes
    set      32 keys of 16 bytes (a tenant's id, or zeros), then 32 rows      x 1,024
    row      which of the rates counts (1, padded to 8), a bit for every seat that may run something (8),
             rates, rates, 32 cells
    cell     generation (4), count (4)
    rates    request limit (8), request arrival (16), token limit (8), token arrival (16), little-endian

A tenant's id says in which set its row is. A full set gives the row of a tenant that misses nothing and runs
nothing to another; if there is none, the other is refused for now.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from typing import TYPE_CHECKING

from tritium_platform.adapters.patient_lock import PatientLock, lock_at_once, open_to_lock
from tritium_platform.errors import OverloadedError, PlatformError, ResourceError
from tritium_platform.quotas.limiter import CONCURRENCY, Refusal, decide_entry, without_tokens
from tritium_platform.quotas.standing import FULL, Rates, Standing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from tritium_platform.tenancy.model import TierLimits

MAGIC = b"TRILIM02"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
SEATS = 32
SETS = 1024
WAYS = 32
LOCK_SECONDS = 2.0
OPENING_SECONDS = 60.0  # the first one makes the table meanwhile
KEY_BYTES = 16
_RATES = struct.Struct("<QQQQQQ")  # an arrival is two halves, the lower one first
_HOLDERS = struct.Struct("<Q")
_CELL = struct.Struct("<II")
_GENERATION = struct.Struct("<Q")
_HEAD = struct.Struct("<8s36s")
_GENERATIONS_AT = 64
_SETS_AT = 4096
_HOLDERS_AT = 8
_RATES_AT = 16
_CELLS_AT = _RATES_AT + 2 * _RATES.size
_ROW_BYTES = _CELLS_AT + SEATS * _CELL.size
_SET_BYTES = WAYS * (KEY_BYTES + _ROW_BYTES)
TABLE_BYTES = _SETS_AT + SETS * _SET_BYTES
_NO_KEY = bytes(KEY_BYTES)
_MOST_RUNNING = 2**32 - 1
_HALF = 64
_LOWER = 2**_HALF - 1


class SharedLimiter:
    """The limits of a machine, from one process; one thread of it at a time.

    Attributes:
        seat: the number of this process among those that share the table, from 0.
    """

    def __init__(self, directory: Path) -> None:
        """Open the table of a directory, or make it, and take a seat.

        Raises:
            ResourceError: all seats are taken, or processes of another machine use the table.
            PlatformError: the directory cannot be used.
        """
        self._directory = directory
        self._seat_lock = -1
        self._owed: dict[UUID, tuple[int, int]] = {}
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = open_to_lock(directory / "table")
            try:
                with PatientLock(self._file, patience=OPENING_SECONDS):
                    self._prepare()
                    self._map = mmap.mmap(self._file, TABLE_BYTES)
                    self.seat = self._take_seat()
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise PlatformError(f"The limits in {directory} cannot be opened: {error.strerror}.") from error
        self._locked = PatientLock(self._file, patience=LOCK_SECONDS)

    def enter(
        self, tenant_id: UUID, *, limits: TierLimits, requests: int, tokens: int, now: int
    ) -> Standing | Refusal:
        """Take requests, tokens and places and return what is left, or say why not.

        Raises:
            OverloadedError: the table cannot be had, or has no room for one more tenant.
        """
        with self._locked:
            self._pay()
            row = self._row(tenant_id, now=now)
            kept = self._rates(row)
            rates = kept.under(limits, now=now)
            while True:
                running = self._running(row)
                decided = decide_entry(
                    rates, running=running, limits=limits, requests=requests, tokens=tokens, now=now
                )
                if not isinstance(decided, Refusal):
                    break
                if decided.limit_name != CONCURRENCY or decided.wait is None or not self._bury(row):
                    if rates is not kept:
                        self._keep(row, rates)
                    return decided
            # A death between the two takes from the rates and runs nothing: less is admitted, never more.
            self._keep(row, decided)
            self._add(row, requests)
        return Standing(decided, running + requests, limits, now)

    def leave(self, tenant_id: UUID, *, requests: int, tokens: int = 0) -> None:
        """Give back places, and tokens that were not needed: now, or as soon as the table can be had."""
        self.owe(tenant_id, requests=requests, tokens=tokens)
        self.pay()

    def owe(self, tenant_id: UUID, *, requests: int, tokens: int = 0) -> None:
        """Give back places and tokens with whatever step comes next."""
        owed_requests, owed_tokens = self._owed.get(tenant_id, (0, 0))
        self._owed[tenant_id] = owed_requests + requests, owed_tokens + tokens

    def pay(self) -> None:
        """Give back what is owed: now, or as soon as the table can be had."""
        if self._owed:
            with contextlib.suppress(OverloadedError), self._locked:
                self._pay()

    def standing(self, tenant_id: UUID, *, limits: TierLimits, now: int) -> Standing:
        """Return what is left of a tenant's limits."""
        with self._locked:
            self._pay()
            row = self._find(tenant_id.bytes)
            rates, running = (FULL, 0) if row is None else (self._rates(row), self._running(row))
        return Standing(rates.under(limits, now=now), running, limits, now)

    def is_alone(self) -> bool:
        """Tell whether no other process has a seat at this moment."""
        with self._locked:
            return not any(self._is_taken(seat) for seat in range(SEATS) if seat != self.seat)

    @contextlib.contextmanager
    def vacant(self, seat: int) -> Iterator[bool]:
        """Hold a seat that nobody has, so that nobody takes it meanwhile; yields False if somebody has it."""
        descriptor = open_to_lock(self._seat_path(seat))
        try:
            with self._locked:
                is_vacant = lock_at_once(descriptor)
                if is_vacant:  # to the others it looks taken from now on: its places are free before
                    self._begin_generation(seat)
            yield is_vacant
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Give up the seat, and with it every place that was not given back."""
        if hasattr(self, "_map"):
            self._map.close()
        for descriptor in (self._seat_lock, self._file):
            if descriptor >= 0:
                os.close(descriptor)
        self._seat_lock = self._file = -1
        self._locked = PatientLock(-1, patience=LOCK_SECONDS)

    def _pay(self) -> None:
        while self._owed:
            tenant_id, (requests, tokens) = self._owed.popitem()
            row = self._find(tenant_id.bytes)
            if row is not None:
                if tokens:
                    self._keep(row, without_tokens(self._rates(row), tokens))
                self._add(row, -requests)

    # ------------------------------------------------------------------ seats
    def _prepare(self) -> None:
        """Make the table unless it is of this boot: the clock that its instants are of began then."""
        head = _HEAD.pack(MAGIC, boot_id())
        is_whole = os.fstat(self._file).st_size == TABLE_BYTES
        if is_whole and os.pread(self._file, _HEAD.size, 0) == head:
            return
        if any(self._is_taken(seat) for seat in range(SEATS)):
            raise ResourceError(
                f"The limits in {self._directory} are in use by processes of another machine or release."
            )
        os.ftruncate(self._file, 0)
        os.posix_fallocate(self._file, 0, TABLE_BYTES)  # a page that finds no disk would be the end of us
        os.pwrite(self._file, head, 0)

    def _take_seat(self) -> int:
        for seat in range(SEATS):
            descriptor = open_to_lock(self._seat_path(seat))
            if lock_at_once(descriptor):
                self._seat_lock = descriptor
                self._generation = self._begin_generation(seat) % 2**32
                return seat
            os.close(descriptor)
        raise ResourceError(f"{SEATS} gateways run on this data directory already.", limit=SEATS)

    def _bury(self, row: int) -> bool:
        """Free the places of a tenant's row whose holders are dead; return whether there were any."""
        holders = [seat for seat in self._holders(row) if seat != self.seat and not self._is_taken(seat)]
        for seat in holders:
            self._begin_generation(seat)
        return bool(holders)

    def _is_taken(self, seat: int) -> bool:
        """Tell whether a live process has a seat; who takes one holds the table's lock, as we do."""
        try:
            descriptor = os.open(self._seat_path(seat), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not lock_at_once(descriptor)
        finally:
            os.close(descriptor)

    def _begin_generation(self, seat: int) -> int:
        place = _GENERATIONS_AT + seat * _GENERATION.size
        (generation,) = _GENERATION.unpack_from(self._map, place)
        _GENERATION.pack_into(self._map, place, generation + 1)
        return int(generation + 1)

    def _seat_path(self, seat: int) -> Path:
        return self._directory / f"seat-{seat}"

    # ------------------------------------------------------------------ rows
    def _find(self, key: bytes) -> int | None:
        """Return where the row of a key begins."""
        start = _set_of(key)
        end = start + WAYS * KEY_BYTES
        place = self._map.find(key, start, end)
        while place >= 0 and (place - start) % KEY_BYTES:
            place = self._map.find(key, place + 1, end)
        return None if place < 0 else end + (place - start) // KEY_BYTES * _ROW_BYTES

    def _row(self, tenant_id: UUID, *, now: int) -> int:
        """Return where the row of a tenant begins, of a new one if need be."""
        key = tenant_id.bytes
        found = self._find(key)
        if found is not None:
            return found
        start = _set_of(key)
        for way in range(WAYS):
            row = start + WAYS * KEY_BYTES + way * _ROW_BYTES
            place = start + way * KEY_BYTES
            if self._map[place : place + KEY_BYTES] == _NO_KEY or self._is_idle(row, now=now):
                # In this order: whatever a death leaves of it is a row that misses nothing, of nobody.
                self._map[place : place + KEY_BYTES] = _NO_KEY
                self._map[row : row + _ROW_BYTES] = bytes(_ROW_BYTES)
                self._map[place : place + KEY_BYTES] = key
                return row
        raise OverloadedError("Too many tenants are active at this moment: try again in a minute.")

    def _is_idle(self, row: int, *, now: int) -> bool:
        if not self._rates(row).is_full(now):
            return False
        return not self._running(row) or (self._bury(row) and not self._running(row))

    def _rates(self, row: int) -> Rates:
        request_limit, request_low, request_high, token_limit, token_low, token_high = _RATES.unpack_from(
            self._map, row + _RATES_AT + self._map[row] * _RATES.size
        )
        return Rates(
            request_limit, request_high << _HALF | request_low, token_limit, token_high << _HALF | token_low
        )

    def _keep(self, row: int, rates: Rates) -> None:
        """Write what does not count yet, then let it count."""
        other = 1 - self._map[row]
        request_arrival, token_arrival = rates.request_arrival, rates.token_arrival
        _RATES.pack_into(
            self._map,
            row + _RATES_AT + other * _RATES.size,
            rates.request_limit,
            request_arrival & _LOWER,
            request_arrival >> _HALF,
            rates.token_limit,
            token_arrival & _LOWER,
            token_arrival >> _HALF,
        )
        self._map[row] = other

    def _running(self, row: int) -> int:
        return sum(self._holders(row).values())

    def _holders(self, row: int) -> dict[int, int]:
        """Return how many requests run by the seats that have any."""
        (holders,) = _HOLDERS.unpack_from(self._map, row + _HOLDERS_AT)
        counts = {}
        while holders:
            seat = holders.bit_length() - 1
            holders ^= 1 << seat
            generation, count = _CELL.unpack_from(self._map, row + _CELLS_AT + seat * _CELL.size)
            (current,) = _GENERATION.unpack_from(self._map, _GENERATIONS_AT + seat * _GENERATION.size)
            if count and generation == current % 2**32:
                counts[seat] = count
        return counts

    def _add(self, row: int, requests: int) -> None:
        place = row + _CELLS_AT + self.seat * _CELL.size
        generation, count = _CELL.unpack_from(self._map, place)
        before = count if generation == self._generation else 0
        after = min(_MOST_RUNNING, max(0, before + requests))
        # A seat is among the holders before it has a place and until it has none, wherever a death comes.
        if after and not before:
            self._mark(row, 1)
        _CELL.pack_into(self._map, place, self._generation, after)
        if before and not after:
            self._mark(row, 0)

    def _mark(self, row: int, bit: int) -> None:
        """Say whether this process may run something of a tenant. One byte of the map changes, or none."""
        (holders,) = _HOLDERS.unpack_from(self._map, row + _HOLDERS_AT)
        holders = holders & ~(1 << self.seat) | bit << self.seat
        _HOLDERS.pack_into(self._map, row + _HOLDERS_AT, holders)


def boot_id() -> bytes:
    """Return what tells this run of this machine from every other one."""
    with open(BOOT_ID, "rb") as file:  # noqa: PTH123 - a name of the kernel, read as bytes
        return file.read(36)


def _set_of(key: bytes) -> int:
    # The last bytes of an id are random.
    return _SETS_AT + int.from_bytes(key[-4:], "little") % SETS * _SET_BYTES
