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
from sentiment.config import DAY, MAX_TOKENS
from sentiment.features import normalise
from sentiment.finetune import finetune, pretrained
from sentiment.grammar import LIVE
from sentiment.model import Transformer
from sentiment.paper import read
from sentiment.recipe import Recipe
from sentiment.schema import MINUTE, MINUTES, Minute
from sentiment.simulate import simulate
from sentiment.stream import Worker
from shared.clock import SystemClock, monotonic, perf_counter
from shared.console import Stage
from shared.eventlog.port import beginning
from shared.public_data import DataMissing, load
from shared.results import Run
from shared.settings import Settings
from tests.sentiment.crowd import TODAY, Crowd, post, trained

REPEATS = 5
POSTS = 200  # scored in each
RATE = 50  # posts a second, when freshness is measured
SECONDS = 20


def main() -> None:
    stage, settings = Stage(), Settings()
    run = Run(
        config.SERVICE,
        command="make bench-sentiment",
        at=SystemClock().now(),
        var=settings.var,
        modules=["tests.bench.sentiment"],
    )
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
                worker = with_network(crowd, folder / "model")
                rate, fresh = end_to_end(crowd, worker), freshness(crowd, worker)
                crowd.leave(worker)
            run.figure("bench.end_to_end_posts_per_s", round(rate), unit="posts/s")
            run.figure("bench.freshness_p99_s", round(fresh, 2), unit="s")
            act.outcome = f"{rate:.0f} posts/s; at {RATE} a second a minute is told {fresh:.2f} s after its post, p99"
    stage.next_steps([("make record", "take these figures over"), ("make docs", "write them into the documents")])


def some_texts(settings: Settings) -> list[str]:
    """Real tweets where there are any, else simulated posts; normalised."""
    try:
        return read(load("tweeteval_val", settings.data)).texts[:1_000]
    except DataMissing:
        posts = simulate(seed=1, start=TODAY, days=1, posts_a_day=1_000, grammar=LIVE)
        return [normalise(text) for text in posts["text"]]


def side_by_side(folder: Path, texts: list[str]) -> tuple[float, float, float]:
    """Seconds a post: ours, the pipeline one by one, the pipeline in batches of 32."""
    ours = Transformer(folder)
    origin = pretrained()
    about = BertConfig.from_pretrained(origin, num_labels=3)
    network = BertForSequenceClassification(about)
    weights = load_file(origin / "model.safetensors")
    network.bert.load_state_dict({n: w for n, w in weights.items() if not n.startswith("pooler")}, strict=False)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped in transformers
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


def with_network(crowd: Crowd, folder: Path) -> Worker:
    """A worker that scores with this network, which no gate would release."""
    worker = crowd.worker()
    crowd.rebuilt(worker)
    model = worker._champion.model
    assert model is not None
    worker._champion.model = model._replace(transformer=Transformer(folder))
    return worker


def end_to_end(crowd: Crowd, worker: Worker) -> float:
    """Posts a second, from the topic to the minutes."""
    crowd.send(crowd.world.posts)
    began = perf_counter()
    crowd.work(worker)
    crowd.told(worker)
    took = perf_counter() - began
    assert {opinion.path for opinion in crowd.opinions() if opinion.score} == {"transformer"}
    return crowd.world.posts.height / took


def freshness(crowd: Crowd, worker: Worker) -> float:
    """Seconds from the append of a post to its minute in the log, p99, at a fixed rate."""
    at = TODAY + 3 * DAY  # after all that was sent before; all in one minute of event time
    crowd.tick(at)
    crowd.work(worker)
    with closing(crowd.log.reader(beginning([MINUTES]))) as reader:
        while reader.poll(10_000, 0.0):
            pass
        sent: list[float] = []
        told: list[float] = []
        began = monotonic()
        while monotonic() < began + SECONDS:
            while len(sent) < (monotonic() - began) * RATE:
                crowd.post(post(f"@northair is number {len(sent)}", id=f"fresh-{len(sent)}", at=at))
                sent.append(monotonic())
            worker.step(0.01)
            for record in reader.poll(1_000, 0.0):
                message = MINUTE.validate_json(record.value)
                if isinstance(message, Minute) and message.brand == "northair":
                    told += [monotonic() - then for then in sent[len(told) : message.counts.raw]]
    return float(np.quantile(told, 0.99))


if __name__ == "__main__":
    main()
