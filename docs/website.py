#!/usr/bin/env python
"""Builds the documentation as a site with search: ``make site`` writes build/site.

The pages are the repository's documents as they stand. Beside them are pages made from the code:
the HTTP API from its OpenAPI document, the messages from AsyncAPI and JSON Schemas, every public
class and function from its docstring (mkdocstrings), the notebooks, and files that documents link
to. ``zensical.toml`` has their order. A link that leads nowhere fails the build.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import httpx
import yaml
from prometheus_client import CollectorRegistry

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # of a script only its own folder is on the path

from api.app import Options, create_app  # noqa: E402
from docs import generate  # noqa: E402
from shared import bundle  # noqa: E402
from shared.forecaster import ModelSet, OnnxForecaster  # noqa: E402
from shared.metrics import ApiMetrics  # noqa: E402

CONFIG: Final = ROOT / "zensical.toml"
PAGES: Final = ROOT / "build" / "pages"
SITE: Final = ROOT / "build" / "site"

DOCS: Final = ROOT / "docs"
LANGUAGES: Final = {".py": "python", ".mjs": "javascript", ".java": "java", ".json": "json"}
"""Languages of files that a document links to, by the end of their names."""

_FENCE: Final = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r'(\]\(|(?:src|srcset|href)=")(?![a-z]+:|#)([^)"\s#]+)')


def write_pages(out: Path) -> None:
    """Write what the site is made from: all pages in Markdown, and what they show."""
    shutil.rmtree(out, ignore_errors=True)
    documents = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    linked: set[Path] = set()
    for path in documents:
        text = with_links(path.read_text(), path, linked)
        _write(out / place_of(path), text)
    for path in sorted(linked):
        _write(out / place_of(path), as_page(path))
    pictures = [*DOCS.rglob("*.png"), *DOCS.rglob("*.svg")]
    for path in [*pictures, *generate.SCHEMAS.iterdir(), DOCS / "site.css"]:
        _copy(path, out / path.relative_to(DOCS))
    _copy(generate.ASYNCAPI, out / generate.ASYNCAPI.name)
    for path in sorted((DOCS / "notebooks").glob("*.ipynb")):
        write_notebook(path, out / "notebooks")
    document = openapi()
    _write(out / "openapi.json", json.dumps(document, indent=1))
    _write(out / "http-api.md", http_page(document))
    _write(out / "messages.md", messages_page(yaml.safe_load(generate.ASYNCAPI.read_text())))


def place_of(path: Path) -> PurePosixPath:
    """Return where a file of the repository is among the site's pages."""
    if path == ROOT / "README.md":
        return PurePosixPath("index.md")
    if path == generate.SCHEMAS:
        return PurePosixPath("messages.md")
    if path.is_relative_to(DOCS) and path.suffix not in {".py", ".ipynb"}:
        return PurePosixPath(path.relative_to(DOCS).as_posix())
    if path.suffix == ".ipynb":
        return PurePosixPath(path.relative_to(DOCS).with_suffix(".md").as_posix())
    if path.parent == ROOT and path.suffix == ".md":
        return PurePosixPath(f"project/{path.name.lower()}")
    return PurePosixPath(f"files/{path.relative_to(ROOT).as_posix()}.md")


def with_links(text: str, page: Path, linked: set[Path]) -> str:
    """Return a document whose links lead to the site's places.

    Args:
        text: the document.
        page: its file, from which its links lead.
        linked: gets the files outside of the documents that it links to.
    """
    start = place_of(page).parent

    def lead(link: re.Match[str]) -> str:
        path = (page.parent / link[2]).resolve()
        place = place_of(path)
        if place.parts[0] == "files":
            linked.add(path)
        return link[1] + os.path.relpath(place, start)

    parts = _FENCE.split(text)
    parts[::2] = [_LINK.sub(lead, part) for part in parts[::2]]
    return "".join(parts)


def as_page(path: Path) -> str:
    """Return a file that a document links to as a page."""
    language = LANGUAGES.get(path.suffix, "text")
    return f"# {path.relative_to(ROOT).as_posix()}\n\n```{language}\n{path.read_text()}\n```\n"


def write_notebook(path: Path, out: Path) -> None:
    """Write a notebook as a page with its outputs, and its pictures beside it."""
    parts: list[str] = []
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(with_links(source, path, set()))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{number}.png"
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(base64.b64decode(data["image/png"]))
                parts.append(f"![what the cell above draws]({name})")
            else:
                text = "".join(data.get("text/plain", output.get("text", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    _write(out / f"{path.stem}.md", "\n\n".join(parts) + "\n")


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document as the API serves it, over the built-in model."""
    registry = CollectorRegistry()
    models = ModelSet(OnnxForecaster(bundle.load(bundle.default_path())))
    app = create_app(models, ApiMetrics(registry), registry, Options())

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/openapi.json")

    answer: dict[str, Any] = asyncio.run(ask()).raise_for_status().json()
    return answer


def http_page(document: Mapping[str, Any]) -> str:
    """Return an OpenAPI document as a page: its operations by tag, then its bodies."""
    more = (
        "[openapi.json](openapi.json) makes clients in any language; `/docs` of a running API has "
        "a page to try it."
    )
    parts = ["# HTTP API", document["info"]["description"], more]
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    for tag in document["tags"]:
        parts += [f"## {tag['name'].capitalize()}", tag["description"]]
        for method, path, operation in operations:
            if tag["name"] in operation["tags"]:
                parts += _operation(method, path, operation)
    parts.append("## Bodies")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += [f"### {name}", schema.get("description", ""), fields(schema)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {method} {path}"
    yield operation["description"]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield f"Body: {in_words(content['schema'])}."
    parameters = [
        (item["name"], item["in"], in_words(item["schema"]), item.get("description", ""))
        for item in operation.get("parameters", [])
    ]
    yield _table(("parameter", "in", "type", "meaning"), parameters)
    answers = [
        (status, ", ".join(map(_content, answer.get("content", {}).items())), answer["description"])
        for status, answer in operation["responses"].items()
    ]
    yield _table(("status", "content", "meaning"), answers)


def _content(content: tuple[str, Mapping[str, Any]]) -> str:
    media_type, described = content
    schema = described.get("schema")
    return f"`{media_type}` {in_words(schema)}" if schema else f"`{media_type}`"


def messages_page(document: Mapping[str, Any]) -> str:
    """Return an AsyncAPI document as a page: its topics, then its messages with an example."""
    more = (
        "[asyncapi.yaml](asyncapi.yaml) has the same for programs. [Reading the forecasts]"
        "(consumers.md) says what to rely on."
    )
    parts = [
        "# Messages",
        document["info"]["description"],
        more,
        "## Topics",
        _table(
            ("topic", "message", "meaning"),
            [
                (f"`{channel['address']}`", _anchored(message), channel["description"])
                for channel in document["channels"].values()
                for message in channel["messages"]
            ],
        ),
    ]
    for name, message in document["components"]["messages"].items():
        parts += [f"## {name}", message["summary"], "Headers:", fields(message["headers"])]
        if path := message["payload"].get("$ref"):
            schema = json.loads((DOCS / path).read_text())
            parts += [f"Value ([JSON Schema]({path[2:]})):", fields(schema)]
            for nested, part in schema.get("$defs", {}).items():
                parts += [f"### {nested}", part.get("description", ""), fields(part)]
            example = json.dumps(message["examples"][0]["payload"], indent=1)
            parts.append(f"```json\n{example}\n```")
    return "\n\n".join(filter(None, parts)) + "\n"


def fields(schema: Mapping[str, Any]) -> str:
    """Return the properties of a JSON Schema as a table; an empty text where it has none."""
    required = schema.get("required", ())
    rows = [
        (f"`{name}`" + ("" if name in required else " (optional)"), in_words(field),
         field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]  # fmt: skip
    return _table(("field", "type", "meaning"), rows)


def in_words(schema: Mapping[str, Any]) -> str:
    """Return the type of a JSON Schema in words; what is defined by name is linked."""
    if "$ref" in schema:
        return _anchored(schema["$ref"].rpartition("/")[2])
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum") or [schema["const"]])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(in_words(part) for part in schema[several])
    if schema.get("type") == "array":
        return f"list of {in_words(schema.get('items', {}))}"
    if isinstance(values := schema.get("additionalProperties"), dict):
        return f"object of {in_words(values)}"
    return str(schema.get("type", "anything"))


def _anchored(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [head, tuple("---" for _ in head), *rows]
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, to)


def main() -> int:
    """Build the site; return the exit code."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    write_pages(PAGES)
    zensical = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run([*zensical, "--config-file", str(CONFIG)], cwd=ROOT, check=False)  # noqa: S603
    if done.returncode == 0:
        print(f"open it with: python -m http.server --directory {SITE.relative_to(ROOT)}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
