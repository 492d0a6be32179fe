/** docs/cli.md and docs/guest-agent.md against what the program has. */
import { expect, test } from 'vitest';
import { Command } from 'commander';
import { readFileSync } from 'node:fs';
import { registerAgent } from '../../../src/cli/guest/agent.ts';
import { completionNodes, registerCompletion } from '../../../src/cli/docs/completion.ts';
import { registerDoctor } from '../../../src/cli/doctor/command.ts';
import { registerModule } from '../../../src/cli/guest/command.ts';
import { registerStatus } from '../../../src/cli/guest/status.ts';
import { registerEvents } from '../../../src/cli/events/command.ts';
import { registerExits } from '../../../src/cli/exits/command.ts';
import { registerFirewall } from '../../../src/cli/net/firewall.ts';
import { registerMaps } from '../../../src/cli/maps/command.ts';
import { registerNetworkPrograms } from '../../../src/cli/net/command.ts';
import { registerObjects } from '../../../src/cli/objects/command.ts';
import { registerNic } from '../../../src/cli/nic/command.ts';
import { registerTraffic } from '../../../src/cli/net/traffic.ts';
import { registerTop } from '../../../src/cli/top/command.ts';
import { parseYaml } from '../../../src/core/yaml.ts';
import { agentSettings, AgentConfig } from '../../../src/guest/agent/config.ts';

const cli = readFileSync('docs/cli.md', 'utf8');
const agent = readFileSync('docs/guest-agent.md', 'utf8');

test('every command of an L1 is described', () => {
  const program = new Command('hyperturtle');
  registerObjects(program);
  registerMaps(program);
  registerEvents(program);
  registerTop(program);
  registerExits(program);
  registerNic(program);
  registerNetworkPrograms(program);
  registerFirewall(program);
  registerTraffic(program);
  const guest = program.command('guest');
  registerModule(guest);
  registerAgent(guest, '0');
  registerStatus(program);
  registerDoctor(program);
  registerCompletion(program, () => Promise.resolve(program));
  for (const { path } of completionNodes(program)) {
    const [first = '', second] = path.split(' ');
    const told =
      first === 'map' && second !== undefined
        ? new RegExp(`map [a-z|\\\\]*\\b${second}\\b`)
        : new RegExp(`\`(hyperturtle )?${path}\\b`);
    if (path !== '' && path !== 'guest' && path !== 'map' && path !== 'nic' && path !== 'rate-limit')
      expect(cli).toMatch(told);
  }
});

test('the example configuration is one, and names every setting', () => {
  const example = agent
    .slice(agent.indexOf('    port: '), agent.indexOf('What is left out of'))
    .replace(/^ {4}/gm, '');
  const config = parseYaml(example, 'guest.yaml', AgentConfig());
  expect(config.links).toEqual([{ object: 'npf', hook: 'npf' }]);
  for (const key of agentSettings()) expect(example, key).toMatch(new RegExp(`^${key}:`, 'm'));
});
