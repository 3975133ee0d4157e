"""How fast posts are scored and counted, beside what a user would pick instead; ratios in one run, medians of several.

`make bench-sentiment` on a quiet machine. Nothing here asserts: a missed target is recorded as missed.
"""

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, pipeline

from sentiment import config
from sentiment.config import HOUR, MAX_TOKENS
from sentiment.features import normalise
from sentiment.finetune import finetune, pretrained
from sentiment.grammar import LIVE
from sentiment.history import read_file
from sentiment.model import Transformer
from sentiment.recipe import Recipe
from sentiment.schema import MINUTE, MINUTES, Minute
from sentiment.simulate import simulate
from shared.clock import SystemClock, monotonic, perf_counter, sleep
from shared.console import Stage
from shared.eventlog.port import beginning
from shared.results import Run
from shared.settings import Settings
from tests.sentiment.crowd import TODAY, Crowd, post, trained

REPEATS = 5
POSTS = 200  # scored in each
RATE = 50  # posts a second, when freshness is measured
SECONDS = 20


def main() -> None:
    stage, settings = Stage(), Settings()
    run = Run(config.SERVICE, command="make bench-sentiment", at=SystemClock().now(), var=settings.var)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with stage.act("A transformer, and texts to score") as act:
            texts = some_texts(settings)
            finetune(texts[:64], ["negative", "positive"] * 32, folder / "model", recipe=Recipe(64, 1, 1e-5), seed=1)
            act.outcome = f"{len(texts)} texts, {np.mean([len(text.split()) for text in texts]):.0f} words on average"
        with stage.act("One post at a time on one core; transformers' pipeline beside it") as act:
            ours, one, batched = side_by_side(folder / "model", texts[:POSTS])
            run.figure("bench.single_posts_per_s", round(1 / ours), unit="posts/s")
            run.figure("bench.single_vs_pipeline", round(one / ours, 2), unit="ratio", target=">= 4.5")
            run.figure("bench.single_vs_pipeline_batch", round(batched / ours, 2), unit="ratio", target=">= 3")
            act.outcome = f"{1 / ours:.0f} posts/s; pipeline {1 / one:.0f}, in batches of 32 {1 / batched:.0f}"
        with stage.act("End to end on the embedded log: topic, opinion, mention, minute") as act:
            world = trained(folder / "trained")
            with closing(Crowd(world, folder / "crowd")) as crowd:
                rate = end_to_end(crowd, folder / "model")
                fresh = freshness(crowd)
            run.figure("bench.end_to_end_posts_per_s", round(rate), unit="posts/s")
            run.figure("bench.freshness_p99_s", round(fresh, 2), unit="s")
            act.outcome = f"{rate:.0f} posts/s; at {RATE} a second a minute is told {fresh:.2f} s after its post, p99"
    stage.next_steps([("make record", "take these figures over"), ("make docs", "write them into the documents")])


def some_texts(settings: Settings) -> list[str]:
    """Real tweets where there are any, else simulated posts; normalised."""
    file = settings.data and settings.data / "tweeteval_sentiment" / "train.parquet"
    rows = read_file(file)[0] if file else simulate(seed=1, start=TODAY, days=1, grammar=LIVE)
    return [normalise(text) for text in rows["text"][:1_000]]


def side_by_side(folder: Path, texts: list[str]) -> tuple[float, float, float]:
    """Seconds a post: ours, the pipeline one by one, the pipeline in batches of 32."""
    ours = Transformer(folder)
    origin = pretrained()
    about = BertConfig.from_pretrained(origin, num_labels=3)
    network = BertForSequenceClassification(about)
    weights = load_file(origin / "model.safetensors")
    network.bert.load_state_dict({n: w for n, w in weights.items() if not n.startswith("pooler")}, strict=False)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_file(str(origin / "tokenizer.json")), pad_token="[PAD]"
    )
    network.train(False)
    peer: Callable[..., object] = pipeline(
        "text-classification", model=network, tokenizer=tokenizer, truncation=True, max_length=MAX_TOKENS
    )
    calls: list[Callable[[], object]] = [
        lambda: [ours.score(text) for text in texts],
        lambda: [peer(text) for text in texts],
        lambda: peer(texts, batch_size=32),
    ]
    for call in calls:
        call()
    times = [[seconds(call) / len(texts) for call in calls] for _ in range(REPEATS)]
    mine, one, batched = (median(column) for column in zip(*times, strict=True))
    return mine, one, batched


def seconds(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return perf_counter() - began


def end_to_end(crowd: Crowd, folder: Path) -> float:
    """Posts a second, of the real network in one worker."""
    posts = crowd.world.posts.head(600)
    worker = crowd.worker()
    worker.step(0.0)
    model = worker._champion.model
    assert model is not None
    worker._champion.model = model._replace(transformer=Transformer(folder))
    crowd.send(posts)
    began = perf_counter()
    crowd.work(worker)
    crowd.told(worker)
    rate = posts.height / (perf_counter() - began)
    crowd.leave(worker)
    return rate


def freshness(crowd: Crowd) -> float:
    """Seconds from the append of a post to its minute in the log, p99, at a fixed rate; the linear path."""
    worker, reader = crowd.worker(), crowd.log.reader(beginning([MINUTES]))
    crowd.work(worker)
    while reader.poll(10_000, 0.0):
        pass
    waiting: list[float] = []
    told: list[float] = []
    began, number = monotonic(), 0
    while monotonic() < began + SECONDS:
        while number < (monotonic() - began) * RATE:
            crowd.post(post(f"@northair is number {number}", id=f"fresh-{number}", at=TODAY + 30 * HOUR))
            waiting.append(monotonic())
            number += 1
        worker.step(0.01)
        for record in reader.poll(1_000, 0.0):
            message = MINUTE.validate_json(record.value)
            if isinstance(message, Minute) and message.brand == "northair":  # all fall into one minute of event time
                told += [monotonic() - at for at in waiting[len(told) : message.counts.raw]]
        sleep(0.001)
    reader.close()
    crowd.leave(worker)
    return float(np.quantile(told, 0.99))


if __name__ == "__main__":
    main()
