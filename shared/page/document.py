"""Shows a Markdown document of the checkout as a page, with links into the source."""

import re
from html import escape
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from markdown_it import MarkdownIt

from shared.checklist import ROOT
from shared.page import TYPES, File, answer, tagged

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)  # where figures are written in
DEFINITION = re.compile(r"( *)(?:(?:async )?def |(class) )?(\w+)")

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="/page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/page/shell.css">
</head>
<body><div class="page">
<header class="bar"><a href="/">Live</a><a href="/design">Design</a><span class="quiet">{title}</span></header>
<main class="document">{body}</main>
</div></body>
</html>
"""


def add_document(app: FastAPI, path: Path) -> None:
    """`path` at `/design`, and the files of the checkout that it names below `/source/`; without a key, as all of it
    is public.
    """
    page, names = _rendered(path)

    @app.get("/design", include_in_schema=False)
    async def design(request: Request) -> Response:
        return answer(request, page)

    @app.get("/source/{name:path}", include_in_schema=False)
    def source(request: Request, name: str) -> Response:
        if name not in names:  # a look-up: no name reaches the file system
            raise HTTPException(404, f"{path.name} links to no file {name!r}")
        return answer(request, _page(name, f"<pre>{_anchored((ROOT / name).read_text())}</pre>"))


def _rendered(path: Path) -> tuple[File, set[str]]:
    """The page, and the names of files that it links to, relative to the checkout."""
    markdown, names = MarkdownIt("commonmark", {"html": False}).enable("table"), set()
    tokens = markdown.parse(COMMENT.sub("", path.read_text()))
    for link in (child for token in tokens for child in token.children or () if child.type == "link_open"):
        target, _, symbol = str(link.attrs["href"]).partition("#")
        file = (path.parent / target).resolve()
        if file.is_file() and file.is_relative_to(ROOT):
            name = file.relative_to(ROOT).as_posix()
            names.add(name)
            link.attrs["href"] = f"/source/{name}#{symbol}".rstrip("#")
    return _page(f"{path.parent.name}/{path.name}", markdown.renderer.render(tokens, markdown.options, {})), names


def _anchored(text: str) -> str:
    """Source with an id at each definition: `Worker`, `Worker.step`, `PARTITIONS`."""
    lines, owner = [], ""
    for line in text.split("\n"):
        found, shown = DEFINITION.match(line), escape(line)
        if found and (found[1] == "" or (found[1] == "    " and owner and "def " in found[0])):
            owner = owner if found[1] else found[3] if found[2] else ""
            anchor = f"{owner}.{found[3]}" if found[1] else found[3]
            shown = f'<span id="{escape(anchor)}">{shown}</span>'
        lines.append(shown)
    return "\n".join(lines)


def _page(title: str, body: str) -> File:
    return tagged(PAGE.format(title=escape(title), body=body).encode(), TYPES[".html"])
