"""Commands and releases: what an operator asks for is done once, on the champion that he saw, or not at all."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from sentiment.config import DAY, HOUR
from sentiment.monitor import KEYS, Monitor, entry
from sentiment.schema import ALARMS, COMMANDS, RELEASES, Alarm, Command
from shared.eventlog.port import Entry
from shared.registry import Registry
from shared.releases import Release
from tests.sentiment.crowd import BRANDS, KEY, TODAY, Crowd, Trained, open_registry, post
from tests.sentiment.operations import Killed
from tests.sentiment.test_monitor import steps
from tests.sentiment.test_serve import problem, serving, until

FIRST = TODAY // HOUR


@pytest.fixture
def registry(world: Trained, tmp_path: Path) -> Registry:
    """With a second version, which the gate has let through."""
    (tmp_path / "registry").mkdir()
    shutil.copy(world.var / "mlflow.db", tmp_path / "registry" / "mlflow.db")
    made = open_registry(tmp_path / "registry")
    made.register(world.var / "models" / world.release.digest, params={}, figures={}, tags={"gate": "passed"})
    return made


@pytest.fixture
def watching(crowd: Crowd, registry: Registry) -> Iterator[Callable[[], Monitor]]:
    opened: list[Monitor] = []

    def another() -> Monitor:
        opened.append(
            Monitor(
                crowd.log,
                crowd.lake,
                lambda: registry,
                BRANDS,
                clock=crowd.clock,
                seed=1,
                fetch=lambda _, digest: crowd.var / "models" / digest,
                folder=crowd.var / "batch",
                recipe=None,
                secret=KEY,
            )
        )
        return opened[-1]

    yield another
    for monitor in opened:
        monitor.close()


def send(crowd: Crowd, **about: object) -> None:
    wanted = Command.model_validate({"who": "anna"} | about)
    crowd.log.append([Entry(COMMANDS, wanted.kind, wanted.model_dump_json().encode())])


def said(crowd: Crowd) -> list[Alarm]:
    return [Alarm.model_validate_json(record.value) for record in crowd.read(ALARMS)]


def changes(crowd: Crowd) -> list[tuple[str, str]]:
    return [(line.action, line.version) for line in crowd.releases()]


def test_a_command_that_names_no_champion_or_another_one_changes_nothing(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    monitor = watching()
    for kind in ("promote", "rollback", "withdraw"):
        for number, more in enumerate(({"key": f"{kind}-a"}, {"key": f"{kind}-b", "expected_champion": "7"}, {})):
            send(crowd, kind=kind, version="2" if kind == "promote" else None, **more)
            steps(monitor)
            assert said(crowd)[-1].kind == "command", (kind, number)
            assert said(crowd)[-1].action == "nothing changed"
    assert changes(crowd) == [("promote", "1")]
    assert len(said(crowd)) == 9


def test_a_rollback_that_is_sent_twice_rolls_back_once(crowd: Crowd, watching: Callable[[], Monitor]) -> None:
    monitor = watching()
    send(crowd, kind="promote", version="2", key="a", expected_champion="1")
    steps(monitor)
    for _ in range(2):
        send(crowd, kind="rollback", key="b", expected_champion="2")
        steps(monitor)
    steps(watching())
    assert changes(crowd) == [("promote", "1"), ("promote", "2"), ("rollback", "1")]


def test_a_rollback_never_goes_to_what_was_rolled_back_or_withdrawn(
    crowd: Crowd, registry: Registry, world: Trained, watching: Callable[[], Monitor]
) -> None:
    registry.register(world.var / "models" / world.release.digest, params={}, figures={}, tags={"gate": "passed"})
    monitor = watching()
    for number, (kind, version, expected) in enumerate(
        [("promote", "2", "1"), ("rollback", None, "2"), ("promote", "3", "1"), ("rollback", None, "3")]
    ):
        send(crowd, kind=kind, version=version, key=f"k-{number}", expected_champion=expected)
        steps(monitor)
    assert changes(crowd)[-1] == ("rollback", "1")
    send(crowd, kind="rollback", key="again", expected_champion="1")
    steps(monitor)
    assert "no earlier version" in said(crowd)[-1].message
    send(crowd, kind="promote", version="2", key="bad", expected_champion="1")
    steps(monitor)
    assert "was rolled back or withdrawn" in said(crowd)[-1].message


@pytest.mark.parametrize("after", ["intent", "switch", "done"])
def test_after_a_crash_a_change_is_neither_repeated_nor_half_done(
    crowd: Crowd, watching: Callable[[], Monitor], monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    monitor = watching()
    monitor.step()
    send(crowd, kind="promote", version="2", key="a", expected_champion="1")
    append, switch = monitor._releases._append, monitor._releases._switch

    def dying_append(entries: list[Entry]) -> None:
        append(entries)
        if f'"state":"{after}"'.encode() in entries[-1].value:
            raise Killed

    def dying_switch(line: Release) -> None:
        switch(line)
        if after == "switch":
            raise Killed

    monkeypatch.setattr(monitor._releases, "_append", dying_append)
    monkeypatch.setattr(monitor._releases, "_switch", dying_switch)
    with pytest.raises(Killed):
        steps(monitor)
    steps(watching())
    assert changes(crowd) == [("promote", "1"), ("promote", "2")]
    assert crowd.ledger().intents() == []
    assert [alarm for alarm in said(crowd) if alarm.kind == "command"] == []


def test_keys_of_commands_are_known_after_a_restart_also_those_of_which_nothing_came(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    send(crowd, kind="retrain", key="once")
    steps(watching())
    assert [alarm.kind for alarm in said(crowd)] == ["gate"]  # no labels in this lake
    send(crowd, kind="retrain", key="once")
    steps(watching())
    assert len(said(crowd)) == 1
    assert KEYS >= 1_000


def test_a_retrain_whose_monitor_dies_begins_again(crowd: Crowd, watching: Callable[[], Monitor]) -> None:
    monitor = watching()
    monitor.step()
    send(crowd, kind="retrain", key="once")
    monitor._train = lambda *_, **__: (_ for _ in ()).throw(AssertionError)  # type: ignore[method-assign]  # never heard
    monitor.step()
    assert said(crowd) == []
    steps(watching())
    assert [(alarm.kind, "no labels" in alarm.message) for alarm in said(crowd)] == [("gate", True)]


def test_while_it_trains_commands_are_obeyed_and_the_heart_beats(
    crowd: Crowd, watching: Callable[[], Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from sentiment.schema import HEARTBEATS

    monitor, may_end = watching(), threading.Event()
    monkeypatch.setattr(monitor, "_train", lambda *_, **__: may_end.wait(60) and (_ for _ in ()).throw(ValueError("x")))
    for _ in range(2):
        send(crowd, kind="retrain", key="long")
        monitor.step()
    send(crowd, kind="retrain", key="another")
    send(crowd, kind="withdraw", key="w", expected_champion="1", why="it insults people")
    monitor.step()
    monitor.step()
    assert changes(crowd)[-1] == ("withdraw", "1")
    assert "a training is under way" in [alarm.message for alarm in said(crowd)]
    assert b'"doing":"training"' in crowd.read(HEARTBEATS)[-1].value
    may_end.set()
    steps(monitor)
    assert "not retrained: x" in [alarm.message for alarm in said(crowd)]
    monitor.step()
    assert b'"doing":""' in crowd.read(HEARTBEATS)[-1].value


# --- the kill switch -----------------------------------------------------------------------------------------


def test_withdrawn_posts_wait_for_the_next_champion_and_no_hour_loses_an_opinion(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    monitor = watching()
    crowd.post(post("@northair is great", id="scored"))
    crowd.tick(TODAY + HOUR + 600)
    crowd.stream()
    assert crowd.publish().hours[FIRST].model == "1"
    send(crowd, kind="withdraw", key="w", expected_champion="1")
    steps(monitor)
    late = post("@northair was late", id="late", at=TODAY + 120)
    crowd.post(post("@northair is awful", id="after", at=TODAY + HOUR + 660), late)
    crowd.tick(TODAY + DAY + HOUR)
    crowd.stream()
    assert {o.id: (o.mark, o.label) for o in crowd.opinions() if o.id != "scored"} == {
        "after": ("no-model", None),
        "late": ("no-model", None),
    }
    manifest = crowd.publish()
    assert manifest.hours[FIRST + 1].model is None
    assert dict(crowd.published()[FIRST].filter(brand="northair").select("post", "label").iter_rows()) == {
        "scored": "positive",
        "late": None,
    }, "an hour that is reopened keeps what it has"
    send(crowd, kind="promote", version="2", key="p", expected_champion="none")
    steps(monitor)
    after = crowd.publish()
    assert {hour.model for hour in after.hours.values()} <= {"1", "2"}
    labels = {row[0]: row[1] for rows in crowd.published().values() for row in rows.select("post", "label").iter_rows()}
    assert None not in labels.values()
    assert labels.keys() == {"scored", "late", "after"}


def test_the_page_says_that_nothing_is_in_force_and_typed_texts_get_no_opinion(
    crowd: Crowd, watching: Callable[[], Monitor]
) -> None:
    send(crowd, kind="withdraw", key="w", expected_champion="1")
    watching().step()
    with serving(crowd) as client:
        assert client.get("/v1/model").json()["champion"] is None
        told = client.get("/v1/watch").json()["told"]
        assert (told["champion"], told["ledger"][0]["action"]) == (None, "withdraw")
        problem(client.post("/v1/opinions", json={"text": "hello"}), 503)


# --- by HTTP ---------------------------------------------------------------------------------------------------


def commanded(client: httpx.Client, key: str | None = None, **about: object) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/v1/commands", json={"kind": "withdraw"} | about, headers=headers)


def test_a_command_by_http_names_the_champion_and_bears_a_key(crowd: Crowd, watching: Callable[[], Monitor]) -> None:
    with serving(crowd) as client:
        problem(commanded(client), 409)
        problem(commanded(client, expected_champion="2"), 409)
        problem(commanded(client, expected_champion="1", key="no blanks"), 422)
        problem(commanded(client, expected_champion="1", champion="1"), 422)
        assert crowd.read(COMMANDS) == []
        assert commanded(client, kind="retrain").status_code == 202
        first = commanded(client, key="mine", expected_champion="1")
        again = commanded(client, key="mine", expected_champion="1")
        assert [answer.json()["key"] for answer in (first, again)] == ["mine", "mine"]
        steps(watching())
        monitor = watching()
        for _ in range(3):
            steps(monitor)
        until(lambda: client.get("/v1/model").json()["champion"] is None)
        assert changes(crowd) == [("promote", "1"), ("withdraw", "1")]
        assert commanded(client, key="mine", expected_champion="1").status_code == 202, "it is in the ledger"
        problem(commanded(client, key="other", expected_champion="1"), 409)


def test_the_page_has_the_whole_ledger(crowd: Crowd, world: Trained) -> None:
    lines = []
    for number in range(2, 150):  # as many versions, of which each was taken back
        at = {"version": str(number), "at": TODAY + number}
        lines.append(world.release.model_copy(update=at))
        lines.append(world.release.model_copy(update={"action": "rollback", "at": TODAY + number}))
    crowd.log.append([entry(line) for line in lines])
    with serving(crowd) as client:
        told = client.get("/v1/watch").json()["told"]
        assert (told["champion"]["version"], told["back_to"]) == ("1", None)
        assert len(client.get("/v1/model").json()["ledger"]) == 1 + len(lines)


def test_lines_of_the_ledger_that_were_only_begun_are_not_shown(crowd: Crowd, world: Trained) -> None:
    begun = world.release.model_copy(update={"version": "2", "state": "intent", "key": "k"})
    crowd.log.append([Entry(RELEASES, "2", begun.model_dump_json().encode())])
    with closing(crowd.worker()) as worker:
        worker.step(0.0)
        assert worker._champion.version == "1"
    crowd._open.remove(worker)
    with serving(crowd) as client:
        assert client.get("/v1/model").json()["champion"]["version"] == "1"
