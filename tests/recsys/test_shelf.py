"""A list by day: the row, less what has happened since; strangers, latecomers and the forgotten; stale tables."""

from collections.abc import Iterator, Mapping

import pytest
from typer.testing import CliRunner

from recsys import config
from recsys.__main__ import app
from recsys.config import DAY, HOUR
from recsys.ingest import frozen, ingest
from recsys.schema import CATALOGUE, ERASURES, EVENTS, IMPRESSIONS, Erasure, Event, Impression, Product
from recsys.shelf import NoTable
from recsys.table import Table, drawn
from shared.eventlog.port import Entry, Place, Reader
from tests.recsys.shop import KEY, MIDNIGHT, TODAY, Shop, Trained, event, named
from tests.retention import shorten

NOW = TODAY + 3 * HOUR


def plain_user(shop: Shop, version: str, *, shuffled: bool = False) -> str:
    users, _ = Table.open(shop.tables / version).first_ten()
    return next(user for user in users if (drawn(user, MIDNIGHT) is not None) == shuffled)


def out(shop: Shop, item: str, *, there: bool = False) -> None:
    product = Product(item=item, at=NOW, in_stock=there)
    shop.log.append([Entry(CATALOGUE, item, product.model_dump_json().encode())])


def test_without_a_table_it_says_so(shop: Shop) -> None:
    with pytest.raises(NoTable, match="recsys night"):
        shop.shelf().recommend("ann", 5, now=NOW)


def test_what_was_bought_or_sold_out_since_is_left_out_and_the_rest_moves_up(shop: Shop) -> None:
    user = plain_user(shop, shop.night().version)
    shelf = shop.shelf()
    before = shelf.recommend(user, 20, now=NOW)
    assert (before.path, before.explored, before.permuted) == ("table", False, 0)
    shop.happens(event(user=user, item=before.items[0], at=NOW))
    out(shop, before.items[2])
    shelf.follow()
    after = shelf.recommend(user, 20, now=NOW)
    assert after.items[:17] == [before.items[1], *before.items[3:19]][:17]
    out(shop, before.items[2], there=True)
    shelf.follow()
    assert before.items[2] in shelf.recommend(user, 20, now=NOW).items


def test_a_shuffled_list_says_how_many_of_its_twenty_are_left(shop: Shop) -> None:
    user = plain_user(shop, shop.night().version, shuffled=True)
    shelf = shop.shelf()
    made = shelf.recommend(user, config.SERVED, now=NOW)
    assert (made.explored, made.permuted) == (True, config.PERMUTED)
    out(shop, made.items[3])
    out(shop, made.items[30])
    shelf.follow()
    assert shelf.recommend(user, config.SERVED, now=NOW).permuted == config.PERMUTED - 1


def test_no_list_is_short(shop: Shop) -> None:
    shop.night()
    shelf = shop.shelf()
    users, _ = Table.open(shop.tables / shelf.version).first_ten()
    for user in users[:20]:
        made = shelf.recommend(user, config.SERVED, now=NOW)
        assert len(made.items) == len(set(made.items)) == config.SERVED
    user = users[0]
    gone = shelf.recommend(user, config.SERVED, now=NOW).items
    for item in [*gone, *shelf.popular(config.SERVED).items]:
        out(shop, item)
    shop.happens(event(user=user, item=gone[0], at=NOW))
    shelf.follow()
    left = shelf.recommend(user, config.SERVED, now=NOW).items
    assert len(left) == len(set(left)) == config.SERVED
    assert not set(left) & set(gone)


def test_a_stranger_gets_popularity_and_with_a_context_its_category_s(shop: Shop, shop_world: Trained) -> None:
    shop.night()
    shelf = shop.shelf()
    assert shelf.recommend(named("stranger"), 10, now=NOW).path == "popular"
    category = int(shop_world.truth.category[0])
    made = shelf.recommend(named("stranger"), 3, now=NOW, context=f"c{category:02}")
    inside = [shop_world.truth.category[int(item[1:])] == category for item in made.items]
    assert inside[0]
    assert shelf.recommend(named("stranger"), 3, now=NOW, context="no such") == shelf.recommend(
        named("stranger"), 3, now=NOW
    )


def test_who_came_today_gets_what_goes_with_it(shop: Shop) -> None:
    shop.night()
    shelf = shop.shelf()
    item = shelf.recommend(named("stranger"), 1, now=NOW).items[0]
    shop.happens(event("click", user="stranger", item=item, at=NOW))
    shelf.follow()
    made = shelf.recommend(named("stranger"), 5, now=NOW)
    assert made.path == "today"
    assert made.because[0][0] == item
    assert made.places()[0].reason == f"Because you viewed {made.because[0][1]}."
    shop.happens(event("purchase", user="stranger", item=item, at=NOW + 1))
    shelf.follow()
    bought = shelf.recommend(named("stranger"), 5, now=NOW + 1).places()[0]
    assert bought.reason == f"Because you bought {made.because[0][1]}."


def erase(shop: Shop, user: str, *, at: int) -> None:
    shop.log.append([Entry(ERASURES, user, Erasure(user=user, at=at).model_dump_json().encode())])


def test_the_forgotten_have_no_row_whatever_version_is_shown(shop: Shop) -> None:
    user = plain_user(shop, shop.night().version)
    erase(shop, user, at=NOW)
    shelf = shop.shelf()
    assert shelf.recommend(user, 5, now=NOW).path == "popular"
    shop.clock.observe(NOW + HOUR)
    shop.happens(event("click", user=user, item=shelf.recommend(user, 1, now=NOW).items[0], at=NOW + HOUR))
    shelf.follow()
    assert shelf.recommend(user, 5, now=NOW + HOUR).path == "today", "what comes after counts"


def test_an_erasure_that_came_after_the_freeze_hides_the_row_whenever_it_was_asked_for(shop: Shop) -> None:
    user = plain_user(shop, shop.night().version)
    erase(shop, user, at=TODAY + 2 * HOUR - 1)
    assert shop.shelf().recommend(user, 5, now=NOW).path == "popular"
    assert shop.shelf().history(user) == []


def test_an_erasure_that_the_night_knew_leaves_the_row_of_what_was_done_since(shop: Shop, shop_world: Trained) -> None:
    """It is asked for and carried out before the freeze, in the second of the cut."""
    user = plain_user(shop, shop.night().version)
    shop.send(shop_world.live[0])
    cut = TODAY + DAY + 2 * HOUR
    shop.clock.observe(cut)
    erase(shop, user, at=cut - 60)
    shop.happens(event(user=user, item="i00001", at=cut))
    assert shop.night("2026-03-13").version
    shelf = shop.shelf()
    assert shelf.recommend(user, 5, now=cut).path == "table"
    assert [item for item, _ in shelf.history(user)] == ["i00001"]


def test_who_was_erased_and_buys_again_is_shown_the_same_after_a_restart(shop: Shop) -> None:
    user = plain_user(shop, shop.night().version)
    shelf = shop.shelf()
    old, new = shelf.recommend(user, 2, now=NOW).items
    for at, item in ((NOW, old), (NOW + 120, new)):
        shop.clock.observe(at)
        shop.happens(event(user=user, item=item, at=at))
        if at == NOW:
            shop.clock.observe(NOW + 60)
            erase(shop, user, at=NOW + 60)
    shelf.follow()
    running, restarted = (each.recommend(user, 50, now=NOW + 180) for each in (shelf, shop.shelf()))
    assert running == restarted
    assert running.path == "today"
    assert new not in running.items
    assert shelf.history(user) == shop.shelf().history(user) == [(new, shelf.title(new))]


def test_a_purchase_is_in_the_night_or_in_what_is_read_at_a_request(shop: Shop, shop_world: Trained) -> None:
    """Clocks are fast and slow, and the night's input ends at an offset: each purchase is on one side of it."""
    users, _ = Table.open(shop.tables / shop.night().version).first_ten()
    shop.send(shop_world.live[0])
    cut = TODAY + DAY + 2 * HOUR
    shop.clock.observe(cut)
    ahead = (-1, 0, 30, 5 * HOUR)
    early = {user: cut + seconds for user, seconds in zip(users[:4], ahead, strict=True)}
    late = {user: cut + seconds for user, seconds in zip(users[4:8], ahead, strict=True)}
    shop.happens(*(event(user=user, item="i00001", at=at) for user, at in early.items()))
    assert shop.night("2026-03-13").version
    shop.happens(*(event(user=user, item="i00001", at=at) for user, at in late.items()))
    shelf = shop.shelf()
    made = Table.open(shop.tables / shelf.version)
    in_table = [made.extras.items.index("i00001") in made.history(made.row(user)) for user in [*early, *late]]
    assert in_table == [True] * 4 + [False] * 4
    assert all("i00001" in dict(shelf.history(user)) for user in [*early, *late])


def test_an_expired_table_is_popularity(shop: Shop) -> None:
    user = plain_user(shop, shop.night().version)
    shelf = shop.shelf()
    assert shelf.recommend(user, 5, now=TODAY + 2 * HOUR + config.EXPIRED).path == "table"
    assert shelf.recommend(user, 5, now=TODAY + 2 * HOUR + config.EXPIRED + 1).path == "expired"


def test_a_new_version_is_shown_once_it_has_proved_itself(shop: Shop, shop_world: Trained) -> None:
    first = shop.night().version
    shelf = shop.shelf()
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    second = shop.night("2026-03-13").version
    whole = (shop.tables / second / "main" / "items.npy").read_bytes()
    (shop.tables / second / "main" / "items.npy").write_bytes(whole[:-4] + b"\0\0\0\1")
    shelf.follow()
    assert (shelf.version, second in shelf.trouble) == (first, True)
    (shop.tables / second / "main" / "items.npy").write_bytes(whole)
    shelf.follow()
    assert (shelf.version, shelf.trouble) == (second, "")


def test_after_a_rollback_what_was_bought_since_the_older_table_is_left_out(shop: Shop, shop_world: Trained) -> None:
    user = plain_user(shop, shop.night().version)
    shelf = shop.shelf()
    item = shelf.recommend(user, 1, now=NOW).items[0]
    shop.happens(event(user=user, item=item, at=NOW))
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    assert shop.night("2026-03-13").version
    shop.roll_back()
    fresh = shop.shelf()
    for one in (shelf, fresh):
        one.follow()
        assert item not in one.recommend(user, 50, now=TODAY + DAY).items


def test_a_switch_takes_over_what_is_sold_out_and_who_was_erased_and_reads_no_catalogue_again(
    shop: Shop, shop_world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = plain_user(shop, shop.night().version)
    shelf = shop.shelf()
    gone = shelf.recommend(user, 20, now=NOW).items[0]
    out(shop, gone)
    out(shop, "not-in-this-table")
    shop.log.append([Entry(ERASURES, named("ann"), Erasure(user=named("ann"), at=NOW).model_dump_json().encode())])
    shelf.follow()
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    shop.night("2026-03-13")
    starts: list[Mapping[Place, int]] = []
    reader = shop.log.reader

    def counted(start: Mapping[Place, int]) -> Reader:
        starts.append(start)
        return reader(start)

    monkeypatch.setattr(shop.log, "reader", counted)
    shelf.follow()
    ends = shop.log.ends(CATALOGUE)
    (start,) = starts
    assert {place.partition: at for place, at in start.items() if place.topic == CATALOGUE.name} == ends
    assert {place.partition: at for place, at in start.items() if place.topic == ERASURES.name} == shop.log.ends(
        ERASURES
    )
    fresh = shop.shelf()
    for one in (shelf, fresh):
        assert one._since is not None
        assert one._since.out == fresh._since.out  # type: ignore[union-attr]  # it has a table
        assert one._since.erased == {named("ann"): TODAY + 2 * HOUR}, "not later than it was asked for"
        assert gone not in one.recommend(user, 50, now=TODAY + DAY).items
    out(shop, gone, there=True)
    shelf.follow()
    assert shelf._since is not None
    assert shelf._since.table.number[gone] not in shelf._since.out


def test_a_request_copies_no_set_of_what_is_sold_out(shop: Shop) -> None:
    user = plain_user(shop, shop.night().version)
    shelf = shop.shelf()

    class Counted(set[int]):
        """A set that may be asked, and not walked."""

        def __iter__(self) -> Iterator[int]:
            raise AssertionError("it was copied")

    assert shelf._since is not None
    first = shelf.recommend(user, 20, now=NOW).items
    shelf._since.out = Counted([shelf._since.table.number[first[0]]])
    for wanted in (user, named("stranger")):
        assert first[0] not in shelf.recommend(wanted, 20, now=NOW).items
    assert first[0] not in shelf.popular(20).items


def test_a_log_that_has_let_go_of_events_after_the_cut_still_serves_what_is_left(shop: Shop) -> None:
    """As when the table of weeks ago is brought back: what was bought since is known as far as the log goes."""
    user = plain_user(shop, shop.night().version)
    first, second = shop.shelf().recommend(user, 2, now=NOW).items
    shop.happens(event(user=user, item=first, at=NOW))
    shorten(shop.log, EVENTS, shop.log.ends(EVENTS))
    shop.happens(event(user=user, item=second, at=NOW + 60, id="later"))
    assert second not in shop.shelf().recommend(user, 50, now=NOW + 90).items


def test_a_shuffled_list_says_what_was_shuffled_and_in_which_order_it_was_ranked(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = shop.night().version
    monkeypatch.setattr("recsys.config.EXPLORED", 0.0)  # what a table holds was drawn when it was made
    made, shelf = Table.open(shop.tables / version), shop.shelf()
    user = next(user for user in made.first_ten()[0] if made.explored(made.row(user)))
    shown = shelf.recommend(user, 5, now=NOW)
    assert (shown.permuted, len(shown.support)) == (config.PERMUTED, config.PERMUTED)
    assert set(shown.items) < set(shown.support)
    assert shown.support != [made.extras.items[item] for item in made.items(made.row(user), config.PERMUTED)]
    shop.happens(event(user=user, item=shown.support[0], at=NOW), event(user=user, item=shown.support[7], at=NOW))
    shelf.follow()
    left = [item for place, item in enumerate(shown.support) if place not in (0, 7)]
    assert shelf.recommend(user, 5, now=NOW).support == left


def test_the_support_is_the_order_that_a_night_without_a_shuffle_stores(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Table.open(shop.tables / shop.night().version)
    users = [user for user in made.first_ten()[0] if made.explored(made.row(user))]
    found = {user: made.shuffled(user, made.row(user)) for user in users}
    monkeypatch.setattr("recsys.config.EXPLORED", 0.0)
    plain = Table.open(shop.tables / shop.nights().run(MIDNIGHT, afresh=True).version)
    assert plain.version != made.version
    assert found == {user: plain.items(plain.row(user), config.PERMUTED) for user in users}
    assert all(plain.shuffled(user, plain.row(user)) == [] for user in users)


def test_one_s_own_log_is_evaluated_on_the_command_line(shop: Shop) -> None:
    command = ["--var", str(shop.var), "--log", shop.url, "--virtual", str(shop.clock.now()), "evaluate", "--k", "5"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 2
    assert "the lake holds no list" in " ".join(told.output.replace("│", " ").split())
    shop.night()
    shelf, entries = shop.shelf(), []
    users, _ = Table.open(shop.tables / shelf.version).first_ten()
    for number, user in enumerate(users):
        made, about = shelf.recommend(user, 5, now=NOW), {"user": user, "at": NOW, "list_id": f"l{number}"}
        shown = Impression.model_validate(
            about
            | {name: getattr(made, name) for name in ("version", "path", "explored", "permuted")}
            | {name: tuple(getattr(made, name)) for name in ("items", "sources", "support")}
        )
        entries.append(Entry(IMPRESSIONS, user, shown.model_dump_json().encode()))
        if number % 2:
            click = {"kind": "click", "id": f"c{number}", "item": made.items[0], "position": 1}
            entries.append(Entry(EVENTS, user, Event.model_validate(about | click).model_dump_json().encode()))
    shop.log.append(entries)
    ingest(shop.log, shop.lake, frozen(shop.log), key=KEY)
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    assert "The shuffled items as ranked" in told.output
    assert "The shuffled items by popularity" in told.output
    assert "lists stood as ranked, with 0." in told.output
