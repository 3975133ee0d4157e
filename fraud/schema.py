"""The messages: one definition for the API, the topics and the lake.

Money is in whole cents, time in whole seconds since the epoch (UTC). On every topic `card` and
`device` are keyed pseudonyms: the gateway replaces them, and so must every other producer.
"""

import hmac
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import polars as pl
from pydantic import Field, TypeAdapter

from fraud import config
from shared import releases
from shared.eventlog.port import Topic
from shared.messages import Message, Request
from shared.releases import Release

Action = Literal["approve", "review", "decline"]
Features = list[float]  # one payment's, in the order of features.NAMES
Score = float  # the calibrated probability of fraud

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["tx-1001"])]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$", examples=["BE"])]
Seconds = Annotated[int, Field(ge=0, lt=2**32, strict=True, examples=[1_767_225_600])]
Partition = Annotated[int, Field(ge=0, lt=config.PARTITIONS)]
Count = Annotated[int, Field(ge=0, lt=2**63)]

PERSONAL = ("card", "device")  # fields that could name a person, so a dead letter does not quote them

# How long the log keeps records. What is older comes from the lake, so events stay for as long as the ingest may be
# away: over a weekend at least; decisions stay longer, because they say how far the events were decided; closed hours,
# for the longest window.
EVENTS = Topic("fraud.events", config.PARTITIONS, days=14, least=3)  # key: card
DECISIONS = Topic("fraud.decisions", config.PARTITIONS, days=30, least=3)  # key: identity
BOOK = Topic("fraud.book", 1, compacted=True, days=60, least=30)  # key: partition:hour
DEAD = Topic("fraud.dead", 1, days=90)  # key: topic/partition/offset of the record refused
COMMANDS = Topic("fraud.commands", 1, days=90)  # key: kind
ALARMS = Topic("fraud.alarms", 1, days=365)  # key: kind
REPORTS = Topic("fraud.reports", 1)  # key: day
RELEASES = Topic("fraud.releases", 1)  # key: version
HEARTBEATS = Topic("fraud.heartbeats", 1, compacted=True)  # key: process
STORY = Topic("fraud.story", 1, days=30)  # key: kind; a demo's only
TOPICS = (EVENTS, DECISIONS, BOOK, DEAD, COMMANDS, ALARMS, REPORTS, RELEASES, HEARTBEATS, STORY)


APPENDED = "_appended"


class Arrived(Message):
    """What `fraud.events` carries: something of an event time, which the log took at another."""

    at: Seconds

    @property
    def moment(self) -> int:
        """How far the event moves its partition's time: never beyond the time at which the log took it.

        So a till whose clock is fast makes no other payment late, and closes no hour or day early.
        """
        appended: int = self.__dict__.get(APPENDED, self.at)
        return min(self.at, appended)

    def appended(self, at: int | None) -> Self:
        """The event with the time at which the log took it, which no producer can send; None: it came by file."""
        if at is not None:
            self.__dict__[APPENDED] = at  # beside the fields, as a cached property is: it is no part of the message
        return self


class Transaction(Arrived):
    """One card payment, as the till asks about it."""

    # [2.1] Structured, and only what is known while the card is in the terminal: a field that is filled
    # later would be a feature in training and a hole in serving.
    kind: Literal["payment"] = "payment"
    card: Id
    id: Id
    terminal: Id
    at: Seconds
    cents: Annotated[int, Field(ge=0, le=config.MAX_CENTS, strict=True, examples=[4_250])]
    currency: Literal["EUR"] = "EUR"
    country: Country | None = None
    device: Id | None = None
    probe: bool = False  # the operator's own test payment: decided, but in no count, training or report

    @property
    def identity(self) -> str:
        """What makes two messages the same payment: unique within a card, as tills number their own."""
        return f"{self.card}.{self.id}"

    def fingerprint(self, key: bytes) -> str:
        """A keyed hash of the content, 16 hexadecimal digits: a repeat has the same, a conflict another.

        It is keyed, so that a caller without the key cannot craft a second payment that passes for a repeat.
        """
        content = repr((self.terminal, self.at, self.cents, self.country, self.device, self.probe))
        return hmac.digest(key, f"fingerprint {content}".encode(), "sha256")[:8].hex()


class TransactionRequest(Transaction, Request):
    """The same by HTTP, where a field that we do not know is a mistake of the caller."""


class Label(Arrived):
    """What was found out about a payment, and `at` what time the bank knew it."""

    kind: Literal["label"] = "label"
    card: Id
    id: Id
    terminal: Id
    at: Seconds
    fraud: bool
    source: Literal["chargeback", "analyst"]

    @property
    def identity(self) -> str:
        return f"{self.card}.{self.id}"


class Tick(Arrived):
    """Says to an idle partition that time has passed."""

    kind: Literal["tick"] = "tick"
    at: Seconds


Event = Transaction | Label | Tick
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def message() -> pl.Expr:
    """A row of the lake's events as the JSON that the topic carries."""
    kind = pl.col("kind")
    payment, label, tick = (
        pl.struct(list(noun.model_fields)).struct.json_encode() for noun in (Transaction, Label, Tick)
    )
    return pl.when(kind == "payment").then(payment).when(kind == "label").then(label).otherwise(tick).alias("message")


class Cell(Message):
    """One partition's counts for one hour of the terminal book; hours up to `until` are closed."""

    partition: Partition
    hour: Annotated[int, Field(ge=-1, lt=2**31)]  # since the epoch
    until: Annotated[int, Field(lt=2**31)]
    counts: dict[str, tuple[int, int]]  # terminal -> payments, frauds that became known
    # An hour of very many terminals is several records, which together are one cell.
    part: Annotated[int, Field(ge=0)] = 0
    parts: Annotated[int, Field(ge=1)] = 1


class Decision(Message):
    """What was decided, and everything needed to say why without deciding again."""

    kind: Literal["decision"] = "decision"
    card: Id
    id: Id
    terminal: Id
    at: Seconds
    cents: Count
    fingerprint: str  # of the payment's content
    action: Action
    reasons: tuple[str, ...]
    path: str  # model | rules | stand-in; a reader shows one that it does not know
    mark: str | None = None  # why not by the model as usual: late | no-model | stale-book | owner-late | error
    probability: float | None = None
    costs: dict[Action, float] | None = None  # EUR expected, by action
    rules: Action  # what the rules alone would have done: the baseline
    explored: bool = False
    propensity: float = 1.0  # of the action taken
    features: tuple[float, ...] | None = None
    model: str | None = None
    definition: str | None = None  # of the features
    book: int | None = None  # the last hour of the terminal book that it looked at
    partition: Partition | None = None  # where the payment stands in the log
    offset: Count | None = None
    probe: bool = False

    @property
    def identity(self) -> str:
        return f"{self.card}.{self.id}"


class Outcome(Message):
    """What became of a payment that was no new one."""

    kind: Literal["repeat", "conflict"]
    card: Id
    id: Id
    partition: Partition
    offset: Count

    @property
    def identity(self) -> str:
        return f"{self.card}.{self.id}"


Verdict = Decision | Outcome
VERDICT: TypeAdapter[Verdict] = TypeAdapter(Annotated[Verdict, Field(discriminator="kind")])


class Wanted(releases.Wanted):
    """What a command is to do."""

    kind: Literal["retrain", "promote", "rollback", "withdraw"]
    version: Annotated[str, Field(pattern=r"^[0-9]{1,9}$", examples=["2"])] | None = None


class Command(Wanted, releases.Command):
    """A command as it stands in the log."""


class CommandRequest(Wanted, Request):
    """A command by HTTP."""


class Alarm(releases.Alarm):
    """Something that an operator should know, and what is done about it.

    Kinds: drift, quality, guardrail, gate, model, lake, command, registry, unreadable, positions, monitor.
    """

    retrain_on: int | None = None  # event day, since the epoch
    version: str | None = None  # that the gate refused (the challenger), or that the guardrail speaks about
    figures: dict[str, float] = Field(default_factory=dict)  # its own, and as `champion_…` the champion's


class Report(Message):
    """One closed event day, judged."""

    day: Annotated[int, Field(ge=0, lt=2**32 // config.DAY)]  # since the epoch
    payments: Count
    actions: dict[str, Count]
    drift: dict[str, float]  # distance by feature, and of the score
    drifted: tuple[str, ...]
    version: str | None = None  # that decided most of its payments
    matured_day: int | None = None  # the last day whose labels are complete by now; the figures below are its week's
    average_precision: float | None = None
    card_precision_100: float | None = None
    recall: float | None = None
    cost_per_1000: float | None = None  # EUR, by the labels known
    rules_cost_per_1000: float | None = None  # what the rules alone would have cost
    frauds_promised: float | None = None  # among approved payments: the sum of their probabilities
    frauds_missed: int | None = None  # and how many came
    evidence: float | None = None  # against the promise, from all days that the version decided (`evaluate.evidence`)


def challenger(alarms: Sequence[Alarm], ledger: Sequence[Release]) -> Alarm | None:
    """Of the version that the gate refused last, if it is newer than all that were released; both oldest first."""
    newest = max((int(release.version) for release in ledger if release.version.isdecimal()), default=0)
    gate = (alarm for alarm in alarms if alarm.kind == "gate")
    refused = [alarm for alarm in gate if alarm.version is not None and alarm.version.isdecimal()]
    return refused[-1] if refused and int(refused[-1].version or 0) > newest else None


class Wish(Message):
    """What a visitor of a demo wants to see."""

    kind: Literal["wish"] = "wish"
    wish: Literal["attack", "bad release"]


class WishRequest(Wish, Request):
    """The same by HTTP."""
