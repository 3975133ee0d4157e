"""Which brands a post speaks of, and of which side of them: a versioned table of aliases with context words.

Pure but for `Brands.read`, which reads the table.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sentiment import config

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
WORD = re.compile(r"[a-z0-9']+")
HANDLE = re.compile(r"@(\w+)")


class Brands:
    """The aliases of one world."""

    def __init__(self, table: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        self.names = tuple(sorted(table))
        self.version = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:12]
        self._handles: dict[str, str] = {}
        self._aliases: dict[str, tuple[str, frozenset[str] | None]] = {}
        for brand, row in table.items():
            context = frozenset(row.get("context", ()))
            self._handles |= {handle.lower(): brand for handle in row.get("handles", ())}
            self._aliases |= {alias.lower(): (brand, None) for alias in row.get("aliases", ())}
            self._aliases |= {alias.lower(): (brand, context) for alias in row.get("ambiguous", ())}
        found = sorted(self._aliases, key=len, reverse=True)
        names = "|".join(map(re.escape, found)) or r"(?!)"
        self._names = re.compile(rf"(?<![\w@])#?({names})(?!\w)", re.IGNORECASE)

    @classmethod
    def read(cls, world: str, path: Path = TABLE) -> Self:
        """One section of the table. Raises KeyError, which names those there are."""
        table: dict[str, Any] = tomllib.loads(path.read_text())
        if world not in table:
            raise KeyError(f"{path.name} has no section {world!r}; it has {', '.join(table)}")
        return cls(table[world])

    def found(self, text: str) -> tuple[str, ...]:
        """The brands of a text as it was written, in order of appearance; at most MAX_BRANDS, else none.

        >>> Brands.read("simulated").found("Delta is a river; my flight with @northair is late")
        ('delta-wings', 'northair')
        >>> Brands.read("simulated").found("The delta of the Rhine")
        ()
        """
        brands = tuple(dict.fromkeys(brand for _, _, brand in self._hits(text)))
        return brands if len(brands) <= config.MAX_BRANDS else ()

    def masked(self, text: str) -> str:
        """The text as if every brand were the same one.

        >>> Brands.read("simulated").masked("Delta, my flight with @northair is late")
        '@user, my flight with @user is late'
        """
        for start, end, _ in reversed(self._hits(text)):
            text = f"{text[:start]}@user{text[end:]}"
        return text

    def _hits(self, text: str) -> list[tuple[int, int, str]]:
        """Start, end and brand of every name, in order of appearance."""
        tagged = ((*match.span(), self._handles.get(match[1].lower())) for match in HANDLE.finditer(text))
        hits = [(start, end, brand) for start, end, brand in tagged if brand]
        matches = list(self._names.finditer(text))
        words = frozenset(WORD.findall(text.lower())) if matches else frozenset()
        for match in matches:
            brand, context = self._aliases[match[1].lower()]
            if context is None or context & words:
                hits.append((*match.span(), brand))
        return sorted(hits)


def aspect(text: str) -> str | None:
    """What a text is about, if one of the known words says so."""
    return next((ASPECT[word] for word in WORD.findall(text.lower()) if word in ASPECT), None)
