"""The documentation says what there is: public names, links, commands and options."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import xchunk
from xchunk.cli.main import xchunk as cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    p for p in DOCS.rglob("*") if p.suffix in (".md", ".ipynb") and "_build" not in p.parts
)
TOPS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
REFERENCE = "\n".join(p.read_text() for p in sorted((DOCS / "reference").glob("*.md")))

_FENCE = re.compile(r"^(`{3,})([^\n]*)\n(.*?)^\1 *$", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_ROLE = re.compile(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_SCRIPT = re.compile(
    r"(?:benchmarks|tests|docs)/[\w./-]*\.(?:py|sh)|(?:benchmarks|tests)(?:/\w+)+(?![\w.])"
)
_ELSEWHERE = ("http:", "https:", "mailto:")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    """A page as Markdown, a notebook too."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    parts = (("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells)
    return "\n\n".join(f"```{{code-cell}}\n{t}\n```" if code else t for t, code in parts)


def prose(text: str) -> str:
    """A page without its code."""
    return _FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    heads = re.findall(r"^#{1,6} +(.+?) *$", prose(text_of(page)), re.M)
    made = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
    return made | {re.sub(r"-+", "-", name) for name in made}


def modules_in_reference() -> list[str]:
    """What the reference is made of: the full names in its autodoc directives."""
    return re.findall(r"\.\. auto(?:class|function|module|exception):: (\S+)", REFERENCE)


def documented() -> Iterator[object]:
    """The objects that the reference's directives name."""
    for name in modules_in_reference():
        full = name if name.startswith("xchunk.") else f"xchunk.{name}"
        try:
            yield importlib.import_module(full)
        except ImportError:
            parent, _, last = full.rpartition(".")
            yield getattr(importlib.import_module(parent), last)


DOCUMENTED = list(documented())


@pytest.mark.parametrize("name", sorted(set(xchunk.__all__) - {"__version__"}))
def test_a_public_name_is_in_the_reference(name: str) -> None:
    found = getattr(xchunk, name)
    if inspect.isclass(found) and found.__module__ == "xchunk.errors":
        assert xchunk.errors in DOCUMENTED
        assert name in REFERENCE, f"docs/reference/errors.md has no {name}"
    else:
        assert any(found is there for there in DOCUMENTED), f"docs/reference has no {name}"


def test_every_method_of_the_accessor_is_in_the_reference() -> None:
    (members,) = re.findall(
        r"autoclass:: xchunk\.accessor\.ChunkingAccessor\n +:members: ([^\n]+)", REFERENCE
    )
    methods = {n for n in dir(xchunk.DatasetChunking) if not n.startswith("_")}
    assert {m.strip() for m in members.split(",")} == methods


def returned(function: object) -> Iterator[str]:
    """Names of classes in a function's return annotation."""
    said = str(getattr(function, "__annotations__", {}).get("return", ""))
    yield from re.findall(r"[A-Z]\w+", said)


@pytest.mark.parametrize("name", sorted(n for n in dir(xchunk.DatasetChunking) if n[0] != "_"))
def test_what_a_method_returns_is_in_the_reference(name: str) -> None:
    there = {getattr(o, "__name__", "") for o in DOCUMENTED}
    for kind in returned(getattr(xchunk.DatasetChunking, name)):
        assert kind in there | {"T"}, f"docs/reference has no {kind}"


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_a_command_is_in_the_reference(command: str) -> None:
    assert f"`xchunk {command}" in (DOCS / "reference" / "cli.md").read_text()


def test_every_exit_code_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| `(\w+)`", page, re.M))
    codes = {
        str(error.exit_code): name
        for name, error in vars(xchunk.errors).items()
        if inspect.isclass(error) and issubclass(error, xchunk.XchunkError)
    }
    assert rows == codes


@pytest.mark.parametrize("page", [*PAGES, *TOPS], ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = prose(text_of(page))
    lost = []
    for link in _LINK.findall(text):
        path, _, anchor = link.partition("#")
        if link.startswith(_ELSEWHERE):
            continue
        target = page.parent / path if path else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            lost.append(link)
    for role in _ROLE.findall(text):
        start = DOCS if role.startswith("/") else page.parent
        if start / role.lstrip("/") not in {page.with_suffix("") for page in PAGES}:
            lost.append(role)
    assert lost == []


@pytest.mark.parametrize("page", [*PAGES, *TOPS], ids=named)
def test_files_that_are_named_exist(page: Path) -> None:
    """Scripts and tests in commands and in inline code: they move, and pages stay behind."""
    text = text_of(page)
    said = [*_INLINE.findall(prose(text)), *(code for _, _, code in _FENCE.findall(text))]
    found = {path.rstrip("./") for code in said for path in _SCRIPT.findall(code)}
    assert sorted(p for p in found if not (ROOT / p).exists()) == []


def test_tests_that_are_named_exist() -> None:
    """The page of cases names the test that holds each of them."""
    there = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        there |= {file.stem, *re.findall(r"^(?:    )?def (test_\w+)", file.read_text(), re.M)}
    named_there = re.findall(r"\b(test_\w+)", (DOCS / "explanation" / "cases.md").read_text())
    assert sorted(set(named_there) - there) == []


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {DOCS / "index"}
    for page in PAGES:
        for _, info, body in _FENCE.findall(text_of(page)):
            if info.startswith("{toctree}"):
                lines = [line.strip() for line in body.splitlines() if line.strip()]
                names = [re.sub(r".*<(.+)>$", r"\1", line) for line in lines]
                listed |= {page.parent / n for n in names if not n.startswith(":")}
    assert {page.with_suffix("") for page in PAGES} == listed


# --- commands --------------------------------------------------------------------------------


def commands_of(page: Path) -> list[str]:
    """The xchunk commands of a page's shell blocks and cells, continued lines joined."""
    out = []
    for _, info, body in _FENCE.findall(text_of(page)):
        shell = info.strip() in {"bash", "yaml"} or info.startswith("{code-cell}")
        lines = re.sub(r"\\\n\s*", " ", body).splitlines() if shell else []
        for line in lines:
            said = re.match(r"\s*(?:[!$] ?|- run: |srun )?(xchunk .*)", line)
            if said:
                out.append(said[1])
    return out


def parsed(command: str) -> click.Context:
    """Parse a command as the command line does, without running it."""
    words = shlex.split(command.split(" | ", maxsplit=1)[0], comments=True, posix=True)[1:]
    ends = [i for i, word in enumerate(words) if word[0] in "|&>" or word.endswith(";")]
    words = [word.rstrip(";") for word in words[: ends[0] + 1]] if ends else words
    words = words[:-1] if words[-1][:1] in set("|&>") else words
    name, *rest = words
    return cli.commands[name].make_context(name, rest)


COMMANDS = sorted({(named(p), c) for p in [*PAGES, *TOPS] for c in commands_of(p)})


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p}: {c}" for p, c in COMMANDS])
def test_commands_can_be_typed(page: str, command: str) -> None:
    try:
        parsed(command)
    except click.UsageError as error:
        pytest.fail(f"{page}: {command}\n{error.format_message()}")


def test_the_readme_has_what_it_should() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"^<!-- (demo|tests) -->\n```bash\npython [^\n]+\n```$", text, re.M)) == 2
    assert len(re.findall(r"^\*\*[^*]+\.?\*\*", text[text.index("## Use it") :], re.M)) == 5
    assert any(link.endswith(".svg") for link in _LINK.findall(text))


def test_python_on_pages_is_python() -> None:
    """Blocks that are shown and not run; cells are run by the build."""
    for page in [*PAGES, *TOPS]:
        for _, info, body in _FENCE.findall(text_of(page)):
            if info.strip() == "python":
                compile(body, named(page), "exec")


@pytest.mark.subprocess
@pytest.mark.slow
def test_the_recipes_of_the_readme_work(tmp_path: Path) -> None:
    """As somebody would try them: the demo's data, then each recipe as it is written."""
    text = (ROOT / "README.md").read_text()
    env = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath])}
    text = text[text.index("## Use it") : text.index("## Read on")]
    python = "\n".join(body for _, info, body in _FENCE.findall(text) if info == "python")
    shell = "\n".join(body for _, info, body in _FENCE.findall(text) if info == "bash")

    def run(*command: str) -> str:
        done = subprocess.run(
            command, check=False, cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    run("xchunk", "demo", "--keep", "demo", "--quiet")
    run(sys.executable, "-c", python)
    assert "identical to the source bit by bit" in run("bash", "-ec", shell)
