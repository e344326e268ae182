"""The page around a report: one file that loads nothing, in light and dark, from a phone's width on."""

from __future__ import annotations

from typing import Any

from keras_notes.report._html import joined, text

__all__ = ["page"]


def page(title: str, *body: Any) -> str:
    """A whole page that needs nothing but itself: it may load no script, font or image from anywhere."""
    return _PAGE.format(title=text(title), style=_STYLE, body=joined(body, "\n"))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

# Okabe and Ito's hues (https://jfly.uni-koeln.de/color/), darkened on white and lightened on black until text in them
# has a contrast of 4.5 and more on both backgrounds.
_STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f3f5f8; --text: #1b1f24; --muted: #55606c; --line: #d3d9e0;
  --blue: #0062a3; --vermilion: #b3400a; --green: #17704a; --purple: #8a4581; --orange: #875a00; --grey: #626c77;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --panel: #1d2228; --text: #e6e9ed; --muted: #a3acb7; --line: #39424c;
    --blue: #5fadea; --vermilion: #f28b50; --green: #53c08b; --purple: #d596ca; --orange: #e2b23e; --grey: #97a1ac;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 0 0 .6rem; font-size: 1.25rem; }
h3 { margin: 1.6rem 0 .4rem; font-size: 1rem; }
p { margin: .6rem 0; max-width: 46rem; }
a { color: var(--blue); }
code { font: .92em ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; }
header { display: flex; flex-wrap: wrap; gap: .4rem 1rem; align-items: center; }
header p { flex-basis: 100%; max-width: none; margin: 0; color: var(--muted); }
section { margin-top: 2.2rem; padding-top: 1.4rem; border-top: 1px solid var(--line); }
.verdict { padding: .1rem .75rem; border-radius: 1rem; font-weight: 700; color: var(--page); background: var(--green); }
.verdict.not { background: var(--vermilion); }
.failures {
  margin: 1.2rem 0 0; padding: .7rem 1rem; background: var(--panel); border-left: 4px solid var(--vermilion);
}
.failures p { margin: 0; font-weight: 600; }
.failures ul { margin: .3rem 0 0; padding-left: 1.2rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: 1.2rem 0 0; padding: 0; list-style: none; }
nav a { display: inline-block; padding: .15rem 0; }
dl { margin: 0; }
dl > div { display: grid; grid-template-columns: 10rem 1fr; gap: 0 1rem; padding: .3rem 0; }
dt { color: var(--muted); }
dd { margin: 0; white-space: pre-line; }
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin-top: 1.4rem;
}
.figures > div { display: block; padding: .7rem .9rem; background: var(--panel); border-radius: .5rem; }
.figures dt { font-size: .85rem; }
.figures dd { font-size: 1.35rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }
.figures small { display: block; font-size: .8rem; font-weight: 400; color: var(--muted); }
.scroll { margin: 1rem 0; overflow-x: auto; }
table { min-width: min(100%, 28rem); border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .35rem; text-align: left; color: var(--muted); }
th, td {
  padding: .34rem 1.4rem .34rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: normal;
}
th:last-child, td:last-child { padding-right: 0; }
thead th { vertical-align: bottom; font-size: .85rem; font-weight: 600; color: var(--muted); border-bottom-width: 2px; }
tbody th { min-width: 9rem; font-weight: 500; overflow-wrap: anywhere; }
td { white-space: nowrap; }
.number { text-align: right; }
.pass { font-weight: 600; color: var(--green); }
.fail { font-weight: 600; color: var(--vermilion); }
.swatch { display: inline-block; width: .75rem; height: .75rem; margin-right: .45rem; border-radius: .15rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--blue); }
figure { margin: 1rem 0; }
figcaption { margin-top: .3rem; font-size: .9rem; color: var(--muted); }
svg { display: block; width: 100%; }
svg.errors { width: calc(100% - 34px); margin-left: 34px; overflow: visible; }
svg text { fill: var(--muted); font-size: 12px; }
svg .mark { fill: var(--vermilion); font-weight: 600; }
svg line { stroke: var(--line); }
.blue { fill: var(--blue); background: var(--blue); }
.vermilion { fill: var(--vermilion); background: var(--vermilion); }
.green { fill: var(--green); background: var(--green); }
.purple { fill: var(--purple); background: var(--purple); }
.orange { fill: var(--orange); background: var(--orange); }
.grey { fill: var(--grey); background: var(--grey); }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
footer {
  margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid var(--line); font-size: .85rem; color: var(--muted);
}
@media (max-width: 36rem) {
  body { padding-top: 1rem; }
  h1 { font-size: 1.5rem; }
  dl > div { grid-template-columns: 1fr; }
}
@media print { body { max-width: none; } .scroll { overflow: visible; } }
"""
