"""A mailbox for the newest frame, and the worker thread that empties it."""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Generic, TypeVar

T = TypeVar('T')


class Mailbox(Generic[T]):
    """One slot: a new item replaces one that nobody took, so frames are dropped, never queued."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> bool:
        """Leave an item; return whether it replaced one that nobody took."""
        with self._changed:
            replaced = self._item is not None
            self._item = item
            self._changed.notify()
        return replaced

    def take(self) -> T | None:
        """Wait for an item; return None when the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None)
            item, self._item = (None if self._closed else self._item), None
        return item

    def close(self) -> None:
        """End every `take`, now and later; an item still inside is dropped."""
        with self._changed:
            self._closed = True
            self._item = None
            self._changed.notify_all()


class Worker(Generic[T]):
    """A thread that handles the newest item, one at a time."""

    def __init__(self, handle: Callable[[T], None]) -> None:
        self._mailbox: Mailbox[T] = Mailbox()
        self._handle = handle
        self._thread = threading.Thread(target=self._run, name='worker')
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs; it ends by `stop` or by an exception in `handle`."""
        return self._thread.is_alive()

    def put(self, item: T) -> bool:
        """Hand over an item; return whether it replaced one that nobody took."""
        return self._mailbox.put(item)

    def stop(self) -> None:
        """End the thread after the item that it has in hand."""
        self._mailbox.close()
        # A thread that is still inside torch when the interpreter ends aborts the process.
        self._thread.join()

    def _run(self) -> None:
        while (item := self._mailbox.take()) is not None:
            self._handle(item)
