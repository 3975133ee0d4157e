"""Mention linking: which brands a post names and which aspect, by a versioned alias table with context words.

Pure but for `Brands.read`, which reads the table, and `BrandTables`, which keeps those that were in force.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sentiment import config
from sentiment.text import decoded, folded, folded_by_character
from shared.unusable import Unusable

TABLE = Path(__file__).with_name("brands.toml")

# What a complaint or a praise is about; the first that fits. They explain an alarm and are never counted alone.
ASPECTS: dict[str, tuple[str, ...]] = {
    "delay": ("delay", "delayed", "late", "waiting", "hours", "cancelled", "canceled", "stuck"),
    "luggage": ("bag", "bags", "luggage", "baggage", "suitcase", "parcel", "delivery"),
    "service": ("service", "support", "crew", "staff", "agent", "helpline", "call", "phone line", "refund"),
    "price": ("price", "fee", "fees", "expensive", "cheap", "bill", "cost", "charge", "charged"),
    "product": ("seat", "food", "screen", "battery", "app", "network", "signal", "wifi", "range", "update", "bread"),
}
ASPECT = {word: aspect for aspect, words in ASPECTS.items() for word in words}
WORD = re.compile(r"(?:[^\W_]|')+")
HANDLE = re.compile(r"@(\w+)")


def worlds(path: Path = TABLE) -> list[str]:
    """The sections of the table."""
    return list(tomllib.loads(path.read_text()))


class Brands:
    """The aliases of one world."""

    def __init__(self, table: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        self.table = table
        self.names = tuple(sorted(table))
        self.version = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:12]
        self._handles: dict[str, str] = {}
        self._aliases: dict[str, tuple[str, frozenset[str] | None]] = {}
        for brand, row in table.items():
            context = frozenset(map(folded, row.get("context", ())))
            self._handles |= {folded(handle): brand for handle in row.get("handles", ())}
            self._aliases |= {folded(alias): (brand, None) for alias in row.get("aliases", ())}
            self._aliases |= {folded(alias): (brand, context) for alias in row.get("ambiguous", ())}
        longest = sorted(self._aliases, key=len, reverse=True)
        names = "|".join(map(re.escape, longest)) or r"(?!)"
        self._names = re.compile(rf"(?<![\w@])#?({names})(?!\w)")

    @classmethod
    def read(cls, world: str, path: Path = TABLE) -> Self:
        """One section of the table; or all of another one, of a person's own: `world` is the path of a TOML file then.

        Raises:
            Unusable: there is no such section, or the file has no brands.
        """
        own = world.endswith(".toml")
        try:
            table: dict[str, Any] = tomllib.loads((Path(world) if own else path).read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Unusable(f"{world} cannot be read as TOML: {error}") from error
        if not own and world not in table:
            raise Unusable(f"{path.name} has no section {world!r}; it has {', '.join(table)}")
        brands = table if own else table[world]
        if not brands or not all(
            isinstance(row, dict) and row and all(isinstance(names, list) for names in row.values())
            for row in brands.values()
        ):
            raise Unusable(f'{world} names no brands: for each write a section [name] with handles = ["…"], aliases')
        return cls(brands)

    def found(self, text: str) -> tuple[str, ...]:
        """The brands of a text as it was written, in order of appearance; at most MAX_BRANDS, else none.

        >>> Brands.read("simulated").found("Delta is a river; my flight with @northair is late")
        ('delta-wings', 'northair')
        >>> Brands.read("simulated").found("The delta of the Rhine")
        ()
        """
        brands = tuple(dict.fromkeys(brand for _, _, brand in self._hits(decoded(text))))
        return brands if len(brands) <= config.MAX_BRANDS else ()

    def masked(self, text: str) -> str:
        """The decoded text as if every brand were the same one.

        >>> Brands.read("simulated").masked("Delta, my flight with @northair is late")
        '@user, my flight with @user is late'
        """
        text = decoded(text)
        for start, end, _ in reversed(self._hits(text)):
            text = f"{text[:start]}@user{text[end:]}"
        return text

    def _hits(self, text: str) -> list[tuple[int, int, str]]:
        """Start, end and brand of every name in a decoded text, in order of appearance."""
        # What is matched is also what is looked up: two ways of folding would find a name and then not know it.
        line, places = folded_by_character(text)
        tagged = ((*match.span(), self._handles.get(match[1])) for match in HANDLE.finditer(line))
        hits = [(start, end, brand) for start, end, brand in tagged if brand]
        matches = list(self._names.finditer(line))
        words = frozenset(WORD.findall(line)) if matches else frozenset()
        for match in matches:
            brand, context = self._aliases[match[1]]
            if context is None or context & words:
                hits.append((*match.span(), brand))
        return [(places[start], places[end - 1] + 1, brand) for start, end, brand in sorted(hits)]


def aspect(text: str) -> str | None:
    """What a text is about, if one of the known words says so."""
    return next((ASPECT[word] for word in WORD.findall(folded(text)) if word in ASPECT), None)


class BrandTables:
    """The tables that were in force, each from an hour on, as files of a folder.

    An edit of the table tells of hours that are to come. One that is counted again, for a late post or a deletion, is
    linked as it was, or old counts would change with each new alias.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tables = {int(path.stem): Brands(json.loads(path.read_text())) for path in folder.glob("*.json")}

    def at(self, hour: int) -> Brands | None:
        """The table in force at an hour (since the epoch); None before the first was kept."""
        since = max((since for since in self._tables if since <= hour), default=None)
        return None if since is None else self._tables[since]

    def adopt(self, brands: Brands, *, since: int) -> None:
        """From hour `since` on this one is in force, unless it is already; the very first one is at every hour."""
        last = max(self._tables, default=None)
        if last is not None and self._tables[last].version == brands.version:
            return
        since = 0 if last is None else since
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._folder / f"{since}.new"
        new.write_text(json.dumps(brands.table))
        new.replace(new.with_suffix(".json"))
        self._tables[since] = brands
