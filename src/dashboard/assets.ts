/** The page's files, read once when the server starts: nothing else on the disk can be asked for. */
import { readFileSync, readdirSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { codeFile } from '../core/code-file.ts';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { DOCUMENT, ICON } from './page/document.ts';
import { STYLE } from './page/style.ts';

export interface Asset {
  type: string;
  body: string;
}

/** By path. Throws HT_NOT_FOUND when the page has not been compiled. */
export function pageAssets(): Map<string, Asset> {
  const assets = new Map<string, Asset>([
    ['/', { type: 'text/html; charset=utf-8', body: DOCUMENT }],
    ['/style.css', { type: 'text/css; charset=utf-8', body: STYLE }],
    ['/icon.svg', { type: 'image/svg+xml', body: ICON }],
  ]);
  const folder = pathToFileURL(codeFile('dashboard/page/'));
  for (const name of scripts(folder))
    assets.set(`/page/${name}`, {
      type: 'text/javascript; charset=utf-8',
      body: readFileSync(new URL(name, folder), 'utf8'),
    });
  if (!assets.has('/page/main.js'))
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      "the dashboard's page is not there: npm run build, or install again",
    );
  return assets;
}

function scripts(folder: URL): string[] {
  try {
    return readdirSync(folder).filter((f) => f.endsWith('.js'));
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return [];
    throw e;
  }
}
