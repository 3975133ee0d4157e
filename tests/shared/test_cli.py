"""What the commands are put together from: parts behind the settings, loops that go on, children, slots, ticks."""

import json
import logging
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
import typer

from shared.checklist import ROOT
from shared.cli import (
    LONGEST_PAUSE,
    PAUSE,
    SLOTS,
    STEADY,
    Runtime,
    SupervisedProcess,
    claim,
    claim_slot,
    listen,
    run_until_stopped,
    ticking,
)
from shared.clock import SystemClock, VirtualClock, monotonic, sleep
from shared.dependencies import DependencyUnavailable
from shared.eventlog import open_log
from shared.eventlog.port import EventLog, Fenced, LogUnavailable, OtherScheme, Topic, beginning
from shared.unusable import Unusable

EVENTS = Topic("shop.events", 3)


def comes(look: Callable[[], object], seconds: float = 10.0) -> None:
    until = monotonic() + seconds
    while not look():
        assert monotonic() < until
        sleep(0.01)


# --- the parts -------------------------------------------------------------------------------------------


def runtime(var: Path, *, log: str = "", virtual: int | None = None, **more: object) -> Runtime:
    return Runtime("shop", [EVENTS], var=var, log=log, virtual=virtual, **more)  # type: ignore[arg-type]


def test_the_parts_lie_below_var_and_children_are_given_the_same(tmp_path: Path) -> None:
    parts = runtime(tmp_path / "var", virtual=500, options=["--brands", "airlines"], models="bundles")
    assert parts.models == tmp_path / "var" / "bundles"
    assert isinstance(parts.clock, VirtualClock)
    assert parts.clock.now() == 500
    assert parts.options == [
        *("--var", str(tmp_path / "var"), "--log", parts.settings.log),
        *("--brands", "airlines", "--virtual", "500"),
    ]
    with closing(parts.open_log()) as log:
        assert log.ends(EVENTS) == {0: 0, 1: 0, 2: 0}
    assert (tmp_path / "var" / "log.db").exists()
    with closing(parts.store(EVENTS)) as store:
        assert store.positions("view") == {}


def test_topics_are_kept_as_long_as_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, other = EVENTS._replace(days=9), Topic("shop.orders", 1, days=9)
    monkeypatch.setenv("MLSD_RETENTION", '{"shop.events": 3, "shop.orders": null, "recsys.events": 1}')
    parts = Runtime("shop", [events, other], var=tmp_path, log="", virtual=None)
    with closing(parts.open_log()) as log:
        assert log._topics == {"shop.events": EVENTS._replace(days=3), "shop.orders": other._replace(days=None)}  # type: ignore[attr-defined]  # it is SQLite's


@pytest.mark.parametrize(
    ("retention", "said"),
    [
        ('{"shop.event": 3}', r"names shop\.event; the topics are shop\.events"),
        ('{"shpo.events": 3}', r"names shpo\.events; the topics are"),
        ('{"events": 3}', "names events; the topics are"),
        ('{"shop.ledger": 3}', r"gives shop\.ledger 3 days, and it has to be kept for ever"),
        ('{"shop.orders": 6}', r"gives shop\.orders 6 days, and it needs 7 at least"),
        ('{"shop.orders": 0}', "MLSD_RETENTION for shop.orders cannot be used: Input should be greater"),
        ('{"shop.orders": "x"}', "MLSD_RETENTION for shop.orders cannot be used: Input should be a valid integer"),
        ("3", "MLSD_RETENTION cannot be used: Input should be a valid dictionary"),
        ("{", "MLSD_RETENTION must be JSON such as"),
    ],
)
def test_days_that_a_topic_cannot_be_kept_are_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retention: str, said: str
) -> None:
    topics = [EVENTS._replace(days=3), Topic("shop.orders", 1, days=9, least=7), Topic("shop.ledger", 1)]
    monkeypatch.setenv("MLSD_RETENTION", retention)
    with pytest.raises(Unusable, match=said) as refused:
        Runtime("shop", topics, var=tmp_path, log="", virtual=None).open_log()
    assert "\n" not in str(refused.value)


def test_who_makes_a_lake_again_is_alone_with_it_and_all_others_share_it(tmp_path: Path) -> None:
    one, two = runtime(tmp_path), runtime(tmp_path)
    with one.using_lake() as lake, two.using_lake():
        assert lake.folder == tmp_path / "shop" / "lake"
        with pytest.raises(typer.BadParameter, match="stop the commands"), two.using_lake(alone=True):
            pass
    with one.using_lake(alone=True), pytest.raises(typer.BadParameter, match="being made again"), two.using_lake():
        pass
    with one.using_lake():
        pass


def test_the_clock_is_the_system_s_unless_a_virtual_one_is_asked_for(tmp_path: Path) -> None:
    parts = runtime(tmp_path)
    assert isinstance(parts.clock, SystemClock)
    assert "--virtual" not in parts.options


def test_a_log_given_by_hand_takes_the_place_of_that_of_the_settings(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    parts = runtime(tmp_path / "var", log=url)
    parts.open_log().close()
    assert (tmp_path / "elsewhere.db").exists()
    assert parts.options[:4] == ["--var", str(tmp_path / "var"), "--log", url]


@pytest.mark.parametrize("error", [OtherScheme("log.db"), ValueError("topic shop.events has 2 partitions, not 3")])
def test_a_log_that_this_version_cannot_read_is_a_fault_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    closed: list[int] = []

    class Log:
        def create(self, topics: object) -> None:
            assert topics == [EVENTS]
            raise error

        def close(self) -> None:
            closed.append(1)

    monkeypatch.setattr("shared.cli.open_log", lambda *_, **__: Log())
    with pytest.raises(typer.BadParameter, match=str(error)[:20]):
        runtime(tmp_path).open_log(wait=True)
    assert closed == [1]


def test_a_line_of_the_log_names_no_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # else basicConfig leaves those of pytest
    runtime(tmp_path)
    try:
        raise KeyError("4111 1111 1111 1111")
    except KeyError:
        logging.getLogger("shared.test").exception("a record of %s cannot be taken in", "anna@example.com")
    said = capsys.readouterr().err
    assert "ERROR shared.test: a record of [e-mail address] cannot be taken in" in said
    assert "KeyError: '[card number]'" in said
    assert "4111 1111 1111 1111" not in said.replace('raise KeyError("4111 1111 1111 1111")', "")


def test_an_empty_secret_is_a_fault_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "client_key.secret").write_text("\n")
    with pytest.raises(typer.BadParameter, match="is empty"):
        runtime(tmp_path).keys()
    assert len(runtime(tmp_path / "other").keys().operator) == 64


def test_one_secret_for_two_roles_is_a_fault_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSD_CLIENT_KEY", "the same")
    monkeypatch.setenv("MLSD_OPERATOR_KEY", "the same")
    with pytest.raises(typer.BadParameter, match="must differ"):
        runtime(tmp_path).keys()


def test_a_log_of_an_unknown_kind_is_a_fault_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="carrier-pigeon"):
        runtime(tmp_path, log="carrier-pigeon://loft").open_log()


def test_a_log_that_is_away_is_waited_for_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.cli.PAUSE", 0.01)
    (tmp_path / "log.db").mkdir()
    parts = runtime(tmp_path, log=f"sqlite:///{tmp_path}/log.db")
    with pytest.raises(LogUnavailable):
        parts.open_log()
    timer = threading.Timer(0.2, (tmp_path / "log.db").rmdir)
    timer.start()
    with closing(parts.open_log(wait=True)) as log:
        assert log.ends(EVENTS)[0] == 0
    timer.join()


def test_a_registry_is_not_opened_before_it_is_used(tmp_path: Path) -> None:
    registry = runtime(tmp_path / "var").registry()
    assert registry.name == "shop"
    assert not (tmp_path / "var" / "mlflow.db").exists()


def test_what_needs_no_registry_does_not_import_mlflow() -> None:
    program = "import sys, shared.cli; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_a_child_is_the_same_service_with_the_same_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.py").write_text("import sys; print(*sys.argv[1:], file=open('said', 'w'))")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parts = runtime(tmp_path / "var", virtual=5)
    assert parts.child("worker", "--slot", "3").wait(20) == 0
    assert (tmp_path / "said").read_text().split() == [*parts.options, "worker", "--slot", "3"]


def test_a_registry_without_its_driver_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.settings.find_spec", lambda _: None)
    monkeypatch.setenv("MLSD_MLFLOW", "postgresql://anna@db/mlflow")
    with pytest.raises(typer.BadParameter, match="--extra postgres"):
        runtime(tmp_path)
    monkeypatch.setenv("MLSD_MLFLOW", "http://mlflow:5000")
    runtime(tmp_path)


# --- servers ---------------------------------------------------------------------------------------------


def test_a_socket_that_is_taken_is_named_with_what_to_do() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            typer.BadParameter, match=f"127.0.0.1:{port}: Address already in use; choose another --port"
        ):
            listen("127.0.0.1", port)


SERVER = """
import sys
from fastapi import FastAPI
from pathlib import Path
from shared.cli import listen, run_server
from shared.settings import Settings
def make(stopping):
    app = FastAPI()
    @app.get("/")
    def asked(): return {"stopping": stopping()}
    return app
listener = listen("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
run_server(make, listener, settings=Settings().under(Path("somewhere")))
print("ended in good order", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_answers_and_ends_in_good_order(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        told = server.stdout.readline()
        assert f"http://127.0.0.1:{port} " in told
        assert "somewhere/<role>_key.secret" in told
        answer = httpx.get(f"http://127.0.0.1:{port}/", timeout=20)
        assert answer.json() == {"stopping": False}
        server.send_signal(number)
        assert server.stdout.readline() == "ended in good order\n"
        assert server.wait(20) == 0


def test_what_a_person_types_to_release_a_version_is_one_call_that_a_shell_takes(tmp_path: Path) -> None:
    runtime = Runtime("shop", [], var=tmp_path, log="", virtual=None)
    command = runtime.promotion("2", in_force="1", port=8000).splitlines()[1]
    words = shlex.split(command)
    assert words[:2] == ["curl", "http://127.0.0.1:8000/v1/commands"]
    assert f"X-API-Key: $(cat {tmp_path}/operator_key.secret)" in words
    assert json.loads(words[-1]) == {"kind": "promote", "version": "2", "expected_champion": "1"}


# --- loops that go on --------------------------------------------------------------------------------------


@pytest.fixture
def _signals() -> Iterator[None]:
    """Handlers as they were before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses asked for, in seconds; they are not made."""
    asked: list[float] = []
    wait = threading.Event.wait

    def short(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is not None and threading.current_thread() is threading.main_thread():
            asked.append(timeout)
        return wait(event, timeout and min(timeout, 0.001))

    monkeypatch.setattr(threading.Event, "wait", short)
    return asked


class Loop:
    """Raises what it is given, one error a beginning, and then ends."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.begun = list(errors), 0

    def __call__(self, stopping: threading.Event) -> None:
        self.begun += 1
        if self.errors:
            raise self.errors.pop(0)
        stopping.set()


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize(
    "error", [Fenced("taken over"), LogUnavailable("away"), DependencyUnavailable("away"), OSError("full")]
)
def test_a_dependency_that_is_away_starts_the_loop_afresh_after_a_short_pause(
    error: Exception, pauses: list[float]
) -> None:
    loop = Loop(*[error] * 4)
    run_until_stopped(loop)
    assert (loop.begun, pauses) == (5, [PAUSE] * 4)


@pytest.mark.usefixtures("_signals")
def test_any_other_error_starts_it_afresh_after_pauses_that_double(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(*[ValueError("a fault of ours")] * 7)
    run_until_stopped(loop)
    assert (loop.begun, pauses) == (8, [1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE])
    assert caplog.text.count("a fault of ours") == 7


@pytest.mark.usefixtures("_signals")
def test_a_loop_that_ran_well_for_a_while_begins_again_soon(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("shared.cli.monotonic", lambda: now)
    loop = Loop(*[ValueError()] * 4)

    def run(stopping: threading.Event) -> None:
        nonlocal now
        now += 0 if loop.begun < 2 else STEADY + 1
        loop(stopping)

    run_until_stopped(run)
    assert pauses == [1.0, 2.0, PAUSE, PAUSE]


@pytest.mark.usefixtures("_signals")
def test_a_fault_of_the_command_ends_it() -> None:
    with pytest.raises(typer.BadParameter, match="no such log"):
        run_until_stopped(Loop(typer.BadParameter("no such log")))


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_good_order(number: signal.Signals) -> None:
    def run(stopping: threading.Event) -> None:
        signal.raise_signal(number)
        assert stopping.wait(5)

    run_until_stopped(run)


@pytest.mark.usefixtures("_signals")
def test_a_signal_during_the_pause_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.cli.PAUSE", 60.0)
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM))
    timer.start()
    loop = Loop(LogUnavailable("away"))
    began = monotonic()
    run_until_stopped(loop)
    timer.join()
    assert (loop.begun, monotonic() - began < 10) == (1, True)


@pytest.mark.usefixtures("_signals")
def test_one_that_is_not_wanted_any_more_does_not_begin() -> None:
    run_until_stopped(lambda _: pytest.fail("begun"), wanted=lambda: False)
    loop = Loop(LogUnavailable("away"), LogUnavailable("away"))
    run_until_stopped(loop, wanted=lambda: loop.begun < 1)
    assert loop.begun == 1


# --- children ----------------------------------------------------------------------------------------------


class Child:
    """Starts processes of a program, and remembers them."""

    def __init__(self, program: str) -> None:
        self.program, self.started = program, list[subprocess.Popen[bytes]]()
        self.times: list[float] = []
        self.refuses = False

    def __call__(self) -> "subprocess.Popen[bytes]":
        self.times.append(monotonic())
        if self.refuses:
            raise OSError("no memory")
        self.started.append(subprocess.Popen([sys.executable, "-c", self.program], stderr=subprocess.DEVNULL))
        return self.started[-1]


@pytest.fixture
def supervise() -> Iterator[Callable[[str], tuple[Child, SupervisedProcess]]]:
    with ExitStack() as running:

        def start(program: str) -> tuple[Child, SupervisedProcess]:
            child = Child(program)
            process = SupervisedProcess(child)
            running.callback(process.stop)
            return child, process

        yield start


STAY = "import time; time.sleep(60)"


def restarted(child: Child, times: int) -> bool:
    return len(child.started) > times


def test_a_child_that_is_killed_is_started_again_at_once(
    supervise: Callable[[str], tuple[Child, SupervisedProcess]],
) -> None:
    child, process = supervise(STAY)
    for n in range(1, 4):
        assert process.alive()
        killed = monotonic()
        child.started[-1].kill()
        comes(partial(restarted, child, n))
        assert monotonic() - killed < 2
    assert process.alive()
    process.stop()
    assert not process.alive()
    assert all(started.poll() is not None for started in child.started)


def test_a_child_that_fails_by_itself_is_started_again_after_pauses_that_double(
    supervise: Callable[[str], tuple[Child, SupervisedProcess]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.cli.LOOK", 0.01)
    monkeypatch.setattr("shared.cli.PAUSE", 0.1)
    child, process = supervise("raise SystemExit(1)")
    comes(lambda: len(child.times) > 3)
    process.stop()
    first, second, third = (later - earlier for earlier, later in zip(child.times[:3], child.times[1:4], strict=True))
    assert first > 0.2
    assert second > 0.4
    assert third > 0.8


def test_a_child_that_cannot_be_started_is_tried_again(
    supervise: Callable[[str], tuple[Child, SupervisedProcess]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.cli.LOOK", 0.01)
    child, process = supervise(STAY)
    child.refuses = True
    child.started[-1].kill()
    comes(lambda: len(child.times) > 3)
    child.refuses = False
    comes(process.alive)
    assert len(child.started) == 2


def test_stopping_does_not_wait_for_the_pause_and_starts_nothing_more(
    supervise: Callable[[str], tuple[Child, SupervisedProcess]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.cli.PAUSE", 60.0)
    monkeypatch.setattr("shared.cli.LOOK", 0.01)
    child, process = supervise("raise SystemExit(1)")
    comes(lambda: not process.alive())
    sleep(0.1)
    began = monotonic()
    process.stop()
    assert (len(child.started), monotonic() - began < 5) == (1, True)


# --- slots -------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from shared.cli import claim_slot
with claim_slot(Path(sys.argv[1]), "shop") as slot:
    print(slot, flush=True)
    sys.stdin.read()
"""


def hold(folder: Path, script: str = HOLD) -> tuple["subprocess.Popen[str]", int]:
    command = [sys.executable, "-c", script, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.kill
def test_each_process_of_a_machine_gets_a_slot_of_its_own_and_a_kill_frees_it(tmp_path: Path) -> None:
    folder = tmp_path / "var"  # is not there yet
    first, zero = hold(folder)
    second, one = hold(folder)
    try:
        assert (zero, one) == (0, 1)
        assert (folder / "shop-worker-0.lock").read_text() == f"{first.pid}\n"
        with claim_slot(folder, "shop") as mine:
            assert mine == 2
        with (
            pytest.raises(typer.BadParameter, match="worker slot 0 is held by another process"),
            claim_slot(folder, "shop", 0),
        ):
            pass
        assert (folder / "shop-worker-0.lock").read_text() == f"{first.pid}\n", "the holder still stands there"
        first.kill()
        first.wait()
        with claim_slot(folder, "shop") as mine:
            assert mine == 0
        with claim_slot(folder, "shop", 0) as mine:
            assert mine == 0
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_a_slot_is_free_again_after_its_use_and_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with suppress(ZeroDivisionError), claim_slot(tmp_path, "shop", 5) as slot:
            assert slot == 5
            raise ZeroDivisionError


def test_when_all_slots_are_held_it_says_so(tmp_path: Path) -> None:
    with ExitStack() as held:
        assert [held.enter_context(claim_slot(tmp_path, "shop")) for _ in range(SLOTS)] == list(range(SLOTS))
        with (
            pytest.raises(typer.BadParameter, match=f"all {SLOTS} worker slots are held"),
            claim_slot(tmp_path, "shop"),
        ):
            pass


def test_two_services_in_one_folder_do_not_share_their_slots(tmp_path: Path) -> None:
    with claim_slot(tmp_path, "fraud") as first, claim_slot(tmp_path, "sentiment") as second:
        assert (first, second) == (0, 0)


CLAIM = """
import sys
from pathlib import Path
from shared.cli import claim
with claim(Path(sys.argv[1]), "shop-monitor"):
    print(0, flush=True)
    sys.stdin.read()
"""


@pytest.mark.kill
def test_a_name_is_held_by_one_process_of_a_machine_and_a_kill_frees_it(tmp_path: Path) -> None:
    folder = tmp_path / "var"  # is not there yet
    first, _ = hold(folder, CLAIM)
    try:
        said = rf"shop-monitor is already running on this machine \(process {first.pid}, .*\); stop that process first"
        for _ in range(2):
            with pytest.raises(typer.BadParameter, match=said), claim(folder, "shop-monitor"):
                pass
        with claim(folder, "shop-loader"):
            pass
        first.kill()
        first.wait()
        with claim(folder, "shop-monitor"), pytest.raises(typer.BadParameter), claim(folder, "shop-monitor"):
            pass
        with claim(folder, "shop-monitor"):
            pass
    finally:
        first.kill()
        first.communicate()


# --- ticks -------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with closing(open_log(f"sqlite:///{tmp_path}/log.db", clock=VirtualClock())) as log:
        log.create([EVENTS])
        yield log


def told(log: EventLog) -> list[tuple[int, str, bytes]]:
    with closing(log.reader(beginning([EVENTS]))) as reader:
        return sorted((record.partition, record.key, record.value) for record in reader.poll(1_000, 0))


def test_every_partition_is_told_the_time_at_once_and_then_at_each_full_interval(log: EventLog) -> None:
    clock = VirtualClock(7_250)
    thread = ticking(log, EVENTS, lambda at: b"%d" % at, clock=clock, every=3_600)
    try:
        comes(lambda: len(told(log)) == 3)
        assert told(log) == [(partition, "tick", b"7200") for partition in range(3)]
        clock.observe(10_799)
        sleep(1.2)
        assert len(told(log)) == 3
        clock.observe(10_800)
        comes(lambda: len(told(log)) == 6)
        assert told(log)[:2] == [(0, "tick", b"10800"), (0, "tick", b"7200")]
    finally:
        thread.stop()


def test_while_the_log_is_away_the_tick_waits_and_is_then_told_once(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise LogUnavailable("the log is away")

    with monkeypatch.context() as outage:
        outage.setattr("shared.eventlog.sqlite.SqliteLog.append", away)
        thread = ticking(log, EVENTS, lambda at: b"%d" % at, clock=VirtualClock(0), every=3_600)
        comes(lambda: thread.trouble)
        assert (thread.trouble, thread.failures) == ("ticks: the log is away", 0)
    try:
        comes(lambda: len(told(log)) == 3)
        comes(lambda: not thread.trouble)
        sleep(0.2)
        assert len(told(log)) == 3
    finally:
        thread.stop()
