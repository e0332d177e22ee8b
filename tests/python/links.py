"""Checks the links of the documentation, in its source and in the book that mdBook makes of it.

Usage: links.py path/to/repository path/to/book

Links within the repository must lead to a file and a heading. Addresses are only checked for their
form: this needs no network, and the book must not need it either.
"""

import collections
import html.parser
import pathlib
import re
import sys
import urllib.parse

ADDRESS = re.compile(r"https?://[a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?(/[!-~]*)?")


def anchors(text):
    """The anchors that GitHub gives to the headings of a page."""
    found, seen = set(), collections.Counter()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def problem_of(page, link, anchors_of):
    """What is wrong with a link, if anything is."""
    if link.startswith(("http:", "https:")):
        return None if ADDRESS.fullmatch(link) else "is not an address"
    target, _, anchor = link.partition("#")
    target = (page.parent / urllib.parse.unquote(target)).resolve() if target else page
    if not target.exists():
        return "leads to no file"
    if anchor and urllib.parse.unquote(anchor) not in anchors_of(target):
        return "leads to no heading"
    return None


def check_source(root):
    docs = root / "docs"
    pages = [root / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    pages += sorted(docs.glob("*.md"))
    texts = {
        page: re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.M | re.S)
        for page in pages
    }
    count = 0
    for page, text in texts.items():
        for link in re.findall(r"\]\(([^)\s]*)\)", re.sub(r"`[^`\n]*`", "", text)):
            count += 1
            problem = problem_of(page, link, lambda target: anchors(texts.get(target, "")))
            if page.parent == docs and not problem and not link.startswith("http"):
                target = (docs / link.partition("#")[0]).resolve()
                problem = None if target.is_relative_to(docs) else "leads out of the book"
            if problem:
                yield f"{page.relative_to(root)}: {link} {problem}"
    chapters = set(re.findall(r"\(([^)]+\.md)\)", texts[docs / "SUMMARY.md"]))
    for missing in {page.name for page in docs.glob("*.md")} - chapters - {"SUMMARY.md"}:
        yield f"docs/SUMMARY.md: {missing} is missing"
    print(f"{count} links in {len(pages)} pages")


class Page(html.parser.HTMLParser):
    """The ids of a page, its links, and the files that a browser loads with it."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        links = self.links if tag == "a" else self.loaded
        links.extend(attributes[name] for name in ("href", "src") if attributes.get(name))


def check_book(book):
    pages = {path: Page(path) for path in sorted(book.glob("*.html"))}
    count = 0
    for path, page in pages.items():
        for link in page.links + page.loaded:
            count += 1
            problem = problem_of(
                path, link, lambda target: pages[target].ids if target in pages else set()
            )
            if link in page.loaded and urllib.parse.urlsplit(link).netloc:
                problem = "is loaded from the network"
            if problem:
                yield f"{path.name}: {link} {problem}"
    for style in book.rglob("*.css"):
        for link in re.findall(
            r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]*)", style.read_text()
        ):
            yield f"{style.name}: {link} is loaded from the network"
    print(f"{count} links in {len(pages)} pages of the book")


def main(root, book):
    problems = [*check_source(root), *check_book(book)]
    assert not problems, "\n".join(["", *problems])


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve())
