/** `hyperturtle host status --all --json`: one line that says all of a host. */
import os from 'node:os';
import { isHyperturtleError } from '../../core/errors.ts';
import type { ADMIN_METHODS, VmReport } from '../../host/daemon/admin-schema.ts';
import type { ParamsOf, ResultOf } from '../../wire/schema.ts';

type Methods = typeof ADMIN_METHODS;
type Detail = ResultOf<Methods, 'admin.vm.detail'>;

export interface HostStatus {
  /** Another number when a field changes its meaning or goes. */
  format: 1;
  host: { name: string; kernel: string; at: string };
  daemon: ResultOf<Methods, 'admin.status'>;
  health: ResultOf<Methods, 'admin.health'>;
  findings: ResultOf<Methods, 'admin.doctor'>['findings'];
  /** A VM that went while this was asked has no detail. */
  vms: (VmReport & { detail: Omit<Detail, 'hooks'> | null })[];
}

export async function statusOf(
  ask: <M extends keyof Methods>(method: M, params: ParamsOf<Methods, M>) => Promise<ResultOf<Methods, M>>,
): Promise<HostStatus> {
  const daemon = await ask('admin.status', {});
  const health = await ask('admin.health', {});
  const { findings } = await ask('admin.doctor', {});
  const { vms } = await ask('admin.vm.list', {});
  const withDetail: HostStatus['vms'] = [];
  for (const vm of vms) {
    const detail = await ask('admin.vm.detail', { name: vm.name }).catch((e: unknown) => {
      if (isHyperturtleError(e, 'HT_NOT_FOUND')) return undefined;
      throw e;
    });
    const { objects, limits, signature } = detail ?? {};
    withDetail.push({
      ...vm,
      detail: objects && limits && signature ? { objects, limits, signature } : null,
    });
  }
  return {
    format: 1,
    host: { name: os.hostname(), kernel: os.release(), at: new Date().toISOString() },
    ...{ daemon, health, findings, vms: withDetail },
  };
}
