/**
 * Flame graphs: one SVG file with all that it needs, which any browser shows. Width is samples; a click on a box makes
 * it as wide as the picture, another one on the lowest box shows all again; without scripts it is still a picture.
 */
import { escapeMarkup } from '../core/markup.ts';
import { visibleLine } from '../core/visible.ts';
import { boxesOf, childrenOf } from './boxes.ts';
import type { Box } from './boxes.ts';
import type { NamedStack } from './symbolize.ts';

const WIDTH = 1200;
const ROW = 18;
const TOP = 44;
/** Narrower ones are left out: nobody can see or hit them. */
const NARROWEST = 0.4;
const CHAR = 6.6;

export interface Titles {
  title: string;
  /** Smaller, below. */
  subtitle: string;
}

function depth(box: Box): number {
  let most = 0;
  for (const c of box.children.values()) most = Math.max(most, depth(c));
  return most + 1;
}

const escape = (text: string): string => escapeMarkup(visibleLine(text));

/** The same function has the same colour in every picture: blue the kernel, warm what is not. */
function colour(name: string, kernel: boolean): string {
  let hash = 0;
  for (let i = 0; i < name.length; i++) hash = (hash * 31 + name.charCodeAt(i)) >>> 0;
  const hue = kernel ? 195 + (hash % 40) : 10 + (hash % 40);
  return `hsl(${hue} 70% ${58 + ((hash >> 8) % 14)}%)`;
}

/** Stacks without any frame are left out. */
export function flameGraph(stacks: readonly NamedStack[], titles: Titles): string {
  const root = boxesOf(stacks.filter((s) => s.frames.length > 0));
  const rows = root.samples > 0 ? depth(root) : 1;
  const height = TOP + rows * ROW + 26;
  const boxes: string[] = [];
  const draw = (box: Box, level: number, before: number): void => {
    const width = root.samples > 0 ? (WIDTH * box.samples) / root.samples : WIDTH;
    if (width < NARROWEST) return;
    const x = root.samples > 0 ? (WIDTH * before) / root.samples : 0;
    const y = TOP + (rows - 1 - level) * ROW;
    const share = root.samples > 0 ? ((100 * box.samples) / root.samples).toFixed(2) : '0.00';
    const chars = Math.floor((width - 6) / CHAR);
    const text = chars < 3 ? '' : box.name.length <= chars ? box.name : `${box.name.slice(0, chars - 1)}…`;
    const about = `${box.name}${box.module === '' ? '' : ` (${box.module})`}: ${box.samples} samples, ${share}%`;
    boxes.push(
      `<g class="f" data-x="${before}" data-n="${box.samples}" data-l="${level}" data-t="${escape(box.name)}"><title>${escape(about)}</title>` +
        `<rect x="${x.toFixed(2)}" y="${y}" width="${width.toFixed(2)}" height="${ROW - 1}" rx="2" fill="${level === 0 ? 'hsl(0 0% 82%)' : colour(box.name, box.kernel)}"/>` +
        `<text x="${(x + 3).toFixed(2)}" y="${y + 13}">${escape(text)}</text></g>`,
    );
    let at = before;
    for (const child of childrenOf(box)) {
      draw(child, level + 1, at);
      at += child.samples;
    }
  };
  draw(root, 0, 0);
  return `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="ui-monospace,monospace" font-size="11">
<rect width="100%" height="100%" fill="#fff"/>
<text x="${WIDTH / 2}" y="20" text-anchor="middle" font-size="15">${escape(titles.title)}</text>
<text x="${WIDTH / 2}" y="36" text-anchor="middle" fill="#666">${escape(titles.subtitle)}</text>
<g id="frames">
${boxes.join('\n')}
</g>
<text id="about" x="6" y="${height - 8}" fill="#444"> </text>
<style>.f{cursor:pointer}.f text{pointer-events:none}.f:hover rect{stroke:#000;stroke-width:.6}</style>
<script>//<![CDATA[
${SCRIPT}
//]]></script>
</svg>
`;
}

/** Runs in the picture. */
const SCRIPT = `
const W=${WIDTH}, C=${CHAR};
const all=[...document.querySelectorAll('.f')].map(g=>({g,r:g.querySelector('rect'),t:g.querySelector('text'),
 x:+g.dataset.x,n:+g.dataset.n,l:+g.dataset.l,name:g.dataset.t}));
function zoom(to){
 for(const b of all){
  const above=b.l<to.l&&b.x<=to.x&&b.x+b.n>=to.x+to.n, inside=b.l>=to.l&&b.x>=to.x&&b.x+b.n<=to.x+to.n;
  b.g.style.display=above||inside?'':'none';
  if(!above&&!inside)continue;
  const x=above?0:W*(b.x-to.x)/to.n, w=above?W:W*b.n/to.n, c=Math.floor((w-6)/C);
  b.r.setAttribute('x',x);b.r.setAttribute('width',Math.max(0,w));b.t.setAttribute('x',x+3);
  b.g.style.opacity=above?.6:1;
  b.t.textContent=c<3?'':b.name.length<=c?b.name:b.name.slice(0,c-1)+'\\u2026';
 }
}
const about=document.getElementById('about');
for(const b of all){
 b.g.addEventListener('click',()=>zoom(b));
 b.g.addEventListener('mouseover',()=>{about.textContent=b.g.querySelector('title').textContent});
}`;

/** The same as a page, with the hottest functions as a table. */
export function flamePage(
  stacks: readonly NamedStack[],
  titles: Titles,
  top: readonly { name: string; module: string; samples: number }[],
): string {
  const total = stacks.reduce((n, s) => n + s.samples, 0);
  const svg = flameGraph(stacks, titles).replace(/^<\?xml.*\?>\n/, '');
  const rows = top
    .slice(0, 30)
    .map(
      (t) =>
        `<tr><td>${((100 * t.samples) / Math.max(total, 1)).toFixed(1)}%</td><td>${t.samples}</td><td>${escape(t.name)}</td><td>${escape(t.module)}</td></tr>`,
    )
    .join('\n');
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${escape(titles.title)}</title>
<style>body{font:14px system-ui;margin:1.5em}svg{max-width:100%;height:auto}td{padding:.1em 1em .1em 0;font-family:ui-monospace,monospace}</style>
${svg}
<table><tr><th>self</th><th>samples</th><th>function</th><th>where</th></tr>
${rows}
</table></html>
`;
}
