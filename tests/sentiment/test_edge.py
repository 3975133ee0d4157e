"""What the gateway shows of the log after a restart, and how much of it it holds."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry

from sentiment import edge as module
from sentiment.config import DAY
from sentiment.edge import Edge
from sentiment.schema import AUDITS, MINUTES, OPINIONS, Audit, Tombstone
from shared.eventlog.port import Entry, Place, Record
from tests.sentiment.crowd import TODAY, Crowd, post


@contextmanager
def following(crowd: Crowd) -> Iterator[Edge]:
    """A gateway whose thread has not begun: a test hands the records on."""
    edge = Edge(crowd.log, crowd.champion(), folder=crowd.var / "batch", clock=crowd.clock, metrics=CollectorRegistry())
    yield edge
    edge._releases.close()


def hand_on(edge: Edge, records: list[Record], at: dict[Place, int]) -> None:
    """As the thread would."""
    for record in records:
        at[Place(record.topic, record.partition)] = record.offset + 1
    edge.needed._on_batch(records, at)


def shown(edge: Edge) -> set[str]:
    """All texts that any answer could hold."""
    texts = {opinion.text for kept in (edge.opinions, edge.audits) for opinion in kept.values()}
    return (texts | {row.text for row in edge.watch.rows()}) - {""}


def test_after_a_restart_no_text_is_shown_before_its_deletion_is_known(crowd: Crowd) -> None:
    crowd.post(post("@northair is a secret", id="gone"), post(id="stays"))
    crowd.post(Tombstone(id="gone", at=TODAY + 120))
    crowd.stream()
    records = crowd.read(OPINIONS)
    with following(crowd) as edge:
        at = dict(edge.needed._start())
        for record in records:  # a bite of one record: the worst there is
            hand_on(edge, [record], at)
            assert "@northair is a secret" not in shown(edge)
        assert shown(edge) == {"@northair is great"}
        assert edge.watch.now().posts == 2


def test_when_the_log_comes_back_the_same_holds_and_what_was_shown_stays(crowd: Crowd) -> None:
    crowd.post(post(id="stays"))
    crowd.stream()
    with following(crowd) as edge:
        at = dict(edge.needed._start())
        first = crowd.read(OPINIONS)
        hand_on(edge, first, at)
        crowd.post(post("@northair is a secret", id="gone"), Tombstone(id="gone", at=TODAY + 120))
        crowd.stream()
        edge.needed._start()  # the thread begins anew
        assert shown(edge) == {"@northair is great"}
        for record in crowd.read(OPINIONS)[len(first) :]:
            hand_on(edge, [record], at)
            assert shown(edge) == {"@northair is great"}


def test_what_it_remembers_is_bounded(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    for number in range(30):
        crowd.post(post(f"@northair {number}", id=f"p-{number}"), Tombstone(id=f"gone-{number}", at=TODAY))
    crowd.stream()
    with following(crowd) as edge:
        at = dict(edge.needed._start())
        for record in crowd.read(OPINIONS):
            hand_on(edge, [record], at)
            opinions = max(len(kept) for kept in (edge.opinions, edge.audits, edge._waiting))
            assert max(opinions, len(edge._gone), len(edge._audited)) <= 10
        assert len(edge.opinions) == 10
        assert edge.watch.now().posts == 30


def test_it_begins_with_the_latest_opinions_and_not_with_the_first(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.post(*(post(f"@northair {number}", id=f"p-{number}") for number in range(100)))
    crowd.stream()
    monkeypatch.setattr(module, "KEPT", 3)
    with following(crowd) as edge:
        start = edge.needed._start()
        ends = crowd.log.ends(OPINIONS)
        assert {place.partition: offset for place, offset in start.items() if place.topic == OPINIONS.name} == {
            number: end - 3 for number, end in ends.items()
        }
        assert {offset for place, offset in start.items() if place.topic == MINUTES.name} == {0}


def test_a_deleted_post_that_its_producer_sends_again_after_more_than_a_week_is_not_shown(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = post("@northair is a secret", id="gone")
    crowd.post(secret, Tombstone(id="gone", at=TODAY + 120), post(id="stays"))
    crowd.tick(TODAY + 9 * DAY)
    crowd.post(*(post(f"@northair {number}", id=f"p-{number}", at=TODAY + 9 * DAY) for number in range(40)))
    crowd.post(secret)  # the archive of a week ago
    crowd.stream()
    monkeypatch.setattr(module, "KEPT", 4)  # the deletion lies before what a gateway reads when it starts
    with following(crowd) as edge:
        at = dict(edge.needed._start())
        hand_on(edge, [r for r in crowd.read(OPINIONS) if r.offset >= at[Place(r.topic, r.partition)]], at)
        assert "gone" not in edge.opinions
        assert "gone" not in edge.audits
    again = [opinion for opinion in crowd.opinions() if opinion.id == "gone"][-1]
    assert (again.kind, again.text) == ("opinion", "")


@pytest.mark.parametrize("deleted_first", [False, True])
def test_no_person_is_asked_about_a_deleted_post_though_its_deletion_is_long_ago(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, *, deleted_first: bool
) -> None:
    monkeypatch.setattr(module, "KEPT", 4)
    crowd.post(post("@northair is a secret", id="gone"), post(id="stays"))
    questions = [Audit(post=id, at=TODAY, inclusion=0.5, text=f"text of {id}") for id in ("gone", "stays")]
    asked = [Entry(AUDITS, one.post, one.model_dump_json().encode()) for one in questions]
    if not deleted_first:
        crowd.log.append(asked)
    crowd.post(Tombstone(id="gone", at=TODAY + 120))
    crowd.stream()
    crowd.post(*(post(f"@northair {number}", id=f"p-{number}") for number in range(40)))
    crowd.stream()  # the opinions topic is read from after the deletion
    if deleted_first:
        crowd.log.append(asked)
    with following(crowd) as edge:
        edge.shown._on_batch(crowd.read(AUDITS), {})
        assert edge.audits.keys() == {"stays"}
