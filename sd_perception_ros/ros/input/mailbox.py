"""A mailbox for the newest frames, and the worker thread that empties it."""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Generic, TypeVar

T = TypeVar('T')


class Mailbox(Generic[T]):
    """
    One slot for each camera.

    A new item replaces one that nobody took, so frames are dropped, never queued.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: dict[str, T] = {}
        self._closed = False

    def put(self, slot: str, item: T) -> bool:
        """Leave an item; return whether it replaced one that nobody took."""
        with self._changed:
            # The one that waited longest stays the first.
            replaced = slot in self._items
            self._items[slot] = item
            self._changed.notify()
        return replaced

    def take(self) -> list[T]:
        """Wait for an item; return those of all slots, or none when the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            items, self._items = ({} if self._closed else self._items), {}
        return list(items.values())

    def close(self) -> None:
        """End every `take`, now and later; items still inside are dropped."""
        with self._changed:
            self._closed = True
            self._items = {}
            self._changed.notify_all()


class Worker(Generic[T]):
    """A thread that handles the newest items, those of all slots together."""

    def __init__(self, handle: Callable[[list[T]], None]) -> None:
        self._mailbox: Mailbox[T] = Mailbox()
        self._handle = handle
        self._thread = threading.Thread(target=self._run, name='worker')
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs; it ends by `stop` or by an exception in `handle`."""
        return self._thread.is_alive()

    def put(self, slot: str, item: T) -> bool:
        """Hand over an item; return whether it replaced one that nobody took."""
        return self._mailbox.put(slot, item)

    def stop(self) -> None:
        """End the thread after the items that it has in hand."""
        self._mailbox.close()
        # A thread that is still inside torch when the interpreter ends aborts the process.
        self._thread.join()

    def _run(self) -> None:
        while items := self._mailbox.take():
            self._handle(items)
