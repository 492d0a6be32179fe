/** The operator's methods that make a VM quiet, send it elsewhere, save it and restore it. */
import type { Handlers } from '../../wire/handlers.ts';
import type { ManagedVm } from '../vm/managed-vm.ts';
import type { ADMIN_METHODS } from './admin-schema.ts';

type Moving =
  | 'admin.vm.quiesce'
  | 'admin.vm.resume'
  | 'admin.vm.migrate'
  | 'admin.vm.save'
  | 'admin.vm.saved'
  | 'admin.vm.restore'
  | 'admin.vm.cancel';

/** `vm` throws HT_NOT_FOUND. */
export function moveHandlers(vm: (name: string) => ManagedVm): Pick<Handlers<typeof ADMIN_METHODS>, Moving> {
  return {
    'admin.vm.quiesce': ({ name, ...o }) => {
      vm(name).moves.quiesce({ nics: o.nics, timeoutMs: o.guestMs });
      return {};
    },
    'admin.vm.resume': async ({ name }) => {
      await vm(name).moves.resume();
      return {};
    },
    'admin.vm.migrate': ({ name, guestMs: timeoutMs, ...o }) => {
      vm(name).moves.migrate({ ...o, timeoutMs });
      return {};
    },
    'admin.vm.save': async ({ name, guestMs: timeoutMs, ...o }) => ({
      socket: await vm(name).moves.save({ ...o, timeoutMs }),
    }),
    'admin.vm.saved': ({ name, whole }) => {
      vm(name).moves.saved(whole);
      return {};
    },
    'admin.vm.restore': async ({ name, deadlineMs }) => ({
      socket: await vm(name).moves.restore(deadlineMs),
    }),
    'admin.vm.cancel': async ({ name }) => {
      await vm(name).moves.cancel('cancelled by command');
      return {};
    },
  };
}
