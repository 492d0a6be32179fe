/** Style of the report. Series colours keep apart for colour-blind readers, and curves also differ by dashes. */
export const STYLE = `
:root {
  --page: #fcfcfb; --ink: #1b1b1a; --soft: #62615d; --rule: #e3e2de; --axis: #a9a8a3; --tile: #f3f2ef; --bad: #b3261e;
  --l1: #77766f; --vanilla: #d55e00; --prealloc: #c99700; --anonymous: #b0568f; --thp: #8a2f6b; --hugetlb: #7a4bb0; --group1: #4aa3df; --groups: #0b5cad;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #181817; --ink: #efeeea; --soft: #aaa9a2; --rule: #34332f; --axis: #6d6c66; --tile: #242321; --bad: #ff8a80;
    --l1: #a3a29a; --vanilla: #f08040; --prealloc: #dcb43c; --anonymous: #dd9cc4; --thp: #e070b0; --hugetlb: #b98adf; --group1: #7fc4f2; --groups: #4f9bf0;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.1rem; margin: 0 0 8px; color: var(--soft); font-weight: 600; }
h2 { font-size: 1.35rem; margin: 48px 0 4px; }
p { margin: 6px 0; max-width: 72ch; }
.lead { font-size: 1.35rem; line-height: 1.4; margin-bottom: 20px; }
.note { color: var(--soft); font-size: .92rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px; margin: 0 0 20px; }
.tiles div { background: var(--tile); border-radius: 8px; padding: 12px 14px; display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.tiles dt { color: var(--soft); font-size: .88rem; }
.tiles dd { margin: 0; font-size: 1.9rem; font-weight: 600; line-height: 1.2; }
figure { margin: 12px 0; min-width: 0; }
figure > svg { width: 100%; height: auto; display: block; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 8px 24px; align-items: start; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; padding: 0; margin: 14px 0 4px; font-size: .92rem; }
.legend svg { width: 28px; height: 10px; margin-right: 7px; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .tick { fill: var(--soft); font-size: 11px; }
svg .chart-title { font-weight: 600; font-size: 13px; }
svg .value { font-weight: 600; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .axis { stroke: var(--axis); stroke-width: 1; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.curve.s-l1 { stroke: var(--l1); stroke-dasharray: 2 3; }
.curve.s-l2-vanilla { stroke: var(--vanilla); }
.curve.s-l2-vanilla-prealloc { stroke: var(--prealloc); stroke-dasharray: 7 3; }
.curve.s-l2-anonymous { stroke: var(--anonymous); stroke-dasharray: 1 4; }
.curve.s-l2-thp { stroke: var(--thp); stroke-dasharray: 10 3 2 3; }
.curve.s-l2-hugetlb { stroke: var(--hugetlb); stroke-dasharray: 5 2; }
.curve.s-l2-group1 { stroke: var(--group1); stroke-dasharray: 7 3; }
.curve.s-l2-default { stroke: var(--groups); stroke-width: 2.6; }
.bar.s-l1 { fill: var(--l1); } .bar.s-l2-vanilla { fill: var(--vanilla); } .bar.s-l2-vanilla-prealloc { fill: var(--prealloc); }
.bar.s-l2-anonymous { fill: var(--anonymous); } .bar.s-l2-thp { fill: var(--thp); } .bar.s-l2-hugetlb { fill: var(--hugetlb); }
.bar.s-l2-group1 { fill: var(--group1); } .bar.s-l2-default { fill: var(--groups); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 16px 0; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; white-space: nowrap; color: var(--soft); padding-bottom: 6px; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th[scope=row], thead th:first-child { text-align: left; font-weight: 400; }
thead th { color: var(--soft); font-weight: 600; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.bad { color: var(--bad); font-weight: 600; }
.sr { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
@media print { body { font-size: 11px; } section { break-inside: avoid; } }
`;
