/**
 * The dashboard as people see it: the command's process, a real daemon behind it, and a real browser in front. Only the kernel module and
 * QEMU are stand-ins; what L1s say comes from this test, as a hostile L1 would say it.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { HT_PROFILE_STACK } from '../../src/kernel/sample.ts';
import { CHROMIUM } from '../support/chromium.ts';
import { compileBpfFile, findClang, whyNoBpf } from '../support/bpf.ts';
import { compiledSources } from '../support/compiled.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import type { L1 } from '../support/daemon-harness.ts';
import { writeCounts } from '../support/fake-kernel.ts';

const clang = findClang();
const why = whyNoBpf(clang) ?? (CHROMIUM === undefined ? 'no Chromium: apt install chromium' : undefined);
/** Pictures are kept for who wants to look. */
const SHOTS = process.env['HT_SCREENSHOTS'];

const BOOT = '0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33';
const EVIL = '<img src=x onerror="document.title=1">\u202egnp.exe';

const KERNEL = 0xffff_ffff_8100_0000n;
const MOVED = 0x1d20_0000n;
const SYSTEM_MAP = [
  ...['asm_exc_page_fault', 'do_idle', 'cpu_startup_entry', '<b>evil</b>'].map(
    (name, i) => `${(KERNEL + BigInt(i) * 0x1000n).toString(16)} T ${name}`,
  ),
  '',
].join('\n');

describe.skipIf(why !== undefined)(`dashboard${why ? ` (skipped: ${why})` : ''}`, () => {
  let h: DaemonHarness;
  let one: L1;
  let browser: Browser;
  let server: ChildProcess;
  let url: string;
  const pages: Page[] = [];
  let complaints: string[] = [];

  beforeAll(async () => {
    if (!clang || CHROMIUM === undefined) return;
    h = new DaemonHarness();
    h.writeConfig({ build1: {}, idle: {} });
    await h.startDaemon();
    await h.startVm('build1');
    await h.whenVm('build1', (v) => v.phase === 'attached' && v.agent.connected);
    one = await h.agent('build1', BOOT);
    const npf = compileBpfFile(clang, path.resolve('c/bpf/npf/npf.bpf.c')).toString('base64');
    await one.peer.request('load', { name: 'npf', elf: npf });
    await one.peer.request('link', { object: 'npf', hook: 'npf' });
    await one.peer.request('load', { name: 'broken', elf: 'AAAA' }).catch(() => {});
    await report(100);
    ({ server, url } = await startServer(h.at('run/host.sock')));
    // the sandbox needs namespaces that containers do not give; the page is our own
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox', '--disable-gpu'] });
  }, 120_000);

  afterEach(async () => {
    for (const page of pages.splice(0)) await page.context().close();
    expect(complaints).toEqual([]);
    complaints = [];
  });

  afterAll(async () => {
    await browser?.close();
    if (server) await stop(server);
    await h?.close();
  });

  const report = (faults: number): Promise<unknown> => {
    const l2 = (pid: number, name: string) => ({
      pid,
      name,
      number: pid - 800,
      since: '2026-11-22T10:00:00.000Z',
      pages: 57_344,
      framesTaken: 9120,
      faults,
      mappedNew: 4000,
      mappedExisting: 120,
      mappedAhead: 5120,
      passes: 4,
    });
    return one.peer.request('report', {
      pool: {
        enabled: true,
        level: 3900,
        low: 1024,
        high: 4096,
        entries: 4096,
        refills: 12,
        shrunk: 0,
        indexWords: 262_144,
        indexUsed: 57_344,
      },
      l2Count: 2,
      l2s: [l2(812, 'web'), { ...l2(813, EVIL), noIndex: 'no page of its RAM has a place <b>there</b>' }],
    });
  };

  async function startServer(socket: string): Promise<{ server: ChildProcess; url: string }> {
    const main = path.join(compiledSources(), 'cli/main.js');
    const names = h.at('System.map');
    writeFileSync(names, SYSTEM_MAP);
    const command = [main, 'host', 'dashboard', '--port', '0', '--socket', socket, '--kernel', names];
    const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = (await once(createInterface(child.stdout), 'line')) as [string];
    return { server: child, url: line };
  }

  async function stop(child: ChildProcess): Promise<number | null> {
    const ended = once(child, 'exit');
    child.kill('SIGTERM');
    await ended;
    return child.exitCode;
  }

  /** Whatever the browser complains about is a failure: a script or style refused, an exception. */
  async function open(to: string, options: BrowserContextOptions = {}): Promise<Page> {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
    const page = await context.newPage();
    page.on('pageerror', (e) => complaints.push(e.message));
    page.on('console', (m) => {
      if (m.type() === 'error' && !m.text().includes('401')) complaints.push(m.text());
    });
    pages.push(page);
    await page.goto(to);
    return page;
  }

  async function shot(page: Page, name: string): Promise<void> {
    if (SHOTS === undefined) return;
    mkdirSync(SHOTS, { recursive: true });
    await page.screenshot({ path: path.join(SHOTS, `${name}.png`), fullPage: true });
  }

  const heading = (page: Page): Promise<string> => page.locator('main h1').innerText();

  async function get(at: string, headers: Record<string, string> = {}, method = 'GET'): Promise<number> {
    const request = http.request(new URL(at, url), { method, headers });
    request.end();
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    response.resume();
    return response.statusCode ?? 0;
  }

  it('tells nothing without its token, to other names, to other sites, and takes no orders', async () => {
    const token = /#t=(.+)$/.exec(url)?.[1] ?? '';
    const bearer = { authorization: `Bearer ${token}` };
    expect(await get('/api/state', bearer)).toBe(200);
    expect(await get('/api/state')).toBe(401);
    expect(await get('/api/state', { authorization: `Bearer ${token.slice(1)}x` })).toBe(401);
    expect(await get(`/api/state?token=${token}`)).toBe(401);
    expect(await get('/api/state', { ...bearer, host: 'evil.example' })).toBe(421);
    expect(await get('/', { host: 'evil.example:9466' })).toBe(421);
    expect(await get('/api/state', { ...bearer, host: 'localhost:4711' })).toBe(200);
    expect(await get('/api/state', { ...bearer, 'sec-fetch-site': 'cross-site' })).toBe(403);
    expect(await get('/api/state', bearer, 'POST')).toBe(405);
    expect(await get('/page/../assets.js')).toBe(404);
    expect(await get('/page/%2e%2e/server.js', bearer)).toBe(404);
  });

  it('asks for the token where the address has none, and says when it is wrong', async () => {
    const page = await open(new URL('/', url).href);
    await page.getByLabel('Token').fill('wrong');
    await shot(page, 'token');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').waitFor();
    await page.getByLabel('Token').fill(url);
    await page.keyboard.press('Enter');
    await page.getByRole('tree').waitFor();
    expect(page.url()).not.toContain(url.slice(-20));
  });

  it('shows the levels, hooks, counters and decisions of all VMs', async () => {
    const page = await open(url);
    await page.getByRole('tree').waitFor();
    expect(page.url()).toMatch(/#\/$/);
    expect(await page.getByRole('treeitem').allInnerTexts()).toHaveLength(5);
    await page.getByRole('region', { name: 'Admission log' }).getByText('object refused').waitFor();
    await shot(page, 'host-light');
    await page.getByRole('treeitem', { name: 'build1' }).click();
    await expect.poll(() => heading(page)).toContain('build1');
    const hooks = page.getByRole('region', { name: 'Hooks of exits' });
    // what the stand-in of the kernel counts
    expect(await hooks.getByRole('row', { name: /^npf/ }).innerText()).toMatch(/70%/);
    await page.getByRole('region', { name: 'Reasons by hook' }).getByText('no_pool').first().waitFor();
    expect(await page.locator('#quotas').innerText()).toMatch(/Objects\s+1\s+16/);
    await shot(page, 'vm-light');
  });

  it('draws what the hooks count while they count, and tells exits apart by cause', async () => {
    const page = await open(url, { colorScheme: 'light' });
    await page.getByRole('treeitem', { name: 'build1' }).click();
    const counted = (n: number): void =>
      writeCounts(h.at('kernel'), {
        npf: {
          runs: 1900 * n,
          handled: 880 * n,
          entries: 7000 * n,
          passed: 1020 * n,
          // L1 did not run for what was there already
          reasons: { PRESENT: 1000 * n, NO_TEMPLATE: 12 * n, POOL_EMPTY: 8 * n },
        },
        // it only looks: nothing of it is answered or left to L1
        sample: { runs: 100_000 * n, handled: 0, entries: 0, passed: 100_000 * n, reasons: {} },
        exit: {
          runs: 300 * n,
          handled: 250 * n,
          entries: 0,
          passed: 50 * n,
          reasons: { MISS: 50 * n },
          exits: {
            cpuid: { seen: 250 * n, handled: 250 * n, returned: 0, l1Ns: 0, l0Ns: 400_000 * n },
            hlt: { seen: 50 * n, handled: 0, returned: 50 * n, l1Ns: 9_000_000 * n, l0Ns: 0 },
          },
        },
      });
    for (let n = 1; n <= (SHOTS === undefined ? 4 : 20); n++) {
      counted(4 * n + (n % 3));
      await page.waitForTimeout(SHOTS === undefined ? 700 : 2000);
    }
    const exits = page.getByRole('region', { name: 'Exits of nested guests by cause' });
    expect(await exits.getByRole('row', { name: /^cpuid/ }).innerText()).toMatch(/100%\s+1\.6 µs\s+–/);
    expect(await exits.getByRole('row', { name: /^hlt/ }).innerText()).toMatch(/0%\s+–\s+180\.0 µs/);
    await expect
      .poll(() => page.locator('.tiles').first().innerText())
      .toMatch(/Reached L1\s+3\.?\d?%\s+[\d,]+ of [^]*Answered in L0\s+51\.?\d?%[^]*already there/i);
    expect(await page.getByRole('region', { name: 'Reasons by hook' }).innerText()).not.toContain('PRESENT');
    const chart = page.locator('#rates svg');
    await expect
      .poll(() => chart.getAttribute('aria-label'))
      .toMatch(/Answered in L0: [\d,.]+ a second now, at most [1-9]/);
    expect(await chart.locator('polygon').count()).toBe(2);
    await shot(page, 'vm-busy-light');
  });

  it('goes on by itself: a new report is there within seconds, and pausing stops that', async () => {
    const page = await open(`${url}`);
    await page.getByRole('treeitem', { name: 'web' }).click();
    await expect.poll(() => heading(page)).toContain('web');
    await report(5100);
    await expect.poll(() => page.locator('main').innerText(), { timeout: 10_000 }).toContain('4 of 5,100');
    await page.getByRole('button', { name: 'Pause' }).click();
    await report(6100);
    await new Promise((r) => setTimeout(r, 3000));
    expect(await page.locator('main').innerText()).toContain('4 of 5,100');
    await page.getByRole('button', { name: 'Resume' }).click();
    await expect.poll(() => page.locator('main').innerText(), { timeout: 10_000 }).toContain('4 of 6,100');
    await shot(page, 'l2-light');
  });

  it('shows hostile names as text', async () => {
    const page = await open(url);
    await page.getByRole('treeitem', { name: 'onerror' }).click();
    await expect
      .poll(() => heading(page))
      .toContain('<img src=x onerror="document.title=1">\\u{202e}gnp.exe');
    // and why none of its faults is answered
    expect(await page.locator('main').innerText()).toContain('no page of its RAM has a place <b>there</b>');
    expect(await page.locator('img').count()).toBe(0);
    expect(await page.title()).toBe('build1 · HyperTurtle');
  });

  it('draws the flame graph of a chosen L2 while somebody profiles it, and keeps it when that has ended', async () => {
    const page = await open(url);
    await page.getByRole('treeitem', { name: 'web' }).click();
    const flame = page.locator('#flame');
    await flame.getByText('Nobody samples this nested guest').waitFor();

    const profile = compileBpfFile(clang!, path.resolve('c/bpf/profile/profile.bpf.c')).toString('base64');
    await one.peer.request('load', { name: 'profile', elf: profile });
    const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
    const number = (n: bigint, bytes: 4 | 8): string => {
      const b = Buffer.alloc(8);
      b.writeBigUInt64LE(n);
      return text(b.subarray(0, bytes));
    };
    const set = (map: string, key: string, value: string): Promise<unknown> =>
      one.peer.request('map.set', { object: 'profile', map, key, value });
    const counted = (l2: number, cpl: 0 | 3, ips: readonly bigint[], samples: number): Promise<unknown> => {
      const key = HT_PROFILE_STACK.encode({
        l2,
        vcpu: 0,
        space: cpl === 3 ? 0x1000n : 0n,
        cpl,
        count: ips.length,
        end: 0n,
        ips: [...ips, ...new Array<bigint>(63 - ips.length).fill(0n)],
      });
      return set('stacks', text(key), number(BigInt(samples), 8));
    };
    const kernel = (i: number): bigint => KERNEL + MOVED + BigInt(i) * 0x1000n + 0x10n;
    await set('kernels', number(12n, 4), number(KERNEL + MOVED, 8));
    await counted(12, 0, [kernel(1), kernel(2)], 600);
    await counted(12, 0, [kernel(3), kernel(2)], 100);
    await counted(12, 3, [0x401234n], 300);
    await counted(13, 3, [0x405678n], 5000); // another one's
    const { link } = await one.peer.request('link', {
      object: 'profile',
      hook: 'sample',
      options: { hz: 99 },
    });

    const box = (name: string | RegExp) => flame.getByRole('button', { name });
    await box('do_idle (kernel): 600 samples, 60%').waitFor({ timeout: 15_000 });
    await box('all: 1,000 samples, 100%').waitFor();
    await box('cpu_startup_entry (kernel): 700 samples, 70%').waitFor();
    await box('[0x401234] (user): 300 samples, 30%').waitFor();
    await box('<b>evil</b> (kernel): 100 samples, 10%').waitFor();
    expect(await flame.innerText()).toMatch(/1,000 samples · 99 a second of each vCPU .* still being taken/);
    expect(await flame.getByRole('row', { name: /^do_idle/ }).innerText()).toMatch(/60%\s+600\s+kernel/);
    await shot(page, 'flame-light');

    // by keyboard: one stop, up to what is called, down to the caller
    const focused = (): Promise<string> =>
      page.evaluate("document.activeElement.getAttribute('aria-label') ?? ''");
    const width = async (name: RegExp): Promise<number> =>
      Number(await box(name).locator('rect').getAttribute('width'));
    await box(/^all/).focus();
    await page.keyboard.press('ArrowUp');
    expect(await focused()).toMatch(/^cpu_startup_entry/);
    await page.keyboard.press('ArrowRight');
    expect(await focused()).toMatch(/^\[0x401234\]/);
    await page.keyboard.press('ArrowLeft');
    await page.keyboard.press('ArrowUp');
    await page.keyboard.press('ArrowDown');
    expect(await focused()).toMatch(/^cpu_startup_entry/);
    const narrow = await width(/^cpu_startup_entry/);
    await page.keyboard.press('Enter');
    expect(await width(/^cpu_startup_entry/)).toBeGreaterThan(1.3 * narrow);
    expect(await box(/^\[0x401234\]/).count()).toBe(0);
    expect(await focused()).toMatch(/^cpu_startup_entry/);
    await page.keyboard.press('Escape');
    expect(await width(/^cpu_startup_entry/)).toBe(narrow);
    await box(/^do_idle/).click();
    expect(await width(/^do_idle/)).toBeGreaterThan(narrow);
    await page.keyboard.press('Escape');

    // it goes on, and stays when it has ended
    await counted(12, 3, [0x401234n], 1300);
    await box('all: 2,000 samples, 100%').waitFor({ timeout: 15_000 });
    await one.peer.request('unlink', { id: link.id });
    await one.peer.request('unload', { name: 'profile' });
    await flame.getByText(/until \d\d:\d\d:\d\d/).waitFor({ timeout: 15_000 });
    expect(await box(/^all/).getAttribute('aria-label')).toBe('all: 2,000 samples, 100%');
    expect(await page.locator('#flame b').count()).toBe(0);
  });

  it('is used by keyboard alone', async () => {
    const page = await open(url);
    await page.getByRole('tree').waitFor();
    await page.keyboard.press('Tab');
    const focused = (): Promise<string> => page.evaluate('document.activeElement.innerText');
    expect(await focused()).toBe('Skip to content');
    await page.keyboard.press('Tab');
    expect(await focused()).toBe('Pause');
    await page.keyboard.press('Tab');
    expect(await focused()).toContain('L0');
    await page.keyboard.press('ArrowRight');
    expect(await focused()).toContain('build1');
    await page.keyboard.press('ArrowDown');
    expect(await focused()).toContain('web');
    await page.keyboard.press('Enter');
    await expect.poll(() => heading(page)).toContain('web');
    // reading goes on at the new heading, one step from the tree; figures change and the focus stays
    await page.waitForTimeout(2500);
    expect(await page.evaluate('document.activeElement.tagName')).toBe('H1');
    await page.keyboard.press('Shift+Tab');
    expect(await focused()).toContain('web');
    await page.keyboard.press('End');
    expect(await focused()).toContain('idle');
    await page.keyboard.press('ArrowLeft');
    await page.keyboard.press('Home');
    await page.keyboard.press('Enter');
    await expect.poll(() => page.url()).toMatch(/#\/$/);
  });

  it('follows the system into the dark, and fits a narrow window', async () => {
    const background = (page: Page): Promise<string> =>
      page.evaluate('getComputedStyle(document.body).backgroundColor');
    const light = await open(url, { colorScheme: 'light' });
    const dark = await open(url, { colorScheme: 'dark' });
    expect(await background(dark)).not.toBe(await background(light));
    await dark.getByRole('treeitem', { name: 'build1' }).click();
    await dark.locator('#quotas').waitFor();
    await dark.waitForTimeout(4500);
    await shot(dark, 'vm-dark');
    const narrow = await open(url, { colorScheme: 'dark', viewport: { width: 390, height: 844 } });
    await narrow.getByRole('treeitem', { name: 'build1' }).click();
    await narrow.locator('#quotas').waitFor();
    expect(await narrow.evaluate('document.documentElement.scrollWidth')).toBeLessThanOrEqual(390);
    await shot(narrow, 'vm-narrow-dark');
  });

  it('says that the daemon is away, and goes on when it is back', async () => {
    const page = await open(url);
    await page.getByRole('tree').waitFor();
    await h.endDaemon('SIGKILL');
    await expect.poll(() => heading(page), { timeout: 15_000 }).toBe('Daemon not reachable');
    await shot(page, 'no-daemon');
    await h.startDaemon();
    await page.getByRole('tree').waitFor({ timeout: 15_000 });
  });

  it('says what to do where there are no VMs, and when its own process has ended', async () => {
    const empty = new DaemonHarness();
    try {
      empty.writeConfig({});
      await empty.startDaemon();
      const second = await startServer(empty.at('run/host.sock'));
      const page = await open(second.url);
      await page.getByText('No VMs yet.').waitFor();
      await shot(page, 'no-vms');
      expect(await stop(second.server)).toBe(0);
      await page.getByText('dashboard process not reachable').waitFor({ timeout: 15_000 });
      complaints = complaints.filter((c) => !c.includes('ERR_CONNECTION_REFUSED'));
    } finally {
      await empty.close();
    }
  });
});
