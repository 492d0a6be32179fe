/** Root file systems of nested guests: how they are built, and how they get into L1. */
import { createHash } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import { expect, test } from 'vitest';
import { prepareArtifacts } from '../../src/lab/prepare.ts';
import { runScript } from '../../src/lab/levels.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';

const lab = useLab({ images: ['bash'] });

test('an image that is built again is the same, byte for byte', async () => {
  const artifacts = await prepareArtifacts({ kernel: TEST_KERNEL });
  const hash = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex');
  const first = await artifacts.buildImage('bash');
  const before = hash(first.path);
  rmSync(first.path);
  const second = await artifacts.buildImage('bash');
  expect([second.key, hash(second.path)]).toEqual([first.key, before]);
});

test('L1 finds it, and what it says of itself, in /images', async () => {
  const about = JSON.parse(await runScript(lab().l1, 'cat /images/bash.json')) as {
    service: { port: number };
  };
  expect(about.service.port).toBe(8080);
  const root = 'mkdir -p /tmp/root && mount -t erofs -o ro,loop /images/bash.erofs /tmp/root';
  const said = await runScript(
    lab().l1,
    `${root} && chroot /tmp/root bash -c 'echo $BASH_VERSION'; umount /tmp/root`,
  );
  expect(said).toMatch(/^5\./);
});
