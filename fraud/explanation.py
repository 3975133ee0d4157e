"""Explains a decision on request: what each feature added to the score of the version that decided."""

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from fraud.schema import Decision
from shared.champion import Champion, NotSwapped
from shared.messages import Message
from shared.releases import Release

if TYPE_CHECKING:
    from fraud.artifact import Artifact

KEPT = 3  # versions


class NotAvailable(Exception):
    """There is nothing to explain it with; says why."""


class Explanation(Message):
    """`base` and all `contributions` together are the log-odds of the decision's probability."""

    payment: str
    model: str
    base: float  # log-odds before anything is known of the payment
    contributions: dict[str, float]  # log-odds, by feature; the largest first


class Explainer:
    """Reads the folder of models that workers fill; asks no registry. Slow at first: not for the event loop."""

    def __init__(self, models: Path) -> None:
        self._models, self._lock = models, Lock()
        self._loaded: dict[str, Champion[Artifact]] = {}

    def explain(self, decision: Decision, release: Release | None) -> Explanation:
        """By the artifact of `release`, which decided.

        Raises:
            NotAvailable: the rules decided, or the version's files are not here.
        """
        if decision.model is None or decision.features is None or decision.probability is None:
            raise NotAvailable("the rules decided: there are no contributions")
        if release is None:
            raise NotAvailable(f"version {decision.model} is in no ledger")
        with self._lock:  # its single-row buffers serve one at a time
            model = self._artifact(release).model
            added, odds = model.contributions(list(decision.features)), model.log_odds(list(decision.features))
        contributions = {name: model.slope * value for name, value in added.items()}
        return Explanation(
            payment=f"{decision.card}.{decision.id}",
            model=decision.model,
            base=odds - sum(contributions.values()),
            contributions=dict(sorted(contributions.items(), key=lambda item: -abs(item[1]))),
        )

    def _artifact(self, release: Release) -> "Artifact":
        # LightGBM and what it stands on take seconds to import, and most edges are never asked.
        from fraud.artifact import Artifact

        champion = self._loaded.pop(release.digest, None)
        if champion is None:
            champion = Champion(cache=self._models, fetch=_nowhere, load=Artifact.load)
            try:
                champion.swap(release.version, artifact=release.artifact, digest=release.digest)
            except NotSwapped as error:
                raise NotAvailable(f"the files cannot be read here: {error}") from error
        self._loaded[release.digest] = champion
        while len(self._loaded) > KEPT:
            del self._loaded[next(iter(self._loaded))]
        assert champion.model is not None
        return champion.model


def _nowhere(artifact: str, digest: str) -> Path:
    raise FileNotFoundError(f"{artifact} ({digest[:8]}) is not in the folder of models")
