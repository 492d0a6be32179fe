import { afterEach, beforeEach, expect, test } from 'vitest';
import { HyperturtleError } from '../../../../src/core/errors.ts';
import { sleep, waitFor } from '../../../../src/core/wait.ts';
import { AgentConfig } from '../../../../src/guest/agent/config.ts';
import { Registrar } from '../../../../src/guest/agent/registrar.ts';
import { FakeModule } from '../../../support/fake-module.ts';

let module: FakeModule;
let registrar: Registrar;
let stop: AbortController;
let running: Promise<void>;
const log = { info: () => {}, warn: () => {} };

function start(config = AgentConfig().parse({})): void {
  stop = new AbortController();
  registrar = new Registrar({
    open: module.open,
    deviceThere: () => module.loaded,
    config,
    log,
    retryMs: 5,
    waitForDevice: (s) => sleep(10, s),
  });
  running = registrar.run(stop.signal);
}

beforeEach(() => {
  module = new FakeModule();
});

afterEach(async () => {
  stop.abort();
  await running;
  expect(module.opened, 'open devices').toBe(0);
  expect([...module.registered.keys()], 'registrations left').toEqual([]);
});

const registered = async (...pids: number[]): Promise<void> => {
  await waitFor(
    `registration of exactly ${pids.join(', ')}`,
    () => {
      const now = registrar.l2s.map((l) => l.pid).sort((a, b) => a - b);
      const inModule = [...module.registered.keys()].sort((a, b) => a - b);
      return now.join() === pids.join() && inModule.join() === pids.join() ? true : undefined;
    },
    { timeoutMs: 2000, intervalMs: 2 },
  );
};

test('VMs that run already and VMs that start later are registered, each once', async () => {
  module.vms.add(10);
  start();
  await registered(10);
  module.startVm(11);
  module.startVm(11);
  await registered(10, 11);
  module.endVm(10);
  await registered(11);
});

test('a module that comes late is taken up', async () => {
  module.loaded = false;
  module.vms.add(10);
  start();
  await sleep(30);
  expect(registrar.state).toBe('absent');
  module.loaded = true;
  await registered(10);
  expect(registrar.state).toBe('present');
});

test('without an arena nothing is registered; when one comes, all that run are, and the settings are made again', async () => {
  module.arena = false;
  module.vms.add(10);
  start(AgentConfig().parse({ module: { groupMax: 8, pool: { low: 10, high: 20 } } }));
  await waitFor('module', () => (registrar.state === 'present' ? true : undefined), { timeoutMs: 2000 });
  expect(module.settings).toEqual([]);
  module.setArena(true);
  await registered(10);
  expect(module.settings).toEqual([{ groupMax: 8, pool: { low: 10, high: 20 } }]);
  module.setArena(false);
  await registered();
  module.setArena(true);
  await registered(10);
  expect(module.settings).toHaveLength(2);
});

test('lost events are made up for by looking at everything', async () => {
  start();
  await waitFor('module', () => (registrar.state === 'present' ? true : undefined), { timeoutMs: 2000 });
  module.vms.add(10).add(11);
  module.loseEvents();
  await registered(10, 11);
});

test('a VM that is just being made is tried again', async () => {
  module.failures.push(
    new HyperturtleError('HT_KERNEL', 'not yet'),
    new HyperturtleError('HT_KERNEL', 'not yet'),
  );
  module.vms.add(10);
  start();
  await registered(10);
  expect(registrar.problems).toEqual([]);
});

test('one that has no room is told as a problem, and has its turn when another ends', async () => {
  module.room = 1;
  module.vms.add(10).add(11);
  start();
  await registered(10);
  expect(registrar.problems).toMatchObject([{ step: 'register VM of process 11', kind: 'HT_NO_SPACE' }]);
  module.endVm(10);
  await registered(11);
  expect(registrar.problems).toEqual([]);
});

test('the module is let go of on demand, and taken up again afterwards', async () => {
  module.vms.add(10);
  start();
  await registered(10);
  await registrar.release(60);
  expect(module.opened).toBe(0);
  expect(registrar.state).toBe('released');
  await registered(10);
});

test('a module that was unloaded while released is taken up as soon as it is there again', async () => {
  start();
  await waitFor('module', () => (registrar.state === 'present' ? true : undefined), { timeoutMs: 2000 });
  await registrar.release(60_000);
  module.loaded = false;
  await sleep(250);
  module.loaded = true;
  module.vms.add(10);
  await registered(10);
});

test('told not to register, it registers nothing but keeps the settings', async () => {
  module.vms.add(10);
  start(AgentConfig().parse({ l2: { register: false }, module: { enabled: false } }));
  await waitFor('settings', () => module.settings[0], { timeoutMs: 2000 });
  module.startVm(11);
  await sleep(20);
  expect(registrar.l2s).toEqual([]);
  expect(module.settings).toEqual([{ enabled: false }]);
});
