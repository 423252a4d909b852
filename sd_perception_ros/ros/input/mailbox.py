"""A queue of length one for each camera, and the worker thread that reads it."""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Generic, TypeVar

T = TypeVar('T')


class Mailbox(Generic[T]):
    """
    One slot for each camera.

    A new item replaces the one that was not taken yet: frames are dropped, not queued.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: dict[str, T] = {}
        self._closed = False

    def put(self, slot: str, item: T) -> bool:
        """Put an item into a slot; return whether it replaced an item that was not taken."""
        with self._changed:
            # A replaced item keeps its position: the slot that waited longest stays first.
            replaced = slot in self._items
            self._items[slot] = item
            self._changed.notify()
        return replaced

    def take(self) -> list[T]:
        """Wait for an item and return those of all slots; empty once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            items, self._items = ({} if self._closed else self._items), {}
        return list(items.values())

    def close(self) -> None:
        """End all calls of `take`, now and later; remaining items are dropped."""
        with self._changed:
            self._closed = True
            self._items = {}
            self._changed.notify_all()


class Worker(Generic[T]):
    """A thread that calls `handle` with the newest items of all slots."""

    def __init__(self, handle: Callable[[list[T]], None]) -> None:
        self._mailbox: Mailbox[T] = Mailbox()
        self._handle = handle
        self._count = 0
        self._in_hand: tuple[int, list[T]] = (0, [])
        # A daemon: a thread that hangs in a driver must not keep the process from its end.
        self._thread = threading.Thread(target=self._run, name='worker', daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; it ends by `stop` or by an exception in `handle`."""
        return self._thread.is_alive()

    @property
    def in_hand(self) -> tuple[int, list[T]]:
        """Index of the batch that is processed now, and its items; (0, []) if none is."""
        return self._in_hand

    def put(self, slot: str, item: T) -> bool:
        """Put an item into a slot; return whether it replaced an item that was not taken."""
        return self._mailbox.put(slot, item)

    def stop(self, timeout_s: float | None = None) -> bool:
        """
        End the thread after the items that it is processing.

        :param timeout_s: wait no longer for them; None: as long as it takes.
        :returns: whether the thread has ended.
        """
        self._mailbox.close()
        # Python aborts if a thread is still inside torch when the interpreter ends.
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while items := self._mailbox.take():
            self._count += 1
            self._in_hand = self._count, items
            self._handle(items)
            self._in_hand = 0, []
