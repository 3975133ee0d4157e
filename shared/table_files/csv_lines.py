"""The text of a CSV file -> header and records with their line numbers."""

import csv
import re
from collections.abc import Iterator
from typing import NamedTuple

SEPARATORS = ",;\t|"
LONGEST = 10_000  # lines of one record, so that a quote that is never closed does not take the file with it
UTF16 = (b"\xff\xfe", b"\xfe\xff")

csv.field_size_limit(2**30)  # a long cell is no fault of its quotes


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


class Form(NamedTuple):
    """How a file sets off its cells."""

    separator: str
    blank: bool  # behind each separator stands one, which does not belong to the cell
    width: int  # fields of a record


def split(content: bytes) -> Lines:
    """The header and the records of a CSV file; lines and cells that are all empty are passed over."""
    lines, unreadable, notes = _decoded(content)
    places = [number for number, line in enumerate(lines, 1) if line.strip() and number not in unreadable]
    named = re.fullmatch('"?sep=(.)"?', lines[places[0] - 1]) if places else None
    if named:  # as a spreadsheet writes it
        places = places[1:]
    known = Lines([], [], [], [Broken(number, "is no UTF-8") for number in unreadable], notes)
    if not places:
        return known
    head = lines[places[0] - 1]
    separator = named[1] if named else max(SEPARATORS, key=lambda mark: len(_fields(head, Form(mark, False, 0))))
    form = Form(separator, head.count(separator) == head.count(f"{separator} ") > 0, 0)
    header = _fields(head, form)
    for number, record in _records(lines, places[0] + 1, form._replace(width=len(header)), unreadable):
        if isinstance(record, str):
            known.broken.append(Broken(number, record))
        elif record == header:
            known.broken.append(Broken(number, "is the header again"))
        elif any(record):
            known.fields.append(record)
            known.numbers.append(number)
    return known._replace(header=header)


def _decoded(content: bytes) -> tuple[list[str], list[int], list[str]]:
    """Lines of text; the numbers of those that cannot be read; and what had to be assumed."""
    wide = "utf-16" if content[:2] in UTF16 else "utf-16-le" if content[1:64:2].strip(b"\0") == b"" else ""
    if len(content) > 1 and wide:
        return _lines(content.decode(wide, errors="replace")), [], []
    try:
        return _lines(content.decode("utf-8-sig")), [], []
    except UnicodeDecodeError:
        pass
    # Every byte as a character of its own first, so that the lines are known.
    lines = [line.encode("latin-1") for line in _lines(content.removeprefix(b"\xef\xbb\xbf").decode("latin-1"))]
    texts = [_utf8(line) for line in lines]
    strange = [number for number, text in enumerate(texts, 1) if text is None]
    if 2 * len(strange) > sum(not line.isascii() for line in lines):  # few texts of another encoding look like UTF-8
        return [_western(line) for line in lines], [], ["read as Windows-1252 (Latin-1), as it is no UTF-8"]
    return [text or "" for text in texts], strange, []


def _lines(text: str) -> list[str]:
    """Split at LF; where most lines end with CR alone, at that, too."""
    ends = text.count("\n")
    if text.count("\r") - text.count("\r\n") > ends:
        return re.split(r"\r\n|\r|\n", text)
    return [line.removesuffix("\r") for line in text.split("\n")]


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


def _fields(line: str, form: Form) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=form.separator, skipinitialspace=form.blank, strict=True), [])
    except csv.Error:
        return line.split(form.separator)


def _records(lines: list[str], start: int, form: Form, unreadable: list[int]) -> Iterator[tuple[int, list[str] | str]]:
    """From line `start` on, the number of a line with its record, or with what is wrong with it.

    A record may be spread over lines, within quotes. One that does not come out right is reported by its first line
    only, and the next line is tried as a record of its own.
    """
    number, passed = start, set(unreadable)
    while number <= len(lines):
        line, used = lines[number - 1], 1
        if line.strip() and number not in passed:
            record: list[str] | str
            if '"' not in line:
                record = [cell.removeprefix(" ") if form.blank else cell for cell in line.split(form.separator)]
            else:
                record, used = _quoted(lines, number, form)
            if isinstance(record, list) and len(record) != form.width:
                record, used = f"has {len(record)} fields, the header {form.width}", 1
            yield number, record
        number += used


def _quoted(lines: list[str], number: int, form: Form) -> tuple[list[str] | str, int]:
    """The record that begins on a line with quotes, or what is wrong with it; and how many lines it takes."""
    last = min(len(lines), number - 1 + LONGEST)
    following = (f"{lines[place]}\n" for place in range(number - 1, last))
    reader = csv.reader(following, delimiter=form.separator, skipinitialspace=form.blank, strict=True)
    try:
        record = next(reader)
    except csv.Error:
        return "has a quote that is not closed, or text behind a closed one", 1
    spread = range(number, number - 1 + reader.line_num)
    if any(_begins(lines[number - 1], lines[place], form) for place in spread):
        return "has a quote that is closed in another row", 1
    return record, reader.line_num


def _begins(first: str, line: str, form: Form) -> bool:
    """Whether a line within a record that `first` begins is a record itself: its cells look as those of `first` do."""
    before = first.partition('"')[0].split(form.separator)[:-1]
    cells = line.split(form.separator)
    if not before:  # the first cell is quoted
        return line.startswith('"') and len(_fields(line, form)) == form.width
    alike = [_shape(cell) for cell in cells[: len(before)]] == [_shape(cell) for cell in before]
    return alike and len(_fields(line, form)) == form.width


def _shape(cell: str) -> str:
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", cell.strip()))
