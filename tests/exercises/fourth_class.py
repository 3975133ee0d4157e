"""What is true once people can say `mixed`; the brief is in sentiment/EXERCISES.md.

`make exercise NAME=fourth-class` runs this; its name keeps it out of `make test`. It looks at what the
parts say, not at how, so every failure is a sentence of the brief that does not hold yet. Linear models only.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from sentiment import config, evaluate, hours, shares
from sentiment.aggregates import aggregate
from sentiment.artifact import Artifact
from sentiment.config import DAY, HOUR
from sentiment.crisis import confirmed
from sentiment.grammar import LEARNT, LIVE, THINGS, Grammar
from sentiment.history import write_labels
from sentiment.monitor import GUARD_COUNT, Monitor, entry
from sentiment.policy import Policy, decide
from sentiment.report import Judge
from sentiment.schema import AUDITS, MINUTE, Counts, Label, Mention, Opinion, Report
from sentiment.simulate import history
from sentiment.timeline import Point
from sentiment.train import Candidate, train
from shared.eventlog.port import Entry
from shared.lake import Lake
from shared.registry import Registry
from shared.releases import Release
from tests.sentiment.crowd import BRANDS, HISTORY, KEY, SEED, START, TODAY, Crowd, Trained, open_registry, post, trained

pytestmark = pytest.mark.timeout(300)  # two models are learnt first

THREE = ("negative", "neutral", "positive")
JOINTS = (
    "{} {}, but the {} {}",
    "the {} {} and yet the {} {}",
    "{} {}. shame that the {} {}",
    "the {} {} though the {} {}",
)


def must(holds: object, otherwise: str) -> None:
    """Say in words what is missing, without the lines of this file."""
    if not holds:
        pytest.fail(otherwise, pytrace=False)


def asked() -> None:
    """The label itself, before anything is asked of it."""
    must("mixed" in get_args(Label), "schema.Label has no 'mixed': topics, API and lake read it")
    must([*config.LABELS] == [*THREE, "mixed"], "config.LABELS: mixed is not the last, so a score's places have moved")
    must("mixed" in Counts._fields, "schema.Counts has no count of mixed")


def two_sided(number: int, grammar: Grammar, *, at: int) -> list[tuple[str, int, str]]:
    """Posts that praise and complain: id, time, text."""
    rng, made = np.random.default_rng(number), []
    for n in range(number):
        things, joint = rng.choice(THINGS, 2, replace=False), str(rng.choice(JOINTS))
        sides = [str(rng.choice(grammar.phrases["positive"])), str(rng.choice(grammar.phrases["negative"]))]
        first, second = sides if rng.random() < 0.5 else sides[::-1]
        text = f"@northair {joint.format(things[0], first, things[1], second)}"
        made.append((f"m{at}-{n}", at + n * 60, text))
    return made


def labelled(posts: Sequence[tuple[str, int, str]], label: str = "mixed") -> pl.DataFrame:
    """As `history` gives them."""
    frame = pl.DataFrame(posts, schema={"id": pl.String, "at": pl.Int64, "text": pl.String}, orient="row")
    return frame.select(
        "id", "at", "text", author="id", sent="at", brand=pl.lit("northair"), label=pl.lit(label), kind=pl.lit("plain")
    )


def learn(var: Path, posts: pl.DataFrame, registry: Registry, champion: Path | None = None) -> Candidate:
    lake = Lake(var / "sentiment" / "lake")
    write_labels(lake, posts, known_at=TODAY - HOUR)
    return train(lake, registry, BRANDS, as_of=TODAY, seed=SEED, champion=champion, recipe=None)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A crowd whose model has learnt three labels."""
    asked()  # first, as a model takes some seconds to learn
    return trained(tmp_path_factory.getbasetemp() / "before")


@pytest.fixture(scope="module")
def registry(before: Trained) -> Registry:
    """Where all of them are registered: another one takes seconds to make."""
    return open_registry(before.var)


@pytest.fixture(scope="module")
def past() -> pl.DataFrame:
    """What people have said, with the fourth answer."""
    known = history(seed=SEED + 5, start=START, days=HISTORY, posts_a_day=500)
    old = labelled(two_sided(300, LEARNT, at=START))
    return pl.concat([known.select(old.columns), old, labelled(two_sided(100, LIVE, at=TODAY - DAY + HOUR))])


@pytest.fixture(scope="module")
def after(before: Trained, past: pl.DataFrame, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same with a model that has learnt four, released through the gate."""
    var = tmp_path_factory.getbasetemp() / "after"
    candidate = learn(var, past, registry, folder_of(before))
    must(
        not candidate.refused,
        f"evaluate.gate: a version that says of three labels what the champion says, and finds mixed, is refused: "
        f"{candidate.refused}",
    )
    version = candidate.version
    registry.fetch(version.artifact, digest=version.digest, into=var / "models")
    return Trained(var, before.posts, Release.promotion(version, at=TODAY, who="tests", why="it knows mixed"))


@pytest.fixture
def crowd(after: Trained, tmp_path: Path) -> Iterator[Crowd]:
    with closing(Crowd(after, tmp_path / "after")) as crowd:
        yield crowd


@pytest.fixture
def crowd_before(before: Trained, tmp_path: Path) -> Iterator[Crowd]:
    with closing(Crowd(before, tmp_path / "before")) as crowd:
        yield crowd


def folder_of(world: Trained) -> Path:
    return world.var / "models" / world.release.digest


# --- the label, and what was stored before there was one ----------------------------------------------


def test_people_can_say_it() -> None:
    asked()


def test_what_was_stored_before_is_read() -> None:
    asked()
    minute: Any = MINUTE.validate_json('{"kind":"minute","brand":"volt","at":60,"revision":1,"counts":[3,1,1,1]}')
    must((minute.counts.mixed, minute.counts.opinions) == (0, 3), "schema.Counts: a minute of before is read otherwise")
    for score in ((0.5, 0.3, 0.2), (0.4, 0.3, 0.2, 0.1)):
        said = Opinion.model_validate({"id": "p", "at": 1, "score": score})
        must(Opinion.model_validate_json(said.model_dump_json()).score == score, f"schema.Score: {score} is none")
    rows = "[[1,0,0],[0,1,0],[0,0,1]]"
    text = f'"drift":{{}},"drifted":[],"audits":0,"macro_recall":null,"confusion":[{rows},[9,9,9],[{rows}]]'
    report = Report.model_validate_json(f'{{"day":1,"posts":0,"dropped":{{}},"version":"1",{text}}}')
    must(report.confusion and len(report.confusion.rows) == 3, "schema.Confusion: one of three labels is not read")


def test_mixed_is_an_opinion_and_no_complaint() -> None:
    asked()
    about: dict[str, Any] = {"brand": "volt", "aliases": "", "partition": 0, "offset": 0, "at": TODAY}
    labels: tuple[Any, ...] = ("mixed", "mixed", "negative")
    said = [Mention(post=f"p{n}", author="a", text=n, label=label, **about) for n, label in enumerate(labels)]
    (cell,) = aggregate(said).values()
    counts: Any = cell.counts
    must((counts.raw, counts.mixed, counts.negative) == (3, 2, 1), f"aggregate: two mixed and a negative are {counts}")
    must(counts.opinions == 3, "schema.Counts.opinions: mixed is an opinion like any other")
    calm = confirmed([counts + Counts(60, 0, 30, 30)], usual=0.35, together=0.03)
    must(not calm, "crisis.confirmed: mixed posts bear a crisis out")


def test_hours_of_before_are_read_and_are_no_new_version(tmp_path: Path) -> None:
    asked()
    must("mixed" in hours.COLUMNS, "hours.COLUMNS: an hour's file has no column for the score of mixed")
    old = pl.DataFrame(schema={name: kind for name, kind in hours.COLUMNS.items() if name != "mixed"})
    text = {name: "x" for name, kind in old.schema.items() if kind == pl.String}
    numbers = {name: 1 for name, kind in old.schema.items() if kind != pl.String}
    old = pl.DataFrame([text | numbers], schema=old.schema)
    hours.write_hour(tmp_path, 24, 1, old)
    read = hours.read_hour(tmp_path, 24, 1)
    must(set(read.columns) == set(hours.COLUMNS), "hours.read_hour: a file of before lacks the new column")
    must(
        hours.digest(read.select(*hours.COLUMNS)) == hashlib.sha256(old.write_csv().encode()).hexdigest()[:16],
        "hours.digest: an hour that says what it said has another digest, so each that is reopened is a new version",
    )


# --- versions -----------------------------------------------------------------------------------------


def test_a_version_knows_what_it_has_learnt(before: Trained, after: Trained) -> None:
    must(hasattr(Artifact, "labels"), "artifact.Artifact has no labels: those that a version knows")
    for world, labels in ((before, THREE), (after, config.LABELS)):
        artifact: Any = Artifact.load(folder_of(world))
        must(artifact.labels == labels, f"a version that has learnt {labels} says that it knows {artifact.labels}")
        score = artifact.score("the crew is great but the app is terrible", "linear")
        must(len(score) == len(labels), f"a version of {len(labels)} labels gives a score of {len(score)}")
        must(sum(score) == pytest.approx(1), f"a score of {len(labels)} labels does not add up to one")


def test_the_most_probable_of_four_is_counted() -> None:
    asked()
    four: Any = (0.1, 0.1, 0.2, 0.6)
    must(str(decide(four, Policy()).label) == "mixed", "policy.decide: the fourth is never the best")
    must(decide((0.1, 0.1, 0.8), Policy()).label == "positive", "policy.decide: a score of three is decided otherwise")


def test_a_version_that_has_good_and_bad_swapped_leaves_the_others(after: Trained) -> None:
    linear = Artifact.load(folder_of(after)).linear
    score, swapped = linear.score("the app is great"), linear.swapped().score("the app is great")
    must(len(swapped) == 4, "model.Linear.swapped: the fourth label is lost, so the demo's bad release is refused")
    must(
        swapped == pytest.approx((score[2], score[1], score[0], *score[3:])),
        "model.Linear.swapped: labels are mixed up",
    )


def test_an_interval_holds_its_value() -> None:
    asked()
    truth, rng = [config.LABELS[n % 4] for n in range(400)], np.random.default_rng(1)
    said = [label if rng.random() < 0.7 else "negative" for label in truth]
    found = evaluate.interval(truth, said)
    must(
        found.low <= found.value <= found.high,
        f"evaluate.interval: {found.value:.2f} is not within {found.low:.2f} and {found.high:.2f}: are labels found by "
        "a search that takes them for sorted?",
    )


def test_who_cannot_say_mixed_is_not_judged_on_it(before: Trained) -> None:
    artifact = Artifact.load(folder_of(before))
    texts = ["the app is great", "the app is terrible", "does volt have an app in town?"] * 10
    labels = ["positive", "negative", "neutral"] * 10
    alone = evaluate.judge(texts, labels, artifact)
    more = evaluate.judge([*texts, *["the app is great but slow"] * 10], [*labels, *["mixed"] * 10], artifact)
    must(
        more.figures["macro_recall"] == alone.figures["macro_recall"],
        "evaluate.judge: a version of three labels is judged on posts that people call mixed",
    )


def test_a_version_that_finds_mixed_and_forgets_the_rest_is_refused(
    before: Trained, past: pl.DataFrame, registry: Registry, tmp_path: Path
) -> None:
    other = {"negative": "positive", "positive": "negative"}
    wrong = pl.col("at").lt(TODAY - DAY) & pl.col("id").hash(seed=1).mod(100).lt(45) & pl.col("label").ne("mixed")
    spoilt = past.with_columns(label=pl.when(wrong).then(pl.col("label").replace(other)).otherwise("label"))
    candidate = learn(tmp_path, spoilt, registry, folder_of(before))
    figures = candidate.version.figures
    must(
        "champion" in candidate.refused,
        f"evaluate.gate: a version is released that is worse on the labels that the champion knows "
        f"({figures['champion_macro_recall']:.2f} of the champion): finding mixed must not pay for the rest",
    )


def test_a_version_that_does_not_find_mixed_is_refused(past: pl.DataFrame, registry: Registry, tmp_path: Path) -> None:
    told = past.filter((pl.col("label") != "mixed") | (pl.col("at") >= TODAY - DAY))
    wrong = [(f"w{n}", START + n * 60, f"@northair counts to {n}, zig zag") for n in range(40)]
    candidate = learn(tmp_path, pl.concat([told, labelled(wrong)]), registry)
    must(
        "mixed" in candidate.refused,
        "evaluate.gate: a version that has learnt something else as mixed, and finds next to none of those that people "
        f"call so, is not refused for it ({candidate.refused or 'it passed'})",
    )


def test_the_label_mixed_contradicts_no_other_label(crowd_before: Crowd, after: Trained, registry: Registry) -> None:
    crowd = crowd_before
    shutil.copytree(folder_of(after), crowd.var / "models" / after.release.digest)
    crowd.log.append([entry(after.release)])
    monitor = Monitor(
        *(crowd.log, crowd.lake, lambda: registry, BRANDS),
        clock=crowd.clock,
        seed=1,
        fetch=lambda _, digest: crowd.var / "models" / digest,
        folder=crowd.var / "batch",
        recipe=None,
        secret=KEY,
    )
    crowd.post(*(post(text, id=id, at=TODAY + 60) for id, _, text in two_sided(GUARD_COUNT, LIVE, at=TODAY)))
    crowd.stream()
    monitor.step()
    monitor.close()
    releases: list[Release] = crowd.releases()
    must(
        len(releases) == 2,
        f"monitor: a version that says mixed was taken back ({releases[-1].why}); the one before cannot say it",
    )


# --- counting right -------------------------------------------------------------------------------------


def scored(labels: Sequence[str], known: int) -> NDArray[np.float64]:
    """Scores of `known` numbers that lean to the label, if it is among them."""
    rng = np.random.default_rng(2)
    lean = [np.eye(4)[config.LABELS.index(label)][:known] * 4 + 1 for label in labels]
    return np.array([rng.dirichlet(row) for row in lean])


def test_audits_of_an_unknown_label_correct_nothing() -> None:
    asked()
    labels, more = [*THREE * 30], ["mixed"] * 20
    known = shares.confusion(scored(labels, 3), labels, [10.0] * 90, seed=1)
    both = np.vstack([scored(labels, 3), scored(more, 3)])
    found = shares.confusion(both, [*labels, *more], [10.0] * 110, seed=1)
    must(
        found is not None and known is not None and found.rows == known.rows,
        "shares.confusion: audits that say mixed change the confusion of a version that cannot; four unknown shares do "
        "not follow from three numbers",
    )


def calibration_of(labels: Sequence[str], known: int) -> Any:
    """From audits of six days of one brand."""
    days = [number % 6 for number in range(len(labels))]
    return shares.calibration(scored(labels, known), labels, brands=["northair"] * len(labels), days=days)


def test_four_shares_are_put_right() -> None:
    asked()
    labels = [label for label in config.LABELS for _ in range(60)]
    known = calibration_of(labels, 4)
    must(known is not None and len(known.bias) == 4, "shares.calibration: four labels have no four probabilities")
    truth = [config.LABELS[place] for place in np.random.default_rng(3).choice(4, 200, p=(0.1, 0.3, 0.0, 0.6))]
    scores, authors = scored(truth, 4), [f"a{n}" for n in range(200)]
    first: Any = shares.first_number([(scores, known)], authors)
    final: Any = shares.final_number(shares.calibrated(scores, known), dict(enumerate(truth[:60])), authors)
    realised = np.array([truth.count(label) for label in config.LABELS]) / 200
    for name, found in (("first_number", first), ("final_number", final)):
        must(found is not None and len(found.corrected) == 4, f"shares.{name}: four labels are not put right")
        must(
            np.abs(np.array(found.corrected) - realised).max() < 0.1,
            f"shares.{name}: of shares {realised.round(2)} come out {np.round(found.corrected, 2).tolist()}",
        )


def test_quality_does_not_fall_because_people_may_say_more(before: Trained, tmp_path: Path) -> None:
    recalls = []
    for name, more in (("without", 0), ("with", 30)):
        labels = [*THREE * 30, *["mixed"] * more]
        with closing(Crowd(before, tmp_path / name)) as crowd:
            crowd.log.append(
                [audit(n, label, row) for n, (label, row) in enumerate(zip(labels, scored(labels, 3), strict=True))]
            )
            crowd.ingest()
            judge = Judge(crowd.lake, BRANDS, fetch=lambda _, digest: before.var / "models" / digest)
            recalls.append(judge.judge(TODAY // DAY, [], before.release).macro_recall)
    must(
        recalls[0] == recalls[1],
        f"report: audits that say mixed move the champion's macro-recall from {recalls[0]} to {recalls[1]}: no fault",
    )


def audit(number: int, label: str, score: NDArray[np.float64]) -> Entry:
    about = (
        f'"at":{TODAY},"known_at":{TODAY + HOUR},"label":"{label}","model":"1","path":"linear","score":{score.tolist()}'
    )
    text = f'{{"post":"p{number}",{about},"inclusion":0.1,"text":"text {number}","brands":["volt"]}}'
    return Entry(AUDITS, f"p{number}", text.encode())


# --- at work --------------------------------------------------------------------------------------------


def lived(crowd: Crowd) -> Point:
    """An hour of posts of all kinds, counted and published."""
    sure = [
        f"@northair {thing} {say}" for thing in THINGS[:8] for say in ("is great", "is terrible", "opens on monday")
    ]
    posts = [text for _, _, text in two_sided(60, LIVE, at=TODAY)] + sure
    crowd.post(*(post(text, id=f"p-{n}", at=TODAY + 60 + n, author=f"a{n}") for n, text in enumerate(posts)))
    crowd.tick(TODAY + 3 * HOUR)
    crowd.stream()
    return told(crowd)


def told(crowd: Crowd, corrections: Any = shares.Corrections()) -> Point:  # noqa: B008  # never changed
    timeline = crowd.timeline()
    window = {"since": TODAY, "until": TODAY + HOUR, "step": HOUR}
    return next(timeline.points(timeline.manifest(), "northair", **window, corrections=corrections))


def test_both_views_count_it_alike(crowd: Crowd) -> None:
    speed: Any = lived(crowd).parts[0]
    must(hasattr(speed, "mixed"), "timeline.Part has no count of mixed")
    said = [str(opinion.label) for opinion in crowd.opinions()].count("mixed")
    must(said > 20, f"of sixty posts that say two things the stream calls {said} mixed")
    must(speed.mixed == said, f"the stream has said mixed {said} times, and counts {speed.mixed}")
    crowd.publish()
    point = told(crowd)
    batch: Any = point.parts[0]
    same = (batch.negative, batch.neutral, batch.positive, batch.mixed)
    must(same == (speed.negative, speed.neutral, speed.positive, speed.mixed), "batch counts otherwise than the stream")
    must(
        point.counted is not None and len(point.counted) == 4 and sum(point.counted) == pytest.approx(1),
        f"timeline: the shares as counted are {point.counted}; of four labels, mixed among them, they add up to one",
    )


@pytest.mark.parametrize("known", [3, 4])
def test_as_many_shares_are_corrected_as_the_version_knows(known: int, request: pytest.FixtureRequest) -> None:
    asked()
    crowd: Crowd = request.getfixturevalue("crowd_before" if known == 3 else "crowd")
    lived(crowd)
    crowd.publish()
    labels = [label for label in config.LABELS[:known] for _ in range(40)]
    learnt = {(TODAY // DAY, crowd.world.release.version): calibration_of(labels, known)}
    point = told(crowd, shares.Corrections(learnt))
    found = 0 if point.corrected is None else len(point.corrected)
    must(found == known, f"timeline: a version that knows {known} labels has {found} corrected shares")


def test_an_hour_that_is_counted_again_is_no_new_version(crowd: Crowd) -> None:
    lived(crowd)
    first = crowd.publish().hours[TODAY // HOUR]
    batch = crowd.batch()
    while batch.step():
        pass
    batch._publish(TODAY // HOUR)
    again = batch.manifest.hours[TODAY // HOUR]
    must(
        (again.version, again.digest) == (first.version, first.digest),
        "batch: opinions of before lose their fourth number",
    )
