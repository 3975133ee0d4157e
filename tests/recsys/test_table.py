"""A version of the table: what is written is found, what is altered is refused, and the pointer is never in between."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from recsys import table
from recsys.schema import TopK
from recsys.table import Busy, Extras, Manifest, Table, TableCorrupt

ITEMS = [f"i{number}" for number in range(50)]


def written(folder: Path, *, date: str = "2026-01-01", users: int = 40, shift: int = 0) -> Path:
    names = [f"user-{number}" for number in range(users)]
    items = (np.arange(users)[:, None] + np.arange(30)[None] + shift).astype(np.int32) % 50
    top = TopK(items, np.zeros((users, 30), np.int8), np.zeros(users, bool), np.zeros(users, np.int16))
    manifest = Manifest(
        date=date, cut=1_000, recipe="1", recipe_digest="d", offsets={}, tables={}, files={}, samples={}
    )
    made = table.write(
        folder / "new",
        manifest,
        users=names,
        top=top,
        history=np.full((users, 5), -1),
        scores=np.zeros((users, 10), np.float32),
        neighbours=np.full((50, 30), -1, np.int32),
        extras=Extras(ITEMS, {"": list(range(50))}, [0] * 50, [-1] * 50, [False] * 50, [False] * 50, [""] * 50),
    )
    return (folder / "new").rename(folder / made.version)


def test_every_known_shopper_is_found_and_strangers_are_not(tmp_path: Path) -> None:
    made = Table.open(written(tmp_path))
    for number in range(40):
        row = made.row(f"user-{number}")
        assert made.items(row)[:3] == [number % 50, (number + 1) % 50, (number + 2) % 50]
    assert made.row("user-40") == made.row("") == -1


def test_users_that_share_a_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "hash_of", lambda user: len(user))
    made = Table.open(written(tmp_path))
    assert [made.items(made.row(f"user-{n}"))[0] for n in range(40)] == list(range(40))
    assert made.row("user-4x") == -1


def test_the_same_content_has_the_same_version(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    one, same = written(tmp_path / "a").name, written(tmp_path / "b").name
    assert one == same
    assert written(tmp_path / "c", shift=1).name != one


@pytest.mark.parametrize("file", ["main/items.npy", "main/extras.json", "main/hashes.npy"])
def test_an_altered_or_missing_file_is_refused(tmp_path: Path, file: str) -> None:
    folder = written(tmp_path)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TableCorrupt, match=r"is not what was written|cannot open"):
        Table.open(folder)
    (folder / file).unlink()
    with pytest.raises(TableCorrupt):
        Table.open(folder)


def test_a_sample_list_that_comes_out_otherwise_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"i7",', '"i8",', 1))
    with pytest.raises(TableCorrupt, match="sample list"):
        Table.open(folder)


def test_the_pointer_and_what_is_kept(tmp_path: Path) -> None:
    assert table.current(tmp_path) is None
    names = [written(tmp_path, date=f"2026-01-{day:02}").name for day in range(1, 11)]
    table.point(tmp_path, names[0])
    table.prune(tmp_path, keep=3)
    assert table.versions(tmp_path) == [names[0], *names[-3:]], "the one in force is never removed"


def test_only_one_at_a_time(tmp_path: Path) -> None:
    with table.sole(tmp_path), pytest.raises(Busy), table.sole(tmp_path):
        pass
    with table.sole(tmp_path):
        pass


def test_readers_see_one_whole_version_while_others_switch_and_prune(tmp_path: Path) -> None:
    """Each reader follows the pointer as fast as it can; each list must be whole, and of the version it began on."""
    source = tmp_path / "source"
    source.mkdir()
    made = [written(source, date=f"2026-02-{day:02}", shift=day) for day in range(1, 13)]
    tables = tmp_path / "tables"
    tables.mkdir()
    stopping, faults, reads = threading.Event(), list[str](), [0]

    def read() -> None:
        while not stopping.is_set():
            version = table.current(tables)
            if version is None:
                continue
            try:
                one = Table.open(tables / version, verify=False)
            except TableCorrupt as error:
                if version in table.versions(tables):
                    faults.append(str(error))
                continue  # removed since: seven nights have passed meanwhile
            shift = int(version[8:10])
            for number in range(40):
                if one.items(one.row(f"user-{number}"))[0] != (number + shift) % 50:
                    faults.append(f"{version}: user-{number}")
            reads[0] += 1

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(5):
        for folder in made:
            if not (tables / folder.name).exists():
                shutil.copytree(folder, tables / ".new", copy_function=os.link)
                (tables / ".new").rename(tables / folder.name)
            table.point(tables, folder.name)
            table.prune(tables, keep=3)
    stopping.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert reads[0] > 10
