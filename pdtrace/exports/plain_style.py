"""The style of pages without scripts."""

from __future__ import annotations

# Okabe–Ito hues; a sign stands beside each, so that colour says nothing alone.
STYLE = """
:root{--ink:#1f2429;--soft:#5c656e;--paper:#fff;--grid:#e4e7ea;--better:#007a5e;--worse:#b5447c;
--same:#0f5c99;--unsure:#84898f}
@media(prefers-color-scheme:dark){:root{--ink:#e3e7eb;--soft:#a3adb7;--paper:#171b1f;
--grid:#31383f;--better:#2fbf95;--worse:#e08ab8;--same:#56b4e9;--unsure:#9aa1a8}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;
max-width:76rem;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}.verdict{font-size:1.1rem;font-weight:600}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:right;padding:.25rem .6rem;border-bottom:1px solid var(--grid);
white-space:nowrap}
th{color:var(--soft);font-weight:500}.text{text-align:left;white-space:normal}
.note{color:var(--soft);font-size:.9rem;margin:.2rem 0}
.better{color:var(--better)}.worse{color:var(--worse)}.same{color:var(--same)}
.inconclusive,.unmeasured{color:var(--unsure)}
svg{display:block}svg .line{stroke:currentColor;stroke-width:2}svg .dot{fill:currentColor}
svg .zero{stroke:var(--soft);stroke-dasharray:3 3}
"""
