/** Domains of libvirt beside what the daemon says of them. */
import { messageOf } from '../../core/errors.ts';
import type { VmReport } from '../daemon/admin-schema.ts';
import { readDomain } from './domain.ts';
import type { FollowerStatus } from './follower.ts';
import type { Virsh } from './virsh.ts';

export interface DomainRow {
  domain: string;
  uuid: string;
  /** As libvirt says it. */
  state: string;
  enabled: 'yes' | 'no' | 'next start';
  /** Its name in the daemon. */
  vm: string | undefined;
  served: 'yes' | 'no' | 'released';
  arena: string | undefined;
  why: string | undefined;
}

/** All domains, those that are not enabled too. Throws when libvirt cannot be asked. */
export async function domainTable(
  virsh: Virsh,
  follower: FollowerStatus | null,
  vms: readonly VmReport[],
): Promise<DomainRow[]> {
  const rows: DomainRow[] = [];
  for (const { uuid, name, state } of await virsh.all()) {
    const row = { domain: name, uuid, state, served: 'no' as const, arena: undefined };
    try {
      const { vm, wrong } = readDomain(await virsh.inactive(uuid));
      const followed = follower?.domains.find((d) => d.uuid === uuid);
      const enabled =
        vm || wrong !== undefined ? (followed || state === 'shut off' ? 'yes' : 'next start') : 'no';
      rows.push({ ...row, enabled, vm: vm?.name, why: wrong, ...servedAs(followed, vms) });
    } catch (e) {
      // undefined meanwhile, for one
      rows.push({ ...row, enabled: 'no', vm: undefined, why: messageOf(e) });
    }
  }
  return rows;
}

function servedAs(
  followed: FollowerStatus['domains'][number] | undefined,
  vms: readonly VmReport[],
): Partial<DomainRow> {
  if (!followed) return {};
  if (followed.releasedUntil !== null)
    return { vm: followed.vm, served: 'released', why: `until ${followed.releasedUntil}` };
  const vm = vms.find((v) => v.name === followed.vm && v.from === 'libvirt');
  const why = followed.problem ?? vm?.problem ?? vm?.qmp.problem ?? undefined;
  return {
    vm: followed.vm,
    served: vm?.phase === 'attached' ? 'yes' : 'no',
    arena: vm?.arena.state,
    ...(why === undefined ? {} : { why }),
  };
}
