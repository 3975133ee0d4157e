"""Simulates a bank with known truth: cards, terminals, payments, fraud scenarios, and an attack that begins later.

The idea of cards that pay near home and of the first three frauds is the Fraud Detection
Handbook's (Le Borgne et al., 2022); the rest, and all of the code, is this file's own.
Inside, everything is a number in a numpy array; names are given at the end.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from fraud.config import DAY, HOUR, MAX_CENTS, MINUTE, REVIEW_CATCH

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SCENARIOS = ("none", "amount", "terminal", "card", "testing", "takeover", "tactics")
NONE, AMOUNT, TERMINAL, CARD, TESTING, TAKEOVER, TACTICS = range(len(SCENARIOS))
# Of all payments; together 0.85 %, ten times what a real bank sees, or the demo would need years.
SHARE = {AMOUNT: 0.0020, TERMINAL: 0.0022, CARD: 0.0015, TESTING: 0.0015, TAKEOVER: 0.0013, TACTICS: 0.02}

COUNTRIES = ("BE", "FR", "NL", "DE", "ES", "IT", "GB", "US", "TR")  # the first is home
WEEKDAYS = np.array([0.95, 0.92, 0.95, 1.00, 1.15, 1.25, 0.78])  # relative volume, Monday first
HOURS = np.array([4, 2, 1, 1, 1, 2, 8, 22, 34, 36, 42, 52, 60, 52, 44, 46, 56, 68, 66, 52, 38, 26, 16, 8]) / 737

SKIMMED, SKIMMING = 0.5, 28  # share of a compromised terminal's payments; days until it is found
STOLEN, STEALING = 1 / 3, 14  # share of a stolen card's payments; days until it is blocked
TRIP, AWAY = 5, 0.02  # days abroad; share of all days
# The new fraudsters' own terminals, the days until each is given up for the next, and what they take.
MULES, MULE_LIFE, AT_MULES = 36, 7, 0.7
DEVICES = 10**7  # so many that two fraudsters hardly ever draw the same


class Bank(NamedTuple):
    """Who pays, and where. Terminals are numbered: shops, web shops, abroad by country, mules."""

    rate: Floats  # (cards,) payments a day
    typical: Floats  # (cards,) median amount, cents
    spread: Floats  # (cards,) standard deviation of the log amount
    near: Ints  # (cards, 6) shops close to home, the favourite first
    popularity: Floats  # (shops + web shops,) weights
    shops: int
    web: int
    abroad: int  # terminals in each foreign country


class Paid(NamedTuple):
    """Payments as numbers, (n,) each."""

    card: Ints
    terminal: Ints
    at: Ints  # seconds since the start
    cents: Floats
    country: Ints  # into COUNTRIES
    device: Ints  # number × 26 + letter
    scenario: Ints  # into SCENARIOS


class Burst(NamedTuple):
    """The hand of a fraudster who brings payments of his own."""

    size: tuple[int, int]  # payments, from and below
    gap: tuple[int, int]  # seconds between two
    times: tuple[float, float]  # the card's typical amount


BURSTS = {
    TESTING: Burst((6, 14), (15, 50), (4, 15)),  # 5 to 12 tiny ones and the one that they were for
    TAKEOVER: Burst((3, 7), (5 * MINUTE, HOUR), (2.5, 9)),
    TACTICS: Burst((3, 7), (20 * MINUTE, HOUR), (1.5, 4)),  # slow and middling: below every rule
}


def simulate(
    *,
    seed: int,
    start: int,
    days: int,
    cards: int = 5_000,
    terminals: int = 1_500,
    payments_a_day: float = 1.0,
    tactics_from: int | None = None,
) -> pl.DataFrame:
    """Payments with their truth, sorted by `at`.

    `start` is a UTC midnight, epoch seconds; `payments_a_day` the mean of a card; from day number
    `tactics_from` on, the fraudsters' change of tactics comes on top of the very same payments,
    ids included. Columns: card, id, terminal, at (s), cents, country, device, fraud, scenario, and
    complaint_after (s until the chargeback of a fraud that is let through; 0: legitimate).
    """
    settle, live, steal, attack, adapt = np.random.default_rng(seed).spawn(5)
    bank = _bank(settle, cards, terminals, payments_a_day)
    parts = [_frame(steal, _steal(steal, bank, _live(live, bank, days, start // DAY + 3), days), days)]
    for scenario in (TESTING, TAKEOVER):
        began = attack.integers(days * DAY, size=_episodes(scenario, parts[0].height))
        parts.append(_frame(attack, _burst(attack, bank, scenario, began), days))
    # Numbered before the change of tactics, so that a payment has the same id in the world without it.
    base = pl.concat(parts).sort("at", maintain_order=True)
    if tactics_from is not None:
        volume = np.bincount(base["at"].to_numpy() // DAY, minlength=days)
        volume[:tactics_from] = 0
        day = np.repeat(np.arange(days), _episodes(TACTICS, volume))
        slow = _burst(adapt, bank, TACTICS, day * DAY + _clock(adapt, day.size))
        base = pl.concat([base, _frame(adapt, slow, days)])
    payments = base.with_row_index("id", offset=1).sort("at", maintain_order=True)
    return _named(payments, start, settle.permutation(terminals + MULES * (days // MULE_LIFE + 7)))


def _bank(rng: np.random.Generator, cards: int, terminals: int, payments_a_day: float) -> Bank:
    abroad, web = max(1, terminals // 100), max(1, terminals // 15)
    shops = terminals - web - abroad * (len(COUNTRIES) - 1)
    popularity = rng.lognormal(0, 0.7, shops + web)
    # Homes and shops lie along one street that closes on itself: near is a difference of numbers.
    street = (rng.integers(shops, size=(cards, 1)) + np.arange(40)) % shops
    # Six draws without replacement by popularity: the largest of log weight plus Gumbel noise.
    appeal = np.log(popularity[street]) + rng.gumbel(size=street.shape)
    near = np.take_along_axis(street, np.argsort(-appeal, axis=1)[:, :6], axis=1)
    return Bank(
        rate=rng.gamma(2.5, payments_a_day / 2.5, cards),
        typical=rng.lognormal(np.log(25_00), 0.7, cards),
        spread=rng.uniform(0.35, 0.8, cards),
        near=near,
        popularity=popularity,
        shops=shops,
        web=web,
        abroad=abroad,
    )


def _live(rng: np.random.Generator, bank: Bank, days: int, weekday: int) -> Paid:
    """All customers for `days` days, the first of which is `weekday` (modulo 7, Monday is 0)."""
    cards = bank.rate.size
    busy = WEEKDAYS[(weekday + np.arange(days)) % 7] * 7 / WEEKDAYS.sum()
    payments = rng.poisson(bank.rate[:, None] * busy)
    card, day = (np.repeat(place, payments.ravel()) for place in np.divmod(np.arange(cards * days), days))
    n = card.size
    trip = _calendar(rng, cards, days, length=TRIP, busy=AWAY)[card, day]
    there = rng.random(n)
    terminal = bank.near[card, rng.choice(6, n, p=np.array([30, 20, 15, 13, 12, 10]) / 100)]
    # One in eight shops anywhere or on the web, by popularity; a few cross the border for an hour.
    elsewhere = rng.choice(bank.popularity.size, n, p=bank.popularity / bank.popularity.sum())
    terminal = np.where(there < 0.125, elsewhere, terminal)
    terminal = np.where(there < 0.08, bank.shops + rng.integers(bank.web, size=n), terminal)
    # A trip has one destination; from there, too, one orders on the web.
    destination = np.where(trip > 0, 1 + trip % (len(COUNTRIES) - 1), 1 + rng.integers(3, size=n))
    abroad = bank.popularity.size + (destination - 1) * bank.abroad
    away = ((trip > 0) & (there >= 0.08)) | (there > 0.993)
    return Paid(
        card=card,
        terminal=np.where(away, abroad + rng.integers(bank.abroad, size=n), terminal),
        at=day * DAY + _clock(rng, n),
        # One in 250 is the sofa or the flight.
        cents=bank.typical[card]
        * rng.lognormal(0, bank.spread[card])
        * np.where(rng.random(n) < 0.004, rng.lognormal(np.log(6), 0.5, n), 1),
        country=np.where(away, destination, 0),
        device=_device(rng, card, day, cards, days),
        scenario=np.zeros(n, np.int64),
    )


def _device(rng: np.random.Generator, card: Ints, day: Ints, cards: int, days: int) -> Ints:
    """A telephone that is replaced after a year or so, a second device, rarely another customer's."""
    telephone = np.minimum(np.cumsum(rng.random((cards, days)) < 1 / 400, axis=1), 24)[card, day]
    which = rng.random(card.size)
    own = card * 26 + np.where(which < 0.12, 25, telephone)
    return np.where(which > 0.995, (cards + rng.integers(cards, size=card.size)) * 26, own)


def _steal(rng: np.random.Generator, bank: Bank, paid: Paid, days: int) -> Paid:
    """Frauds that look like the payment they stand for: skimmed terminals, stolen cards, large amounts."""
    day, n = paid.at // DAY, paid.at.size
    terminals = int(paid.terminal.max(initial=bank.shops)) + 1  # skimmers sit on tills in shops, the first numbers
    skimmed = np.zeros((terminals, days), np.int64)
    skimmed[: bank.shops] = _calendar(rng, bank.shops, days, length=SKIMMING, busy=SHARE[TERMINAL] / SKIMMED)
    stolen = _calendar(rng, bank.rate.size, days, length=STEALING, busy=SHARE[CARD] / STOLEN)
    chance = rng.random((3, n))
    which = [
        chance[0] < SHARE[AMOUNT],
        (skimmed[paid.terminal, day] > 0) & (chance[1] < SKIMMED),
        (stolen[paid.card, day] > 0) & (chance[2] < STOLEN),
    ]
    times = np.select(which, [rng.lognormal(np.log(9), 0.5, n), np.ones(n), rng.uniform(3, 5, n)], 1.0)
    return paid._replace(cents=paid.cents * times, scenario=np.select(which, [AMOUNT, TERMINAL, CARD], NONE))


def _burst(rng: np.random.Generator, bank: Bank, scenario: int, began: Ints) -> Paid:
    """Payments of fraudsters who each took one card at `began`, seconds since the start."""
    burst, episodes = BURSTS[scenario], began.size
    size = rng.integers(*burst.size, episodes)
    gap = rng.integers(*burst.gap, (episodes, burst.size[1] - 1))
    # (episodes, longest) -> (n,): the episode that each payment belongs to, and its place in it
    episode, place = np.nonzero(np.arange(gap.shape[1]) < size[:, None])
    at, n = (began[:, None] + np.cumsum(gap, axis=1))[episode, place], episode.size
    card = rng.integers(bank.rate.size, size=episodes)[episode]
    cents = bank.typical[card] * rng.uniform(*burst.times, n)
    country = rng.integers(1, len(COUNTRIES), episodes)[episode]
    device = rng.integers(2 * bank.rate.size, DEVICES, episodes)[episode] * 26
    terminal = bank.shops + rng.integers(bank.web, size=n)
    if scenario == TESTING:
        cents = np.where(place < size[episode] - 1, rng.uniform(50, 3_00, n), cents)
    if scenario == TACTICS:
        # Unseen devices from home: the fingerprint is reset before every payment.
        country = np.zeros(n, np.int64)
        device = rng.integers(2 * bank.rate.size, DEVICES, n) * 26
        mule = rng.integers(MULES, size=n)
        first = bank.popularity.size + bank.abroad * (len(COUNTRIES) - 1)
        own = first + mule + MULES * ((at // DAY + mule) // MULE_LIFE)
        terminal = np.where(rng.random(n) < AT_MULES, own, terminal)
    return Paid(card, terminal, at, cents, country, device, np.full(n, scenario, np.int64))


def _episodes(scenario: int, payments: npt.ArrayLike) -> Ints:
    """How many bursts make up the scenario's share of that many payments; the shape of `payments`."""
    fewest, below = BURSTS[scenario].size
    return np.rint(SHARE[scenario] * np.asarray(payments) / ((fewest + below - 1) / 2)).astype(np.int64)


def _calendar(rng: np.random.Generator, who: int, days: int, *, length: int, busy: float) -> Ints:
    """(who, days) numbers of episodes, 0 outside one; a share `busy` of all days is inside."""
    episodes = round(who * (days + length) * busy / length)
    # Some began before the first day, or the first weeks would differ from the rest.
    day = rng.integers(-length, days, (episodes, 1)) + np.arange(length)
    row = np.broadcast_to(rng.integers(who, size=(episodes, 1)), day.shape)
    number = np.broadcast_to(np.arange(1, episodes + 1)[:, None], day.shape)
    inside = (day >= 0) & (day < days)
    calendar = np.zeros((who, days), np.int64)
    calendar[row[inside], day[inside]] = number[inside]
    return calendar


def _clock(rng: np.random.Generator, n: int) -> Ints:
    """(n,) seconds of the day, as people pay."""
    return rng.choice(24, n, p=HOURS) * HOUR + rng.integers(HOUR, size=n)


def _frame(rng: np.random.Generator, paid: Paid, days: int) -> pl.DataFrame:
    """The payments within `days`, whole cents, with the seconds that each victim takes to notice."""
    # Most find it on the statement after 1.5 to 5 days; never before 0.5, never after 6.8.
    notices = np.where(paid.scenario == NONE, 0, (0.5 + 6.3 * rng.beta(2.4, 3.2, paid.at.size)) * DAY)
    columns = {**paid._asdict(), "cents": np.clip(np.rint(paid.cents), 50, MAX_CENTS), "complaint_after": notices}
    frame = pl.DataFrame(columns).cast(pl.Int64)
    return frame.filter(pl.col("at") < days * DAY)


def _named(frame: pl.DataFrame, start: int, terminals: Ints) -> pl.DataFrame:
    """Numbers to names; terminals get shuffled ones, or the name would tell a shop from a mule."""

    def padded(prefix: str, number: pl.Expr, width: int) -> pl.Expr:
        return pl.lit(prefix) + number.cast(pl.String).str.zfill(width)

    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return frame.select(
        card=padded("c", pl.col("card"), 5),
        id=padded("tx", pl.col("id"), 7),
        terminal=padded("t", pl.lit(pl.Series(terminals)).gather("terminal"), 4),
        at=pl.col("at") + start,
        cents="cents",
        country=pl.lit(pl.Series(COUNTRIES)).gather("country"),
        device=padded("d", pl.col("device") // 26, 5) + pl.lit(pl.Series(list(alphabet))).gather(pl.col("device") % 26),
        fraud=pl.col("scenario") != NONE,
        scenario=pl.lit(pl.Series(SCENARIOS)).gather("scenario"),
        complaint_after="complaint_after",
    )


def labels(payments: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """What the bank gets to know, given what it did (`action`: approve, review or decline).

    A declined payment is never heard of again. An analyst judges a reviewed one within 1 to 8 hours
    and misses a few frauds; these go through and, like approved ones, end in a chargeback.
    Columns: card, id, terminal, at (s, when it is known), fraud, source; sorted by `at`.
    What is drawn depends on seed and id alone, so that a day at a time gives the same labels.
    """
    reviewed = payments.filter(pl.col("action") == "review")
    digests = (hashlib.blake2b(f"{seed}.{id_}".encode(), digest_size=8).digest() for id_ in reviewed["id"])
    draw = np.frombuffer(b"".join(digests), ">u4").reshape(-1, 2) / 2**32
    after = (HOUR + 7 * HOUR * draw[:, 0]).astype(np.int64)
    reviewed = reviewed.with_columns(known=pl.col("at") + pl.Series(after), caught=pl.Series(draw[:, 1] < REVIEW_CATCH))
    analyst = reviewed.with_columns(fraud=pl.col("fraud") & pl.col("caught"), source=pl.lit("analyst"))
    approved = payments.filter(pl.col("action") == "approve")
    through = pl.concat([approved, reviewed.filter(~pl.col("caught"))], how="diagonal").filter(pl.col("fraud"))
    chargeback = through.with_columns(known=pl.col("at") + pl.col("complaint_after"), source=pl.lit("chargeback"))
    columns = ("card", "id", "terminal", pl.col("known").alias("at"), "fraud", "source")
    return pl.concat([analyst.select(columns), chargeback.select(columns)]).sort("at", "id")
