// SPDX-License-Identifier: GPL-2.0
/*
 * firewall: the first rule that matches decides, else the direction's default.
 *
 * Rules are changed by filling in the generation that is not in use and then writing `control.number`, one word. A program
 * goes on with the generation that it began with, which stays whole until the change after that one fills it in. Anyone who
 * does so writes `control.filled` first, and the program looks at that last: when it has come so far the packet is dropped,
 * as nobody knows what was read. So nobody ever acts on a mix, and a packet is looked at once. Before the first policy
 * everything is dropped.
 */
#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ht_fw_control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * HT_NET_DIRECTIONS);
	__type(key, __u32);
	__type(value, struct ht_fw_table);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct ht_fw_policy);
} policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HT_FW_SLOTS);
	__type(key, __u32);
	__type(value, struct ht_fw_hits);
} hits SEC(".maps");

#define READ(x) (*(volatile typeof(x) *)&(x))

/*
 * Searches have no branches: the verifier then walks one path, and the CPU searches all fields at once. The barriers keep
 * clang from making a branch of a comparison, and an "or" of an addition, after which Linux 6.1 knows nothing any more.
 */
static __always_inline __u64 below(__u64 a, __u64 b) /* a < b, for values below 2^63 */
{
	__u64 d = a - b;

	asm volatile("" : "+r"(d));
	return d >> 63;
}

/* Index of the interval that has the key: the last bound that is not above it. */
#define SEARCH(bounds, key)                                                                \
	({                                                                                 \
		__u64 i_ = 0, k_ = (__u64)(key) + 1;                                       \
		_Pragma("unroll") for (int s_ = 8; s_ >= 0; s_--)                          \
		{                                                                          \
			i_ += below((bounds)[i_ + (1 << s_)], k_) << s_;                   \
			asm volatile("" : "+r"(i_));                                       \
		}                                                                          \
		i_;                                                                        \
	})

static __always_inline __u64 search6(struct ht_fw_address *bounds, __u64 first, __u64 second)
{
	__s64 high = first >> 16, middle = (first & 0xffff) << 32 | second >> 32;
	__s64 low = (second & 0xffffffff) + 1; /* the words need not be in range: only the sign of the whole counts */
	__u64 i = 0;

#pragma unroll
	for (int s = 8; s >= 0; s--) {
		struct ht_fw_address *b = &bounds[i + (1 << s)];
		__s64 d = b->low - low;

		d = b->middle - middle + (d >> 63);
		d = b->high - high + (d >> 63);
		asm volatile("" : "+r"(d));
		i += (__u64)d >> 63 << s;
		asm volatile("" : "+r"(i));
	}
	return i;
}

/* Of a number with one bit set: halves that have it, by which each digit is found by itself. */
static __always_inline __u32 digit(__u64 bit, __u64 half, int n)
{
	__u64 d = -(bit & half);

	asm volatile("" : "+r"(d));
	return d >> 63 << n;
}

static __always_inline __u32 lowest_bit(__u64 v)
{
	__u64 bit = v & -v;

	return digit(bit, 0xaaaaaaaaaaaaaaaaull, 0) | digit(bit, 0xccccccccccccccccull, 1) |
	       digit(bit, 0xf0f0f0f0f0f0f0f0ull, 2) | digit(bit, 0xff00ff00ff00ff00ull, 3) |
	       digit(bit, 0xffff0000ffff0000ull, 4) | digit(bit, 0xffffffff00000000ull, 5);
}

/* Whether it may pass; *slot is the counter that it belongs to. */
static __always_inline int decide(struct ht_fw_table *t, struct packet *p, __u32 direction, __u32 *slot)
{
	struct ht_fw_rules_set *protocol, *from, *to, *source, *destination;
	__u64 flags = t->flags;

	*slot = 8 * direction + HT_FW_DEFAULT;
	if (p->kind == PACKET_MALFORMED) {
		*slot = 8 * direction + HT_FW_MALFORMED;
		return 0;
	}
	if (p->kind == PACKET_OTHER) {
		if (p->ether_type == P_ARP && (flags & HT_FW_ALLOW_NEIGHBOURS)) {
			*slot = 8 * direction + HT_FW_NEIGHBOUR;
			return 1;
		}
		*slot = 8 * direction + HT_FW_NON_IP;
		return !!(flags & HT_FW_ALLOW_NON_IP);
	}
	/* router and neighbour solicitation and advertisement; nobody outside the link can send 255 hops */
	if (p->kind == PACKET_IPV6 && p->protocol == PROTO_ICMPV6 && !p->fragment && p->hop_limit == 255 &&
	    (flags & HT_FW_ALLOW_NEIGHBOURS) && (p->source_port >> 8) - 133 < 4) {
		*slot = 8 * direction + HT_FW_NEIGHBOUR;
		return 1;
	}
	protocol = &t->protocol[p->protocol & 255];
	from = to = &t->any_port;
	if (p->has_ports) {
		from = &t->source_port_set[SEARCH(t->source_port, p->source_port)];
		to = &t->destination_port_set[SEARCH(t->destination_port, p->destination_port)];
	}
	if (p->kind == PACKET_IPV4) {
		source = &t->source4_set[SEARCH(t->source4, bpf_ntohl(p->source32[0]))];
		destination = &t->destination4_set[SEARCH(t->destination4, bpf_ntohl(p->destination32[0]))];
	} else {
		source = &t->source6_set[search6(t->source6, bpf_be64_to_cpu(p->source64[0]),
						 bpf_be64_to_cpu(p->source64[1]))];
		destination = &t->destination6_set[search6(t->destination6,
							   bpf_be64_to_cpu(p->destination64[0]),
							   bpf_be64_to_cpu(p->destination64[1]))];
	}
	for (int w = 0; w < HT_FW_WORDS; w++) {
		__u64 all = protocol->word[w] & from->word[w] & to->word[w] & source->word[w] & destination->word[w];

		if (all) {
			__u32 bit = lowest_bit(all);

			/* clang knows that it is below 64; Linux 6.1's verifier, which forgets bounds at an or, does not */
			asm volatile("" : "+r"(bit));
			*slot = t->slot[w * 64 + (bit & 63)];
			return !!(t->allow.word[w] & all & -all);
		}
	}
	return !!(flags & HT_FW_ALLOW_DEFAULT);
}

static __always_inline int run(void *ctx, int is_xdp, __u32 direction)
{
	__u32 zero = 0, slot = 8 * direction + HT_FW_DEFAULT;
	struct packet p = { .bytes = frame_bytes(ctx, is_xdp) };
	struct ht_fw_control *in_use;
	struct ht_fw_table *t;
	struct ht_fw_hits *h;
	int pass = 0;
	__u64 number;
	__u32 key;

	in_use = bpf_map_lookup_elem(&control, &zero);
	if (!in_use)
		return 0;
	parse(ctx, is_xdp, &p);
	merge_paths(&p, READ(in_use->zero));
	number = READ(in_use->number);
	key = (number & 1) * HT_NET_DIRECTIONS + direction;
	t = bpf_map_lookup_elem(&tables, &key);
	if (!t)
		return 0;
	if (number) {
		pass = decide(t, &p, direction, &slot);
		/* loads are not reordered with loads on x86, stores not with stores; the barrier is for clang */
		asm volatile("" ::: "memory");
		/* number + 2 is filled in where number was */
		if (READ(in_use->filled) - number > 1) {
			slot = 8 * direction + HT_FW_CHANGING;
			pass = 0;
		}
	}
	h = bpf_map_lookup_elem(&hits, &slot);
	if (h) {
		h->packets++;
		h->bytes += p.bytes;
	}
	return pass;
}

NETWORK_PROGRAMS(firewall, run);
