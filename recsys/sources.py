"""The five candidate sources, fitted every night on all that is known; each scores any item for any shopper."""

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import polars as pl
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from recsys import config
from recsys.schema import Floats, Interactions, Ints

ALIKE = 50  # neighbours by content that an item keeps


# [3.1] Thousands of items and one shopper: first a few hundred that could be wanted, from sources that are cheap for
# all items and fail in different ways; then one ranker for these few. One model for both would be slow or blunt.
class Parameters(NamedTuple):
    """Of the sources, kept in the recipe; `train.tune` chooses some of them for a shop, on validation."""

    # [3.2] Linear item-item explains itself ("because you bought X"); ALS sees what no two baskets share, and its
    # factors cannot be read. So both find, and the reason that is shown comes from the one that can be read.
    factors: int = 64
    regularization: float = 15.0
    alpha: float = 15.0
    iterations: int = 10
    item_power: float = 0.5  # a of X·Dᵢ⁻ᵃ·(Xᵀ·Dᵤ⁻ᵍ·X)·Dᵢ⁻ᵇ
    user_power: float = 0.5  # g
    target_power: float = 0.25  # b
    memory: float = 180.0  # days after which a purchase counts half, as taste
    repeat_memory: float = 45.0  # the same, as a need that comes back
    popular_memory: float = 10.0  # the same, as fashion
    looked: float = 0.2  # what a view, a click or a cart counts beside a purchase
    pool: int = 40  # items of each source


# [3.3] Nothing pre-trained: ids mean nothing elsewhere, and titles of five words need no language model; TF-IDF
# places a new item beside its like on the day of its launch.
class Sources(NamedTuple):
    """Fitted; users and items are numbered as in the interactions."""

    user_factors: Floats  # (users, factors)
    item_factors: Floats  # (items, factors)
    taste: csr_matrix  # (users, items) weights of what each did
    bought: csr_matrix  # (users, items) whether
    linear: csr_matrix  # (items, items)
    repeat: csr_matrix  # (users, items)
    content: csr_matrix  # (items, items)
    popular: Floats  # (items,)
    again: NDArray[np.bool_]  # (items,) bought again and again
    closed: NDArray[np.bool_]  # (items,) out of stock, or not in the catalogue yet

    def scores(self, users: Ints) -> list[Floats]:
        """(users, items) by each of SOURCES; an item that must not be shown has minus infinity."""
        taste = self.taste[users]
        found = [
            self.user_factors[users] @ self.item_factors.T,
            (taste @ self.linear).toarray(),
            self.repeat[users].toarray(),
            (taste @ self.content).toarray(),
            np.repeat(self.popular[None], users.size, axis=0),
        ]
        owned = self.bought[users].toarray() & ~self.again | self.closed
        for scores in found:
            np.putmask(scores, owned, -np.inf)
        return found

    def save(self, path: Path) -> None:
        """One npz of plain arrays."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for name, value in self._asdict().items():
            if isinstance(value, csr_matrix):
                arrays |= {f"{name}.{part}": getattr(value, part) for part in ("data", "indices", "indptr")}
                arrays[f"{name}.shape"] = np.array(value.shape)
            else:
                arrays[name] = value
        np.savez(path, **arrays)  # type: ignore[arg-type]  # its stub forgets arrays by name

    @classmethod
    def load(cls, path: Path) -> Self:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {}
            for name in cls._fields:
                if name in arrays:
                    found[name] = arrays[name]
                else:
                    parts = tuple(arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
                    found[name] = csr_matrix(parts, shape=tuple(arrays[f"{name}.shape"]))
        return cls(**found)


def fit(known: Interactions, parameters: Parameters, *, seed: int) -> Sources:
    """All five. The number of threads does not change a result: each user's factors are solved alone."""
    shape = len(known.users), len(known.items)
    taste = _sparse(known.bought, _decay(known.bought, known.cut, parameters.memory), shape)
    looked = _sparse(known.seen, parameters.looked * _decay(known.seen, known.cut, parameters.memory), shape)
    bought = taste.astype(bool)
    taste.data = np.log1p(taste.data)
    looked.data = np.minimum(looked.data, parameters.looked)
    taste = csr_matrix(taste + looked)
    again = _again(known)
    with threadpool_limits(1, "blas"):  # implicit runs its own threads; BLAS's beside them are ten times slower
        als = _als(taste, parameters, seed=seed)
        return Sources(
            user_factors=als[0],
            item_factors=als[1],
            taste=taste,
            bought=bought,
            linear=item_item(taste, parameters),
            repeat=_repeat(known, parameters, again, shape),
            content=_content(known),
            popular=popularity(known, parameters.popular_memory),
            again=again >= config.AGAIN,
            closed=~known.products["in_stock"].to_numpy(),
        )


def _decay(rows: pl.DataFrame, cut: int, half_life: float) -> Floats:
    age = (cut - rows["at"].to_numpy()) / config.DAY
    return np.exp2(-age / half_life).astype(np.float32)


def _sparse(rows: pl.DataFrame, weights: Floats, shape: tuple[int, int]) -> csr_matrix:
    matrix = csr_matrix((weights, (rows["user"].to_numpy(), rows["item"].to_numpy())), shape=shape, dtype=np.float32)
    matrix.sum_duplicates()
    return matrix


def _als(taste: csr_matrix, parameters: Parameters, *, seed: int) -> tuple[Floats, Floats]:
    model = AlternatingLeastSquares(
        factors=parameters.factors,
        regularization=parameters.regularization,
        alpha=parameters.alpha,
        iterations=parameters.iterations,
        random_state=seed,
        num_threads=0,  # all cores
    )
    model.fit(taste, show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)


def item_item(taste: csr_matrix, parameters: Parameters) -> csr_matrix:
    """What goes together, damped by how common each end is; covers cosine and RP3beta. (items, items), no diagonal."""
    seen = (taste > 0).astype(np.float32)
    by_item = np.maximum(np.asarray(seen.sum(axis=0)).ravel(), 1.0)
    by_user = np.maximum(np.asarray(seen.sum(axis=1)).ravel(), 1.0)
    together = taste.T @ (diags_array(by_user**-parameters.user_power) @ taste)
    matrix = diags_array(by_item**-parameters.item_power) @ together @ diags_array(by_item**-parameters.target_power)
    matrix = csr_matrix(matrix, dtype=np.float32)
    matrix.setdiag(0.0)
    matrix.eliminate_zeros()
    return matrix


def _again(known: Interactions) -> Floats:
    """By item, the share of its buyers who came back for it on another day; five imagined buyers never did."""
    days = known.bought.select("user", "item", day=pl.col("at") // config.DAY).unique()
    buyers = days.group_by("user", "item").len().group_by("item").agg(pl.len(), back=(pl.col("len") > 1).sum())
    share = np.zeros(len(known.items), dtype=np.float32)
    share[buyers["item"].to_numpy()] = buyers["back"].to_numpy() / (buyers["len"].to_numpy() + 5.0)
    return share


def _repeat(known: Interactions, parameters: Parameters, again: Floats, shape: tuple[int, int]) -> csr_matrix:
    weights = _decay(known.bought, known.cut, parameters.repeat_memory)
    return _sparse(known.bought, weights * (again[known.bought["item"].to_numpy()] + np.float32(0.01)), shape)


def _content(known: Interactions) -> csr_matrix:
    """Similar titles and categories, the ALIKE nearest of each item, both ways."""
    products = known.products
    words = [f"{title} {category}".lower() for title, category in products.select("title", "category").iter_rows()]
    if not any(text.strip() for text in words):
        return csr_matrix((len(known.items),) * 2, dtype=np.float32)
    by_word = TfidfVectorizer(token_pattern=r"\S+", dtype=np.float32)  # type: ignore[no-untyped-call]  # sklearn has no annotations
    vectors = csr_matrix(by_word.fit_transform(words))  # type: ignore[no-untyped-call]  # sklearn has no annotations
    rows, columns, values = [], [], []
    for start in range(0, vectors.shape[0], 1_000):
        block = (vectors[start : start + 1_000] @ vectors.T).toarray()
        block[np.arange(block.shape[0]), start + np.arange(block.shape[0])] = 0.0
        nearest = np.argpartition(-block, min(ALIKE, block.shape[1] - 1), axis=1)[:, :ALIKE]
        rows.append(np.repeat(start + np.arange(block.shape[0]), nearest.shape[1]))
        columns.append(nearest.ravel())
        values.append(np.take_along_axis(block, nearest, axis=1).ravel())
    places = np.concatenate(rows), np.concatenate(columns)
    near = csr_matrix((np.concatenate(values), places), shape=(vectors.shape[0],) * 2, dtype=np.float32)
    near.eliminate_zeros()
    return csr_matrix(near.maximum(near.T))


def popularity(known: Interactions, half_life: float) -> Floats:
    """By item, its buyers, each day's once a buyer and weighing half after `half_life` days: bulk counts no more."""
    once = known.bought.with_columns(day=pl.col("at") // config.DAY).unique(["user", "item", "day"], keep="first")
    weights = _decay(once, known.cut, half_life)
    return np.bincount(once["item"].to_numpy(), weights, minlength=len(known.items)).astype(np.float32)
