"""Public data sets: where each comes from, under which licence, and what its file must hash to."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pooch.hashes import file_hash

_sha256: Callable[[Path], str] = file_hash  # pooch itself is untyped


class DataSet(NamedTuple):
    name: str
    title: str
    source: str  # repository @ commit (files)
    licence: str
    file: str  # below the data folder
    sha256: str


class DataMissing(Exception):
    """A data set is not in the data folder."""


class DataCorrupt(Exception):
    """A data set's file is not the one that the figures were measured on."""


# [2.2] The originals are folders of pickles, and a pickle runs code when it is read. So each was turned
# into one Parquet file once, and what is read here is that file, by its hash.
DATA_SETS = {
    data.name: data
    for data in (
        DataSet(
            name="handbook_fraud",
            title="Fraud Detection Handbook: 183 days of simulated card payments",
            source="Fraud-Detection-Handbook/simulated-data-raw"
            " @ 6e67dbd0a3bfe0d7ec33abc4bce5f37cd4ff0d6a (data/*.pkl)",
            licence="none given for the data, which are simulated; the Handbook: GPL-3.0 (code), CC BY-SA 4.0 (text)",
            file="handbook_fraud/transactions.parquet",
            sha256="ed4b7cd93c9cdb0382361472bca8fe2b1208306a07ac40aa0f9b76e86664ff9f",
        ),
        DataSet(
            name="handbook_features_check",
            title="Fraud Detection Handbook: its own features for the week of 2018-07-25",
            source="Fraud-Detection-Handbook/simulated-data-transformed"
            " @ 6e3ca5849b4681430388056d3f1dcfb41d4e8269 (data/*.pkl)",
            licence="as handbook_fraud",
            file="handbook_features_check/features_2018-07-25_31.parquet",
            sha256="05cd3e4daa99458513ec8f7eff35fa322c2bcfa9df411365060f71c836e157f6",
        ),
        DataSet(
            name="tweeteval_train",
            title="TweetEval sentiment: train, rebuilt from SemEval-2017 task 4A",
            source="cbaziotis/datastories-semeval2017-task4 @ faeee5fd1c2cf38e32179a4676dff53ae01adfa8 (Subtask_A)",
            licence="SemEval-2017 task 4: CC BY 3.0; Twitter's terms apply",
            file="tweeteval_sentiment/train.parquet",
            sha256="a9e544f61314128741a32d332ca04610a78c6300fee0c1a76be43a65b327f5c8",
        ),
        DataSet(
            name="tweeteval_val",
            title="TweetEval sentiment: validation",
            source="cardiffnlp/tweeteval @ 4fbd22cd78421f05b1ecdb4fc5725bc7a7bd8f66 (datasets/sentiment)",
            licence="SemEval-2017 task 4: CC BY 3.0; Twitter's terms apply",
            file="tweeteval_sentiment/val.parquet",
            sha256="e2b6091ab4b8fd4f954f69b6b436925bd74cd4729d46dd9bbb969d7f415e3a10",
        ),
    )
}


def load(name: str, folder: Path | None) -> Path:
    """The verified file of a data set below the data folder.

    Raises:
        DataMissing: there is no folder, or no such file in it.
        DataCorrupt: the file is another one.
    """
    data = DATA_SETS[name]
    if folder is None or not (folder / data.file).is_file():
        where = "MLSD_DATA names no data folder" if folder is None else f"there is no {folder / data.file}"
        raise DataMissing(
            f"{data.title}: {where}.\n  source: {data.source}\n  licence: {data.licence}\n"
            f"  Turn it into Parquet, with the columns of README.md, put it at {data.file}"
            " below a folder, and name that folder in MLSD_DATA."
        )
    path = folder / data.file
    if (found := _sha256(path)) != data.sha256:
        raise DataCorrupt(f"{path}: SHA-256 is {found}, expected {data.sha256}. Fetch it again from {data.source}")
    return path
