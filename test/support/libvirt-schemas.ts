/** libvirt's own schemas and xmllint, of Debian 12 or 13. */
import { debTree } from './deb-tree.ts';
import type { DebTree } from './deb-tree.ts';

const PACKAGES = ['libvirt-common|libvirt0', 'libvirt0', 'libxml2-utils', 'libxml2', 'libicu76|libicu72'];

/** Unpacked, or why there are none. */
export function libvirtSchemas(): DebTree | string {
  return debTree('libvirt-schemas', PACKAGES);
}
