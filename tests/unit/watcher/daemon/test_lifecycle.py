"""Whatever happens to a spool, in whatever order: every job is in one place, and in the end published once.

Jobs are dropped, taken, processed; the process is killed before any call that changes the disk; calls are refused by
the file system; consumers take results away. All of it on real folders, with the outbox on the same file system or on
another one.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jobs.errors import Cancelled, Hold, RenderFailed
from jobs.order import Order, Rendering
from jobs.schedule import Ticket
from jobs.spool.claim import ClaimFolder
from jobs.spool.store import Changed
from tests.in_process import Desk, killed_at, refused_at, render, results_below, whole

NAMES = ["hello", "Hello", "hello.failed", "hello~2", "radio", "radio/hello", "Radio/hello", "ol\u00e1", "ola\u0301"]
TOKEN = re.compile(rb"job-\d+")

# What happens meanwhile: nothing, a kill before the n-th change of the disk, or refusals from the n-th on.
mishaps = st.one_of(
    st.none(),
    st.tuples(st.just("kill"), st.integers(1, 40)),
    st.tuples(st.sampled_from([errno.ENOSPC, errno.EROFS, errno.EIO]), st.integers(1, 30), st.integers(1, 3)),
)


def meanwhile(mishap: tuple[Any, ...] | None) -> AbstractContextManager[list[str]]:
    if mishap is None:
        return nullcontext([])
    if mishap[0] == "kill":
        return killed_at(mishap[1])
    return refused_at(mishap[1], mishap[2], mishap[0])


def tokens(path: Path) -> list[str]:
    return [token.decode() for token in TOKEN.findall(path.read_bytes())]


def renderer(kind: str) -> Any:
    def run(order: Order, timeout_s: float | None) -> Rendering:
        if kind == "fails":
            raise RenderFailed("the engine stumbled")
        if kind == "refuses":
            raise RenderFailed("the engine can't", retryable=False)
        if kind == "holds":
            raise Hold("the machine has trouble")
        if kind == "cancelled":
            raise Cancelled("it was cancelled")
        return render(order, timeout_s)

    return run


class Life(RuleBasedStateMachine):
    """A spool, and what the world outside knows of its jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped: list[str] = []
        self.consumed: list[str] = []
        self.queue: dict[str, Ticket] = {}

    @initialize(across=st.booleans())
    def start(self, across: bool) -> None:
        quick = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(dir=quick))
        self.elsewhere = Path(tempfile.mkdtemp(dir=None if across else quick))
        self.at = Desk(self.folder, outbox=self.elsewhere / "outbox")
        (self.at.voices / "ana.wav").write_bytes(b"RIFF")
        self.begin()

    def begin(self) -> None:
        self.at.open()
        self.queue = {ticket.job_id: ticket for ticket in self.at.resume()}

    def kill(self) -> None:
        self.at.close()
        self.begin()

    # --- the world ---------------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(NAMES), suffix=st.sampled_from([".yaml", ".yml"]), jobs=st.integers(1, 3), data=st.data()
    )
    def drop(self, name: str, suffix: str, jobs: int, data: st.DataObject) -> None:
        if (self.at.inbox / (name + suffix)).exists():
            return
        documents = []
        for _ in range(jobs):
            token = f"job-{len(self.dropped):04d}"
            self.dropped.append(token)
            body = data.draw(st.sampled_from(["text: {}\n", "txt: {}\n", "text: {}\nspeaker_wav: ana.wav\n"]))
            documents.append(body.format(token))
        self.at.drop(name + suffix, "---\n".join(documents))

    def results(self) -> list[Path]:
        return list(results_below(self.at.results))

    @precondition(lambda self: self.results())
    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        folder = data.draw(st.sampled_from(sorted(self.results())))
        self.consumed += self.of_result(folder)
        shutil.move(folder, self.elsewhere / f"consumed-{len(self.consumed)}-{len(self.dropped)}")

    # --- the spool ---------------------------------------------------------------------------------

    def waiting(self) -> list[str]:
        files = [path for path in self.at.inbox.rglob("*.y*ml") if ".voicespool" not in path.parts]
        return sorted(str(path.relative_to(self.at.inbox)) for path in files)

    @precondition(lambda self: self.waiting())
    @rule(data=st.data(), mishap=mishaps, changes=st.booleans(), aside=st.booleans())
    def take(self, data: st.DataObject, mishap: tuple[Any, ...] | None, changes: bool, aside: bool) -> None:
        source = data.draw(st.sampled_from(self.waiting()))
        found = self.at.look(source)
        if changes:
            os.utime(self.at.inbox / source, ns=(0, found.status.st_mtime_ns + 1))
        elif aside:
            found = replace(found, set_aside="it was found wanting")
        tickets = None
        try:
            with meanwhile(mishap):
                tickets = self.at.take_found(found)
        except Changed:
            return
        except Hold:
            self.kill()  # the daemon opens the inbox anew
        except OSError:
            return  # the file is held where it is
        if tickets is None:
            self.kill()
        else:
            self.queue |= {ticket.job_id: ticket for ticket in tickets}

    @precondition(lambda self: self.queue)
    @rule(
        data=st.data(),
        mishap=mishaps,
        kind=st.sampled_from(["renders", "renders", "renders", "fails", "refuses", "holds", "cancelled"]),
    )
    def process(self, data: st.DataObject, mishap: tuple[Any, ...] | None, kind: str) -> None:
        ticket = self.queue[data.draw(st.sampled_from(sorted(self.queue)))]
        over = False
        try:
            with meanwhile(mishap):
                self.at.process(ticket, renderer(kind))
                over = True
        except (Hold, OSError):
            self.at.opened.outbox = None
            return
        if over:
            del self.queue[ticket.job_id]
        else:
            self.kill()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ClaimFolder(self.at.state / "claimed" / data.draw(st.sampled_from(sorted(self.queue)))).record().add(
            cancelled=True
        )

    @rule(mishap=mishaps)
    def restart(self, mishap: tuple[Any, ...] | None) -> None:
        """Also one that does not get to its end."""
        self.at.close()
        try:
            with meanwhile(mishap):
                self.begin()
                return
        except (Hold, OSError):
            pass
        self.kill()

    # --- where everything is -----------------------------------------------------------------------

    def of_result(self, folder: Path) -> list[str]:
        whole(folder)
        (job_file,) = [path for path in folder.iterdir() if path.suffix in {".yaml", ".yml"}]
        return tokens(job_file)

    def claims(self) -> Iterator[tuple[str, Path]]:
        """Every claim that is a job still: its id, and the file that says which."""
        ids = set(self.at.claimed())
        inbox = {os.lstat(self.at.inbox / source).st_ino for source in self.waiting()}
        for job_id in ids:
            folder = self.at.state / "claimed" / job_id
            if job_id.rpartition("-")[0] in ids:
                continue  # of a split that goes back
            original, made = folder / "original", sorted(folder.glob("job.*"))
            record = ClaimFolder(folder).record()
            document = record.last("document")
            if not document and (not original.exists() or os.lstat(original).st_ino in inbox):
                continue  # it did not come to a claim, or was put back
            staging = self.at.results / ".voicespool"
            if record.intent and not list(staging.glob(f"*/{job_id}")):
                continue  # published, and not released yet
            yield job_id, made[0] if document else original

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        if not hasattr(self, "at"):
            return
        places = Counter(self.consumed)
        for source in self.waiting():
            places.update(tokens(self.at.inbox / source))
        for _job_id, path in self.claims():
            places.update(tokens(path))
        for folder in self.results():
            places.update(self.of_result(folder))
        assert places == Counter(self.dropped)

    @invariant()
    def no_claim_is_forgotten_by_the_running_process(self) -> None:
        if hasattr(self, "at"):
            assert {job_id for job_id, _path in self.claims()} <= set(self.queue)

    def teardown(self) -> None:
        if not hasattr(self, "at"):
            return
        try:
            self.finish()
        finally:
            self.at.close()
            shutil.rmtree(self.folder)
            shutil.rmtree(self.elsewhere)

    def finish(self) -> None:
        """A clean run to the end: everything is published, once, and nothing is left behind."""
        self.kill()
        for source in self.waiting():
            self.queue |= {ticket.job_id: ticket for ticket in self.at.take(source)}
        for ticket in self.queue.values():
            self.at.process(ticket)
        published = [token for folder in self.results() for token in self.of_result(folder)]
        assert Counter(published + self.consumed) == Counter(self.dropped)
        self.at.find_outbox()
        for left in ("claimed", "trash", "recordings"):
            assert os.listdir(self.at.state / left) == []
        outbox = self.at.opened.outbox
        assert outbox is not None
        assert os.listdir(outbox.staging) == []


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=25)
