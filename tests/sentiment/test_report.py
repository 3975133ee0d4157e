"""A closed day, judged: by a random sample alone, and not by readers who are loud."""

import numpy as np
import pytest

from sentiment.config import AUDITS_NEEDED, CORRECTIONS_A_DAY, DAY, LABELS, READERS
from sentiment.report import Judge
from sentiment.schema import AUDITS, CORRECTIONS, Audit, Correction, Label, Path, Report, Score, Tombstone
from shared.eventlog.port import Entry
from tests.sentiment.crowd import BRANDS, TODAY, Crowd, Trained, post

DAY_NUMBER = TODAY // DAY
GOOD: Score = (0.1, 0.2, 0.7)
BAD: Score = (0.7, 0.2, 0.1)


@pytest.fixture
def judge(crowd: Crowd) -> Judge:
    return Judge(crowd.lake, BRANDS, fetch=lambda _, digest: crowd.var / "models" / digest)


def corrected(crowd: Crowd, reader: str, posts: range, label: Label) -> None:
    for number in posts:
        said = Correction(post=f"p-{number}", at=TODAY + 600, shown="negative", label=label, model="1", reader=reader)
        crowd.log.append([Entry(CORRECTIONS, said.post, said.model_dump_json().encode())])


def audited(
    crowd: Crowd, day: int, scores: dict[Label, Score], number: int, *, path: Path = "linear", name: str = "a"
) -> None:
    """So many audits of each label, known on that day."""
    rng = np.random.default_rng(day)
    for label, score in scores.items():
        for n in range(number):
            noise = rng.normal(0, 0.02)
            audit = Audit(
                post=f"{name}-{day}-{label}-{n}",
                at=day * DAY,
                known_at=day * DAY + 100 + n,
                label=label,
                model="1",
                path=path,
                score=(score[0] + noise, score[1], score[2] - noise),
                inclusion=0.1,
                text=f"{name} {label} {n} {day}",
                brands=("northair",),
            )
            crowd.log.append([Entry(AUDITS, audit.post, audit.model_dump_json().encode())])


def judged(crowd: Crowd, judge: Judge, world: Trained, day: int = DAY_NUMBER) -> Report:
    crowd.ingest()
    return judge.judge(day, [], world.release)


def test_a_brigade_moves_no_number_and_two_honest_readers_are_heard(crowd: Crowd, world: Trained, judge: Judge) -> None:
    crowd.post(*(post(f"@northair is terrible {n}", id=f"p-{n}", at=TODAY + n) for n in range(100)))
    crowd.stream()
    audited(crowd, DAY_NUMBER, {"negative": BAD, "neutral": (0.2, 0.6, 0.2), "positive": GOOD}, AUDITS_NEEDED)
    quiet, minutes = judged(crowd, judge, world), crowd.minutes()
    assert quiet.corrections == 0
    for hired in range(5):  # each turns everything that is said against the brand
        corrected(crowd, f"staff-{hired}", range(100), "positive")
    assert CORRECTIONS_A_DAY < 100
    for honest in range(READERS):
        corrected(crowd, f"reader-{honest}", range(2), "neutral")
    corrected(crowd, "alone", range(50, 53), "neutral")
    loud = judged(crowd, judge, world)
    assert loud.corrections == 2
    assert (loud.macro_recall, loud.confusion) == (quiet.macro_recall, quiet.confusion)
    crowd.stream()
    assert crowd.minutes() == minutes


def test_posts_of_a_label_that_read_otherwise_are_flagged_by_audits(crowd: Crowd, world: Trained, judge: Judge) -> None:
    usual: dict[Label, Score] = {"negative": BAD, "neutral": (0.2, 0.6, 0.2), "positive": GOOD}
    other = usual | {"negative": (0.35, 0.3, 0.35)}
    for number in range(6):
        audited(crowd, DAY_NUMBER + number, usual if number < 3 else other, 30)
    crowd.ingest()
    reports: list[Report] = []
    for number in range(6):
        reports.append(judge.judge(DAY_NUMBER + number, reports, world.release))
    flagged = [report.shifted for report in reports]
    assert flagged[:3] == [()] * 3
    assert (LABELS[0],) in flagged[3:5]
    last = reports[-1].confusion
    assert last is not None
    assert last.rows[0][0] == pytest.approx(0.35, abs=0.02), "what was audited before it is forgotten"


def test_audits_of_the_other_path_and_of_deleted_posts_are_in_no_confusion(
    crowd: Crowd, world: Trained, judge: Judge
) -> None:
    usual: dict[Label, Score] = {"negative": BAD, "neutral": (0.2, 0.6, 0.2), "positive": GOOD}
    audited(crowd, DAY_NUMBER, usual, 30, path="transformer")
    alone = judged(crowd, judge, world).confusion
    audited(crowd, DAY_NUMBER, dict.fromkeys(usual, GOOD), 30, path="linear", name="shed")
    audited(crowd, DAY_NUMBER, dict.fromkeys(usual, GOOD), 30, path="transformer", name="gone")
    crowd.post(
        *(
            Tombstone(id=f"gone-{DAY_NUMBER}-{label}-{n}", at=DAY_NUMBER * DAY + 200)
            for label in LABELS
            for n in range(30)
        )
    )
    assert judged(crowd, judge, world).confusion == alone


def test_evidence_that_quality_has_fallen_is_gathered_day_by_day_and_starts_anew_with_a_version(
    crowd: Crowd, world: Trained, judge: Judge
) -> None:
    wrong: dict[Label, Score] = {"negative": GOOD, "neutral": (0.2, 0.6, 0.2), "positive": BAD}
    for number in range(3):
        audited(crowd, DAY_NUMBER + number, wrong, 10)
    crowd.ingest()
    reports: list[Report] = []
    for number in range(3):
        reports.append(judge.judge(DAY_NUMBER + number, reports, world.release))
    evidence = [report.fallen for report in reports]
    assert 0 < evidence[0] < evidence[1] < evidence[2]
    another = world.release.model_copy(update={"version": "2"})
    assert judge.judge(DAY_NUMBER + 3, reports, another).fallen == 0
    few = world.release.model_copy(
        update={"figures": world.release.figures | dict.fromkeys((f"posts_{label}" for label in LABELS), 5.0)}
    )
    assert judge.judge(DAY_NUMBER, [], few).fallen < evidence[0], "a promise that was measured on few posts says less"
