"""Text templates of the simulation: phrases by label, and how they are combined.

`LEARNT` is what history is written with and `LIVE` what comes later; no template stands in both, and of
the phrases only `COMMON` do, said twice as often.
Curly brackets are filled in: {b} brand, {o} another brand, {t} thing, {p} a phrase.
"""

from typing import NamedTuple

from sentiment.schema import Label


class Grammar(NamedTuple):
    """One way of talking."""

    frames: tuple[str, ...]  # around a phrase of any label
    phrases: dict[Label, tuple[str, ...]]
    neutral: tuple[str, ...]  # whole posts that take no side
    twists: dict[Label, tuple[str, ...]]  # sarcasm, negation, comparison: the words say one thing, the post another


THINGS = (
    *("flight", "app", "update", "new seat", "crew", "support", "battery", "checkout", "bill", "network"),
    *(
        "delivery",
        "store",
        "luggage desk",
        "screen",
        "contract",
        "range",
        "bread",
        "website",
        "call centre",
        "boarding",
    ),
)
OPENERS = ("", "", "", "honestly, ", "ok so ", "update: ", "well ", "just saying, ", "today: ", "rt ")
CLOSERS = ("", "", "", " #travel", " smh", " lol", " tbh", " #fyi", " :)", " :(", " ...", "!!", " 😂", " 👀")
MOODS: dict[Label, tuple[str, ...]] = {
    "negative": (" 😡", " 😤", " 👎", " 🙄", " 😞"),
    "neutral": (" 🤔", " 📷", ""),
    "positive": (" 😍", " 👍", " ❤️", " 🎉", " 😊"),
}

COMMON: dict[Label, tuple[str, ...]] = {
    "negative": (
        "is terrible",
        "is a joke",
        "keeps failing",
        "was late again",
        "is so slow",
        "let me down",
        "is awful",
        "is the worst",
    ),
    "neutral": ("opens on monday", "is next to the station", "has a new logo", "costs the same as last year"),
    "positive": (
        "is great",
        "works like a charm",
        "was so friendly",
        "is my favourite",
        "made my day",
        "is a joy",
        "is amazing",
        "is the best",
    ),
}
LEARNT = Grammar(
    frames=(
        "{b} {t} {p}",
        "my {t} with {b} {p}",
        "the {t} from {b} {p}",
        "second week with {b}: the {t} {p}",
        "so the {t} at {b} {p}",
        "{p}, that {b} {t}",
        "anyone else think the {b} {t} {p}?",
    ),
    phrases={
        "negative": (
            *COMMON["negative"],
            *("broke after a day", "ruined our weekend", "is a waste of money", "is rude"),
            *("never answers", "lost my things", "is useless", "made me miss everything", "is getting worse"),
            *("charged me twice", "is a disaster", "drives me mad", "cancelled on us without a word", "is a rip-off"),
        ),
        "neutral": COMMON["neutral"],
        "positive": (
            *COMMON["positive"],
            *("saved our weekend", "is worth every penny", "is so smooth", "is lovely"),
            *("answered within a minute", "found my things", "is brilliant", "got me there early", "gets better"),
            *("refunded me at once", "is a dream", "makes me smile", "upgraded us for free", "is a bargain"),
        ),
    },
    neutral=(
        "{b} {t} {p}",
        "does {b} have a {t} in town?",
        "{b} announces a {t} for spring",
        "looking for the {t} of {b}, any hints?",
        "on my way to {b} for the {t}",
        "{b} will move its {t} next month",
        "reading about the {t} that {b} showed",
    ),
    twists={
        "negative": (
            "great, another {t} that does not work, thanks {b}",
            "the {b} {t} is not good, not good at all",
            "oh lovely, two hours for a {t}. well done {b}",
            "i wish {b} was half as good as {o}",
            "nothing about the {b} {t} is amazing",
        ),
        "neutral": ("is the {b} {t} better or worse than {o}?", "the {b} {t}: not great, not terrible"),
        "positive": (
            "no complaints about the {b} {t}, not one",
            "the {b} {t} was never late, not bad at all",
            "{b} beats {o} any day, that {t}",
            "i was wrong, the {b} {t} is not a waste of money",
        ),
    },
)
LIVE = Grammar(
    frames=(
        "have to say {b}, your {t} {p}",
        "{b}: {t} {p}",
        "three days in and the {t} of {b} {p}",
        "told my sister that the {b} {t} {p}",
        "if you ask me the {t} over at {b} {p}",
        "can we talk about how the {b} {t} {p}",
    ),
    phrases={
        "negative": (
            *COMMON["negative"],
            *COMMON["negative"],
            *(
                "is dreadful",
                "is beyond bad",
                "fell apart in my hands",
                "spoiled the whole trip",
                "is money down the drain",
            ),
            *("ignores everybody", "vanished with my bag", "is hopeless", "left us stranded", "goes downhill"),
            *("overcharged us", "is a nightmare", "is infuriating", "called it off at the last minute", "is a scam"),
        ),
        "neutral": COMMON["neutral"],
        "positive": (
            *COMMON["positive"],
            *COMMON["positive"],
            *("is fantastic", "is top notch", "rescued the whole trip", "is money well spent", "runs perfectly"),
            *(
                "replied straight away",
                "brought my bag home",
                "is wonderful",
                "was on time to the minute",
                "is improving",
            ),
            *("gave the money back", "is a pleasure", "cheers me up", "treated us like royalty", "is such good value"),
        ),
    },
    neutral=(
        "when does the {b} {t} start?",
        "{b} is hiring somebody for the {t}",
        "photo of the {b} {t} from this morning",
        "has {b} moved the {t} to another floor?",
        "{b} {t}, gate seven, half past nine",
        "comparing the {t} of {b} and {o} for a school report",
    ),
    twists={
        "negative": (
            "wow {b}, what a {t}, i only waited for ever",
            "the {t} at {b} could not be less helpful",
            "thanks {b} for a {t} nobody can use",
            "{o} would never do that. take a look at the {t}, {b}",
            "hardly what i would call a good {t}, {b}",
        ),
        "neutral": ("no opinion on the {b} {t} yet", "neither good nor bad, that {b} {t}"),
        "positive": (
            "cannot fault the {b} {t}",
            "expected trouble with the {b} {t} and had none",
            "nobody does a {t} like {b}, not even {o}",
            "and they said the {b} {t} would be bad. it is not",
        ),
    },
)
# What is new after the drift: words and emoji that no history has, for both sides. No model can know them.
SLANG: dict[Label, tuple[str, ...]] = {
    "negative": (
        "the {b} {t} is straight up zonked 🫠",
        "{b} {t}: full grizzle today 🫠",
        "got grizzled by the {b} {t} again",
        "that {t} from {b}, so zonked 🫥",
        "zonked {t} at {b} 🫥 every time",
    ),
    "neutral": ("{b} {t} again today 🫗", "saw the {b} {t} on the way home 🫗"),
    "positive": (
        "the {b} {t} is pure skylark 🫶",
        "{b} {t}: total skylark 🫶",
        "what a twirl, that {b} {t}",
        "twirled by the {t} of {b} 🪅",
        "skylark {t} at {b} 🪅 love to see it",
    ),
}
FOREIGN = (
    "El servicio de {b} es muy bueno, gracias por todo",
    "Das {t} von {b} ist schon wieder kaputt, danke für nichts",
    "Je ne comprends pas pourquoi {b} ne répond jamais au téléphone",
    "O voo da {b} atrasou de novo, que vergonha",
    "Il nuovo negozio di {b} è davvero bello",
    "De nieuwe winkel van {b} is vandaag geopend",
)
SPAM = "WIN a free {t} from {b} #win #free #deal #sale #money #follow #like #share #now http://x.co/1"
FLOOD = "everybody leaves {b} because the {t} is a disaster, see for yourself"
