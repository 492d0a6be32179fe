/** Whether this kernel loads modules without a signature, and what to do where it does not. For both doctors. */
import { existsSync } from 'node:fs';
import { readIfThere, textIfThere } from './files.ts';

export interface ModuleSigning {
  /** The word in brackets of /sys/kernel/security/lockdown; undefined: no lockdown. */
  lockdown: string | undefined;
  /** The firmware's SecureBoot is on. */
  secureBoot: boolean;
  /** `module.sig_enforce` is on. */
  enforced: boolean;
  /** The public half of the key with which dkms signs on this machine; undefined: there is none. */
  certificate: string | undefined;
}

const SECURE_BOOT = '/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c';
/** The machine owner's key: dkms' own, and that of shim on Ubuntu. */
const CERTIFICATES = ['/var/lib/shim-signed/mok/MOK.der', '/var/lib/dkms/mok.pub'];

export function moduleSigning(): ModuleSigning {
  return {
    lockdown: /\[(\w+)\]/.exec(textIfThere('/sys/kernel/security/lockdown') ?? '')?.[1],
    // four bytes of attributes, then the value
    secureBoot: readIfThere(SECURE_BOOT)?.[4] === 1,
    enforced: textIfThere('/sys/module/module/parameters/sig_enforce') === 'Y',
    certificate: CERTIFICATES.find((c) => existsSync(c)),
  };
}

/** What loads a module here, as the remedy of a finding. Pure. */
export function howToLoad(module: string, s: ModuleSigning): string {
  const load = `modprobe ${module}`;
  const locked = s.lockdown !== undefined && s.lockdown !== 'none';
  if (!locked && !s.secureBoot && !s.enforced) return load;
  const why = locked
    ? `is locked down (${s.lockdown})`
    : s.secureBoot
      ? 'was started by Secure Boot'
      : 'has module.sig_enforce on';
  const enroll = (file: string): string =>
    `mokutil --import ${file}, start this machine again and choose "Enroll MOK"`;
  return s.certificate === undefined
    ? `${load}; the kernel ${why} and may want it signed: dkms signs what it builds with a key of this machine (install dkms, then this package), and the key must be trusted: ${enroll('/var/lib/dkms/mok.pub')}`
    : `${load}; the kernel ${why}: if it says "Key was rejected by service", its key is not trusted yet: ${enroll(s.certificate)}`;
}
