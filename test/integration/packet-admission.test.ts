/** What admission says of programs for hooks of NICs: what a program may know of a frame, and nothing of the host. */
import { describe, expect, it } from 'vitest';
import { checkObject } from '../../src/host/admission/check.ts';
import { BpfObject } from '../../src/bpf/object.ts';
import { packetProgramTypes } from '../../src/host/hooks.ts';
import { compileBpf, findClang, whyNoBpf } from '../support/bpf.ts';

const clang = findClang();
const why = whyNoBpf(clang);

/** A program with a map of one u64 and the body; `skb`, `md`, `zero` and `value` are there. */
const source = (section: string, body: string): string => `
#pragma clang diagnostic ignored "-Wunused"
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1);
	__type(key, __u32); __type(value, __u64);
} out SEC(".maps");
static long (*skb_load)(const void *, __u32, void *, __u32) = (void *)26;
static long (*xdp_load)(void *, __u32, void *, __u32) = (void *)189;
static long (*skb_store)(void *, __u32, const void *, __u32, __u64) = (void *)9;
SEC("${section}") int prog(void *ctx)
{
	struct __sk_buff *skb = ctx;
	struct xdp_md *md = ctx;
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&out, &zero);
	if (!value) return 0;
	${body}
	return 0;
}`;

const DATA = 'unsigned char *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;';
const XDP = 'unsigned char *data = (void *)(long)md->data, *end = (void *)(long)md->data_end;';

const ALLOWED: readonly [string, string, string][] = [
  [
    'reads a frame within its bounds',
    'tc/ingress',
    `${DATA} if (data + 14 <= end) *value += data[12] << 8 | data[13];`,
  ],
  ['the same for XDP', 'xdp', `${XDP} if (data + 14 <= end) *value += data[12] << 8 | data[13];`],
  ['takes the length of what it can see', 'tc/egress', `${DATA} *value += end - data;`],
  [
    'reads the numbers of its context',
    'tc/egress',
    '*value += skb->len + skb->protocol + skb->vlan_tci + skb->gso_segs;',
  ],
  [
    'copies from a frame to its stack',
    'tc/ingress',
    '__u64 copy; if (!skb_load(ctx, 26, &copy, 8)) *value = copy;',
  ],
  [
    'copies for XDP to what it has written before',
    'xdp',
    '__u64 copy = 0; xdp_load(ctx, 26, &copy, 8); *value = copy;',
  ],
  [
    'keeps the frame in a variable over a helper',
    'xdp',
    `${XDP} __u64 *again = bpf_map_lookup_elem(&out, &zero); if (again && data + 1 <= end) *again += *data;`,
  ],
];

const REFUSED: readonly [string, string, string, RegExp][] = [
  ['keeps where a frame lies', 'tc/ingress', `${DATA} *value = (long)data;`, /may tell an address/],
  ['keeps where it ends', 'xdp', `${XDP} *value = (long)end;`, /may tell an address/],
  ['keeps its context', 'tc/ingress', '*value = (long)ctx;', /may tell an address/],
  [
    'compares where a frame lies with a number of its choice',
    'xdp',
    `${XDP} if ((unsigned long)data > 0x70000000ul) *value = 1;`,
    /compares what may tell an address/,
  ],
  [
    'takes a number from it',
    'xdp',
    `${XDP} unsigned char *base = *value & 1 ? data : (void *)0x1000; *value = data - base;`,
    /may tell an address|compares/,
  ],
  [
    'keeps its lower half',
    'tc/ingress',
    `${DATA} asm volatile("w1 = w1" ::: "r1"); *value = (__u32)(long)data;`,
    /may tell an address/,
  ],
  [
    'reads a field of the host',
    'tc/ingress',
    '*value = skb->mark;',
    /reads 4 bytes at 8 of its context; there are: len/,
  ],
  ['reads the interface', 'xdp', '*value = md->ingress_ifindex;', /of its context/],
  [
    'reads the socket',
    'tc/egress',
    'struct bpf_sock *sk = skb->sk; if (sk) *value = sk->family;',
    /of its context/,
  ],
  ['writes to the context', 'tc/ingress', 'skb->mark = 7;', /writes to its context/],
  ['writes to a frame', 'tc/egress', `${DATA} if (data + 1 <= end) *data = 0;`, /writes to the packet/],
  [
    'calls what changes a frame',
    'tc/egress',
    'skb_store(ctx, 0, value, 8, 0);',
    /helper 9 \(skb_store_bytes\) is not allowed/,
  ],
  [
    'copies for XDP to memory that nobody wrote, and keeps what it finds there when that fails',
    'xdp',
    '__u64 copy; xdp_load(ctx, 1 << 15, &copy, 8); *value = copy;',
    /leads to bytes that were never written/,
  ],
  [
    'copies to a place that it does not know',
    'tc/ingress',
    '__u64 c[4]; skb_load(ctx, 0, &c[*value & 3], 8); *value = c[0];',
    /never written|may tell/,
  ],
];

describe.skipIf(why !== undefined)(`admission of packet programs${why ? ` (skipped: ${why})` : ''}`, () => {
  const compile = (section: string, body: string): Buffer =>
    clang ? compileBpf(clang, source(section, body)) : Buffer.alloc(0);

  it.each(ALLOWED)('takes one that %s, as the kernel does', (_, section, body) => {
    const elf = compile(section, body);
    expect(checkObject(elf, { policy: { cpus: 2 } }).refusals).toEqual([]);
    BpfObject.load({ name: 'allowed', elf, types: packetProgramTypes() }).close();
  });

  it.each(REFUSED)('refuses one that %s', (_, section, body, message) => {
    const { ok, refusals } = checkObject(compile(section, body), { policy: { cpus: 2 } });
    expect(ok).toBe(false);
    expect(refusals[0]?.message).toMatch(message);
  });
});
