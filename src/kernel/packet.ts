/**
 * What programs of the kernel's own network hooks are given: struct xdp_md and struct __sk_buff of <linux/bpf.h>, as far
 * as a hyperupcall may read them, and the answers that count. The layouts are UAPI.
 */

/** One field of a context. `packet`: where the frame begins; `packet end`: where what can be read at once ends. */
export interface ContextField {
  readonly name: string;
  /** Bytes from the beginning of the context. */
  readonly offset: number;
  readonly bytes: number;
  readonly gives: 'number' | 'packet' | 'packet end';
}

const number = (name: string, offset: number): ContextField => ({ name, offset, bytes: 4, gives: 'number' });

export const XDP_FIELDS: readonly ContextField[] = [
  { name: 'data', offset: 0, bytes: 4, gives: 'packet' },
  { name: 'data_end', offset: 4, bytes: 4, gives: 'packet end' },
];

/** Without what tells of the host: marks, interfaces, sockets, hashes under the host's key. */
export const SKB_FIELDS: readonly ContextField[] = [
  number('len', 0),
  number('pkt_type', 4),
  number('protocol', 16),
  number('vlan_present', 20),
  number('vlan_tci', 24),
  number('vlan_proto', 28),
  { name: 'data', offset: 76, bytes: 4, gives: 'packet' },
  { name: 'data_end', offset: 80, bytes: 4, gives: 'packet end' },
  number('wire_len', 160),
  number('gso_segs', 164),
  number('gso_size', 176),
];

export const XDP_DROP = 1;
export const XDP_PASS = 2;
export const TC_ACT_UNSPEC = -1;
export const TC_ACT_OK = 0;
export const TC_ACT_SHOT = 2;
export const TC_ACT_PIPE = 3;
