"""The style sheet of the page. No `<` or `&`: it stands inside XML."""

STYLE = """
:root {
  --back: #f6f6f3; --card: #ffffff; --text: #1d1e20; --soft: #5d6066; --line: #dedfdb;
  --accent: 11 99 160; --wrong: 194 74 8; --right: 20 122 73;
  --cell-right: 92 163 222; --cell-wrong: 240 134 66;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #131417; --card: #1c1e22; --text: #e9e9e6; --soft: #a3a6ad; --line: #33363c;
    --accent: 98 178 240; --wrong: 246 146 84; --right: 92 200 140;
    --cell-right: 20 100 165; --cell-wrong: 168 64 8;
  }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: clamp(1rem, 3vw, 2.5rem); max-width: 80rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { margin: 0; font-size: clamp(1.5rem, 1.2rem + 1.6vw, 2.25rem); line-height: 1.15; letter-spacing: -.02em;
  overflow-wrap: anywhere; text-wrap: balance; }
h2 { margin: 0 0 1rem; font-size: 1.2rem; letter-spacing: -.01em; }
h3 { margin: 1.5rem 0 .6rem; font-size: 1rem; }
small { font-weight: 400; font-size: .8125rem; color: var(--soft); }
.summary { margin: .4rem 0 0; color: var(--soft); overflow-wrap: anywhere; }
.summary b { color: var(--text); font-weight: 600; }
.note, .lead { color: var(--soft); font-size: .875rem; max-width: 46rem; }
.lead { margin: 0; }
.note:last-child { margin-bottom: 0; }
.warn { color: rgb(var(--wrong)); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
a { color: rgb(var(--accent)); }
:focus-visible { outline: 2px solid rgb(var(--accent)); outline-offset: 2px; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 10.5rem), 1fr)); gap: .75rem;
  margin: 1.5rem 0 1rem; }
.tiles div { padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: .75rem; }
.tiles dt { color: var(--soft); font-size: .8125rem; overflow-wrap: anywhere; }
.tiles dd { margin: 0; font-size: 1.6rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.3; }
.tiles small { display: block; letter-spacing: 0; line-height: 1.4; overflow-wrap: anywhere; }
.tiles div:first-child { border-color: rgb(var(--accent)); box-shadow: inset 0 0 0 1px rgb(var(--accent)); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .875rem; }
section { margin-top: 1.25rem; padding: clamp(1rem, 2.5vw, 1.75rem); background: var(--card);
  border: 1px solid var(--line); border-radius: 1rem; scroll-margin-top: 1rem; }
footer { margin: 1.5rem 0 0; color: var(--soft); font-size: .8125rem; }

table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem .35rem 0; text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; }
caption { padding-bottom: .5rem; color: var(--soft); text-align: left; font-size: .8125rem; }
.n { text-align: right; white-space: nowrap; }
.path { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .8125rem;
  overflow-wrap: anywhere; }
.scroll { overflow-x: auto; max-width: 100%; }
.numbers td, .numbers th { white-space: nowrap; padding-right: 1.25rem; }

.numbers .bar { width: 9rem; }
.numbers + .note { margin-top: .75rem; }

.splits { width: 100%; }
.splits td, .splits th { padding: .6rem 1rem .6rem 0; }
.splits tr > :last-child { padding-right: 0; }
.splits tbody tr + tr > * { border-top: 1px solid var(--line); }
.splits th small { display: block; white-space: nowrap; }
.splits tbody th { overflow-wrap: anywhere; }
.splits td small { white-space: nowrap; }
.splits .wide { width: 65%; }
.bar { position: relative; display: block; height: .6rem; margin-top: .35rem; border-radius: .3rem;
  background: var(--line); overflow: hidden; }
.bar i, .bar b { position: absolute; inset: 0 auto 0 0; width: var(--low); background: rgb(var(--accent)); }
.bar b { left: var(--low); width: calc(var(--high) - var(--low)); opacity: .4; }
.bar::after { content: ""; position: absolute; inset: 0 auto 0 calc(var(--p) - 1px); width: 2px;
  background: var(--text); }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.5rem; }
.chart { margin: 0; }
.chart figcaption { font-weight: 600; font-size: .9375rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; min-height: 1.25rem; margin: 0; padding: 0; list-style: none;
  font-weight: 400; font-size: .8125rem; color: var(--soft); }
.legend b { color: var(--text); font-weight: 600; }
.legend i { display: inline-block; width: 1.1rem; margin-right: .35rem; vertical-align: .25em;
  border-top: 2.5px solid rgb(var(--accent)); }
.legend .train i, .legend .line2 i { border-top-color: rgb(var(--wrong)); border-top-style: dashed; }
.legend .line3 i { border-top-color: rgb(var(--right)); border-top-style: dotted; }
.legend .line4 i { border-top-color: var(--soft); }
.chart svg { display: block; width: 100%; height: auto; margin-top: .35rem; overflow: visible; }
.chart text { font-size: 11.5px; fill: var(--soft); }
.chart path { fill: none; stroke: rgb(var(--accent)); stroke-width: 2.25; stroke-linejoin: round;
  stroke-linecap: round; }
.chart circle { fill: rgb(var(--accent)); }
.chart .train path, .chart .line2 path { stroke: rgb(var(--wrong)); stroke-dasharray: 5 4.5; stroke-width: 2; }
.chart .train circle, .chart .line2 circle { fill: rgb(var(--wrong)); }
.chart .line3 path { stroke: rgb(var(--right)); stroke-dasharray: 1.5 4.5; stroke-width: 2.5; }
.chart .line3 circle { fill: rgb(var(--right)); }
.chart .line4 path { stroke: var(--soft); stroke-width: 1.5; }
.chart .line4 circle { fill: var(--soft); }
.chart .level { fill: rgb(var(--accent)); fill-opacity: .35; }
.chart .gap { fill: rgb(var(--wrong)); fill-opacity: .55; }
.chart .ideal { stroke: var(--soft); stroke-width: 1.25; stroke-dasharray: 3 3; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .hit { fill: var(--text); fill-opacity: 0; }
.chart .hit:hover { fill-opacity: .08; }

.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15.5rem), 1fr)); gap: .9rem;
  margin: 0; padding: 0; list-style: none; }
.cards.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); }
.cards.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }
.card { padding: .6rem; border: 1px solid var(--line); border-radius: .75rem; min-width: 0; }
.pictures { display: flex; gap: .4rem; }
.pictures img { flex: 1 1 0; min-width: 0; width: 100%; height: auto; aspect-ratio: 1; object-fit: contain;
  border-radius: .4rem; background: var(--back); }
.pictures img:only-child { max-width: 13rem; margin: 0 auto; }
.card p { margin: .5rem 0 0; padding-left: 1.4rem; line-height: 1.35; overflow-wrap: anywhere; }
.card .target { display: block; color: var(--soft); font-size: .875rem; }
.card .name { margin-top: .15rem; color: var(--soft); font-size: .75rem; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
.mark { float: left; margin-left: -1.3rem; font-weight: 700; }
.right .mark { color: rgb(var(--right)); }
.wrong .mark { color: rgb(var(--wrong)); }
.right .mark::before { content: "\\2713"; }
.wrong .mark::before { content: "\\2717"; }

summary { cursor: pointer; width: fit-content; padding: .25rem 0; font-size: .9375rem; font-weight: 600; }
details + details.split { border-top: 1px solid var(--line); margin-top: .5rem; padding-top: .5rem; }
#curves details { margin-top: 1rem; }
.confusion { display: flex; flex-wrap: wrap; gap: 1.5rem 2.5rem; align-items: flex-start; padding: .5rem 0; }
.matrix { font-size: .75rem; border-spacing: 2px; border-collapse: separate; }
.matrix thead th { padding: 0 0 .3rem; border: 0; vertical-align: bottom; }
.matrix thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.matrix tbody th { position: sticky; left: 0; padding: 0 .5rem 0 0; background: var(--card); color: var(--soft);
  font-weight: 500; text-align: right; vertical-align: middle; white-space: nowrap; max-width: 9rem;
  overflow: hidden; text-overflow: ellipsis; }
.matrix tbody td { width: 1.75rem; min-width: 1.75rem; height: 1.75rem; padding: 0; text-align: center;
  vertical-align: middle; border-radius: 3px; background: var(--back); }
.matrix .ok { background: rgb(var(--cell-right) / var(--v)); }
.matrix .no { background: rgb(var(--cell-wrong) / var(--v)); }
.dense { font-size: .5625rem; border-spacing: 1px; }
.dense tbody td { width: 1.1rem; min-width: 1.1rem; height: 1.1rem; border-radius: 2px; }
.dense th { font-size: .625rem; }
.pairs { max-width: 100%; overflow-x: auto; }
.pairs td { overflow-wrap: anywhere; }
.config th { white-space: nowrap; }
.config tbody tr > * { border-top: 1px solid var(--line); }
@media print { body { max-width: none; } section { break-inside: avoid; } }
"""
