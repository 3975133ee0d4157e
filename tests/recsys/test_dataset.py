"""What is known at a cut, and nothing that came after it."""

from pathlib import Path

import polars as pl
import pytest

from recsys import config, dataset, ingest
from recsys.config import DAY, HOUR
from recsys.evaluate import Truth
from recsys.history import write_history
from recsys.schema import ERASURES, Erasure, Event, Product
from shared.eventlog.port import Entry
from shared.lake import Lake
from tests.recsys.shop import KEY, TODAY, Shop, event, named

NO_PRODUCTS = pl.DataFrame(
    schema=dict.fromkeys(("item", "title", "category", "family", "seller"), pl.String)
    | dict.fromkeys(("at", "cents"), pl.Int64)
    | dict.fromkeys(("small", "in_stock"), pl.Boolean)
)


def rows(*events: Event) -> pl.DataFrame:
    return pl.DataFrame([x.model_dump() for x in events], infer_schema_length=None).sort("at")


def lines(frame: pl.DataFrame) -> list[int]:
    return dataset.standing(frame)["quantity"].to_list()


def test_a_cancellation_takes_back_the_latest_purchase_before_it() -> None:
    first, second = event(at=TODAY, quantity=1), event(at=TODAY + 10, quantity=2)
    assert lines(rows(first, second, event("cancel", at=TODAY + 20, quantity=2))) == [1]
    assert lines(rows(first, second, event("cancel", at=TODAY + 20, quantity=3))) == []
    assert lines(rows(first, second, event("cancel", at=TODAY + 20, quantity=1))) == [1, 2], "in part: it stands"
    large, small = event(at=TODAY, quantity=5), event(at=TODAY + 10)
    assert lines(rows(large, small, event("cancel", at=TODAY + 20, quantity=2))) == [5], "the latest, and one of five"
    assert lines(rows(first, event("cancel", at=TODAY + 5), second)) == [2], "what comes later is another purchase"
    assert lines(rows(first, event("cancel", item="ink", at=TODAY + 5))) == [1], "another item"
    assert lines(rows(first, event("cancel", at=TODAY + 5, quantity=9), second)) == [2], "more than there was"
    assert lines(rows(event("view", at=TODAY - 5), first, event("click", at=TODAY + 5), second)) == [1, 2]


def test_a_cancellation_after_the_cut_is_not_known(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    write_history(lake, rows(event(at=TODAY), event("cancel", at=TODAY + DAY)), NO_PRODUCTS, key=b"k")
    assert dataset.interactions(lake, cut=TODAY + DAY).bought.height == 1
    assert dataset.interactions(lake, cut=TODAY + DAY + 1).bought.height == 0


def test_a_repeat_counts_once_and_ids_are_a_shopper_s_own(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    once = event(id="1")
    write_history(lake, rows(once, once, event(user="bob", id="1")), NO_PRODUCTS, key=b"k")
    assert dataset.interactions(lake, cut=TODAY + 1).bought.height == 2


def test_numbers_are_places_in_sorted_names() -> None:
    names, known = pl.Series("item", ["c", "a", "x"]), pl.Series("item", ["a", "b", "c"])
    assert dataset.number(names, known).to_list() == [2, 0, -1]
    assert dataset.number(names, known.head(0)).to_list() == [-1, -1, -1]


def test_what_was_bought_after_the_cut_is_numbered_as_before_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    events = rows(event(item="b", at=TODAY), event(item="a", at=TODAY + 5), event(item="b", at=TODAY + 6))
    write_history(lake, events, NO_PRODUCTS, key=b"k")
    known = dataset.interactions(lake, cut=TODAY + 1)
    after = dataset.bought_after(lake, known, until=TODAY + DAY)
    assert known.items == ["b"]
    assert sorted(after["item"].to_list()) == [-1, 0], "a was not there yet: it can only be missed"


def test_what_is_bought_at_the_cut_is_after_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    write_history(lake, rows(event(at=TODAY - 1), event(user="bob", at=TODAY)), NO_PRODUCTS, key=b"k")
    after = dataset.bought_after(lake, dataset.interactions(lake, cut=TODAY), until=TODAY + DAY)
    assert after["user"].to_list() == [-1], "bob was not known"


def test_each_item_that_was_not_there_yet_is_a_miss_of_its_own(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    later = [event(item=f"new{n}", at=TODAY + n) for n in range(5)] + [event(item="new0", at=TODAY + 9)]
    events = rows(event(item="old", at=TODAY - 5), event(item="other", user="bob", at=TODAY - 5), *later)
    write_history(lake, events, NO_PRODUCTS, key=b"k")
    known = dataset.interactions(lake, cut=TODAY)
    after = dataset.bought_after(lake, known, until=TODAY + DAY)
    truth = Truth(after["user"].to_numpy(), after["item"].to_numpy(), count=len(known.items))
    assert truth.sizes.tolist() == [5], "five items, one of them bought twice"


def test_a_period_at_a_cut_knows_what_its_night_knew_however_late_the_rest_came(shop: Shop) -> None:
    """Phones that were offline deliver purchases of three days ago when the night has begun."""
    cut, frozen = TODAY + 2 * HOUR, ingest.frozen(shop.log)
    before = dataset.interactions(shop.lake, cut=cut, offsets=frozen)
    shop.clock.observe(cut + HOUR)
    shop.happens(*(event(user=f"offline{n}", item="i00001", at=TODAY - 3 * DAY + n) for n in range(40)))
    shop.happens(event(user=before.users[0], item=before.items[0], at=cut + 60))
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    night = dataset.interactions(shop.lake, cut=cut, offsets=frozen)
    period = dataset.interactions(shop.lake, cut=cut)
    assert dataset.version(night) == dataset.version(period) == dataset.version(before)
    after = dataset.bought_after(shop.lake, period, until=cut + DAY)
    assert after.select("user", "item").rows() == [(0, 0)], "what happened before the cut is nothing to be foretold"
    assert dataset.interactions(shop.lake, cut=cut + DAY).bought.height == before.bought.height + 41


def test_what_a_fast_clock_dated_after_the_cut_is_known_and_nothing_to_be_foretold(shop: Shop) -> None:
    shop.happens(event(user="ahead", item="i00001", at=TODAY + 5 * HOUR))
    ingest.ingest(shop.log, shop.lake, frozen := ingest.frozen(shop.log), key=KEY)
    cut = shop.clock.now() + 1
    for offsets in (None, frozen):
        known = dataset.interactions(shop.lake, cut=cut, offsets=offsets)
        assert known.bought.filter(user=known.users.index(named("ahead")))["at"].to_list() == [cut - 1]
    assert dataset.bought_after(shop.lake, known, until=TODAY + DAY).is_empty()


def test_what_is_older_than_the_window_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.config.WINDOW", 10 * DAY)
    lake = Lake(tmp_path / "lake")
    old, new = event(user="old", at=TODAY - 12 * DAY), event(user="new", at=TODAY - 9 * DAY)
    write_history(lake, rows(old, new), NO_PRODUCTS, key=KEY)
    next((lake.folder / "events" / f"date={dataset.day_of(old.at)}").glob("*.parquet")).write_bytes(b"damaged")
    assert dataset.interactions(lake, cut=TODAY).users == [new.user]


def test_what_the_catalogue_said_before_the_window_is_each_item_s_first_and_last_word(tmp_path: Path) -> None:
    lake, begin = Lake(tmp_path / "lake"), TODAY - config.WINDOW - 50 * DAY
    said = [("pen", day, cents) for day, cents in ((0, 1), (10, 2), (20, 3))] + [("ink", 5, 7), ("pen", 60, 4)]
    for offset, (item, day, cents) in enumerate(said):
        at = begin + day * DAY
        product = Product(item=item, at=at, cents=cents).model_dump() | {"partition": 0, "offset": offset}
        lake.write("catalogue", pl.DataFrame([product | {"known_at": at}]), batch=f"0-{offset}")
    lake.write(
        "events", pl.DataFrame([event(at=TODAY - DAY).model_dump()]).with_columns(partition=0, offset=0), batch="0"
    )
    before = dataset.interactions(lake, cut=TODAY).products
    dataset.fold_catalogue(lake, cut=TODAY)
    assert dataset.interactions(lake, cut=TODAY).products.equals(before)
    assert lake.read("catalogue")["cents"].sort().to_list() == [1, 3, 4, 7]
    assert len(list((lake.folder / "catalogue").rglob("*.parquet"))) == 2


def test_nothing_is_learnt_at_any_cut_from_who_was_erased(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    bought = [event(item=f"i{n}", at=TODAY - 30 * DAY + n) for n in range(3)]
    write_history(lake, rows(*bought, event(user="bob", at=TODAY - 30 * DAY)), NO_PRODUCTS, key=b"k")
    ann = named("ann")
    place = {"partition": [0], "offset": [0], "known_at": [TODAY - DAY]}
    lake.write("erasures", pl.DataFrame({"user": [ann], "at": [TODAY - DAY], **place}), batch="0-0")
    for back in (21, 14, 7, 0):
        assert ann not in dataset.interactions(lake, cut=TODAY - back * DAY).users
    night = dataset.interactions(lake, cut=TODAY - 7 * DAY, offsets={"recsys.erasures": {0: 0}})
    assert ann in night.users, "a night that is run again makes the same table; what shows it hides the row"
    assert ann in dataset.interactions(lake, cut=TODAY - 7 * DAY, offsets={}).users, "nor one that knew no erasure"
    read = {"partition": [0], "offset": [-1], "known_at": [None]}
    lake.write("erasures", pl.DataFrame({"user": [ann], "at": [TODAY - DAY], **read}), batch="file")
    assert ann not in dataset.interactions(lake, cut=TODAY - 7 * DAY, offsets={}).users, "what a file said holds always"


def test_an_erasure_holds_for_what_a_fast_clock_dated_after_it(shop: Shop) -> None:
    shop.happens(event(user="ann", item="i00001", at=shop.clock.now() + 3 * HOUR))
    shop.clock.observe(shop.clock.now() + HOUR)
    text = Erasure(user=named("ann"), at=shop.clock.now()).model_dump_json().encode()
    shop.log.append([Entry(ERASURES, named("ann"), text)])
    shop.clock.observe(shop.clock.now() + HOUR)
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    assert named("ann") not in dataset.interactions(shop.lake, cut=TODAY + DAY).users


def test_of_an_item_that_the_catalogue_does_not_know_nothing_is_said_against_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    write_history(lake, rows(event(item="pen")), NO_PRODUCTS, key=KEY)
    (pen,) = dataset.interactions(lake, cut=TODAY + DAY).products.rows(named=True)
    assert pen == {
        **dict.fromkeys(("title", "category", "family", "seller"), ""),
        **{"small": False, "cents": 0, "in_stock": True, "since": 0},
    }


def test_what_was_looked_at_are_views_clicks_and_carts_of_items_that_can_be_shown(tmp_path: Path) -> None:
    lake, looks = Lake(tmp_path / "lake"), ("view", "click", "cart")
    done = [event(kind, item="pen", id=kind) for kind in (*looks, "purchase")] + [event("view", item="ghost", id="g")]
    write_history(lake, rows(*done), NO_PRODUCTS, key=KEY)
    known = dataset.interactions(lake, cut=TODAY + DAY)
    assert known.items == ["pen"], "what is only looked at, and in no catalogue, is no item"
    assert sorted(known.seen["kind"]) == sorted(looks)
    assert set(known.seen["item"]) == {0}


def test_lists_that_came_too_late_for_the_log_count_nowhere(tmp_path: Path) -> None:
    lake, today = Lake(tmp_path / "lake"), dataset.day_of(TODAY)
    shown = pl.DataFrame({"list_id": ["a", "b", "b", "c"], "at": TODAY, "partition": 0, "offset": [0, 1, 2, 3]})
    lake.write("impressions", shown, batch="older")
    until = dataset.day_of(TODAY + DAY)
    assert dataset.impressions(lake, since=today, until=until)["list_id"].to_list() == ["a", "b", "b", "c"]
    other = Lake(tmp_path / "other")
    other.write("impressions", shown.with_columns(logged=pl.Series([True, True, False, True])), batch="newer")
    assert dataset.impressions(other, since=today, until=until)["list_id"].to_list() == ["a", "c"]


def test_a_version_names_what_was_bought_seen_and_offered(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    write_history(lake, rows(event(item="pen"), event("view", item="pen", id="v")), NO_PRODUCTS, key=KEY)
    known = dataset.interactions(lake, cut=TODAY + DAY)
    first = dataset.version(known)
    assert (len(first), first) == (12, dataset.version(dataset.interactions(lake, cut=TODAY + DAY)))
    others = [
        known._replace(cut=known.cut + 1),
        known._replace(bought=known.bought.with_columns(cents=pl.col("cents") + 1)),
        known._replace(seen=known.seen.with_columns(at=pl.col("at") + 1)),
        known._replace(products=known.products.with_columns(title=pl.lit("pencil"))),
    ]
    assert len({first, *map(dataset.version, others)}) == 5
