/** The page's style. Two series colours mean the same everywhere: blue is answered in L0, orange entered L1. */
export const STYLE = `
:root {
  color-scheme: light dark;
  --page: #fcfcfb; --side: #f5f4f1; --ink: #1b1b1a; --soft: #5f5e5a; --rule: #e3e2de; --axis: #a9a8a3; --tile: #f3f2ef;
  --l0: #0b5cad; --l1: #d55e00; --good: #1a7f4b; --wait: #8a6100; --bad: #b3261e; --bad-page: #fbeceb; --link: #0b5cad; --focus: #0b5cad;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #181817; --side: #1f1f1d; --ink: #efeeea; --soft: #aaa9a2; --rule: #34332f; --axis: #6d6c66; --tile: #242321;
    --l0: #4f9bf0; --l1: #f08040; --good: #5cc98d; --wait: #dcb43c; --bad: #ff8a80; --bad-page: #3a201e; --link: #7fb8f5; --focus: #7fc4f2;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 64px; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Liberation Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
h1, h2, h3, p, ul, dl, dd { margin: 0; padding: 0; }
ul { list-style: none; }
a { color: var(--link); text-underline-offset: 2px; }
code { font: .92em/1.4 ui-monospace, "Liberation Mono", "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; border-radius: 3px; }
h1:focus { outline: none; }
.sr { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; white-space: nowrap; }
.skip { position: absolute; left: 12px; top: -60px; background: var(--page); padding: 8px 14px; z-index: 3; }
.skip:focus { top: 8px; }

.bar { position: sticky; top: 0; z-index: 2; display: flex; align-items: center; gap: 16px; height: 48px; padding: 0 20px; background: var(--page); border-bottom: 1px solid var(--rule); }
.brand { font-weight: 650; letter-spacing: -.01em; }
.link { margin-left: auto; display: flex; align-items: center; gap: 8px; color: var(--soft); font-size: .88rem; }
.lamp { width: 8px; height: 8px; border-radius: 50%; background: var(--axis); }
.link.live .lamp { background: var(--good); }
.link.gone { color: var(--bad); } .link.gone .lamp { background: var(--bad); }
button { font: inherit; font-size: .88rem; color: inherit; background: var(--tile); border: 1px solid var(--rule); border-radius: 6px; padding: 4px 12px; cursor: pointer; }
button:hover { border-color: var(--axis); }

.body { display: grid; grid-template-columns: 240px minmax(0, 1fr); min-height: calc(100vh - 48px); }
.body > main:only-child { grid-column: 1 / -1; }
.side { background: var(--side); border-right: 1px solid var(--rule); padding: 16px 10px; min-width: 0; }
.tree { position: sticky; top: 64px; max-height: calc(100vh - 80px); overflow: auto; padding: 2px; }
.tree ul { margin-left: 13px; border-left: 1px solid var(--rule); padding-left: 7px; }
.tree a { display: flex; align-items: center; gap: 8px; padding: 4px 8px; border-radius: 6px; color: inherit; text-decoration: none; min-width: 0; }
.tree a:hover { background: var(--rule); }
.tree a[aria-selected=true] { background: var(--l0); color: var(--page); }
.tree a[aria-selected=true] .tag { color: inherit; }
.tree bdi { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; min-width: 0; }
.tree .more { color: var(--soft); font-size: .85rem; padding: 2px 8px; }
.tag { color: var(--soft); font-size: .72rem; font-weight: 600; flex: none; }
.dot { width: 8px; height: 8px; border-radius: 50%; margin-left: auto; flex: none; background: var(--axis); }
.dot.good { background: var(--good); } .dot.wait { background: var(--wait); } .dot.bad { background: var(--bad); }
.tree a[aria-selected=true] .dot { box-shadow: 0 0 0 2px var(--page); }

main { padding: 28px 32px 64px; max-width: 1180px; min-width: 0; }
.head h1 { font-size: 1.6rem; line-height: 1.25; font-weight: 650; letter-spacing: -.015em; overflow-wrap: anywhere; }
.head h1 .tag { font-size: .8rem; margin-right: 10px; vertical-align: .35em; letter-spacing: 0; }
.head h1 .badge { font-size: .8rem; vertical-align: .3em; letter-spacing: 0; margin-left: 6px; }
.facts { color: var(--soft); margin-top: 4px; }
section { margin-top: 36px; }
h2 { font-size: 1.05rem; font-weight: 650; margin-bottom: 10px; }
h3 { font-size: .95rem; font-weight: 600; margin: 18px 0 6px; }
.note, .empty { color: var(--soft); font-size: .88rem; margin-top: 8px; max-width: 78ch; }
.empty { font-size: .95rem; }
.problem { color: var(--bad); background: var(--bad-page); border-left: 3px solid var(--bad); border-radius: 0 6px 6px 0; padding: 8px 14px; margin: 14px 0; max-width: 90ch; overflow-wrap: anywhere; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin-top: 20px; }
section > .tiles { margin-top: 0; }
.tiles > div { background: var(--tile); border-radius: 8px; padding: 12px 16px 14px; min-width: 0; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { font-size: 1.6rem; line-height: 1.3; font-weight: 650; letter-spacing: -.015em; overflow-wrap: anywhere; }
section > .tiles dd { font-size: 1.25rem; }
.tiles dd.under { color: var(--soft); font-size: .85rem; font-weight: 400; letter-spacing: 0; line-height: 1.5; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; min-width: min(100%, 480px); }
th, td { padding: 6px 26px 6px 0; text-align: left; border-bottom: 1px solid var(--rule); vertical-align: middle; white-space: nowrap; font-weight: 400; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-size: .82rem; }
thead th, thead td { border-bottom-color: var(--axis); }
tbody tr:last-child > * { border-bottom: 0; }
th.n, td.n { text-align: right; }
tbody .name { display: inline-block; max-width: 30ch; overflow: hidden; text-overflow: ellipsis; vertical-align: bottom; }
tbody a .name { text-decoration: underline; }
td.chart { width: 120px; padding-right: 24px; }
td.wide { white-space: normal; max-width: 76ch; min-width: 260px; overflow-wrap: anywhere; }
th.time { color: var(--soft); }
.said { color: var(--soft); overflow-wrap: anywhere; }
.off { color: var(--soft); }
.kind.bad { color: var(--bad); font-weight: 600; }
.badge { font-size: .82rem; font-weight: 500; white-space: nowrap; }
.badge::before { content: ""; display: inline-block; width: 8px; height: 8px; border-radius: 50%; margin-right: 6px; background: var(--axis); }
.badge.good { color: var(--good); } .badge.wait { color: var(--wait); } .badge.bad { color: var(--bad); } .badge.off { color: var(--soft); }
.badge.good::before { background: var(--good); } .badge.wait::before { background: var(--wait); } .badge.bad::before { background: var(--bad); }
.controls { color: var(--soft); font-size: .88rem; margin-bottom: 4px; }
.controls input { accent-color: var(--l0); vertical-align: -2px; }
.findings li { display: flex; gap: 14px; padding: 8px 0; border-bottom: 1px solid var(--rule); }
.findings li:last-child { border-bottom: 0; }
.findings .badge { flex: none; width: 84px; padding-top: 1px; }
.findings .said { color: var(--ink); } .findings .fix .said { color: var(--soft); }

svg { display: block; }
.spark { width: 120px; height: 26px; }
.spark .line { fill: none; stroke: var(--l0); stroke-width: 1.5; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.spark .base { stroke: var(--rule); stroke-width: 1; }
.meter { width: 100%; min-width: 90px; height: 6px; border-radius: 3px; overflow: hidden; }
.meter .rail { fill: var(--rule); } .meter .fill { fill: var(--l0); } .meter.l1 .fill { fill: var(--l1); }
.tiles .meter { margin-top: 8px; } .tiles .meter .rail { fill: var(--rule); }
.bands { width: 100%; max-width: 960px; height: auto; }
.bands .l0 { fill: var(--l0); } .bands .l1 { fill: var(--l1); }
.bands .grid { stroke: var(--rule); } .bands .axis { stroke: var(--axis); }
.bands .tick { font-size: 11px; fill: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; font-size: .88rem; color: var(--soft); margin-top: 4px; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 7px; vertical-align: -1px; }
.swatch.l0 { background: var(--l0); } .swatch.l1 { background: var(--l1); }

.flame { overflow-x: auto; }
.flames { width: 100%; max-width: 960px; height: auto; }
.flames .box { cursor: pointer; } .flames .above { opacity: .6; }
.flames text { font: 11px ui-monospace, "Liberation Mono", "DejaVu Sans Mono", monospace; fill: #1b1b1a; pointer-events: none; }
.flames .root rect { fill: #c9c8c3; }
.flames .u0 rect { fill: #f2a65a; } .flames .u1 rect { fill: #eeb86d; } .flames .u2 rect { fill: #f0936b; } .flames .u3 rect { fill: #f5c26b; } .flames .u4 rect { fill: #e8a07a; }
.flames .k0 rect { fill: #7fb8f5; } .flames .k1 rect { fill: #8ccbe0; } .flames .k2 rect { fill: #9db9ee; } .flames .k3 rect { fill: #79c2d8; } .flames .k4 rect { fill: #a8c8f0; }
.flames .box:hover rect, .flames .box:focus-visible rect { stroke: var(--ink); stroke-width: 1.5; }
.flames .box:focus-visible { outline: none; }

.token { max-width: 460px; margin: 12vh auto 0; }
.token h1 { font-size: 1.6rem; margin-bottom: 20px; }
.token label { display: block; font-weight: 600; margin-bottom: 4px; }
.token input { font: inherit; width: 100%; padding: 8px 10px; color: inherit; background: var(--page); border: 1px solid var(--axis); border-radius: 6px; }
.token button { margin-top: 14px; padding: 7px 18px; background: var(--l0); border-color: var(--l0); color: var(--page); font-weight: 600; }

@media (max-width: 760px) {
  .body { grid-template-columns: minmax(0, 1fr); }
  .side { border-right: 0; border-bottom: 1px solid var(--rule); padding: 10px; }
  .tree { position: static; max-height: 34vh; }
  main { padding: 20px 16px 48px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .tiles dd { font-size: 1.3rem; }
  .bar { padding: 0 14px; }
}
@media (prefers-reduced-motion: no-preference) {
  .tree a, button { transition: background-color .12s, border-color .12s; }
}
@media (forced-colors: active) {
  .tree a[aria-selected=true] { outline: 2px solid; }
  .badge::before, .dot, .lamp, .swatch, .meter .fill, .bands .band, .flames rect { forced-color-adjust: none; }
}
@media print { .bar, .side { display: none; } .body { display: block; } }
`;
