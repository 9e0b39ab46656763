"""The order of the queue, against a model that is too simple to be wrong."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jobs.schedule import MAX_URGENT_IN_A_ROW, URGENT, Schedule, Ticket

MODELS = [("espeak", ""), ("xtts", "ana"), ("xtts", "rui")]
PATIENCE_S = 100.0


def ticket(number: int, priority: int = 5, **more: object) -> Ticket:
    return replace(Ticket(f"id{number}", f"job-{number}", number, priority, 0, 0.0, MODELS[0]), **more)  # type: ignore[arg-type]


def drained(schedule: Schedule, warm: tuple[str, str] | None = None, wall_s: float = 0.0) -> list[str]:
    chosen = iter(lambda: schedule.choose(wall_s, 0.0, warm), None)
    return [ticket.job_id for ticket in chosen]


def test_highest_priority_first_then_oldest_then_documents_in_order() -> None:
    schedule = Schedule(lambda: PATIENCE_S)
    schedule.add(ticket(3, document=2, job_id="3-2"))
    schedule.add(ticket(3, document=1, job_id="3-1"))
    schedule.add(ticket(3, document=10, job_id="3-10"))
    for number, priority in [(4, 5), (2, 0), (5, 9), (6, URGENT), (1, 5)]:
        schedule.add(ticket(number, priority))
    assert schedule.has_urgent()
    assert drained(schedule) == ["id6", "id5", "id1", "3-1", "3-2", "3-10", "id4", "id2"]
    assert not schedule.has_urgent()
    assert len(schedule) == 0


def test_a_thousand_failures_to_report_do_not_keep_a_job_from_its_turn() -> None:
    schedule = Schedule(lambda: PATIENCE_S)
    for number in range(1000):
        schedule.add(ticket(number, URGENT))
    schedule.add(ticket(1000))
    assert schedule.choose(0.0, 0.0, None, only_urgent=True) is not None
    order = drained(schedule)
    assert order.index("id1000") == MAX_URGENT_IN_A_ROW
    assert len(order) == 1000
    schedule.add(ticket(1))
    assert schedule.choose(0.0, 0.0, None, only_urgent=True) is None


def test_a_job_that_is_queued_again_is_in_it_once() -> None:
    schedule = Schedule(lambda: PATIENCE_S)
    schedule.add(ticket(1))
    schedule.add(ticket(1, not_before=50.0))
    schedule.add(ticket(1, priority=URGENT))
    assert len(schedule) == 1
    assert drained(schedule) == ["id1"]


def test_jobs_for_the_loaded_model_go_first_among_equals_for_a_while() -> None:
    schedule = Schedule(lambda: PATIENCE_S)
    for number in range(6):
        schedule.add(ticket(number, model=MODELS[number % 2]))
    warm = MODELS[1]
    first = [schedule.choose(0.0, steady_s, warm) for steady_s in (0.0, 99.9)]
    assert [found.job_id for found in first if found] == ["id1", "id3"]
    last = schedule.choose(0.0, 100.0, warm)
    assert last is not None
    assert last.job_id == "id0", "the oldest was passed over for its patience's length"


def test_a_loaded_model_never_beats_priority() -> None:
    schedule = Schedule(lambda: PATIENCE_S)
    schedule.add(ticket(1, priority=6, model=MODELS[0]))
    schedule.add(ticket(0, priority=5, model=MODELS[1]))
    assert drained(schedule, warm=MODELS[1]) == ["id1", "id0"]


def test_not_before_is_kept_to_the_second_and_does_not_hold_up_others() -> None:
    schedule = Schedule(lambda: PATIENCE_S)
    schedule.add(ticket(1, priority=9, not_before=1000.0))
    schedule.add(ticket(2))
    assert schedule.next_start() == 1000.0
    assert drained(schedule, wall_s=999.9) == ["id2"]
    assert not schedule.has_ready(999.9)
    assert schedule.has_ready(1000.0)
    assert drained(schedule, wall_s=1000.0) == ["id1"]
    assert schedule.next_start() is None


def test_one_that_woke_can_be_removed_and_put_back() -> None:
    schedule = Schedule(lambda: PATIENCE_S)
    schedule.add(ticket(1, not_before=10.0))
    assert schedule.has_ready(10.0)
    taken = schedule.remove("id1")
    assert taken is not None
    assert schedule.remove("id1") is None
    schedule.add(taken)
    assert drained(schedule, wall_s=10.0) == ["id1"]


def test_the_head_is_shown_without_taking_it() -> None:
    schedule = Schedule(lambda: PATIENCE_S)
    for number in range(50):
        schedule.add(ticket(number, not_before=float(number % 2)))
    shown = [shown.job_id for shown in schedule.first(30)]
    assert shown == [f"id{number}" for number in (*range(0, 50, 2), 1, 3, 5, 7, 9)]
    assert len(schedule) == 50


def test_a_cancel_means_the_job_or_all_documents_of_the_file() -> None:
    schedule = Schedule(lambda: PATIENCE_S)
    for document in (1, 2):
        schedule.add(ticket(document, name=f"radio/hello-{document}", document=document, file_name="radio/hello"))
    schedule.add(ticket(3, name="radio/hello-2"))
    schedule.add(ticket(4, name="hello"))
    assert {found.job_id for found in schedule.named("radio/hello")} == {"id1", "id2"}
    assert {found.job_id for found in schedule.named("radio/hello-2")} == {"id2", "id3"}
    schedule.add(ticket(5, name="evening/news", file_name="radio/job"))  # a job that names itself
    assert {found.job_id for name in ("evening/news", "radio/job") for found in schedule.named(name)} == {"id5"}
    assert schedule.named("radio") == []


class Queue(RuleBasedStateMachine):
    """Whatever is added, removed and chosen at whatever times, the queue does what a sorted list does."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(lambda: PATIENCE_S)
        self.model: dict[str, Ticket] = {}
        self.wall_s = self.steady_s = 0.0
        self.woken: set[str] = set()
        self.passed_over = ("", 0.0)
        self.numbers = iter(range(10_000))

    @rule(
        priority=st.integers(0, URGENT),
        model=st.sampled_from(MODELS),
        not_before=st.sampled_from([0.0, 5.0, 60.0]),
        age=st.integers(0, 3),
    )
    def add(self, priority: int, model: tuple[str, str], not_before: float, age: int) -> None:
        number = next(self.numbers)
        new = Ticket(f"id{number}", f"job-{number}", age, priority, number, not_before, model)
        self.schedule.add(new)
        self.model[new.job_id] = new

    @rule(step_s=st.floats(0.1, 70.0), back=st.booleans())
    def time_passes(self, step_s: float, back: bool) -> None:
        self.steady_s += step_s
        self.wall_s += -step_s if back else step_s

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.model)))
        assert self.schedule.remove(job_id) == self.model.pop(job_id)
        self.woken.discard(job_id)

    def ready(self) -> list[Ticket]:
        """A job whose time has come stays ready, also when the clock is set back."""
        self.woken.update(found.job_id for found in self.model.values() if found.not_before <= self.wall_s)
        ready = [found for found in self.model.values() if found.job_id in self.woken or not found.not_before]
        return sorted(ready, key=lambda found: (-found.priority, found.claimed_ns, found.document))

    @rule(warm=st.sampled_from([None, *MODELS]))
    def choose(self, warm: tuple[str, str] | None) -> None:
        ready = self.ready()
        chosen = self.schedule.choose(self.wall_s, self.steady_s, warm)
        if not ready:
            assert chosen is None
            return
        assert chosen is not None
        oldest = ready[0]
        suited = [found for found in ready if found.model == warm and found.priority == oldest.priority]
        assert chosen in ([oldest, suited[0]] if suited else [oldest])
        if chosen != oldest:
            if self.passed_over[0] != oldest.job_id:
                self.passed_over = oldest.job_id, self.steady_s
            assert self.steady_s - self.passed_over[1] < PATIENCE_S
        del self.model[chosen.job_id]
        self.woken.discard(chosen.job_id)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.schedule) == len(self.model)
        assert all(job_id in self.schedule for job_id in self.model)
        assert {found.job_id for found in self.schedule.first(10_000)} == set(self.model)
        assert self.schedule.has_ready(self.wall_s) == bool(self.ready())


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30)


@given(st.lists(st.sampled_from(MODELS), min_size=2, max_size=40), st.floats(1.0, 60.0))
def test_nobody_at_the_head_waits_longer_than_the_bound(models: list[tuple[str, str]], job_s: float) -> None:
    """One warm model and an endless supply of jobs for it: all others get their turn within patience and one job."""
    schedule, steady_s, supply = Schedule(lambda: PATIENCE_S), 0.0, iter(range(1000, 100_000))
    for number, model in enumerate(models):
        schedule.add(ticket(number, model=model))
    warm, head, since = MODELS[0], "", 0.0
    for _ in range(300):
        schedule.add(ticket(next(supply), model=warm))
        first = next(iter(schedule.first(1))).job_id
        head, since = (head, since) if first == head else (first, steady_s)
        assert steady_s - since <= PATIENCE_S + job_s
        chosen = schedule.choose(0.0, steady_s, warm)
        assert chosen is not None
        warm, steady_s = chosen.model, steady_s + job_s


def test_a_waiting_ticket_is_small() -> None:
    """100,000 of them and all that the queue needs to keep them in order stay under 80 MB."""
    import tracemalloc

    count = 5_000
    tracemalloc.start()
    try:
        schedule, before = Schedule(lambda: PATIENCE_S), tracemalloc.get_traced_memory()[0]
        for number in range(count):
            claimed_ns = 1_790_000_000_000_000_000 + number
            schedule.add(
                Ticket(f"20261121T210000.{number:09d}", f"folder/job-{number:06d}", claimed_ns, model=MODELS[0])
            )
        each = (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
    assert each < 800
