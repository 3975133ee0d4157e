"""Simulates posts with known opinions: brands, changing moods, a crisis, new slang, bots, other languages."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from sentiment.config import DAY, HOUR, LABELS, LATENESS, MINUTE
from sentiment.grammar import (
    CLOSERS,
    FLOOD,
    FOREIGN,
    LEARNT,
    LIVE,
    MOODS,
    OPENERS,
    SLANG,
    SPAM,
    THINGS,
    Grammar,
)
from sentiment.schema import Label

# How people write a brand, and how many posts of all are its own; the rest of a share is luck.
NAMES: dict[str, tuple[str, ...]] = {
    "northair": ("@northair", "North Air", "NorthAir"),
    "delta-wings": ("@deltawings", "Delta Wings"),
    "peach-mobile": ("@peachmobile", "Peach Mobile"),
    "volt": ("@voltcars", "Volt Cars"),
    "grainhouse": ("@grainhouse", "Grain House"),
}
VOLUME = {"northair": 0.3, "delta-wings": 0.2, "peach-mobile": 0.25, "volt": 0.15, "grainhouse": 0.1}
PRIOR: dict[str, tuple[float, float, float]] = {  # negative, neutral, positive on a quiet day
    "northair": (0.35, 0.35, 0.30),
    "delta-wings": (0.40, 0.35, 0.25),
    "peach-mobile": (0.30, 0.40, 0.30),
    "volt": (0.20, 0.40, 0.40),
    "grainhouse": (0.15, 0.40, 0.45),
}
CRISIS = (0.80, 0.12, 0.08)
HOURS = np.array([4, 2, 1, 1, 1, 2, 8, 22, 34, 36, 42, 52, 60, 52, 44, 46, 56, 68, 66, 52, 38, 26, 16, 8]) / 737

TWISTED = 0.12  # of opinions: sarcasm, negation, comparison
# People disagree: so many posts would be labelled otherwise by another reader. Set so that the linear model
# reaches a macro-recall of .60 to .70 and the fine-tuned one .70 to .80; a grammar that can be learnt to .99
# would leave nothing to audit, to correct and to alarm about.
DISAGREED = 0.12
TYPOS, MOODY = 0.12, 0.25
ABROAD, SPAMMY, SHARED = 0.04, 0.01, 0.03
DELAYED, LOST = 0.03, 0.004  # come minutes, and hours, after they were written


# [2.2] Platforms sell posts and forbid to pass them on, and no public set says what a crowd thought that day. Here the
# truth of every post is known, so what a count, a share or an alarm got wrong can be counted; real tweets stand beside.
class Crisis(NamedTuple):
    """A brand that many are angry about, from event time `at` on for `hours`."""

    brand: str
    at: int
    hours: int = 30
    times: float = 3.0  # its usual volume


class Flood(NamedTuple):
    """Bots that complain about a brand for an hour: in one text, or each time in other words."""

    brand: str
    at: int
    posts: int = 400
    authors: int = 5
    varied: bool = False


def simulate(
    *,
    seed: int,
    start: int,
    days: int,
    posts_a_day: int = 1_200,
    grammar: Grammar = LEARNT,
    crises: Sequence[Crisis] = (),
    floods: Sequence[Flood] = (),
    slang_from: int | None = None,
    slang: float = 0.35,
) -> pl.DataFrame:
    """Posts in order of arrival, with their truth.

    `start` is a UTC midnight, epoch seconds; from event time `slang_from` on a share `slang` of opinions is
    written in words that are new. Columns: id, author, at, sent (when it arrives), text, brand, label, kind.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[object, ...]] = []
    priors = {brand: np.array(prior) for brand, prior in PRIOR.items()}
    for day in range(days):
        for brand, share in VOLUME.items():
            # A brand's mood wanders a little from day to day, as it does without any crisis.
            prior = rng.dirichlet(priors[brand] * 400)
            for hour in range(24):
                since = start + day * DAY + hour * HOUR
                crisis = next((c for c in crises if c.brand == brand and c.at <= since < c.at + c.hours * HOUR), None)
                rate = posts_a_day * share * HOURS[hour] * (crisis.times if crisis else 1.0)
                mood = np.array(CRISIS) if crisis else prior
                for at in np.sort(rng.integers(since, since + HOUR, rng.poisson(rate))).tolist():
                    fresh = slang_from is not None and at >= slang_from and rng.random() < slang
                    rows.append((at, *written(rng, brand, mood, SLANG if fresh else None, grammar)))
    for flood in floods:
        text = FLOOD.format(b=NAMES[flood.brand][0], t="app")
        times = np.sort(rng.integers(flood.at, flood.at + HOUR, flood.posts)).tolist()
        rows += [(at, complaint(rng, flood, grammar) or text, flood.brand, "negative", "bot") for at in times]
    return _arrived(rng, rows, seed, floods)


def complaint(rng: np.random.Generator, flood: Flood, grammar: Grammar) -> str:
    """What a bot writes that finds other words each time; nothing of one that repeats itself."""
    if not flood.varied:
        return ""
    phrase = _pick(rng, grammar.phrases["negative"])
    text = _pick(rng, grammar.frames).format(p=phrase, b=_pick(rng, NAMES[flood.brand]), t=_pick(rng, THINGS))
    return _pick(rng, OPENERS) + text + _pick(rng, MOODS["negative"]) + _pick(rng, CLOSERS)


def history(*, seed: int, start: int, days: int, posts_a_day: int = 1_200) -> pl.DataFrame:
    """Days to learn from, and a last one in the words of those to come: what a gate may judge on."""
    last = start + (days - 1) * DAY
    learnt = simulate(seed=seed, start=start, days=days - 1, posts_a_day=posts_a_day)
    judged = simulate(seed=seed + 500, start=last, days=1, posts_a_day=2 * posts_a_day, grammar=LIVE)
    return pl.concat([learnt, judged])


def written(
    rng: np.random.Generator,
    brand: str,
    mood: np.ndarray[tuple[int], np.dtype[np.float64]],
    slang: dict[Label, tuple[str, ...]] | None,
    grammar: Grammar,
) -> tuple[str, str, str, str]:
    """Text, brand, label and kind of one post."""
    label: Label = LABELS[int(rng.choice(3, p=mood))]  # type: ignore[assignment]  # LABELS are the labels
    other = str(rng.choice([name for name in NAMES if name != brand]))
    fill = {"b": _pick(rng, NAMES[brand]), "o": _pick(rng, NAMES[other]), "t": _pick(rng, THINGS)}
    chance = rng.random()
    if chance < ABROAD:
        return _pick(rng, FOREIGN).format(**fill), brand, label, "foreign"
    if chance < ABROAD + SPAMMY:
        return SPAM.format(**fill), brand, "neutral", "spam"
    if slang is not None:
        text, kind = _pick(rng, slang[label]), "slang"
    elif rng.random() < TWISTED:
        text, kind = _pick(rng, grammar.twists[label]), "twist"
    else:
        frames = grammar.neutral if label == "neutral" else grammar.frames
        text, kind = _pick(rng, frames), "plain"
    text = text.format(p=_pick(rng, grammar.phrases[label]), **fill)
    if rng.random() < TYPOS:
        text = _mistyped(rng, text)
    mood_of = MOODS[label] if rng.random() < MOODY and slang is None else ("",)
    text = _pick(rng, OPENERS) + text + _pick(rng, mood_of) + _pick(rng, CLOSERS)
    if rng.random() < DISAGREED:
        label = LABELS[int(rng.choice(3, p=mood))]  # type: ignore[assignment]  # LABELS are the labels
    return text, brand, label, kind


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _mistyped(rng: np.random.Generator, text: str) -> str:
    """Two neighbouring letters change places in one word that is no handle."""
    words = text.split(" ")
    place = int(rng.integers(len(words)))
    word = words[place]
    if len(word) > 3 and word.isalpha():
        cut = int(rng.integers(1, len(word) - 2))
        words[place] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    return " ".join(words)


def _arrived(
    rng: np.random.Generator, rows: list[tuple[object, ...]], seed: int, floods: Sequence[Flood]
) -> pl.DataFrame:
    """Their authors and times of arrival; some are shared word for word, some come late."""
    schema = {"at": pl.Int64, "text": pl.String, "brand": pl.String, "label": pl.String, "kind": pl.String}
    posts = pl.DataFrame(rows, schema=schema, orient="row").sort("at", maintain_order=True)
    shared = posts.sample(fraction=SHARED, seed=seed).with_columns(
        at=pl.col("at") + pl.Series(rng.integers(30, 20 * MINUTE, int(posts.height * SHARED))), kind=pl.lit("shared")
    )
    posts = pl.concat([posts, shared]).sort("at", maintain_order=True)
    chance, n = rng.random(posts.height), posts.height
    late = np.where(chance < DELAYED, rng.integers(MINUTE, LATENESS, n), rng.integers(0, 3, n))
    late = np.where(chance < LOST, rng.integers(2 * HOUR, 20 * HOUR, n), late)
    often = 1 / (np.arange(3_000) + 60)  # some write ten times as much as others, and none is a machine
    people = rng.choice(often.size, n, p=often / often.sum())
    robots = rng.integers(max((flood.authors for flood in floods), default=1), size=n)
    return (
        posts.with_row_index("number")
        .with_columns(
            id=pl.format("p{}-{}", pl.lit(seed), "number"),
            author=pl.when(pl.col("kind") == "bot")
            .then(pl.format("bot{}", pl.Series(robots)))
            .otherwise(pl.format("a{}", pl.Series(people))),
            sent=pl.col("at") + pl.Series(late),
        )
        .sort("sent", maintain_order=True)
        .select("id", "author", "at", "sent", "text", "brand", "label", "kind")
    )
