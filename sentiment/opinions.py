"""Post -> opinion and mentions, the same in both views: filter, normalise, score, decide, link."""

import logging
from functools import cache
from math import isfinite

from lingua import Language, LanguageDetector, LanguageDetectorBuilder

from sentiment import config, policy
from sentiment.artifact import Artifact
from sentiment.features import DEFINITION, cleaned, digest, normalise
from sentiment.mentions import Brands, aspect
from sentiment.schema import ALL, Mention, Opinion, Post, Text
from sentiment.schema import Path as By
from sentiment.text import folded
from shared.dependencies import DEPENDENCY_ERRORS

LANGUAGES = (
    *(Language.ENGLISH, Language.SPANISH, Language.FRENCH, Language.GERMAN, Language.PORTUGUESE, Language.ITALIAN),
    *(Language.DUTCH, Language.TURKISH, Language.ARABIC, Language.HEBREW, Language.RUSSIAN, Language.JAPANESE),
)
LETTERS = 12  # fewer say nothing about a language

logger = logging.getLogger(__name__)


@cache
def _detector() -> LanguageDetector:
    """A hundred megabytes and a second, so not on import."""
    return LanguageDetectorBuilder.from_languages(*LANGUAGES).build()


def refused(raw: str, text: Text) -> str | None:
    """Why a post is not scored at all: spam, or surely no English; None if it is.

    `raw`: as it was written; `text`: the same, normalised.
    """
    line = folded(raw)
    if sum(map(line.count, "#@")) + line.count("http") >= config.SPAM_TAGS:
        return "spam"
    words = text.replace("@user", " ")
    if sum(character.isalpha() for character in words) < LETTERS:
        return None
    # [7.1] Bias begins here: dialects look less like English to a detector. So a post goes only when it is
    # surely something else, and the bias test counts what goes, group by group.
    english = _detector().compute_language_confidence(words, Language.ENGLISH)
    return "language" if english < config.ENGLISH else None


def seen(text: str, brands: Brands) -> Text:
    """What a model is shown of a post, in which every brand is the same one.

    >>> seen("North Air, late again", Brands.read("simulated"))
    '@user, late again'
    """
    # [7.1] Else a brand's name is evidence: one that was hated when labels were given would be so ever since.
    return cleaned(brands.masked(text))


def definition(brands: Brands) -> str:
    """Names what `seen` does."""
    return f"{DEFINITION}-{brands.version}"


class Reader:
    """Reads posts with one model version and one table of brands. `secret` keys pseudonyms."""

    def __init__(self, brands: Brands, *, secret: bytes) -> None:
        self.brands, self.secret = brands, secret
        self.definition = definition(brands)

    def judged(
        self,
        post: Post,
        artifact: Artifact | None,
        version: str | None,
        *,
        place: tuple[int, int],
        path: By = "transformer",
        late: bool = False,
        known: Opinion | None = None,
    ) -> tuple[Opinion, list[Mention]]:
        """What a post says, and its mentions. `known`: what this version said of it before, so it is not scored again.

        A post that cannot be scored or linked is marked `error` and counts nowhere: one text must not stop all others.
        """
        try:
            opinion = known or self.read(post, artifact, version, path=path, place=place)
            opinion = opinion.model_copy(update={"brands": self.brands.found(post.text)})
            return opinion, self.mentions(post, opinion, late=late)
        except DEPENDENCY_ERRORS:
            raise
        except Exception as error:
            # Its message may quote the text, which is personal; the post stands in the log, at this place.
            logger.error("post at partition %s, offset %s cannot be scored: %s", *place, type(error).__name__)
            return self._unscored(post, place).model_copy(update={"mark": "error"}), []

    def _unscored(self, post: Post, place: tuple[int, int]) -> Opinion:
        partition, offset = place
        return Opinion(
            id=post.id, at=post.at, text=post.text, definition=self.definition, partition=partition, offset=offset
        )

    def read(
        self,
        post: Post,
        artifact: Artifact | None,
        version: str | None,
        *,
        path: By = "transformer",
        place: tuple[int, int],
    ) -> Opinion:
        """The opinion, without the brands. `place`: partition and offset of the post."""
        opinion = self._unscored(post, place)
        why = refused(post.text, normalise(post.text))
        if why is not None:
            return opinion.model_copy(update={"why_not": why})
        if artifact is None:
            # Counted as a post and not as an opinion; the batch view gives it one once there is a model.
            return opinion.model_copy(update={"mark": "no-model"})
        by = artifact.path if path == "transformer" else path
        score = artifact.score(seen(post.text, self.brands), by)
        if not all(map(isfinite, score)):
            raise ValueError(f"the model of version {version} gave {score}")
        label, why = policy.decide(score, artifact.policy)
        return opinion.model_copy(
            update={
                "label": label,
                "why_not": why,
                "score": score,
                "path": by,
                "mark": "shed" if by != artifact.path else None,
                "model": version,
            }
        )

    def mentions(self, post: Post, opinion: Opinion, *, late: bool) -> list[Mention]:
        """One a brand, and one for all brands together; none of a post that was filtered out."""
        if opinion.why_not in ("language", "spam") or not opinion.brands:
            return []
        text, about = digest(normalise(post.text)), aspect(post.text)
        return [
            Mention(
                brand=brand,
                aspect=about,
                post=post.id,
                author=post.author,
                at=post.at,
                text=text,
                label=opinion.label,
                shed=opinion.mark == "shed",
                model=opinion.model,
                aliases=self.brands.version,
                late=late,
                partition=opinion.partition,
                offset=opinion.offset,
            )
            for brand in (*opinion.brands, ALL)
        ]
