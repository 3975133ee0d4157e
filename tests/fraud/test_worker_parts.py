"""Parts of the worker by themselves: the draw, what a card may have passed, what is recalled, what a position notes."""

import hashlib
import hmac
from types import SimpleNamespace
from typing import Any

import pytest

from fraud import policy, stream
from fraud.config import DAY, EXPLORED_A_DAY, PARTITIONS
from fraud.ingest import unexpected
from fraud.schema import Cell, Decision, Label, Transaction
from fraud.stream import TERMINALS, Worker, entries_of
from fraud.windows import Card
from shared.dead_letters import Refused
from shared.eventlog.port import LogUnavailable, Record
from tests.worlds import START

SECRET = b"a key for tests"
PAYMENT = Transaction(card="c", id="1", terminal="t", at=START + DAY - 1, cents=100, country="BE", device="d")
RECORD = Record("fraud.events", 3, 17, "c", b"", START)


# --- the draw --------------------------------------------------------------------------------------------


def drawn(card: str, day: int, secret: bytes = SECRET) -> float:
    worker: Any = SimpleNamespace(_secret=secret)
    return Worker._draw(worker, card, day)


def test_a_draw_is_the_keyed_hash_of_card_and_day() -> None:
    said = hmac.new(SECRET, b"c 20454", hashlib.sha256).digest()
    assert drawn("c", 20_454) == int.from_bytes(said[:8], "big") / 2**64
    assert len({drawn("c", 1), drawn("c", 2), drawn("d", 1), drawn("c", 1, b"another")}) == 4


def test_draws_are_uniform() -> None:
    draws = [drawn(f"card-{n}", 1) for n in range(4_000)]
    assert 0 <= min(draws) < 0.01
    assert 0.99 < max(draws) < 1
    assert sum(draws) / 4_000 == pytest.approx(0.5, abs=0.02)


def chance(*spent: tuple[int, int]) -> Any:
    """What a card that has paid (at, cents) is given."""
    card = Card()
    for at, cents in spent:
        card.add(at, cents, 0, 0, median=0)
    memory = SimpleNamespace(state=SimpleNamespace(cards={"c": card}))
    worker: Any = SimpleNamespace(_memories={3: memory}, _draw=lambda card, day: (card, day))
    return Worker._chance(worker, RECORD, PAYMENT)


def test_a_card_is_drawn_until_it_has_tried_too_much_that_day() -> None:
    day = START // DAY
    assert chance((START, 100))() == ("c", day)
    assert chance((START, EXPLORED_A_DAY))() == ("c", day)
    assert chance((START, EXPLORED_A_DAY), (START + DAY - 1, 1)) is None
    assert chance((START - 1, EXPLORED_A_DAY), (START, 1))() == ("c", day), "the day before is another day"
    assert chance((START, 1), (START + DAY, EXPLORED_A_DAY))() == ("c", day), "so is the day after"


# --- what is recalled --------------------------------------------------------------------------------------


def recalled(event: Any, *, known: Any = "new", cell: Any = None) -> tuple[Any, list[Any]]:
    """What a rebuild makes of an event, and what it stepped."""
    stepped: list[Any] = []

    def recall(_: object, fingerprint: str) -> str:
        assert fingerprint == PAYMENT.fingerprint(SECRET)
        if isinstance(known, Exception):
            raise known
        return str(known)

    def step(_: object, event: object) -> Any:
        stepped.append(event)
        return [1.0], cell, None

    worker: Any = SimpleNamespace(_secret=SECRET, _stepped=step)
    memory: Any = SimpleNamespace(recall=recall, state=SimpleNamespace(partition=3))
    return Worker._recall(worker, memory, event), stepped


def test_a_rebuild_steps_what_is_new_and_gives_the_hour_that_it_closes() -> None:
    cell = Cell(partition=3, hour=1, until=2, counts={})
    label = Label(card="c", id="1", terminal="t", at=START, fraud=True, source="analyst")
    assert recalled(PAYMENT) == ((), [PAYMENT])
    assert recalled(PAYMENT, cell=cell) == ((cell,), [PAYMENT])
    assert recalled(label, known="repeat", cell=cell) == ((cell,), [label]), "only payments have an identity"


@pytest.mark.parametrize("known", ["repeat", "conflict", RuntimeError("a field of another version")])
def test_a_rebuild_leaves_out_what_was_none_when_it_first_came(known: Any) -> None:
    cell = Cell(partition=3, hour=1, until=2, counts={})
    assert recalled(PAYMENT, known=known, cell=cell) == ((), [])


def test_a_rebuild_ends_when_what_it_needs_is_away() -> None:
    with pytest.raises(LogUnavailable):
        recalled(PAYMENT, known=LogUnavailable("away"))


# --- records -----------------------------------------------------------------------------------------------


def test_an_hour_of_very_many_terminals_is_several_records() -> None:
    for terminals, sizes in ((0, [0]), (1, [1]), (TERMINALS, [TERMINALS]), (TERMINALS + 1, [TERMINALS, 1])):
        cell = Cell(partition=3, hour=7, until=9, counts={f"t{n}": (n, 0) for n in range(terminals)})
        entries = entries_of(cell)
        parts = [Cell.model_validate_json(entry.value) for entry in entries]
        assert [len(part.counts) for part in parts] == sizes
        assert [(part.part, part.parts) for part in parts] == [(n, len(sizes)) for n in range(len(sizes))]
        assert {name: count for part in parts for name, count in part.counts.items()} == cell.counts
        assert [entry.key for entry in entries] == (["3:7"] if len(sizes) == 1 else ["3:7:0", "3:7:1"])


@pytest.mark.parametrize(
    ("note", "desk"),
    [("[20454, 3]", (20_454, 3)), ('[20454, 3, "later"]', (20_454, 3)), ("", None), ("[1]", None), ("7", None)],
)
def test_a_position_notes_the_analysts_day(note: str, desk: tuple[int, int] | None) -> None:
    read = stream._desk(note)
    assert (read and (read.day, read.taken)) == desk


def test_a_record_on_which_our_own_code_fails_is_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Record) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(stream, "accept", fails)
    read = stream._read(RECORD)
    assert isinstance(read, Refused)
    assert str(read) == str(unexpected(ZeroDivisionError()))

    def away(_: Record) -> Any:
        raise LogUnavailable("away")

    monkeypatch.setattr(stream, "accept", away)
    with pytest.raises(LogUnavailable):
        stream._read(RECORD)


# --- the analysts' day ---------------------------------------------------------------------------------------


def by_rules(payment: Transaction, *, mark: str, desk: policy.Desk) -> Any:
    book = SimpleNamespace(complete=10**9)
    worker: Any = SimpleNamespace(_desks={3: desk}, _secret=SECRET, _book=book)
    worker._desk = lambda partition, payment: Worker._desk(worker, partition, payment)
    worker._known = lambda *given: Worker._known(worker, *given)
    return Worker._by_rules(worker, RECORD, payment, None, mark)


def test_a_review_by_the_rules_takes_a_place_while_there_is_one_and_a_probe_takes_none() -> None:
    large = PAYMENT.model_copy(update={"cents": 2_000_00})
    desk = policy.Desk(places=1)
    probe = by_rules(large.model_copy(update={"probe": True}), mark="late", desk=desk)
    assert (probe.action, probe.probe, desk.taken) == ("review", True, 0)
    for mark, reasons in (("late", ("too_late", "high_amount")), ("error", ("failed", "high_amount"))):
        said = by_rules(large, mark=mark, desk=desk)
        assert (said.action, said.rules, said.path, said.mark, said.reasons) == (
            "review",
            "review",
            "rules",
            mark,
            reasons,
        )
        assert (said.partition, said.offset, said.probability, said.features) == (3, 17, None, None)
        assert desk.taken == 1
    small = by_rules(PAYMENT, mark="no-model", desk=desk)
    assert (small.action, small.reasons, desk.taken) == ("approve", (), 1)
    assert RECORD.partition < PARTITIONS


# --- what is told, saved and known of before ------------------------------------------------------------------


def test_a_closed_hour_is_told_unless_the_book_has_it() -> None:
    added: list[Any] = []
    book = SimpleNamespace(closed={3: START}, add=added.extend)
    worker: Any = SimpleNamespace(_book=book, _out=[])
    for until, told in ((None, 0), (START - 1, 0), (START, 0), (START + 1, 1)):
        cell: Any = None if until is None else Cell(partition=3, hour=START // 3_600, until=until, counts={})
        Worker._emit(worker, cell)
        assert (len(added), len(worker._out)) == (told, told)


def test_a_partition_is_saved_every_so_many_records_and_one_of_them_a_step() -> None:
    saved: list[int] = []
    committed: list[Any] = []
    worker: Any = SimpleNamespace(
        _desks={number: policy.Desk(7, 2) for number in range(3)},
        _consumer=SimpleNamespace(commit=lambda *given: committed.append(given)),
        _out=["said"],
        _saved={0: 10, 1: 10, 2: 10},
        _memories={0: 0, 1: 1, 2: 2},
        _save=saved.append,
    )
    due = 10 + stream.SNAPSHOT_EVERY
    Worker._commit(worker, {0: due - 1, 1: due, 2: due})
    assert saved == [1]
    assert worker._saved == {0: 10, 1: due, 2: 10}
    ((said, positions),) = committed
    assert said == ["said"]
    assert worker._out == []
    assert {(place.topic, place.partition): tuple(at) for place, at in positions.items()} == {
        ("fraud.events", 0): (due - 1, "[7, 2]"),
        ("fraud.events", 1): (due, "[7, 2]"),
        ("fraud.events", 2): (due, "[7, 2]"),
    }


def test_how_far_it_was_decided_is_known_from_decisions_and_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    day = START // DAY

    def said(offset: int, action: str = "approve", *, at: int = START, probe: bool = False, **other: Any) -> Any:
        about: dict[str, Any] = {"partition": 0, "offset": offset, "at": at, "action": action, "probe": probe} | other
        return Decision.model_construct(**about)

    decisions = [
        said(0, "review", at=START - DAY),
        said(1, "review"),
        said(2, "review"),
        said(3, "decline"),
        said(4, "review", probe=True),
        said(9, "review"),  # behind the end of the log
        said(10, "review"),
        said(8, partition=None),  # a stand-in
    ]
    letters = [SimpleNamespace(partition=1, offset=6, topic="fraud.events"), Refused("message", "", "cannot be read")]
    records = [Record("fraud.decisions", 0, n, "", str(n).encode(), START + DAY) for n in range(len(decisions))]
    records += [Record("fraud.dead", 0, n, "", str(n).encode(), START) for n in range(len(letters))]
    left = [records, []]

    def read(of: list[Any]) -> Any:
        def found(record: Record) -> Any:
            if isinstance(one := of[int(record.value)], Refused):
                raise one
            return one

        return found

    monkeypatch.setattr(stream, "read_verdict", read(decisions))
    monkeypatch.setattr(stream, "read_letter", read(letters))
    alarms: list[str] = []
    reader = SimpleNamespace(poll=lambda *_: left.pop(0), close=lambda: None)
    worker: Any = SimpleNamespace(
        _decided=None,
        _log=SimpleNamespace(ends=lambda _: dict.fromkeys(range(PARTITIONS), 9), reader=lambda _: reader),
        _alarm=lambda _, said, __: alarms.append(said),
    )
    known = Worker._decided_before(worker)
    assert {partition: decided.offset for partition, decided in known.items()} == {0: 5, 1: 7}
    assert (known[0].desk.day, known[0].desk.taken) == (day, 2), "of the last day, and no probe's"
    assert alarms == ["2 decisions or dead letters name an offset behind the end of the log"]
    assert Worker._decided_before(worker) is known, "read once"


# --- one step ---------------------------------------------------------------------------------------------


class Order:
    """Events that wait, of which the first few may go."""

    def __init__(self, waiting: int, ready: int) -> None:
        self._waiting, self._ready = waiting, ready

    def __len__(self) -> int:
        return self._waiting

    def pop(self, *, patient: bool) -> Any:
        assert patient
        if not self._ready:
            return None
        self._ready, self._waiting = self._ready - 1, self._waiting - 1
        return 0, (RECORD, PAYMENT)


@pytest.mark.parametrize(
    ("waiting", "ready", "rebuilding", "limit", "timeout", "waits"),
    [
        (0, 0, False, stream.LIMIT, 1.0, False),
        (0, 0, True, stream.LIMIT, 0.0, False),
        (2, 0, False, stream.LIMIT, 0.005, True),  # for another partition's hours
        (2, 1, False, stream.LIMIT, 0.005, False),
        (2, 2, False, stream.LIMIT, 0.005, False),
        (stream.BACKLOG - 1, 0, False, stream.LIMIT, 0.005, True),
        (stream.BACKLOG, 0, False, 0, 0.005, True),  # enough for now
    ],
)
def test_a_step_takes_in_no_more_than_there_is_room_for_and_knows_since_when_it_waits(
    monkeypatch: pytest.MonkeyPatch, waiting: int, ready: int, rebuilding: bool, limit: int, timeout: float, waits: bool
) -> None:
    polled: list[tuple[int, float]] = []
    moved: list[dict[int, int]] = []

    def poll(*wanted: Any) -> list[Record]:
        polled.append(wanted)
        return []

    worker: Any = SimpleNamespace(
        _order=Order(waiting, ready),
        _early={},
        _memories={},
        _poll=poll,
        _follow=lambda: None,
        _take_over=lambda: None,
        _patient=lambda: True,
        _take=lambda *_: None,
        _commit=moved.append,
        _waiting_since=None,
        _out=[],
        rebuilding=rebuilding,
    )
    monkeypatch.setattr(stream, "monotonic", lambda: 7.0)
    assert Worker.step(worker, 1.0) == ready
    assert polled == [(limit, timeout)]
    assert moved == ([{0: RECORD.offset + 1}] if ready else [])
    assert worker._waiting_since == (7.0 if waits else None)
    monkeypatch.setattr(stream, "monotonic", lambda: 9.0)
    if waits:
        Worker.step(worker, 1.0)
        assert worker._waiting_since == 7.0, "since the first time"


def test_what_was_said_before_it_came_is_told_by_no_alarm_and_the_rest_is() -> None:
    alarms: list[tuple[str, str, str]] = []
    worker: Any = SimpleNamespace(
        _first_look=True,
        _log=SimpleNamespace(ends=lambda _: {}),
        _cells=SimpleNamespace(poll=lambda *_: []),
        _releases=SimpleNamespace(poll=lambda: ["record 3 cannot be read", "version 2 is damaged"]),
        _champion=SimpleNamespace(version="1"),
        _alarm=lambda *said: alarms.append(said),
    )
    Worker._follow(worker)
    assert alarms == [("model", "version 2 is damaged", "version 1 goes on")]
    worker._champion.version = None
    Worker._follow(worker)
    assert alarms[1:] == [
        ("model", "record 3 cannot be read", "the rules decide"),
        ("model", "version 2 is damaged", "the rules decide"),
    ]
