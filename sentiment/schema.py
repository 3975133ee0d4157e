"""The messages: one definition for the API, the topics and the lake.

Time is in whole seconds since the epoch (UTC). `author` is a keyed pseudonym on every topic but that of posts, which
producers write. Of what a person wrote only the text is kept, and it goes when the person deletes the post.

A record outlives the version that wrote it: unknown fields are ignored, and a field that comes later has a default.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from sentiment import config
from shared import releases
from shared.eventlog.port import Topic
from shared.messages import Message

Label = Literal["negative", "neutral", "positive"]
Path = Literal["transformer", "linear"]
Text = str  # normalised: what models are shown
Finite = Annotated[float, Field(allow_inf_nan=False)]  # JSON has no other numbers
Score = tuple[Finite, Finite, Finite]  # probabilities of negative, neutral, positive
ALL = "*"  # the reserved brand: every post that mentions any

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["post-1001"])]
# Of an author or a reader, as platforms have them: alice.real, @alice, alice@mastodon.social.
Name = Annotated[str, Field(pattern=r"^@?[A-Za-z0-9_-][A-Za-z0-9_.@+-]{0,253}$", examples=["alice.real"])]
Brand = Annotated[str, Field(pattern=r"^([a-z0-9-]{1,40}|\*)$", examples=["northair"])]
PostPartition = Annotated[int, Field(ge=0, lt=config.POST_PARTITIONS)]
BrandPartition = Annotated[int, Field(ge=0, lt=config.BRAND_PARTITIONS)]
Seconds = Annotated[int, Field(ge=0, lt=2**32, strict=True, examples=[1_767_225_600])]

# How long the log keeps records. What is older comes from the lake, so posts and mentions stay for as long as batch may
# be away, and as an hour may be published again.
POSTS = Topic("sentiment.posts", config.POST_PARTITIONS, days=14, least=8)  # key: post id
OPINIONS = Topic("sentiment.opinions", config.POST_PARTITIONS, days=30, least=8)  # key: post id
MENTIONS = Topic("sentiment.mentions", config.BRAND_PARTITIONS, days=14, least=8)  # key: brand
# A minute is told many times, and its last revision is all that counts; the watch for crises looks back BASELINE_DAYS,
# and serve at what batch does not have. Key: brand:minute, beside its brand's mentions.
MINUTES = Topic("sentiment.minutes", config.BRAND_PARTITIONS, compacted=True, days=15, least=8)
AUDITS = Topic("sentiment.audits", 1, days=90)  # key: post id
CORRECTIONS = Topic("sentiment.corrections", 1, days=90)  # key: post id
DEAD = Topic("sentiment.dead", 1, days=90)  # key: topic/partition/offset of the record refused
COMMANDS = Topic("sentiment.commands", 1, days=90)  # key: kind
ALARMS = Topic("sentiment.alarms", 1, days=365)  # key: kind
REPORTS = Topic("sentiment.reports", 1)  # key: day
RELEASES = Topic("sentiment.releases", 1)  # key: version
STORY = Topic("sentiment.story", 1, days=30)  # key: kind; a demo's only
HEARTBEATS = Topic("sentiment.heartbeats", 1, compacted=True)  # key: process
TOPICS = (
    *(POSTS, OPINIONS, MENTIONS, MINUTES, AUDITS, CORRECTIONS),
    *(DEAD, COMMANDS, ALARMS, REPORTS, RELEASES, STORY, HEARTBEATS),
)


# Fields whose value a dead letter does not repeat.
PERSONAL = ("text", "author", "reader")


class Post(Message):
    """A post as it was written."""

    # [2.1] Unstructured text, and beside it only who and when: no follower counts, place or picture. What would
    # help a profile of a person helps no count of a brand.
    kind: Literal["post"] = "post"
    id: Id
    author: Name
    at: Seconds
    text: Annotated[str, Field(min_length=1, max_length=config.MAX_TEXT, examples=["@northair thanks for nothing"])]


class Tombstone(Message):
    """The author has deleted the post; `at` is when."""

    # [7.3] A deletion is a record like a post, and in its partition: every reader must come past it.
    kind: Literal["tombstone"] = "tombstone"
    id: Id
    at: Seconds


class Tick(Message):
    """Says to an idle partition that time has passed."""

    kind: Literal["tick"] = "tick"
    at: Seconds


Event = Post | Tombstone | Tick
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


class Opinion(Message):
    """What a post says, and everything needed to know who said so."""

    kind: Literal["opinion", "deleted"] = "opinion"
    id: Id
    at: Seconds
    text: str = ""  # as it was written; empty once deleted, and of a post that was a week old when it came
    brands: tuple[str, ...] = ()
    label: Label | None = None  # none: filtered out, or not sure enough to be counted
    why_not: str | None = None  # language, spam or unsure
    score: Score | None = None
    path: Path | None = None
    mark: str | None = None  # shed, no-model, or error: it could not be scored
    model: str | None = None  # its version
    definition: str | None = None  # of the normaliser
    partition: PostPartition = 0
    offset: int = 0


class Mention(Message):
    """One brand in one post, on its way to be counted."""

    kind: Literal["mention"] = "mention"
    brand: Brand
    aspect: str | None = None
    post: Id
    author: Id
    at: Seconds
    text: int  # a digest: the same text again is no second opinion
    label: Label | None
    shed: bool = False  # by the linear model, for want of time
    model: str | None = None
    aliases: str  # the version of the table that found the brand
    late: bool = False  # its hour was sealed when it came
    partition: PostPartition  # of the post
    offset: int


class Mark(Message):
    """How far event time has come in one partition of posts."""

    kind: Literal["mark"] = "mark"
    source: PostPartition
    at: Seconds


MENTION: TypeAdapter[Mention | Mark] = TypeAdapter(Annotated[Mention | Mark, Field(discriminator="kind")])


Count = Annotated[int, Field(ge=0, lt=2**63)]


class Counts(NamedTuple):
    """Of mentions: all of them, and by label the first of each text in the hour."""

    raw: Count = 0
    negative: Count = 0
    neutral: Count = 0
    positive: Count = 0

    def __add__(self, other: object) -> "Counts":
        assert isinstance(other, Counts)
        return Counts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def opinions(self) -> int:
        return self.negative + self.neutral + self.positive


class Minute(Message):
    """All that is known of one brand and minute: it takes the place of an earlier revision, and is never added."""

    kind: Literal["minute"] = "minute"
    brand: Brand
    at: Seconds  # its start
    revision: int  # the offset of the last mention in it
    counts: Counts
    shed: int = 0  # of the opinions, by the linear model for want of time
    model: str | None = None  # the latest version among those that scored


class Late(Message):
    """A mention that came after its hour was sealed: the batch view will count it, the watch for crises does now."""

    kind: Literal["late"] = "late"
    brand: Brand
    at: Seconds
    post: Id
    text: int = 0  # a digest, as of a mention
    label: Label | None = None
    partition: PostPartition  # of the post
    offset: int


class Seal(Message):
    """Event time in one partition of mentions: every minute that ended LATENESS before is final."""

    kind: Literal["seal"] = "seal"
    partition: BrandPartition
    at: Seconds


MINUTE: TypeAdapter[Minute | Late | Seal] = TypeAdapter(Annotated[Minute | Late | Seal, Field(discriminator="kind")])


class Audit(Message):
    """A post that was drawn at random when its day had closed, and once a person has answered, what it says.

    Of a post that its author has deleted: without a text, and known at once, so that no person is asked about it.
    """

    post: Id
    at: Seconds  # of the post
    known_at: Seconds | None = None  # none: a person is asked
    label: Label | None = None  # none, once it is known: no opinion
    model: str | None = None
    path: Path | None = None  # none: by the version's best, as the batch view scores
    score: Score | None = None  # none: the post was dropped by a filter
    why_not: str | None = None  # the filter that dropped it, or `deleted`
    inclusion: Annotated[float, Field(gt=0, le=1)]  # the probability of being drawn
    drawn: dict[Brand, tuple[int, int]] = {}  # noqa: RUF012  # by brand for which it was drawn: texts drawn, of how many
    author: str | None = None
    text: str = ""
    brands: tuple[str, ...] = ()


class Correction(Message):
    """What a reader thinks the label should have been; never a count."""

    post: Id
    at: Seconds
    shown: Label | None
    label: Label
    model: str | None
    reader: Name


class Wanted(releases.Wanted):
    """What a command is to do."""

    kind: Literal["retrain", "promote", "rollback", "withdraw", "accept"]  # accept: a brand's crisis is its new usual
    brand: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$", examples=["northair"])] | None = None  # to accept
    version: Annotated[str, Field(pattern=r"^[0-9]{1,9}$", examples=["2"])] | None = None


class Command(Wanted, releases.Command):
    """A command as it stands in the log."""


class Alarm(releases.Alarm):
    """Something a person should know; of kind crisis, confirmed, retracted, accepted, gap, drift, quality, guardrail,
    gate, model, lake, command or monitor.
    """

    brand: str | None = None
    since: int | None = None  # when what it tells of began
    usual: float | None = None  # of a crisis, the share of negative opinions on the days before
    together: float | None = None  # and the correlation of two opinions of one hour


class Confusion(NamedTuple):
    """Mean score by true label, from audits: rows are the truth, columns what the model said."""

    rows: tuple[Score, Score, Score]
    audits: tuple[int, int, int]  # by true label
    replicas: tuple[tuple[Score, Score, Score], ...] = ()  # the rows of as many bootstrap samples of the audits


class Calibration(NamedTuple):
    """What makes a version's scores probabilities, from audits: softmax(log(score) @ weights + bias)."""

    weights: tuple[Score, ...]
    bias: Score
    between: Score  # by label, the variance of what a brand's share of a day is off by
    groups: int  # brand-days that this is known of


class Final(NamedTuple):
    """The final shares of a brand and day, by the day's own audits; kept in the report of the day after."""

    day: int
    brand: str
    corrected: Score
    low: Score
    high: Score
    opinions: int
    audits: int


class Report(Message):
    """One closed event day, judged."""

    day: Annotated[int, Field(ge=0, lt=2**32 // config.DAY)]  # since the epoch
    posts: Count
    dropped: dict[str, int]  # by reason
    version: str | None
    drift: dict[str, float]  # distance by column
    drifted: tuple[str, ...]
    audits: int  # known by the end of the day, of the champion
    macro_recall: float | None
    confusion: Confusion | None  # from audits of earlier days, for the version above
    calibration: Calibration | None = None  # the same audits, for the first numbers of the next day
    finals: tuple[Final, ...] = ()  # of the day before
    fallen: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # the evidence that recalls are not as promised
    shifted: tuple[str, ...] = ()  # labels whose posts are scored otherwise than on the days before
    corrections: int = 0  # of readers who agree
    dropped_wrongly: tuple[int, int] | None = None  # of the audited posts that filters dropped: opinions, and all
