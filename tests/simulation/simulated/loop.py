"""An event loop whose time is a number, and threads that take turns on it.

Time stands still while anything can run, and jumps to the next timer when nothing can. A thread is a
greenlet: it runs until it blocks (on a condition, on the disk), and whoever runs next is decided by timers
alone. So one source of randomness for all waits decides everything that is left to chance.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq

import greenlet

MOST_TURNS = 60_000


class PowerCut(BaseException):
    """The process is no more; nothing in it may catch this."""


class StuckError(AssertionError):
    """Somebody waits for what will never come."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs one process; `dies_after` so many turns of its handles, if that is given."""

    def __init__(self, *, now, chance, dies_after=None):
        super().__init__()
        self.threads = Threads(self, chance)
        self.turns = 0
        self.created = []
        self._now = now
        self._dies_after = dies_after
        self.set_task_factory(self._create_task)

    def time(self):
        """Return the seconds of this world."""
        return self._now

    def _create_task(self, loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        self.created.append(task)
        return task

    def run_in_executor(self, executor, function, *arguments):
        """Run a function in a thread of ours."""
        return self.threads.run(function, *arguments)

    def _run_once(self):
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0]._cancelled:
            self._forget(heapq.heappop(scheduled))
        if not ready:
            if not scheduled:
                raise StuckError("Nothing is left to happen, and somebody waits.")
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            if handle._cancelled:
                self._forget(handle)
            else:
                handle._scheduled = False
                ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            self.turns += 1
            if self.turns == self._dies_after:
                raise PowerCut
            if self.turns > MOST_TURNS:
                raise StuckError(f"It never ends: {self._waiting()}")
            handle._run()

    def _waiting(self):
        return [repr(task.get_coro())[:80] for task in self.created if not task.done()]

    def _forget(self, handle):
        handle._scheduled = False
        self._timer_cancelled_count -= 1

    def _process_events(self, events):
        """There is no socket."""

    def _write_to_self(self):
        """Nobody sleeps who would have to be woken."""

    def bury(self):
        """Throw away everything that still waits; what it does on its way out, it does to the dead."""
        for task in self.created:
            if not task.done():
                task._log_destroy_pending = False
                with contextlib.suppress(BaseException):
                    task.get_coro().close()
        self.threads.bury()
        self.created, self._scheduled = [], []
        self._ready.clear()
        self.close()


class Threads:
    """The threads of one process, and what of the module `threading` is used: Condition, Thread."""

    def __init__(self, loop, chance):
        self.loop = loop
        self._chance = chance
        self._hub = greenlet.getcurrent()
        self._all = []

    def run(self, function, *arguments):
        """Start a thread that does one thing; return the future of its result."""
        future = self.loop.create_future()

        def work():
            try:
                result = function(*arguments)
            except greenlet.GreenletExit:
                raise
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.start(work)
        return future

    def start(self, work):
        """Begin a thread in a moment."""
        thread = greenlet.greenlet(work, self._hub)
        self._all.append(thread)
        self.wake(thread)

    def wake(self, thread, *, within=0.001):
        """Let a thread run in a moment."""
        self.loop.call_later(self._chance.random() * within, thread.switch)

    def sleep(self, within):
        """Block this thread for a while; the loop itself never blocks."""
        me = greenlet.getcurrent()
        if me is not self._hub:
            self.wake(me, within=within)
            self._hub.switch()

    def suspend(self):
        """Block this thread until somebody wakes it."""
        if greenlet.getcurrent() is self._hub:
            raise StuckError("The loop itself waits for a thread.")
        self._hub.switch()

    def bury(self):
        """Throw every thread away."""
        for thread in self._all:
            if thread and not thread.dead:
                thread.throw(greenlet.GreenletExit)
        self._all = []

    def Condition(self):  # noqa: N802 - the name of the class it stands for
        """As threading.Condition."""
        return _Condition(self)

    def Thread(self, *, target, args=(), name="", daemon=False):  # noqa: N802
        """As threading.Thread."""
        return _Thread(self, lambda: target(*args))


class _Condition:
    """Threads change over at blocking calls only, so that its lock has nothing to do."""

    def __init__(self, threads):
        self._threads = threads
        self._waiting = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def wait(self):
        self._waiting.append(greenlet.getcurrent())
        self._threads.suspend()

    def notify(self):
        if self._waiting:
            self._threads.wake(self._waiting.pop(0))


class _Thread:
    def __init__(self, threads, work):
        self._threads = threads
        self._work = work
        self._is_done = False
        self._waiting = []

    def start(self):
        self._threads.start(self._run)

    def _run(self):
        self._work()
        self._is_done = True
        for each in self._waiting:
            self._threads.wake(each)

    def join(self):
        if not self._is_done:
            self._waiting.append(greenlet.getcurrent())
            self._threads.suspend()
