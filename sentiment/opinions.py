"""Post -> Opinion and its mentions, the same in both views: filter, normalise, score, decide, link."""

from functools import cache

from lingua import Language, LanguageDetector, LanguageDetectorBuilder

from sentiment import config, policy
from sentiment.artifact import Artifact
from sentiment.features import DEFINITION, digest, normalise
from sentiment.mentions import Brands, aspect
from sentiment.schema import ALL, Mention, Opinion, Post, Text
from sentiment.schema import Path as By

LANGUAGES = (
    *(Language.ENGLISH, Language.SPANISH, Language.FRENCH, Language.GERMAN, Language.PORTUGUESE, Language.ITALIAN),
    *(Language.DUTCH, Language.TURKISH, Language.ARABIC, Language.HEBREW, Language.RUSSIAN, Language.JAPANESE),
)
LETTERS = 12  # fewer say nothing about a language


@cache
def _detector() -> LanguageDetector:
    """A hundred megabytes and a second, so not on import."""
    return LanguageDetectorBuilder.from_languages(*LANGUAGES).build()


def refused(raw: str, text: Text) -> str | None:
    """Why a post is not scored at all: spam, or surely no English; None if it is."""
    if sum(map(raw.count, "#@")) + raw.count("http") >= config.SPAM_TAGS:
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
    # [7.1] Else a brand's name is evidence: who was hated when the labels were given would be counted as hated since.
    return normalise(brands.masked(text))


def definition(brands: Brands) -> str:
    """Names what `seen` does."""
    return f"{DEFINITION}-{brands.version}"


class Reader:
    """Reads posts with one model version and one table of brands."""

    def __init__(self, brands: Brands, *, secret: bytes) -> None:
        self.brands, self._secret = brands, secret
        self.definition = definition(brands)

    def read(
        self,
        post: Post,
        artifact: Artifact | None,
        version: str | None,
        *,
        path: By = "transformer",
        place: tuple[int, int],
    ) -> Opinion:
        """`place`: partition and offset of the post."""
        partition, offset = place
        opinion = Opinion(
            id=post.id, at=post.at, text=post.text, definition=self.definition, partition=partition, offset=offset
        )
        brands = self.brands.found(post.text)
        why = refused(post.text, normalise(post.text))
        if why is not None:
            return opinion.model_copy(update={"why_not": why, "brands": brands})
        if artifact is None:
            # Seen and counted as raw; the batch view gives it an opinion once there is a model.
            return opinion.model_copy(update={"mark": "no-model", "brands": brands})
        by = artifact.path if path == "transformer" else path
        score = artifact.score(seen(post.text, self.brands), by)
        label, why = policy.decide(score, artifact.policy)
        return opinion.model_copy(
            update={
                "brands": brands,
                "label": label,
                "why_not": why,
                "score": score,
                "path": by,
                "mark": "shed" if by != artifact.path else None,
                "model": version,
                "inclusion": policy.drawn(post.id, self._secret),
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
