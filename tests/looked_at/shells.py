"""What surrounds a report where it is read: a page of its own, JupyterLab, VS Code.

They set what those set that matters to us: the class or attribute that tells the theme, the
variables of its colours, and rules for the elements that reports are made of. The system's own
preference may be another one.
"""

from __future__ import annotations

__all__ = ["in_jupyterlab", "in_vscode"]

_TABLES = """
.out p { margin: 0 0 1em; } .out code { background: var(--code); padding: 1px 5px; }
.out table { table-layout: fixed; margin: 0 auto 1em; font-size: 13px; }
.out.out td, .out.out th, .out.out tr { text-align: right; vertical-align: middle;
  padding: .5em; white-space: normal; max-width: none; }
.out tbody tr:nth-child(even) { background: var(--code); }
.out svg { max-width: 100%; height: auto; } .out ul { padding-left: 2em; margin-bottom: 1em; }
"""


def in_jupyterlab(report: str, *, dark: bool) -> str:
    """Show a report as the output of a cell in JupyterLab."""
    fg, dim, bg, code = (
        ("rgba(255,255,255,1)", "rgba(255,255,255,.7)", "#111111", "#424242")
        if dark
        else ("rgba(0,0,0,.87)", "rgba(0,0,0,.6)", "#ffffff", "#eeeeee")
    )
    colours = (
        f"--jp-content-font-color1:{fg};--jp-content-font-color2:{dim};--jp-layout-color0:{bg};"
        f"--code:{code};--jp-content-font-family:system-ui,sans-serif;"
        "--jp-code-font-family:monospace"
    )
    return (
        '<!doctype html><html><head><meta charset="utf-8"><title>x</title>'
        f"<style>body{{{colours};margin:0;background:{bg};color:{fg}}}{_TABLES}</style></head>"
        f'<body data-jp-theme-light="{"false" if dark else "true"}"><div class="out '
        f'jp-RenderedHTMLCommon" style="padding:8px 8px 8px 70px">{report}</div></body></html>'
    )


def in_vscode(report: str, *, dark: bool) -> str:
    """Show a report as the output of a cell in VS Code."""
    fg, bg = ("#cccccc", "#1f1f1f") if dark else ("#3b3b3b", "#ffffff")
    return (
        '<!doctype html><html><head><meta charset="utf-8"><title>x</title><style>'
        f"html{{--vscode-editor-foreground:{fg};--vscode-editor-background:{bg}}}"
        f"body{{margin:0;padding:0 8px;background:{bg};color:{fg};font:13px sans-serif}}"
        "table{border-collapse:collapse}th,td{padding:5px 10px;border:1px solid}</style></head>"
        f'<body class="{"vscode-dark" if dark else "vscode-light"}">{report}</body></html>'
    )
