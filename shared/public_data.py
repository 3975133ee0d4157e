"""The public data sets: source, licence and SHA-256 of each."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pooch.hashes import file_hash

from shared.unusable import Unusable

_sha256: Callable[[Path], str] = file_hash  # pooch itself is untyped


class DataSet(NamedTuple):
    name: str
    title: str
    source: str  # repository @ commit (files)
    licence: str
    file: str  # below the data folder
    sha256: str


class DataMissing(Unusable):
    """A data set is not in the data folder."""


class DataCorrupt(Unusable):
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
        DataSet(
            name="airline_tweets",
            title="Twitter US Airline Sentiment (CrowdFlower), 16 to 22 February 2015",
            source="Ramlah0/Twitter-US-Airline-Sentiment-Analysis @ b485e56d824c0c0c0ed573932a98db309523bc75,"
            " with the seconds and confidences of two other mirrors",
            licence="CC BY-NC-SA 4.0; Twitter's terms apply",
            file="airline_tweets/airline_tweets_feb16_22.parquet",
            sha256="9a4332c6405e2e5ac3e945265fec90fde2ec3b46cf2dc4450ac308ea98268035",
        ),
        DataSet(
            name="semeval_topics",
            title="SemEval-2016 task 4: tweets on 200 topics, five-point sentiment, with times",
            source="cbaziotis/datastories-semeval2017-task4 @ faeee5fd1c2cf38e32179a4676dff53ae01adfa8 (Subtask_CE)",
            licence="SemEval-2017 task 4: CC BY 3.0; Twitter's terms apply",
            file="semeval_topics/topics_2016.parquet",
            sha256="f25a86d247fedd1f34bd96995ee2b92f5235b810cd2d458fa6026a8f94c9e2ff",
        ),
        DataSet(
            name="online_retail",
            title="UCI Online Retail: all invoice lines of a gift shop, December 2010 to December 2011",
            source="databricks/Spark-The-Definitive-Guide"
            " @ 4ba5601eb9b9aed1d01ab79775e3af228216ff6f (data/retail-data/by-day/*.csv)",
            licence="CC BY 4.0 (UCI 352; Chen, Sain, Guo 2012, doi 10.1057/dbm.2012.17)",
            file="online_retail/transactions_2010-12_2011-12.parquet",
            sha256="ced7b01266e351eca6f4b0cf2ae25dcc147773782e99169f41ec5c1e0c8d644b",
        ),
        DataSet(
            name="retailrocket_subset",
            title="RetailRocket, its most active buyers as SSLRec has them: views, carts, purchases of 2015",
            source="HKUDS/SSLRec"
            " @ 7597c31ce3f78c7497918d886b90df6d4d02cad5 (datasets/multi_behavior/retail_rocket/*.pkl)",
            licence="CC BY-NC-SA 4.0 (the data), Apache-2.0 (SSLRec)",
            file="retailrocket_subset/events.parquet",
            sha256="efe15b9bba7d485b2ea1db5c8aa42d5f4d91f8a4854e7732f8e842193a4825f9",
        ),
        DataSet(
            name="completejourney_sample",
            title="The Complete Journey 2.0: one receipt line in twenty of a grocer, 2017",
            source="bradleyboehmke/completejourney"
            " @ 5b5d06192b9856edd04e4d405787af2f2e4a1fef (data/transactions_sample.rda)",
            licence="CC0",
            file="completejourney_sample/transactions.parquet",
            sha256="a77a3f34bb631f3466727aca5833194c9a58524e574f7d580187b85a52f09380",
        ),
        DataSet(
            name="completejourney_products",
            title="The Complete Journey 2.0: what its products are",
            source="bradleyboehmke/completejourney @ 5b5d06192b9856edd04e4d405787af2f2e4a1fef (data/products.rda)",
            licence="CC0",
            file="completejourney_sample/products.parquet",
            sha256="fc8ddbe86eb0ab7e6673b6b286a58b8076c08e31db4a8def2d1fdf97f8f4ef47",
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
            f"  Turn it into Parquet, with the columns of the service's README.md, put it at {data.file}"
            " below a folder, and name that folder in MLSD_DATA."
        )
    path = folder / data.file
    if (found := _sha256(path)) != data.sha256:
        raise DataCorrupt(f"{path}: SHA-256 is {found}, expected {data.sha256}. Fetch it again from {data.source}")
    return path


def find(name: str, folder: Path | None) -> Path:
    """The file meant by what a person typed: a path, or the name of a data set.

    Raises:
        DataMissing: neither is there. DataCorrupt: the data set's file is another one.
    """
    if name in DATA_SETS and not Path(name).is_file():
        return load(name, folder)
    if not Path(name).is_file():
        raise DataMissing(f"there is no file {name}, and no data set of that name; there are {', '.join(DATA_SETS)}")
    return Path(name)
