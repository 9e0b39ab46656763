"""File events as hints: where to look first, and which files appeared by a rename. Nothing depends on them."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from watchdog.observers.inotify_c import CallbackId, InotifyEvent, InotifyFD, Mask, WatchDescriptor


@dataclass(slots=True)
class Hints:
    """Events since the last call of `Events.take`.

    Attributes:
        moved: Paths that appeared by a rename, so they are complete.
        touched: Paths that were created, closed by a writer, or removed.
        lost: Events were dropped: sweep the whole inbox.
    """

    moved: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    lost: bool = False

    def __bool__(self) -> bool:
        return bool(self.moved or self.touched or self.lost)


MAX_HINTS = 10_000  # beyond that, a sweep is cheaper
_MOVED_ITSELF = 0x800  # IN_MOVE_SELF


class Events:
    """inotify watches on single folders, through watchdog's reader thread.

    watchdog's observers delay a moved-from event by half a second to pair it with its moved-to event, and guess moves
    when they poll. The reader below them does neither. Without inotify, or enough watches, the sweeps find the files.

    Attributes:
        wake_fd: Readable when there are hints.
        trouble: Why some folders are not watched; "" when all are.
    """

    def __init__(self) -> None:
        self.wake_fd, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.trouble = ""
        self._lock = threading.Lock()
        self._hints = Hints()
        self._paths: dict[WatchDescriptor, str] = {}
        self._descriptors: dict[str, WatchDescriptor] = {}
        self._ids: dict[WatchDescriptor, CallbackId] = {}
        self._next_id = count()
        self._reader: InotifyFD | None = None
        if sys.platform == "linux":
            from watchdog.observers.inotify_c import InotifyFD

            try:
                reader = InotifyFD()
                reader.start()
                self._reader = reader
            except (OSError, RuntimeError) as error:  # RuntimeError: a thread can't be started
                self.trouble = f"no file events ({getattr(error, 'strerror', error)}); the inbox is scanned"

    def watch(self, folder: Path) -> None:
        """Watch one folder, without its subfolders. Watching it again is cheap."""
        path = str(folder)
        if self._reader is None or path in self._descriptors:
            return
        from watchdog.observers.inotify_c import InotifyConstants as Inotify
        from watchdog.observers.inotify_c import Mask

        mask = Inotify.IN_CREATE | Inotify.IN_MOVED_TO | Inotify.IN_CLOSE_WRITE | Inotify.IN_DELETE
        mask |= Inotify.IN_DELETE_SELF | Inotify.IN_MOVE_SELF | Inotify.IN_ONLYDIR | Inotify.IN_DONT_FOLLOW
        try:
            with self._lock:
                self._add(self._reader, path, Mask(mask))
        except (FileNotFoundError, NotADirectoryError):
            return  # gone again
        except OSError as error:
            self.trouble = f"not all folders can be watched for events ({error.strerror}); they are scanned"

    def _add(self, reader: InotifyFD, path: str, mask: Mask) -> None:
        """Add a watch. A folder that was moved within the tree already has one, under its earlier path."""
        own_id = cast("CallbackId", next(self._next_id))
        descriptor = reader.add_callback(os.fsencode(path), mask, self, own_id)
        if (before := self._ids.get(descriptor)) is not None:
            reader.remove_callbacks([(descriptor, before)])
            self._descriptors.pop(self._paths[descriptor], None)
        if descriptor < 0:  # the reader's answer for a folder without read permission
            reader.remove_callbacks([(descriptor, own_id)])
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self._paths[descriptor], self._descriptors[path], self._ids[descriptor] = path, descriptor, own_id

    def watches(self, folder: Path) -> bool:
        """Whether changes in this folder raise events."""
        return str(folder) in self._descriptors

    def forget(self) -> None:
        """Remove all watches."""
        with self._lock:
            watches = list(self._ids.items())
            self._ids.clear()
            self._paths.clear()
            self._descriptors.clear()
        if self._reader is not None:
            with contextlib.suppress(OSError):
                self._reader.remove_callbacks(watches)

    def take(self) -> Hints:
        """Return the hints since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_fd, 4096)
        with self._lock:
            hints, self._hints = self._hints, Hints()
        return hints

    def close(self) -> None:
        if self._reader is not None:
            self._reader.stop()
            self._reader.join()
        os.close(self.wake_fd)
        os.close(self._wake_write)

    # --- called by watchdog's thread ---------------------------------------------------------------

    def on_event(self, event: InotifyEvent) -> None:
        if event.mask & _MOVED_ITSELF:
            self._drop(event.wd)
            return
        with self._lock:
            folder = self._paths.get(event.wd)
            if folder is None:
                return
            path = os.path.join(folder, os.fsdecode(event.name)) if event.name else folder
            hints = self._hints
            (hints.moved if event.is_moved_to else hints.touched).add(path)
            if len(hints.moved) + len(hints.touched) > MAX_HINTS:
                hints.moved.clear()
                hints.touched.clear()
                hints.lost = True
        self._wake()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        with self._lock:
            folder = self._paths.pop(wd, None)
            self._ids.pop(wd, None)
            if folder is not None:
                self._descriptors.pop(folder, None)
                self._hints.touched.add(folder)
        self._wake()

    def _drop(self, wd: WatchDescriptor) -> None:
        """Remove the watches of a folder that was moved and of the folders in it: their paths are wrong now."""
        with self._lock:  # else `watch` could reuse one of them meanwhile
            folder = self._paths.get(wd)
            below = [other for other, path in self._paths.items() if folder and path.startswith(folder + "/")]
            watches = [(moved, self._ids[moved]) for moved in (wd, *below) if moved in self._ids]
            if self._reader is not None:
                with contextlib.suppress(OSError):
                    self._reader.remove_callbacks(watches)
        for moved, _id in watches:
            self.on_watch_deleted(moved)

    def on_queue_overflow(self) -> None:
        with self._lock:
            self._hints.lost = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # if the pipe is full it is readable already; if closed, nobody waits
            os.write(self._wake_write, b"!")
