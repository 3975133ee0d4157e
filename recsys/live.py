"""Runs the days of a simulated shop against the service: lists over HTTP, views, clicks, purchases."""

import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple, Self
from urllib.error import HTTPError, URLError

import numpy as np
import polars as pl

from recsys import config, simulate
from recsys.batch import Nights, date_of
from recsys.history import EVENT_COLUMNS, PRODUCT_COLUMNS, hidden
from recsys.otherwise import Otherwise
from recsys.releases import RECIPE, TABLE
from recsys.schema import (
    ALARMS,
    CATALOGUE,
    COMMANDS,
    EVENTS,
    IMPRESSIONS,
    NIGHTS,
    RELEASES,
    REPORTS,
    STORY,
    TOPICS,
    Alarm,
    Books,
    Impression,
    Ints,
    Night,
    Release,
    Report,
    Wanted,
    Wish,
)
from recsys.shelf import Shelf
from recsys.simulate import Chances, Deeds, Life, Shop
from recsys.table import Busy
from shared.children import Children
from shared.clock import VirtualClock, perf_counter, sleep
from shared.eventlog import open_log
from shared.eventlog.port import Entry, beginning, for_ever
from shared.privacy import pseudonym
from shared.releases import Ledger
from shared.settings import Settings
from shared.story import Scene

NIGHT = 2 * config.HOUR  # of the day that the night belongs to
K = 10  # places that a visitor sees
VISITS = 50  # a day by HTTP; the others look up in this process
PATIENCE = 300.0  # seconds to wait for a process before giving up
OWN = "demo-"  # begins the keys of the demo's own commands; others come from a browser
ARMS = ("served", "none", "popularity", "repeats", "oracle")


class Day(NamedTuple):
    """What each way of recommending earned, EUR, net of returns; and clicks on what was served."""

    earned: dict[str, float]
    lists: int
    clicks: int
    bought: int
    by_list: int
    sources: dict[str, int]  # of the places shown


class Live:
    """The service as child commands on a free port, and the shop that uses it."""

    def __init__(self, settings: Settings, shop: Shop, *, port: int, today: int, nights: Callable[..., Nights]) -> None:
        """`today`: day of the shop that comes next. `nights` makes a Nights on log and clock."""
        self.settings, self.shop, self.today, self.port = settings, shop, today, port
        self.lives: dict[str, Life] = {}  # by way of recommending
        self.clock = VirtualClock(self.night_of(today))
        self.log = open_log(settings.log, clock=self.clock)
        self.log.create(for_ever(TOPICS))
        self.nights = nights(self.log, self.clock)
        self.days: list[Day] = []
        self.otherwise = Otherwise(items=shop.appeal.size)
        self.failures: list[str] = []
        self.latencies: list[float] = []
        self.alarms: list[Alarm] = []
        self.ledger: Ledger[Release] = Ledger()
        self.reports: list[Report] = []
        self.told: list[Night] = []
        self.wishes: list[str] = []  # demo buttons that were pressed on the page, not carried out yet
        self.obeys: dict[str, Callable[[], None]] = {}  # what is done about a wish, between two days
        self.visited = False  # whether a demo button or a command was used
        self._cut = False  # whether today's events are cut off
        self._key = settings.key("pseudonym_key")
        self.shelf = Shelf(self.log, self.nights.tables, key=self._key)
        names = simulate.user_names(shop)
        self._users = np.array([pseudonym(str(name), self._key) for name in names])
        self._number = {str(item): number for number, item in enumerate(simulate.item_names(shop))}
        self._due = pl.DataFrame(schema=EVENT_COLUMNS)  # what comes back later
        self._unjudged: int | None = None  # day that the monitor is to judge, since the epoch
        self._held: list[tuple[int, Entry]] = []  # what clients could not deliver, with its time
        self._reader = self.log.reader(beginning([ALARMS, RELEASES, REPORTS, NIGHTS, COMMANDS, STORY]))
        self.children = Children(config.SERVICE, settings, self.clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.children.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def night_of(self, day: int) -> int:
        """When the night before a day of the shop begins, epoch seconds."""
        return self.shop.start + day * config.DAY + NIGHT

    # --- what others say ----------------------------------------------------------------------------

    def follow(self) -> None:
        """Read what others have said."""
        while records := self._reader.poll(1_000, 0.0):
            for record in records:
                if record.topic == ALARMS.name:
                    self.alarms.append(Alarm.model_validate_json(record.value))
                elif record.topic == RELEASES.name:
                    self.ledger.add(Release.model_validate_json(record.value))
                elif record.topic == REPORTS.name:
                    self.reports.append(Report.model_validate_json(record.value))
                elif record.topic == NIGHTS.name:
                    self.told.append(Night.model_validate_json(record.value))
                elif record.topic == COMMANDS.name:
                    self.visited |= not json.loads(record.value)["key"].startswith(OWN)
                elif record.key == "wish":
                    self.wishes.append(Wish.model_validate_json(record.value).wish)
                    self.visited = True

    # --- the page -------------------------------------------------------------------------------------

    def go_on(self, life: Life) -> None:
        """From here on the shoppers live on once for each way of recommending."""
        self.lives = {arm: life.copy() for arm in ARMS}

    def tell(self, noun: Scene | Books) -> None:
        """Tell the page what is going on."""
        self.log.append([Entry(STORY, noun.kind, noun.model_dump_json().encode())])

    def obey(self) -> None:
        """Do what they have wished."""
        self.follow()
        for wish in [wish for wish in self.wishes if wish in self.obeys]:
            self.wishes.remove(wish)
            self.obeys[wish]()

    def cut_off(self) -> None:
        """The next day's events arrive a day late."""
        self._cut = True

    # --- an operator ----------------------------------------------------------------------------------

    def command(self, command: Wanted) -> None:
        """Post a promote or a rollback, and wait until a release or an alarm of its own answers it."""
        self.judged()
        self.follow()
        subject = TABLE if command.kind == "rollback" else RECIPE
        key = f"{OWN}{len(self.ledger.lines)}"
        body = command.model_dump() | {"expected_champion": self.ledger.version(subject), "key": key}

        def sent() -> bool:
            try:
                self.ask("POST", "/v1/commands", body)
            except HTTPError as error:
                if error.code != HTTPStatus.CONFLICT:  # it has not read the latest release yet
                    raise
                return False
            return True

        def answered() -> bool:
            self.follow()
            return self.ledger.by_key(key, subject) is not None or any(alarm.key == key for alarm in self.alarms)

        self.children.wait(sent, f"{command.kind} is refused; see serve.log")
        self.children.wait(answered, f"{command.kind} is not carried out; see monitor.log")

    # --- a night and a day ------------------------------------------------------------------------------

    def night(self) -> Night:
        """Tonight's; the clock is held until serve shows what was published."""
        self.clock.observe(self.night_of(self.today))
        made: list[Night] = []

        def done() -> bool:
            with suppress(Busy):  # the monitor runs one that was asked for
                made.append(self.nights.run(date_of(self.clock.now())))
            return bool(made)

        self.children.wait(done, "another night does not end; see monitor.log")
        self._unjudged = self.shop.start // config.DAY + self.today - 1
        self.shelf.follow()
        self.children.wait(self._served, "serve does not show the newest table; see serve.log")
        return made[0]

    def judged(self) -> None:
        """Wait until the monitor has judged what is due, and has learnt a recipe if it had to; shoppers do not wait."""

        def reported() -> bool:
            self.follow()
            return self._unjudged is None or any(report.day == self._unjudged for report in self.reports)

        self.children.wait(reported, "yesterday is not judged; see monitor.log")
        self._unjudged = None

    def _served(self) -> bool:
        return bool(self._table().get("version") == self.shelf.version)

    def _stock_known(self, end: int) -> bool:
        return bool(self._table().get("catalogue", -1) >= end)

    def _table(self) -> dict[str, Any]:
        """What serve says of its table; nothing while it does not answer."""
        try:
            answer: dict[str, Any] = self.ask("GET", "/v1/table")
        except (URLError, OSError):
            return {}
        return answer

    def day(self, *, delivered: bool = True, pause: float = 0.0) -> Day:
        """Today's visits, a pause after each hour.

        `delivered`: whether clients reach the log; else what happened arrives tomorrow.
        """
        number, shop = self.today, self.shop
        delivered, self._cut = delivered and not self._cut, False
        self.shelf.follow()
        luck = simulate.chances(shop, number)
        self._catalogue(number)
        shown, entries = self._lists(luck)
        another = self._another(luck, shown)
        deeds = simulate.live(shop, self.lives["served"], number, luck, shown.items)
        self._compare(luck, shown, deeds, another)
        earned = {"served": simulate.margin(shop, deeds)}
        for arm, lists in self._others(luck, number).items():
            earned[arm] = simulate.margin(shop, simulate.live(shop, self.lives[arm], number, luck, lists))
        rows = simulate.events(shop, number, luck, deeds)
        chosen = np.where(rows["slot"].to_numpy() > 0, np.array(shown.ids)[rows["row"].to_numpy()], "")
        rows = rows.with_columns(
            list_id=pl.when(pl.col("slot") > 0).then(pl.Series(chosen)),
            position=pl.when(pl.col("slot") > 0).then("slot"),
        )
        self._deliver(rows, entries, end=shop.start + (number + 1) * config.DAY, delivered=delivered, pause=pause)
        places, counts = np.unique(np.array(shown.sources), return_counts=True)
        done = Day(
            earned=earned,
            lists=luck.users.size,
            clicks=len(deeds.clicked),
            bought=len(deeds.bought),
            by_list=int((deeds.bought[:, 2] > 0).sum()),
            sources=dict(zip(places.tolist(), counts.tolist(), strict=True)),
        )
        self.judged()
        self.days.append(done)
        self.tell(Books(day=shop.start // config.DAY + number, earned=earned))
        self.today += 1
        return done

    def _catalogue(self, day: int) -> None:
        changed = simulate.products(self.shop, day, since=day - 1)
        columns = [name for name in PRODUCT_COLUMNS if name in changed.columns]
        rows = changed.select(columns).to_dicts()
        self.clock.observe(self.night_of(day) + config.HOUR)
        written = self.log.append([Entry(CATALOGUE, row["item"], json.dumps(row).encode()) for row in rows])
        self.shelf.follow()
        # What is out of stock must be out of every list, or what is shown over HTTP hangs on the machine's speed.
        end = max((offset + 1 for _, offset in written), default=0)
        self.children.wait(lambda: self._stock_known(end), "serve does not read the catalogue; see serve.log")

    def _lists(self, luck: Chances) -> "tuple[Shown, list[tuple[int, Entry]]]":
        """What every visitor is shown: some over HTTP, which logs by itself, the others from the shelf."""
        by_http = set(
            np.random.default_rng([self.shop.seed, self.today]).permutation(luck.users.size)[:VISITS].tolist()
        )
        items = np.full((luck.users.size, K), -1)
        ids, sources, entries = [""] * luck.users.size, list[str](), list[tuple[int, Entry]]()
        shuffled, plain = list[int](), list[int]()
        with ThreadPoolExecutor(4) as pool:
            asked = {row: pool.submit(self._visit, int(luck.users[row])) for row in by_http}
            for row, user in enumerate(luck.users.tolist()):
                if row in by_http:
                    continue
                name, at = str(self._users[user]), int(luck.at[row])
                made = self.shelf.recommend(name, K, now=at)
                ids[row] = f"l-{self.today}-{row}"
                items[row, : len(made.items)] = [self._number[item] for item in made.items]
                sources += made.sources
                if made.path == "table" and made.permuted == (config.PERMUTED if made.explored else 0):
                    (shuffled if made.explored else plain).append(row)
                impression = Impression(
                    list_id=ids[row],
                    user=name,
                    at=at,
                    version=made.version,
                    path=made.path,
                    items=tuple(made.items),
                    sources=tuple(made.sources),
                    explored=made.explored,
                    permuted=made.permuted,
                    support=tuple(made.support),
                )
                entries.append((at, Entry(IMPRESSIONS, name, impression.model_dump_json().encode())))
            for row, future in asked.items():
                answer = future.result()
                if answer is None:
                    continue
                found = answer["items"]
                ids[row] = answer["list_id"]
                items[row, : len(found)] = [self._number[place["item"]] for place in found]
                sources += [place["source"] for place in found]
        return Shown(items, ids, sources, shuffled, plain[::10]), entries

    def _another(self, luck: Chances, shown: "Shown") -> dict[bool, Ints]:
        """What popularity would have put on each place, (n, K): of shuffled lists, and of some as served."""
        rank = {self._number[item]: place for place, item in enumerate(self.shelf.popular(3 * config.STORED).items)}
        found = {}
        for chance, rows in ((True, shown.shuffled), (False, shown.plain)):
            found[chance] = np.full((len(rows), K), -1)
            for row, user in enumerate(luck.users[rows].tolist()):
                first = [self._number[item] for item in self.shelf.first(str(self._users[user]))]
                order = sorted(first, key=lambda item: rank.get(item, len(rank)))[:K]
                found[chance][row, : len(order)] = order
        rows = shown.shuffled
        utility = simulate.utilities(self.shop, self.lives["served"], luck.users[rows], self.today)
        looked = simulate.EXAMINED[:K] * simulate.clicking(self.shop, utility, found[True])
        self.otherwise.expect(looked.sum(axis=1))
        return found

    def _compare(self, luck: Chances, shown: "Shown", deeds: Deeds, another: dict[bool, Ints]) -> None:
        clicked = np.zeros(shown.items.shape, bool)
        clicked[deeds.clicked[:, 0], deeds.clicked[:, 2] - 1] = True
        for chance, rows in ((True, shown.shuffled), (False, shown.plain)):
            self.otherwise.add(luck.users[rows], shown.items[rows], clicked[rows], another[chance], shuffled=chance)

    def _visit(self, user: int) -> dict[str, Any] | None:
        began = perf_counter()
        try:
            answer: dict[str, Any] = self.ask("GET", f"/v1/recommendations/u{user:06}?k={K}", role="client")
        except (URLError, OSError) as error:
            self.failures.append(str(error))
            return None
        self.latencies.append(perf_counter() - began)
        return answer

    def _others(self, luck: Chances, day: int) -> dict[str, Ints | None]:
        """The lists of the other ways, each in its own life."""
        bestsellers = self._bestsellers(luck.users)
        last = self.lives["repeats"].last[luck.users]
        latest = np.argsort(-last, axis=1, kind="stable")[:, :K]
        again = np.where(np.take_along_axis(last, latest, axis=1) > simulate.LONG_AGO, latest, bestsellers)
        return {
            "none": None,
            "popularity": bestsellers,
            "repeats": again,
            "oracle": simulate.best(self.shop, self.lives["oracle"], day, luck.users, K),
        }

    def _bestsellers(self, users: Ints) -> Ints:
        """(visitors, K) what most buy, less what each has bought already."""
        popular = np.array([self._number[item] for item in self.shelf.popular(3 * config.STORED).items])
        owned = self.lives["popularity"].last[users][:, popular] > simulate.LONG_AGO
        return np.asarray(popular[np.argsort(owned, axis=1, kind="stable")[:, :K]])  # in order, what is owned last

    def _deliver(
        self, rows: pl.DataFrame, shown: "list[tuple[int, Entry]]", *, end: int, delivered: bool, pause: float
    ) -> None:
        """Append the day in order of time; what comes back later waits for its day."""
        every = pl.concat(
            [self._due, rows.select([c for c in EVENT_COLUMNS if c in rows.columns])], how="diagonal_relaxed"
        )
        due, self._due = every.filter(pl.col("at") < end).sort("at"), every.filter(pl.col("at") >= end)
        named = hidden(due, key=self._key)
        made = [
            (row["at"], Entry(EVENTS, row["user"], _message(row)))
            for row in named.select(list(EVENT_COLUMNS)).iter_rows(named=True)
        ]
        self._held += shown + made
        if not delivered:
            return self.clock.observe(end - config.HOUR)
        for hour in range(end - config.DAY, end, config.HOUR) if pause else ():
            now = [entry for at, entry in self._held if at < hour + config.HOUR]
            self._held = [(at, entry) for at, entry in self._held if at >= hour + config.HOUR]
            if now:
                self.clock.observe(hour)
                self.log.append(now)
                sleep(pause)
        self.clock.observe(end - config.HOUR)
        self.log.append([entry for _, entry in self._held])
        self._held = []

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, role: str = "operator") -> Any:
        """The service's answer. Raises OSError: it is away, or refuses."""
        headers = {"X-API-Key": self.settings.key(f"{role}_key").decode(), "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read())


class Shown(NamedTuple):
    """What visitors see."""

    items: Ints  # (visitors, K)
    ids: list[str]  # of their lists
    sources: list[str]  # of all places
    shuffled: list[int]  # rows of lists whose first PERMUTED are all there, in random order
    plain: list[int]  # a tenth of those in the table's order


def _message(row: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in row.items() if value is not None}).encode()
