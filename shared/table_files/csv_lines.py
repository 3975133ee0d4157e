"""The text of a CSV file -> its header and records, each with the number of its line."""

import csv
import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

SEPARATORS = ",;\t|"
LONGEST = 1_000  # lines of one record, so that a quote that is never closed does not take the file with it
UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Broken(NamedTuple):
    """A line that is no record."""

    line: int
    reason: str


class Lines(NamedTuple):
    """The records of a file. `fields` are as many as the header has."""

    header: list[str]
    fields: list[list[str]]
    numbers: list[int]  # the line that each record begins on; the first of the file is 1
    broken: list[Broken]
    notes: list[str]


def split(content: bytes) -> Lines:
    """The header and the records of a CSV file; lines and cells that are all empty are passed over."""
    lines, broken, notes = _decoded(content)
    places = [number for number, line in enumerate(lines, 1) if line.strip() and number not in broken]
    named = re.fullmatch('"?sep=(.)"?', lines[places[0] - 1]) if places else None
    if named:  # as a spreadsheet writes it
        places = places[1:]
    if not places:
        return Lines([], [], [], list(broken.values()), notes)
    head = lines[places[0] - 1]
    separator = named[1] if named else max(SEPARATORS, key=lambda mark: len(_fields(head, mark)))
    header = _fields(head, separator)
    known = Lines(header, [], [], list(broken.values()), notes)
    for number, record in _records(lines, places[0] + 1, separator, len(header), broken):
        if isinstance(record, str):
            known.broken.append(Broken(number, record))
        elif record == header:
            known.broken.append(Broken(number, "is the header again"))
        elif any(record):
            known.fields.append(record)
            known.numbers.append(number)
    return known


def _decoded(content: bytes) -> tuple[list[str], dict[int, Broken], list[str]]:
    """Lines of text; those that cannot be read, by number; and what had to be assumed."""
    wide = "utf-16" if content[:2] in UTF16 else "utf-16-le" if content[1:64:2].strip(b"\0") == b"" else ""
    if len(content) > 1 and wide:
        return _lines(content.decode(wide, errors="replace")), {}, []
    try:
        return _lines(content.decode("utf-8-sig")), {}, []
    except UnicodeDecodeError:
        pass
    lines = _split(content.removeprefix(b"\xef\xbb\xbf"), b"\n", b"\r")
    plain = {number: line for number, line in enumerate(lines, 1) if not line.isascii()}
    strange = {number for number, line in plain.items() if _utf8(line) is None}
    if 2 * len(strange) > len(plain):  # few texts of another encoding look like UTF-8
        return [_western(line) for line in lines], {}, ["read as Windows-1252 (Latin-1), as it is no UTF-8"]
    texts = [_utf8(line) or "" for line in lines]
    return texts, {number: Broken(number, "is no UTF-8") for number in sorted(strange)}, []


def _lines(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.split("\n" if "\n" in text else "\r")]


def _split(content: bytes, end: bytes, other: bytes) -> list[bytes]:
    return [line.removesuffix(other) for line in content.split(end if end in content else other)]


def _utf8(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None


def _western(line: bytes) -> str:
    try:
        return line.decode("cp1252")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _fields(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return line.split(separator)


def _records(
    lines: list[str], start: int, separator: str, width: int, unreadable: dict[int, Broken]
) -> Iterator[tuple[int, list[str] | str]]:
    """From line `start` on, the number of a line with its record, or with what is wrong with it.

    A record may be spread over lines, within quotes. One that does not come out with `width` fields is reported by
    its first line only, and the next line is tried as a record of its own.
    """
    number = start
    while number <= len(lines):
        line, used = lines[number - 1], 1
        if line.strip() and number not in unreadable:
            record: list[str] | str
            if '"' not in line:
                record = line.split(separator)
            else:
                reader = csv.reader(
                    (f"{one}\n" for one in islice(lines, number - 1, number - 1 + LONGEST)),
                    delimiter=separator,
                    strict=True,
                )
                try:
                    record = next(reader)
                    used = reader.line_num if len(record) == width else 1
                except csv.Error:
                    record = "has a quote that is not closed, or text behind a closed one"
            if isinstance(record, list) and len(record) != width:
                record = f"has {len(record)} fields, the header {width}"
            yield number, record
        number += used
