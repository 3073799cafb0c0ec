"""Documents: links and paths lead somewhere, and no command hides from the test that runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import documents
from tests.documents import ROOT, Block, MarkerError

PAGES = documents.pages()
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

COMMAND = re.compile(r"^(?:\$ )?(?:make|python|pip|curl|docker|git|\.venv/bin/\w+) ", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in documents.links(page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} is not a file"
        if anchor and file.suffix == ".md":
            assert anchor in documents.anchors(file.read_text()), f"{target} is not a heading"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_that_is_named_exists(page: Path) -> None:
    is_past = page.parent.name == "decisions" or page.name == "CHANGELOG.md"
    if is_past:  # may name what is no longer there
        return
    missing = [path for path in documents.paths(page.read_text()) if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_is_in_a_block_that_runs(page: Path) -> None:
    for block in documents.blocks(page):
        is_command = block.language == "" and COMMAND.search(block.text)
        assert not is_command, f"{block}: a block of commands is ```console"
        assert block.code()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    for block in documents.blocks(page):
        if block.reason:
            assert block.language in documents.RUN, f"{block}: would not run anyway"
            assert len(block.reason.split()) > 1, f"{block}: {block.reason!r} is not a reason"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


TEXT = """# A page, of "things"

<!-- not run: needs Yahoo -->
```console
make x
```

<!-- own -->
<!-- run: until "ready"; with "50" => "2" -->
```python
f(50)
```
```
make y
```
[one](a.md#b) [two](https://example.org) <img src="c.png">, `docs/generate.py` and `a/b`
"""


def test_blocks_have_their_markers() -> None:
    first, second, third = documents.parse(TEXT, "a.md")
    assert first == Block("a.md", 4, "console", "make x\n", reason="needs Yahoo")
    assert (second.until, second.code()) == ("ready", "f(2)\n")
    assert third == Block("a.md", 13, "", "make y\n")
    assert str(second) == "a.md:10"


@pytest.mark.parametrize("marker", ["until ready", "sometimes", 'with "a"'])
def test_an_unknown_marker_is_named(marker: str) -> None:
    with pytest.raises(MarkerError, match=r"a\.md:2: .* is not until, with or as"):
        list(documents.parse(f"<!-- run: {marker} -->\n```console\nmake x\n```\n", "a.md"))


def test_a_replaced_text_must_be_in_the_block() -> None:
    (block,) = documents.parse('<!-- run: with "b" => "c" -->\n```console\na\n```\n', "a.md")
    with pytest.raises(MarkerError, match="'b' is not in the block"):
        block.code()


def test_links_anchors_and_paths_are_found() -> None:
    assert documents.links(TEXT) == ["a.md#b", "c.png"]
    assert documents.anchors(TEXT) == {"a-page-of-things"}
    assert documents.paths(TEXT) == ["docs/generate.py"]
