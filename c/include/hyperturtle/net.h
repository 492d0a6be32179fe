/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Values of the network programs' maps, which src/net writes and reads. Directions are the nested guest's (L2's): its
 * egress is the ingress of the tap behind its NIC.
 */
#ifndef HYPERTURTLE_NET_H
#define HYPERTURTLE_NET_H

#include "types.h"

#define HT_NET_OUT 0 /* what L2 sends: hooks xdp and tc-ingress */
#define HT_NET_IN 1  /* what goes to L2: hook tc-egress */
#define HT_NET_DIRECTIONS 2

/*
 * Which of two generations of a configuration is in use: an even number the first, an odd one the second. Anyone who changes
 * it fills in the other one and then writes this. 0: there is none yet.
 */
struct ht_generation {
	__u64 number;
	__u64 zero; /* always 0; see merge_paths() */
};

/*
 * The same for tables that a program reads for a while. Anyone who changes them writes `filled` before anything of a
 * generation is filled in, and `number` when all is: so `filled` is `number`, or 1 more.
 */
struct ht_fw_control {
	__u64 number;
	__u64 zero;
	__u64 filled; /* the generation that was filled in last, or is being filled in */
};

/* packet_counter: one of these for each direction and CPU */
struct ht_packet_count {
	__u64 packets;  /* as the host sees them: a GSO frame is one */
	__u64 segments; /* as the wire would see them */
	__u64 bytes;    /* with Ethernet headers */
};

/*
 * firewall. A rule is a bit; each field of a packet is looked up in a table of intervals and gives the set of rules
 * whose condition on that field holds; the lowest bit that is in all sets is the first rule that matches.
 */
#define HT_FW_RULES 255  /* for each direction */
#define HT_FW_WORDS 4
#define HT_FW_BOUNDS 512 /* intervals of a field; n rules of one range each make at most 2n+1 */
#define HT_FW_SLOTS 2048 /* counters; a rule keeps its slot as long as it stays in the policy */
#define HT_FW_FIRST_SLOT 16
#define HT_FW_POLICY_BYTES 65528

/* counters that belong to no rule: slot = 8 * direction + one of these */
enum ht_fw_other {
	HT_FW_DEFAULT = 0,   /* no rule matched */
	HT_FW_NEIGHBOUR = 1, /* ARP, IPv6 neighbour discovery */
	HT_FW_NON_IP = 2,
	HT_FW_MALFORMED = 3, /* dropped whatever the rules say */
	HT_FW_CHANGING = 4,  /* dropped: the rules changed, and began to change again, while it was looked at */
};

#define HT_FW_ALLOW_DEFAULT 1
#define HT_FW_ALLOW_NON_IP 2
#define HT_FW_ALLOW_NEIGHBOURS 4

struct ht_fw_rules_set {
	__u64 word[HT_FW_WORDS];
};

/*
 * An IPv6 address in words that leave room for a sign: a comparison is three subtractions, each of which takes its
 * sign on to the next.
 */
struct ht_fw_address {
	__u64 high;   /* bits 127-80 */
	__u64 middle; /* bits 79-32 */
	__u64 low;    /* bits 31-0 */
	__u64 reserved;
};

/*
 * One direction of one generation. Bounds are the first values of intervals, ascending, in host order; the first is 0,
 * unused ones are the greatest value there is and repeat the last set.
 */
struct ht_fw_table {
	__u64 flags; /* HT_FW_ALLOW_* */
	struct ht_fw_rules_set allow;
	struct ht_fw_rules_set any_port; /* rules without conditions on ports: all that a later fragment can match */
	__u16 slot[HT_FW_RULES + 1];
	struct ht_fw_rules_set protocol[256];
	__u16 source_port[HT_FW_BOUNDS];
	struct ht_fw_rules_set source_port_set[HT_FW_BOUNDS];
	__u16 destination_port[HT_FW_BOUNDS];
	struct ht_fw_rules_set destination_port_set[HT_FW_BOUNDS];
	__u32 source4[HT_FW_BOUNDS];
	struct ht_fw_rules_set source4_set[HT_FW_BOUNDS];
	__u32 destination4[HT_FW_BOUNDS];
	struct ht_fw_rules_set destination4_set[HT_FW_BOUNDS];
	struct ht_fw_address source6[HT_FW_BOUNDS];
	struct ht_fw_rules_set source6_set[HT_FW_BOUNDS];
	struct ht_fw_address destination6[HT_FW_BOUNDS];
	struct ht_fw_rules_set destination6_set[HT_FW_BOUNDS];
};

/* The policy as it was given, for anyone who wants to see it; programs do not look at it. One for each generation. */
struct ht_fw_policy {
	__u32 bytes;
	__u32 reserved;
	__u8 text[HT_FW_POLICY_BYTES];
};

struct ht_fw_hits {
	__u64 packets;
	__u64 bytes;
};

/* rate_limiter: limits of one direction in one generation */
#define HT_RATE_TIME_SHIFT 6  /* times are in 1/64 ns */
#define HT_RATE_COST_SHIFT 14 /* costs in 2^-14 of those */

struct ht_rate_limit {
	__u64 byte_cost; /* of one byte; 0: no limit */
	__u64 byte_burst;  /* a time: burst * cost */
	__u64 packet_cost;
	__u64 packet_burst;
};

/* The time at which each bucket is full again. One word for each bucket: a compare-and-exchange is the whole lock. */
struct ht_rate_state {
	__u64 byte_full_at;
	__u64 packet_full_at;
	__u64 reserved[6]; /* directions on cache lines of their own */
};

struct ht_rate_count {
	__u64 passed_packets; /* segments */
	__u64 passed_bytes;
	__u64 dropped_packets;
	__u64 dropped_bytes;
	__u64 contended; /* dropped as other CPUs won the word every time */
};

/* tcptop. Local is L2's side. */
struct ht_flow_key {
	__u8 local[16]; /* network order; IPv4 in the first four bytes */
	__u8 remote[16];
	__u16 local_port; /* host order */
	__u16 remote_port;
	__u8 protocol;
	__u8 version; /* 4 or 6 */
	__u8 reserved[2];
};

struct ht_flow {
	__u64 packets[HT_NET_DIRECTIONS]; /* segments */
	__u64 bytes[HT_NET_DIRECTIONS];
	__u64 first_ns; /* CLOCK_MONOTONIC of L0 */
	__u64 last_ns;
};

#define HT_FLOWS 8192

#endif
