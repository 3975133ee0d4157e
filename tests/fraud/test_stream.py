"""The worker, in process, on a real log: what it decides, what it refuses, and what survives when it dies."""

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain, count
from pathlib import Path
from threading import Event
from typing import get_args

import polars as pl
import pytest

from fraud import dataset, policy
from fraud.artifact import Artifact
from fraud.config import ALLOWED_LATENESS, DAY, EXPLORATION, EXPLORED_A_DAY, HOUR, MAX_AGE, MAX_AHEAD, PARTITIONS
from fraud.features import fold
from fraud.ingest import DECIDERS, accept
from fraud.schema import ALARMS, BOOK, DECISIONS, EVENTS, Action, Alarm, Cell, Decision, Tick, Transaction
from fraud.stream import Worker
from shared.clock import monotonic
from shared.eventlog import sqlite
from shared.eventlog.port import Entry, Fenced, LogUnavailable, Topic, partition_of
from tests.fraud.bank import KEY, TODAY, Bank, Trained, copied, days, neighbour, once, payment, payments


class Undisturbed:
    """What one worker that nothing happens to makes of the first two live days."""

    def __init__(self, bank: Bank, rows: pl.DataFrame) -> None:
        bank.send(rows)
        bank.decide()
        self.bank, self.rows = bank, rows
        self.said, self.notes, self.cells = bank.said(), bank.notes(), _by_hour(bank.cells())


def _by_hour(cells: list[Cell]) -> set[str]:
    assert once(cells), "an hour of the book was emitted twice"
    return {cell.model_dump_json() for cell in cells}


@pytest.fixture(scope="module")
def undisturbed(world: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    bank = copied(world, tmp_path_factory.mktemp("undisturbed") / "var")
    yield Undisturbed(bank, days(world, 0, 1))
    bank.close()


def same(bank: Bank, undisturbed: Undisturbed) -> None:
    """The bank stands where the undisturbed one stands, byte by byte."""
    assert bank.said() == undisturbed.said
    assert bank.notes() == undisturbed.notes
    assert _by_hour(bank.cells()) == undisturbed.cells
    assert bank.letters() == []


# --- decisions --------------------------------------------------------------------------------------


def test_every_payment_gets_one_decision_by_the_model(undisturbed: Undisturbed) -> None:
    decisions = undisturbed.bank.decisions()
    assert set(decisions) == {x.identity for x in payments(undisturbed.rows)}
    assert {(x.path, x.mark, x.model) for x in decisions.values()} == {("model", None, "1")}
    assert {x.action for x in decisions.values()} == set(get_args(Action))
    assert all(x.reasons for x in decisions.values() if x.action != "approve")


def test_decisions_are_what_features_model_and_policy_say(undisturbed: Undisturbed, world: Trained) -> None:
    """Features by the fold that training uses, over lake and log; the rest by the model's file alone."""
    model, prices = Artifact.load(world.var / "models" / world.release.digest)
    past = dataset.streams(dataset.events(undisturbed.bank.lake, as_of=TODAY + HOUR))
    live = [[accept(r) for r in undisturbed.bank.read(EVENTS) if r.partition == p] for p in range(EVENTS.partitions)]
    desks = [policy.Desk() for _ in live]
    decisions, counted, spent = undisturbed.bank.decisions(), 0, Counter[tuple[str, int]]()
    for partition, event, features in fold([chain(*both) for both in zip(past, live, strict=True)]):
        if not isinstance(event, Transaction) or event.identity not in decisions:
            continue
        said = decisions[event.identity]
        assert features is not None
        assert said.features == tuple(features)
        assert said.probability == model.score(features)
        desk = desks[partition]
        free = desk.free(event.at)
        spent[event.card, event.at // DAY] += event.cents
        chance = None if spent[event.card, event.at // DAY] > EXPLORED_A_DAY else 0.0 if said.explored else 1.0
        draw = None if chance is None else lambda chance=chance: chance
        expected = policy.decide(said.probability, event.cents, prices, free=free, draw=draw)
        assert (said.action, said.costs, said.propensity) == (expected.action, expected.costs, expected.propensity)
        assert said.rules == policy.rules(event.cents, features)[0]
        if said.action == "review":
            desk.take()
        counted += 1
    assert counted == len(decisions)


def drawn(card: str, day: int) -> bool:
    """Whether would-be declines of the card pass on that day."""
    return Worker._draw(Draws, card, day) < EXPLORATION  # type: ignore[arg-type]  # all that it looks at


class Draws:
    _secret = KEY


def test_exploration_lets_pass_what_its_card_and_day_were_drawn_for_with_the_propensity(
    bank: Bank, world: Trained
) -> None:
    bank.release(bank.variant(world.release, version="2", log_odds=12.0))
    bank.send(days(world, 0, 0))
    bank.decide()
    spent = Counter[tuple[str, int]]()
    for event in payments(days(world, 0, 0)):  # in order of offsets
        spent[event.card, event.at // DAY] += event.cents
    decisions = [x for x in bank.decisions().values() if x.explored or x.action == "decline"]
    passed = [x for x in decisions if x.explored]
    assert 0 < len(passed) < 4 * EXPLORATION * len(decisions)
    assert {(x.action, x.propensity) for x in passed} == {("approve", EXPLORATION)}
    assert all("let_through" in x.reasons for x in passed)
    assert {drawn(x.card, x.at // DAY) for x in passed} == {True}
    for said in decisions:
        if spent[said.card, said.at // DAY] <= EXPLORED_A_DAY:
            assert said.explored == drawn(said.card, said.at // DAY)
            assert said.propensity == (EXPLORATION if said.explored else 1 - EXPLORATION)


def certain(bank: Bank, world: Trained, *sent: Transaction) -> list[Decision]:
    """The decisions of a model that takes all for fraud, in order."""
    bank.release(bank.variant(world.release, version="2", log_odds=12.0))
    bank.pay(*sent)
    bank.decide()
    return [bank.decision(each) for each in sent]


def cards(*, explored: bool) -> Iterator[str]:
    return (name for name in (f"card-{n}" for n in count()) if drawn(name, TODAY // DAY) == explored)


def test_many_payments_of_a_card_and_day_are_one_draw(bank: Bank, world: Trained) -> None:
    """Else who tries a stolen card under a hundred new ids has it pass by chance alone."""
    unlucky, lucky = next(cards(explored=False)), next(cards(explored=True))
    tries = [payment(card=unlucky, id=f"try-{n}", at=TODAY + HOUR + n, cents=1_00) for n in range(300)]
    two = [payment(card=lucky, id=f"try-{n}", at=TODAY + HOUR + n, cents=1_00) for n in range(2)]
    said = certain(bank, world, *tries, *two)
    assert {x.action for x in said[:300]} == {"decline"}
    assert [(x.action, x.explored) for x in said[300:]] == [("approve", True)] * 2


def test_what_a_card_may_have_passed_at_random_on_a_day_is_capped(bank: Bank, world: Trained) -> None:
    """Whatever times a till claims: what the card has tried that day counts, earlier or later."""
    card, third = next(cards(explored=True)), EXPLORED_A_DAY // 3
    at = [TODAY + 5 * HOUR, TODAY + 4 * HOUR, TODAY + 3 * HOUR, TODAY + 2 * HOUR]
    said = certain(bank, world, *(payment(card=card, id=str(n), at=at, cents=third) for n, at in enumerate(at)))
    assert [(x.action, x.explored, x.propensity) for x in said] == [
        *[("approve", True, EXPLORATION)] * 3,
        ("decline", False, 1.0),
    ]
    assert sum(x.cents for x in said if x.explored) <= EXPLORED_A_DAY


def test_a_payment_above_the_cap_never_passes_at_random(bank: Bank, world: Trained) -> None:
    card = next(cards(explored=True))
    (said,) = certain(bank, world, payment(card=card, id="dear", at=TODAY + HOUR, cents=EXPLORED_A_DAY + 1))
    assert (said.action, said.explored, said.propensity) == ("decline", False, 1.0)


def test_a_late_payment_is_left_to_the_rules_and_leaves_no_trace(bank: Bank) -> None:
    card = "card-a"
    late = payment(card=card, id="late", at=TODAY + HOUR, cents=1_600_00)
    on_time = payment(card=card, id="on-time", at=TODAY + 8 * HOUR)
    after = payment(card=card, id="after", at=TODAY + 8 * HOUR)
    bank.clock.observe(TODAY + 8 * HOUR)
    bank.pay(on_time, late, after)
    bank.decide()
    said = bank.decision(late)
    assert (said.path, said.mark, said.action, said.features) == ("rules", "late", "review", None)
    assert "too_late" in said.reasons
    assert counts(bank.decision(after)) == 1  # on_time alone


def counts(said: Decision) -> int:
    """How many payments of the last month the decision saw on its card."""
    assert said.features is not None
    return int(said.features[7])


def test_without_a_champion_the_rules_decide_and_the_features_are_kept(world: Trained, tmp_path: Path) -> None:
    with closing(copied(world, tmp_path / "var", history=False)) as bank:
        bank.send(days(world, 0, 0).head(300))
        bank.decide()
        decisions = bank.decisions().values()
        assert {(x.path, x.mark, x.model, x.probability) for x in decisions} == {("rules", "no-model", None, None)}
        assert all(x.features for x in decisions)
        assert all(x.action == x.rules for x in decisions)


def test_a_full_day_of_the_analysts_overflows_to_the_better_of_the_other_two(bank: Bank, world: Trained) -> None:
    bank.release(bank.variant(world.release, version="2", log_odds=2.0, review_price=0.01))
    bank.send(days(world, 0, 0))
    bank.decide()
    decisions = bank.decisions().values()
    reviews = [sum(x.action == "review" for x in decisions if x.partition == p) for p in range(EVENTS.partitions)]
    assert max(reviews) == policy.PLACES
    busy = [x for x in decisions if "analysts_busy" in x.reasons]
    assert busy
    for said in busy:
        assert said.costs is not None
        cheaper = "approve" if said.costs["approve"] <= said.costs["decline"] else "decline"
        assert said.explored or said.action == cheaper


# --- bad input --------------------------------------------------------------------------------------

GOOD = payment(id="good").model_dump(exclude_none=True)
MEGABYTE = "x" * 1_000_000
BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "message"),
    "nothing": (b"", "message"),
    "no UTF-8": (b"\xff\xfe", "message"),
    "a list": (b"[1]", "message"),
    "very deep": (b"[" * 5_000, "message"),
    "no kind": (json.dumps({k: v for k, v in GOOD.items() if k != "kind"}).encode(), "message"),
    "an unknown kind": (json.dumps(GOOD | {"kind": "refund"}).encode(), "message"),
    "a kind of a megabyte": (json.dumps(GOOD | {"kind": MEGABYTE}).encode(), "message"),
    "a missing field": (json.dumps({k: v for k, v in GOOD.items() if k != "terminal"}).encode(), "terminal"),
    "a negative amount": (json.dumps(GOOD | {"cents": -1}).encode(), "cents"),
    "an absurd amount": (json.dumps(GOOD | {"cents": 10**12}).encode(), "cents"),
    "half a cent": (json.dumps(GOOD | {"cents": 0.5}).encode(), "cents"),
    "no number": (json.dumps(GOOD | {"cents": float("nan")}).encode(), "cents"),
    "infinity": (json.dumps(GOOD | {"cents": float("inf")}).encode(), "cents"),
    "an amount in words": (json.dumps(GOOD | {"cents": "12"}).encode(), "cents"),
    "another currency": (json.dumps(GOOD | {"currency": "USD"}).encode(), "currency"),
    "no country": (json.dumps(GOOD | {"country": "be"}).encode(), "country"),
    "an id of a megabyte": (json.dumps(GOOD | {"id": MEGABYTE}).encode(), "id"),
    "the far future": (json.dumps(GOOD | {"at": TODAY + MAX_AHEAD + DAY}).encode(), "at"),
    "the far past": (json.dumps(GOOD | {"at": TODAY - MAX_AGE - 1}).encode(), "at"),
    "after the year 2106": (json.dumps(GOOD | {"at": 2**32}).encode(), "at"),
    "before 1970": (json.dumps(GOOD | {"at": -1}).encode(), "at"),
    "the key of another card": (json.dumps(GOOD | {"card": "card-b"}).encode(), "card"),
    "a label without verdict": (
        json.dumps({"kind": "label", "card": "card-a", "id": "1", "terminal": "t", "at": TODAY}).encode(),
        "fraud",
    ),
}


def test_each_poisonous_message_is_one_dead_letter_with_a_reason_and_the_stream_goes_on(bank: Bank) -> None:
    worker = bank.worker()
    for number, (name, (value, field)) in enumerate(BAD.items()):
        good = payment(id=f"after-{number}")
        ((partition, offset),) = bank.log.append([Entry(EVENTS, "card-a", value)])
        bank.pay(good)
        bank.work(worker)
        letters = bank.letters()[number:]
        assert [(x.partition, x.offset, x.field) for x in letters] == [(partition, offset, field)], name
        (letter,) = letters
        assert letter.reason, name
        assert len(letter.value) <= 200, name
        assert len(letter.model_dump_json()) < 20_000, name
        assert "card-a" not in letter.model_dump_json(), name  # nothing that could name a person
        assert bank.decision(good).path == "model", name
    bank.leave(worker)


def test_a_key_of_a_megabyte_makes_no_dead_letter_of_a_megabyte(bank: Bank) -> None:
    bank.log.append([Entry(EVENTS, MEGABYTE, b"{")])
    bank.decide()
    assert len(bank.letters()) == 1


def test_the_same_payment_again_is_a_repeat_and_counts_once(bank: Bank) -> None:
    first, after = payment(), payment(id="2")
    bank.pay(first, first, after)
    bank.decide()
    bank.pay(first)
    bank.decide()  # another worker, from the snapshot
    assert [(x.kind, x.id) for x in bank.outcomes()] == [("repeat", "1"), ("repeat", "1")]
    assert counts(bank.decision(after)) == 1
    assert len(bank.said()) == 2
    assert bank.letters() == []


def test_other_content_under_the_same_identity_is_a_conflict_and_a_dead_letter(bank: Bank) -> None:
    first, other = payment(), payment(cents=1)
    bank.pay(first, other)
    bank.decide()
    assert [x.kind for x in bank.outcomes()] == ["conflict"]
    assert [(x.field, x.value) for x in bank.letters()] == [("id", "1")]
    assert bank.decision(first).cents == first.cents


# --- probes -----------------------------------------------------------------------------------------


def test_a_probe_is_decided_and_leaves_no_trace(bank: Bank, world: Trained, undisturbed: Undisturbed) -> None:
    """Also one that is ahead of time: no payment is late for it, and the analysts' day has not begun."""
    bank.release(world.release)
    rows, evening = undisturbed.rows, TODAY + DAY - MAX_AHEAD
    bank.clock.observe(evening)
    for number in range(40):
        card = f"probe-{number}"
        probe = payment(card=card, id="p", at=evening + MAX_AHEAD, cents=99_999_00)  # of the next day
        bank.pay(probe.model_copy(update={"probe": True}))
    bank.decide()
    assert {x.probe for x in bank.decisions().values()} == {True}
    probed = set(bank.said())
    bank.send(rows)
    bank.decide()

    def without_offset(values: dict[str, bytes]) -> dict[str, dict[str, object]]:
        return {key: json.loads(v) | {"offset": None} for key, v in values.items() if key not in probed}

    assert without_offset(bank.said()) == without_offset(undisturbed.said)
    assert bank.notes() == undisturbed.notes
    assert _by_hour(bank.cells()) == undisturbed.cells


# --- death and return -------------------------------------------------------------------------------


def halves(undisturbed: Undisturbed) -> tuple[pl.DataFrame, pl.DataFrame]:
    middle = undisturbed.rows.height // 2
    return undisturbed.rows.head(middle), undisturbed.rows.tail(-middle)


def gone(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def other_definition(file: Path) -> None:
    import hashlib

    _, _, body = file.read_bytes().partition(b"\n")
    body = body.replace(b'{"definition": "', b'{"definition": "not-', 1)
    file.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [None, *(pytest.param(way, marks=pytest.mark.slow) for way in (gone, cut, flipped, other_definition))]
)
def test_a_restart_decides_as_if_nothing_had_happened(
    bank: Bank, undisturbed: Undisturbed, damage: Callable[[Path], None] | None
) -> None:
    first, second = halves(undisturbed)
    bank.send(first)
    bank.decide()
    if damage is not None:
        for file in (bank.var / "snapshots").iterdir():
            damage(file)
    bank.send(second)
    bank.decide()
    same(bank, undisturbed)


def test_a_worker_that_dies_without_a_word_is_replaced_from_an_old_snapshot(
    bank: Bank, undisturbed: Undisturbed
) -> None:
    for part in halves(undisturbed):
        bank.send(part)
        bank.work(bank.worker())  # never closed, so never saved
    same(bank, undisturbed)


def test_a_repeat_from_before_a_death_counts_once_after_it(bank: Bank) -> None:
    first, after = payment(), payment(id="2")
    bank.pay(first, first)
    bank.work(bank.worker())  # never closed, so never saved: its successor recalls both from the log
    bank.pay(first, after)
    bank.decide()
    assert [(x.kind, x.id) for x in bank.outcomes()] == [("repeat", "1"), ("repeat", "1")]
    assert counts(bank.decision(after)) == 1


def test_a_damaged_snapshot_gives_way_to_the_one_before(bank: Bank, undisturbed: Undisturbed) -> None:
    first, second = halves(undisturbed)
    bank.send(first)
    bank.decide()
    for file in (bank.var / "snapshots").glob("*.snapshot"):
        cut(file)
    assert list((bank.var / "snapshots").glob("*.previous"))
    bank.send(second)
    bank.decide()
    same(bank, undisturbed)


@pytest.mark.slow
def test_a_worker_that_dies_while_it_takes_the_past_in_leaves_none_of_the_past_out(
    world: Trained, tmp_path: Path
) -> None:
    """A snapshot that knew of hours which never reached the book would hide them for good."""
    with (
        closing(copied(world, tmp_path / "var", history=False)) as bank,
        closing(copied(world, tmp_path / "other")) as other,
    ):
        no_room(bank, BOOK, 100)
        with pytest.raises(LogUnavailable, match="full"):
            bank.worker().step(0.0)
        room(bank)
        bank.settle(bank.worker())
        assert _by_hour(bank.cells()) == _by_hour(other.cells())


# --- a step is written whole or not at all ----------------------------------------------------------


def locked(bank: Bank) -> "closing[sqlite3.Connection]":
    foreign = sqlite3.connect(bank.var / "log.db", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    return closing(foreign)


def no_room(bank: Bank, topic: Topic, after: int) -> None:
    """The disk is full after so many records of a topic's first partition, in the middle of a step's write."""
    with closing(sqlite3.connect(bank.var / "log.db", isolation_level=None)) as db:
        query = "SELECT stream FROM streams WHERE topic = ? AND partition = 0"
        (stream,) = db.execute(query, (topic.name,)).fetchone()
        db.execute(
            f"CREATE TRIGGER full BEFORE INSERT ON records WHEN new.stream = {stream} AND new.offset >= {after}"
            " BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
        )


def room(bank: Bank) -> None:
    with closing(sqlite3.connect(bank.var / "log.db", isolation_level=None)) as db:
        db.execute("DROP TRIGGER full")


def taken_over(bank: Bank) -> None:
    """Another process comes under the worker's name."""
    consumer = bank.log.consumer(DECIDERS, [EVENTS], "worker-0")
    consumer.poll(1, 0.0)
    consumer.close()


@pytest.mark.parametrize(
    "trouble", ["locked", *(pytest.param(trouble, marks=pytest.mark.slow) for trouble in ("full", "fenced"))]
)
def test_a_step_that_cannot_be_written_leaves_nothing_and_the_next_worker_decides_the_same(
    bank: Bank, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(sqlite, "BUSY", 0.05)
    monkeypatch.setattr(sqlite, "LEASE", 600.0)  # else a slow machine's worker renews, and sees what it lost by itself
    first, second = halves(undisturbed)
    bank.send(first)
    worker = bank.worker()
    bank.work(worker)
    before = bank.said(), bank.cells(), bank.notes()
    bank.send(second)
    if trouble == "locked":
        with locked(bank), pytest.raises(LogUnavailable):
            worker.step(0.0)
    elif trouble == "full":
        no_room(bank, DECISIONS, len(before[0]) // EVENTS.partitions + 10)
        with pytest.raises(LogUnavailable, match="full"):
            worker.step(0.0)
        room(bank)
    else:
        taken_over(bank)
        with pytest.raises(Fenced):
            worker.step(0.0)
    assert (bank.said(), bank.cells(), bank.notes()) == before
    bank.decide()
    same(bank, undisturbed)


# --- models that come and go ------------------------------------------------------------------------


def alarms(bank: Bank) -> list[Alarm]:
    return [Alarm.model_validate_json(record.value) for record in bank.read(ALARMS)]


def test_while_the_files_of_a_release_are_on_their_way_the_champion_decides(bank: Bank, world: Trained) -> None:
    release = bank.variant(world.release, version="2", log_odds=1.0)
    here, arrived = bank.var / "models" / release.digest, Event()
    elsewhere = here.rename(bank.var / "registry")

    def fetch(_: str, __: str) -> Path:
        arrived.wait(30)
        return elsewhere.rename(here)

    worker = bank.worker(fetch=fetch)
    bank.settle(worker)
    bank.release(release)
    bank.pay(payment(id="meanwhile"))
    bank.work(worker)
    assert bank.decision(payment(id="meanwhile")).model == "1"
    arrived.set()
    until = monotonic() + 30
    for number in count():
        bank.pay(payment(id=f"{number}"))
        bank.work(worker)
        if bank.decision(payment(id=f"{number}")).model == "2":
            break
        assert monotonic() < until
    assert bank.read(ALARMS) == []


def test_reviews_by_the_rules_stand_in_the_same_queue(bank: Bank) -> None:
    rules = [payment(card="card-a", id=f"{n}", at=TODAY + HOUR + n * HOUR, cents=1_600_00) for n in range(2)]
    with closing(Bank(bank.var / "without-a-model")) as alone:
        alone.pay(*rules)
        alone.work(alone.worker(patience=0.0))
        assert {(x.action, x.mark) for x in alone.decisions().values()} == {("review", "no-model")}
        assert alone.notes()[partition_of("card-a", EVENTS.partitions)] == json.dumps([TODAY // DAY, len(rules)])


def test_one_fast_clock_makes_no_other_payment_late(bank: Bank) -> None:
    fast, honest = payment(id="fast", at=TODAY + MAX_AHEAD), payment(card=neighbour("card-a"), id="honest", at=TODAY)
    bank.clock.observe(TODAY)
    bank.pay(fast, honest)
    bank.decide()
    assert {x.mark for x in bank.decisions().values()} == {None}


def test_what_is_sent_after_a_release_is_decided_by_it(bank: Bank, world: Trained) -> None:
    worker = bank.worker()
    before, after = payment(id="before"), payment(id="after")
    bank.pay(before)
    bank.work(worker)
    bank.release(bank.variant(world.release, version="2", log_odds=1.0))
    bank.pay(after)
    bank.work(worker)
    bank.leave(worker)
    assert (bank.decision(before).model, bank.decision(after).model) == ("1", "2")
    assert bank.decision(after).probability != bank.decision(before).probability


def test_a_corrupt_model_raises_an_alarm_and_the_old_one_goes_on_after_a_restart_too(
    bank: Bank, world: Trained
) -> None:
    bad = bank.variant(world.release, version="2", log_odds=1.0)
    cut(bank.var / "models" / bad.digest / "model.txt")
    for number in range(2):
        bank.release(bad)
        bank.pay(payment(id=f"{number}"))
        bank.decide()
        assert bank.decision(payment(id=f"{number}")).model == "1"
    assert {(x.kind, x.action) for x in alarms(bank)} == {("model", "version 1 goes on")}
    assert all("version 2" in x.message for x in alarms(bank))


def test_a_model_that_fails_its_golden_samples_is_turned_down(bank: Bank, world: Trained) -> None:
    from shared.champion import digest_of

    bad = bank.variant(world.release, version="2", log_odds=1.0)
    folder = bank.var / "models" / bad.digest
    (folder / "policy.json").write_text(json.dumps({"review_price": 0.001}))
    digest = digest_of(folder)
    folder.rename(folder.with_name(digest))  # whole by its digest: only the samples tell
    bank.release(bad.model_copy(update={"digest": digest}))
    bank.pay(payment())
    bank.decide()
    assert bank.decision(payment()).model == "1"
    assert "golden sample" in alarms(bank)[0].message


# --- several workers --------------------------------------------------------------------------------


def test_two_workers_share_the_partitions_and_decide_as_one(
    bank: Bank, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LEASE", 0.3)
    workers = [bank.worker(slot=0), bank.worker(slot=1)]
    deciders: dict[int, set[str]] = {}
    for part in undisturbed.rows.iter_slices(200):
        bank.send(part)
        bank.work(*workers)
        with closing(sqlite3.connect(bank.var / "log.db")) as db:
            query = "SELECT partition, owner FROM claims JOIN streams USING (stream) WHERE grp = ?"
            for partition, owner in db.execute(query, (DECIDERS,)):
                deciders.setdefault(partition, set()).add(owner)
    assert set.union(*deciders.values()) >= {"worker-0", "worker-1"}
    same(bank, undisturbed)


def test_a_payment_waits_for_the_hours_that_another_partition_has_not_closed(bank: Bank, world: Trained) -> None:
    """Without bound while patient; else on the last book there is, and marked."""
    tomorrow = payment(at=TODAY + 2 * DAY)  # looks at hours that only ticks of live days close
    bank.clock.observe(tomorrow.at)
    ticks = days(world, 0, 2).filter((pl.col("kind") == "tick") & (pl.col("at") <= tomorrow.at))
    own = pl.col("partition") == partition_of(tomorrow.card, EVENTS.partitions)
    bank.send(ticks.filter(own))
    bank.pay(tomorrow)
    worker = bank.worker()
    assert sum(worker.step(0.0) for _ in range(15)) == ticks.filter(own).height
    bank.send(ticks.filter(~own))
    bank.work(worker)
    bank.leave(worker)
    assert bank.decision(tomorrow).mark is None

    hasty = payment(card=neighbour(tomorrow.card), at=TODAY + 4 * DAY)
    bank.clock.observe(hasty.at)
    bank.pay(hasty)
    worker = bank.worker(patience=0.0)
    bank.work(worker)
    bank.leave(worker)
    assert bank.decision(hasty).mark == "stale-book"


@pytest.mark.parametrize("kind", ["payment", "tick"])
def test_a_fast_clock_makes_no_payment_late_and_ends_no_day_of_the_analysts(
    bank: Bank, world: Trained, kind: str
) -> None:
    """It is as far ahead as may be, and the other payments as late as may be."""
    now = TODAY + DAY - HOUR
    fast = payment(id="fast", at=now + MAX_AHEAD)
    slow = payment(card=neighbour("card-a"), id="slow", at=now - ALLOWED_LATENESS)
    bank.release(world.release)
    bank.clock.observe(now)
    bank.log.append([Entry(EVENTS, "tick", Tick(at=now).model_dump_json().encode(), p) for p in range(PARTITIONS)])
    place = partition_of("card-a", PARTITIONS)
    if kind == "payment":
        bank.pay(fast)
    else:
        bank.log.append([Entry(EVENTS, "tick", Tick(at=now + MAX_AHEAD).model_dump_json().encode(), place)])
    bank.pay(slow)
    bank.decide()
    assert (bank.decision(slow).path, bank.decision(slow).mark) == ("model", None)
    assert json.loads(bank.notes()[place])[0] == TODAY // DAY
    assert max(cell.until for cell in bank.cells() if cell.partition == place) < now // HOUR
    shutil.rmtree(bank.var / "snapshots")
    later = payment(card=neighbour("card-a"), id="later", at=now - ALLOWED_LATENESS)
    bank.pay(later)
    bank.decide()
    assert bank.decision(later).path == "model"  # and the same after a rebuild
