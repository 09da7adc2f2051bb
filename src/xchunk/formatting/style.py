"""The one style of all HTML: calm, dark and light, without any external asset.

Colours are variables. Text and background follow JupyterLab's and VS Code's own where they
are set; the accents follow the theme that the page states, and else the system's.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["CSS", "card", "document", "esc", "page", "pairs", "table"]

_LIGHT = """
  --xc-fg: var(--jp-content-font-color1, var(--vscode-editor-foreground, #1f2933));
  --xc-dim: var(--jp-content-font-color2, #5b6875);
  --xc-bg: var(--jp-layout-color0, var(--vscode-editor-background, #ffffff));
  --xc-soft: rgba(60, 90, 120, .07); --xc-track: rgba(60, 90, 120, .14);
  --xc-line: rgba(60, 90, 120, .22);
  --xc-chunk: #2f6f9f; --xc-shard: #8a5a9e; --xc-dask: #b5651d; --xc-lit: #2f6f9f;
  --xc-need: #b3261e; --xc-held: #9aa5b1; --xc-warn: #9c4221;"""

_DARK = """
  --xc-fg: var(--jp-content-font-color1, var(--vscode-editor-foreground, #dde4ea));
  --xc-dim: var(--jp-content-font-color2, #98a6b3);
  --xc-bg: var(--jp-layout-color0, var(--vscode-editor-background, #161b20));
  --xc-soft: rgba(150, 180, 210, .09); --xc-track: rgba(150, 180, 210, .18);
  --xc-line: rgba(150, 180, 210, .24);
  --xc-chunk: #79b4dd; --xc-shard: #c79bd9; --xc-dask: #e5a567; --xc-lit: #79b4dd;
  --xc-need: #ff8a80; --xc-held: #66727e; --xc-warn: #f0a57a;"""

_THEMES = f"""
.xchunk {{{_LIGHT}
}}
@media (prefers-color-scheme: dark) {{ .xchunk {{{_DARK}
}} }}
[data-jp-theme-light="true"] .xchunk, .vscode-light .xchunk,
html[data-theme="light"] .xchunk {{{_LIGHT}
}}
[data-jp-theme-light="false"] .xchunk, .vscode-dark .xchunk,
html[data-theme="dark"] .xchunk {{{_DARK}
}}"""

_RULES = """
.xchunk { color: var(--xc-fg); font: 13px/1.5 var(--jp-content-font-family, system-ui, sans-serif);
  container-type: inline-size; max-width: 1200px; overflow-wrap: anywhere;
  background: var(--xc-bg); padding: 4px 8px; border-radius: 4px; }
.xchunk * { box-sizing: border-box; }
.xchunk .xc-head { display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline;
  padding-bottom: 4px; border-bottom: 1px solid var(--xc-line); margin-bottom: 6px; }
.xchunk .xc-head b { font-weight: 600; }
.xchunk .xc-dim, .xchunk .xc-head span { color: var(--xc-dim); }
.xchunk .xc-num, .xchunk code { font-family: var(--jp-code-font-family, ui-monospace, monospace);
  font-size: 12px; }
.xchunk.xchunk.xchunk code { background: none; color: inherit; padding: 0; border: 0;
  font-size: 12px; overflow-wrap: anywhere; white-space: pre-wrap; }
.xchunk table.xc { border-collapse: collapse; width: 100%; margin: 2px 0 8px; table-layout: auto;
  font-size: 12px; border: 0; }
.xchunk table.xc th, .xchunk table.xc td { text-align: left; vertical-align: top;
  padding: 4px 12px 4px 0; border: 0; border-bottom: 1px solid var(--xc-line);
  background: none; color: inherit;
  font-weight: 400; white-space: normal; max-width: none; overflow-wrap: normal; }
.xchunk table.xc tbody th { overflow-wrap: anywhere; min-width: 9em; max-width: 17em; }
.xchunk table.xc td.xc-short { white-space: nowrap; }
.xchunk table.xc td.xc-note { color: var(--xc-dim); }
.xchunk table.xc td.xc-note.xc-warn { color: var(--xc-warn); }
.xchunk table.xc thead th { color: var(--xc-dim); font-size: 11px; padding-bottom: 2px; }
.xchunk table.xc tbody th { font-weight: 600; }
.xchunk table.xc tbody tr { background: none; }
.xchunk table.xc tr.xc-more td, .xchunk table.xc tr.xc-open > * { border-bottom: 0; }
.xchunk table.xc tr.xc-more td { border-bottom: 1px solid var(--xc-line); padding-top: 0; }
.xchunk.xchunk p { margin: 4px 0; max-width: 90ch; }
.xchunk dl.xc { display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 4px 0; }
.xchunk dl.xc div { display: flex; gap: 6px; align-items: baseline; }
.xchunk dl.xc dt { color: var(--xc-dim); font-weight: 400; margin: 0; padding: 0;
  float: none; width: auto; white-space: nowrap; }
.xchunk dl.xc dd { margin: 0; padding: 0; float: none; width: auto; min-width: 0; }
.xchunk ul.xc { margin: 4px 0; padding: 0 0 0 18px; }
.xchunk .xc-card { border: 1px solid var(--xc-line); border-radius: 4px; padding: 8px 12px;
  margin: 8px 0; }
.xchunk .xc-card > .xc-name { display: flex; flex-wrap: wrap; gap: 2px 12px;
  align-items: baseline; }
.xchunk .xc-card > .xc-name b { font-weight: 600; }
.xchunk .xc-tag { background: var(--xc-soft); border-radius: 3px; padding: 0 6px; font-size: 12px; }
.xchunk .xc-tag.xc-warn { color: var(--xc-warn); }
.xchunk .xc-memory { max-width: 460px; margin: 6px 0; }
.xchunk .xc-bar { position: relative; height: 12px; background: var(--xc-track);
  border-radius: 2px; margin: 2px 0; overflow: hidden; }
.xchunk .xc-scale { position: relative; height: 30px; color: var(--xc-dim);
  font-size: 11px; line-height: 14px; }
.xchunk .xc-scale span { position: absolute; transform: translateX(-50%); text-align: center;
  white-space: nowrap; }
.xchunk .xc-scale span:last-child { transform: none; left: auto !important; right: 0;
  text-align: right; }
.xchunk .xc-bar i { position: absolute; top: 0; bottom: 0; }
.xchunk .xc-bar i.h { background: var(--xc-held); }
.xchunk .xc-bar i.h { left: 0; }
.xchunk .xc-bar i.g { background: var(--xc-chunk); }
.xchunk .xc-bar i.w { background: var(--xc-warn); }
.xchunk .xc-bar i.m { width: 1px; background: var(--xc-fg); opacity: .65; }
.xchunk .xc-flex { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: flex-start; }
.xchunk .xc-flex > div { flex: 1 1 300px; min-width: 0; }
.xchunk.xchunk figure { text-align: left; margin: 6px 0; padding: 0;
  flex: 0 1 auto; max-width: min(300px, 100%); }
.xchunk figure > b { display: block; font-weight: 600; font-size: 12px; margin-bottom: 4px; }
.xchunk figure svg { display: block; max-width: 100%; height: auto; overflow: visible; }
.xchunk.xchunk.xchunk figcaption { color: var(--xc-dim); font: inherit; font-size: 12px;
  line-height: 1.4; margin: 4px 0 0; padding: 0; text-align: left; opacity: 1; }
.xchunk figcaption i, .xchunk .xc-key i { display: inline-block; width: 9px; height: 9px;
  margin: 0 4px 0 0; border: 1.5px solid; }
.xchunk figcaption span { margin-right: 10px; white-space: nowrap; }
.xchunk .xc-key { color: var(--xc-dim); font-size: 12px; }
.xchunk .xc-plan { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 12px;
  margin: 4px 0; }
.xchunk .xc-arrow { flex: 0 1 180px; min-width: 120px; font-size: 12px; line-height: 1.4;
  text-align: center; }
.xchunk .xc-shaft { position: relative; height: 1px; margin: 5px 0;
  background: var(--xc-dim); }
.xchunk .xc-shaft::after { content: ""; position: absolute; right: 0; top: -4px;
  border-left: 8px solid var(--xc-dim); border-top: 4.5px solid transparent;
  border-bottom: 4.5px solid transparent; }
.xchunk summary { cursor: pointer; color: var(--xc-dim); }
.xchunk .xc-run > div { display: grid; align-items: center; gap: 0 12px; padding: 2px 0;
  grid-template-columns: 200px minmax(80px, 1fr) 250px 72px; }
.xchunk .xc-run span:last-child { text-align: right; white-space: nowrap; }
@container (max-width: 640px) {
  .xchunk .xc-run > div { grid-template-columns: 1fr max-content; padding: 4px 0; }
  .xchunk .xc-run .xc-bar { grid-column: 1 / 3; grid-row: 2; }
  .xchunk .xc-run span:last-child { grid-column: 2; grid-row: 1; }
  .xchunk table.xc thead { display: none; }
  .xchunk table.xc, .xchunk table.xc tbody { display: block; }
  .xchunk table.xc tr { display: flex; flex-wrap: wrap; gap: 0 14px; padding: 5px 0;
    border-bottom: 1px solid var(--xc-line); }
  .xchunk table.xc tr.xc-open { border-bottom: 0; padding-bottom: 0; }
  .xchunk table.xc th, .xchunk table.xc td, .xchunk table.xc tr.xc-more td { border: 0;
    padding: 0;
    overflow-wrap: anywhere; }
  .xchunk table.xc tbody th { flex: 1 0 100%; }
  .xchunk table.xc td[data-l]::before { content: attr(data-l) " "; color: var(--xc-dim); }
  .xchunk table.xc td:empty { display: none; }
  .xchunk .xc-plan { flex-direction: column; align-items: flex-start; gap: 4px; }
  .xchunk .xc-arrow { flex: none; min-width: 0; text-align: left; display: grid;
    grid-template-columns: 28px 1fr; }
  .xchunk .xc-arrow > div { grid-column: 2; }
  .xchunk .xc-arrow > .xc-shaft { grid-column: 1; grid-row: 1 / span 3; width: 1px; height: auto;
    margin: 2px 0 2px 10px; }
  .xchunk .xc-shaft::after { right: auto; left: -4px; top: auto; bottom: 0;
    border: 0 solid transparent; border-width: 8px 4.5px 0; border-top-color: var(--xc-dim); }
}"""

#: Characters of a value in a table up to which it stays on one line.
_SHORT = 10

#: The style sheet of one report; every rule is held within ``.xchunk``.
CSS = _THEMES + _RULES


def esc(value: object) -> str:
    """Escape any text for HTML, attributes included."""
    return escape(str(value), quote=True)


def card(title: str, facts: Iterable[str], body: str, *, style: bool = True) -> str:
    """Wrap a report: its title, its few facts (plain text) and its body (HTML)."""
    said = "".join(f"<span>{esc(f)}</span>" for f in facts if f)
    sheet = f"<style>{CSS}</style>" if style else ""
    head = f'<div class="xc-head"><b>{esc(title)}</b>{said}</div>'
    return f'<div class="xchunk">{sheet}{head}{body}</div>'


def pairs(facts: Iterable[tuple[str, str]]) -> str:
    """Show facts by name, as many on a line as fit."""
    shown = "".join(
        f'<div><dt>{esc(k)}</dt><dd class="xc-num">{esc(v)}</dd></div>' for k, v in facts
    )
    return f'<dl class="xc">{shown}</dl>'


def table(
    head: Iterable[str], rows: Iterable[tuple[list[str], str]], *, warns: bool = False
) -> str:
    """Show rows of plain text; a row's second part is a note (plain text) that goes below it.

    In a narrow container each row becomes a paragraph of labelled values. Notes may be warnings.
    """
    names = [esc(h) for h in head]
    top = "".join(f"<th>{h}</th>" for h in names)
    out = [f'<table class="xc"><thead><tr>{top}</tr></thead><tbody>']
    for (first, *rest), note in rows:
        cells = "".join(
            f'<td class="{_kind(value)}" data-l="{label}">{esc(value)}</td>'
            if value
            else "<td></td>"
            for label, value in zip(names[1:], rest, strict=True)
        )
        opened = ' class="xc-open"' if note else ""
        out.append(f"<tr{opened}><th>{esc(first)}</th>{cells}</tr>")
        if note:
            kind = "xc-note xc-warn" if warns else "xc-note"
            out.append(
                f'<tr class="xc-more"><td colspan="{len(names)}" class="{kind}">'
                f"{esc(note)}</td></tr>"
            )
    return "".join(out) + "</tbody></table>"


def _kind(value: str) -> str:
    """Short values are not broken: a number stays with its unit."""
    return "xc-num xc-short" if len(value) <= _SHORT else "xc-num"


def page(title: str, body: str) -> str:
    """Make a whole page, to be saved as a file, of reports that carry no style of their own."""
    return _whole(title, f"<h1>{esc(title)}</h1>{body}")


def _whole(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{esc(title)}</title><style>{CSS}{_PAGE}</style></head>"
        f'<body class="xchunk-page"><main class="xchunk">{body}</main>'
        "</body></html>"
    )


def document(title: str, report: str) -> str:
    """Make a whole page of one report that carries no style of its own."""
    return _whole(title, report)


_PAGE = """
body.xchunk-page { margin: 0; background: #ffffff; }
@media (prefers-color-scheme: dark) { body.xchunk-page { background: #161b20; } }
main.xchunk { max-width: 960px; margin: 0 auto; padding: 24px 16px 64px; font-size: 14px; }
main.xchunk h1 { font-size: 22px; font-weight: 600; margin: 8px 0 12px; }
main.xchunk h2 { font-size: 16px; font-weight: 600; margin: 28px 0 6px; }
main.xchunk .xchunk { margin: 10px 0; padding: 0; font-size: 14px; }
main.xchunk > .xchunk:only-child > .xc-head > b { font-size: 18px; }
main.xchunk.xchunk p { font-size: 14px; }"""
