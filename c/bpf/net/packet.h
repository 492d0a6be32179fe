/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the network programs know about a frame. All bytes are read with the load helpers, never through ctx->data: frames
 * of a tap may have anything beyond the first bytes outside the linear part, and a helper's bounds need no proof.
 *
 * What is odd, and what becomes of it (docs/network-programs.md):
 * - up to two VLAN tags in the frame are skipped, more are malformed; a tag that the kernel keeps beside the frame is
 *   not looked at;
 * - a later fragment has addresses and protocol, no ports; a first fragment without its whole ports, or a TCP fragment
 *   that begins at 8 bytes and could overwrite the flags, is malformed;
 * - up to six IPv6 extension headers are skipped, more are malformed; ESP and "no next header" end the walk;
 * - a header that goes beyond the frame, or beyond the length that the IP header gives, is malformed.
 */
#ifndef HYPERTURTLE_BPF_PACKET_H
#define HYPERTURTLE_BPF_PACKET_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "hyperturtle/net.h"

#define P_8021Q 0x8100
#define P_8021AD 0x88a8
#define P_ARP 0x0806
#define P_IPV4 0x0800
#define P_IPV6 0x86dd

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_DCCP 33
#define PROTO_ICMPV6 58
#define PROTO_SCTP 132
#define PROTO_UDPLITE 136

#define VLAN_TAGS_MAX 2
#define EXTENSIONS_MAX 6
#define BIG_FRAME 65535

enum packet_kind {
	PACKET_MALFORMED = 0,
	PACKET_OTHER, /* not IP: see ether_type */
	PACKET_IPV4,
	PACKET_IPV6,
};

struct packet {
	__u32 kind;
	__u32 bytes;     /* the frame, with its Ethernet header */
	__u32 ether_type;
	__u32 protocol;  /* of the first header that is no extension */
	__u32 has_ports;
	__u32 fragment;  /* not the first one */
	__u32 source_port;      /* host order; of ICMP: type and code */
	__u32 destination_port;
	__u32 hop_limit;
	__u32 payload_offset;
	union {
		__u8 source[16]; /* network order */
		__u32 source32[4];
		__u64 source64[2];
	};
	union {
		__u8 destination[16];
		__u32 destination32[4];
		__u64 destination64[2];
	};
};

struct ethernet_header {
	__u8 addresses[12];
	__be16 type;
} __attribute__((packed));

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

struct ipv6_header {
	__be32 flow;
	__be16 payload_length;
	__u8 next;
	__u8 hop_limit;
	__u64 source[2];
	__u64 destination[2];
};

struct ports {
	__be16 source;
	__be16 destination;
};

/* the commonest frames whole, in one load; IP's fields at addresses that are multiples of their sizes */
struct head {
	__u8 unused[2];
	struct ethernet_header ethernet;
	union {
		struct {
			struct ipv4_header ip;
			struct ports ports;
		} v4;
		struct {
			struct ipv6_header ip;
			struct ports ports;
		} v6;
	};
} __attribute__((aligned(8)));

#define HEAD4_BYTES 38 /* to the end of the ports */
#define HEAD6_BYTES 58

static __always_inline long load(void *ctx, int is_xdp, __u32 offset, void *to, __u32 bytes)
{
	if (!is_xdp)
		return bpf_skb_load_bytes(ctx, offset, to, bytes);
	/* which leaves `to` as it was when it fails: admission wants it to be written */
	__builtin_memset(to, 0, bytes);
	return bpf_xdp_load_bytes(ctx, offset, to, bytes);
}

static __always_inline __u32 frame_bytes(void *ctx, int is_xdp)
{
	if (is_xdp)
		return bpf_xdp_get_buff_len(ctx);
	return ((struct __sk_buff *)ctx)->len;
}

/*
 * How many packets a frame is on the wire. A tap's frames come without gso_segs: then it is computed, with headers of 66
 * bytes (Ethernet, IPv4, TCP with time stamps) assumed, which is wrong by at most one.
 */
static __always_inline __u32 frame_segments(void *ctx, int is_xdp)
{
	struct __sk_buff *skb = ctx;
	__u32 size, segments;

	if (is_xdp)
		return 1;
	segments = skb->gso_segs;
	if (segments)
		return segments;
	size = skb->gso_size;
	if (!size || skb->len <= 66)
		return 1;
	return (skb->len - 66 + size - 1) / size;
}

static __always_inline int protocol_has_ports(__u32 protocol)
{
	return protocol == PROTO_TCP || protocol == PROTO_UDP || protocol == PROTO_SCTP ||
	       protocol == PROTO_UDPLITE || protocol == PROTO_DCCP;
}

/* Ports, or type and code, at `offset`; the packet ends at `end`. */
static __always_inline int parse_transport(void *ctx, int is_xdp, struct packet *p, __u32 offset, __u32 end)
{
	__be16 ports[2];
	int has_ports = protocol_has_ports(p->protocol);

	p->payload_offset = offset;
	if (!has_ports && p->protocol != PROTO_ICMP && p->protocol != PROTO_ICMPV6)
		return 0;
	if (offset + 4 > end || load(ctx, is_xdp, offset, ports, 4))
		return -1;
	p->source_port = bpf_ntohs(ports[0]);
	p->destination_port = bpf_ntohs(ports[1]);
	p->has_ports = has_ports;
	return 0;
}

static __always_inline int parse_ipv4(void *ctx, int is_xdp, struct packet *p, struct ipv4_header *ip, __u32 at)
{
	__u32 header = (ip->version_ihl & 15) * 4, total = bpf_ntohs(ip->total_length);
	__u32 fragment = bpf_ntohs(ip->fragment);

	/* a frame of more than 64 KiB (BIG TCP) has no length here */
	if (!total && p->bytes > BIG_FRAME)
		total = p->bytes - at;
	if (ip->version_ihl >> 4 != 4 || header < sizeof(*ip) || total < header || at + total > p->bytes)
		return -1;
	p->kind = PACKET_IPV4;
	p->protocol = ip->protocol;
	p->hop_limit = ip->ttl;
	p->source32[0] = ip->source;
	p->destination32[0] = ip->destination;
	if (fragment & 0x1fff) {
		if ((fragment & 0x1fff) == 1 && ip->protocol == PROTO_TCP)
			return -1;
		p->fragment = 1;
		p->payload_offset = at + header;
		return 0;
	}
	return parse_transport(ctx, is_xdp, p, at + header, at + total);
}

static __always_inline int is_extension(__u32 next)
{
	/* hop-by-hop, routing, fragment, AH, destination options, mobility, HIP, shim6 */
	return next == 0 || next == 43 || next == 44 || next == 51 || next == 60 || next == 135 || next == 139 ||
	       next == 140;
}

static __always_inline int parse_ipv6(void *ctx, int is_xdp, struct packet *p, __u32 at)
{
	struct ipv6_header ip;
	__u32 offset = at + sizeof(ip), end, next;
	__u8 extension[8];

	if (load(ctx, is_xdp, at, &ip, sizeof(ip)) || (bpf_ntohl(ip.flow) >> 28) != 6)
		return -1;
	end = offset + bpf_ntohs(ip.payload_length);
	if (!ip.payload_length && p->bytes > BIG_FRAME)
		end = p->bytes;
	if (end > p->bytes)
		return -1;
	p->kind = PACKET_IPV6;
	p->hop_limit = ip.hop_limit;
	p->source64[0] = ip.source[0];
	p->source64[1] = ip.source[1];
	p->destination64[0] = ip.destination[0];
	p->destination64[1] = ip.destination[1];
	next = ip.next;
	for (int i = 0; i < EXTENSIONS_MAX && is_extension(next); i++) {
		__u32 length;

		if (offset + 8 > end || load(ctx, is_xdp, offset, extension, 8))
			return -1;
		if (next == 44) {
			__u32 fragment = ((extension[2] << 8) | extension[3]) >> 3;

			length = 8;
			if (fragment) {
				if (fragment == 1 && extension[0] == PROTO_TCP)
					return -1;
				p->fragment = 1;
				p->protocol = extension[0];
				p->payload_offset = offset + 8;
				return 0;
			}
		} else {
			length = next == 51 ? (extension[1] + 2) * 4 : (extension[1] + 1) * 8;
		}
		next = extension[0];
		offset += length;
		if (offset > end)
			return -1;
	}
	if (is_extension(next))
		return -1;
	p->protocol = next;
	return parse_transport(ctx, is_xdp, p, offset, end);
}

/* Fills in *p, which is zero but for `bytes`; kind stays PACKET_MALFORMED when something does not fit. */
static __always_inline void parse(void *ctx, int is_xdp, struct packet *p)
{
	__u32 at = sizeof(struct ethernet_header), type;
	struct head head = {}; /* in short frames not all of it is loaded, nor looked at */
	int bad;

	if (p->bytes >= HEAD6_BYTES ? load(ctx, is_xdp, 0, &head.ethernet, HEAD6_BYTES) :
	    p->bytes >= HEAD4_BYTES ? load(ctx, is_xdp, 0, &head.ethernet, HEAD4_BYTES) :
				      load(ctx, is_xdp, 0, &head.ethernet, sizeof(head.ethernet)))
		return;
	type = bpf_ntohs(head.ethernet.type);
	if (p->bytes >= HEAD4_BYTES && type == P_IPV4 && head.v4.ip.version_ihl == 0x45 &&
	    !(head.v4.ip.fragment & bpf_htons(0x3fff)) &&
	    (head.v4.ip.protocol == PROTO_TCP || head.v4.ip.protocol == PROTO_UDP)) {
		__u32 total = bpf_ntohs(head.v4.ip.total_length);

		if (!total && p->bytes > BIG_FRAME)
			total = p->bytes - at;
		if (total < sizeof(head.v4.ip) + sizeof(head.v4.ports) || at + total > p->bytes)
			return;
		p->kind = PACKET_IPV4;
		p->ether_type = type;
		p->protocol = head.v4.ip.protocol;
		p->hop_limit = head.v4.ip.ttl;
		p->source32[0] = head.v4.ip.source;
		p->destination32[0] = head.v4.ip.destination;
		p->source_port = bpf_ntohs(head.v4.ports.source);
		p->destination_port = bpf_ntohs(head.v4.ports.destination);
		p->has_ports = 1;
		p->payload_offset = at + sizeof(head.v4.ip);
		return;
	}
	if (p->bytes >= HEAD6_BYTES && type == P_IPV6 && (bpf_ntohl(head.v6.ip.flow) >> 28) == 6 &&
	    (head.v6.ip.next == PROTO_TCP || head.v6.ip.next == PROTO_UDP)) {
		__u32 payload = bpf_ntohs(head.v6.ip.payload_length);

		if (!payload && p->bytes > BIG_FRAME)
			payload = p->bytes - at - sizeof(head.v6.ip);
		if (payload < sizeof(head.v6.ports) || at + sizeof(head.v6.ip) + payload > p->bytes)
			return;
		p->kind = PACKET_IPV6;
		p->ether_type = type;
		p->protocol = head.v6.ip.next;
		p->hop_limit = head.v6.ip.hop_limit;
		p->source64[0] = head.v6.ip.source[0];
		p->source64[1] = head.v6.ip.source[1];
		p->destination64[0] = head.v6.ip.destination[0];
		p->destination64[1] = head.v6.ip.destination[1];
		p->source_port = bpf_ntohs(head.v6.ports.source);
		p->destination_port = bpf_ntohs(head.v6.ports.destination);
		p->has_ports = 1;
		p->payload_offset = at + sizeof(head.v6.ip);
		/* else clang loads for both versions in one place, at an address that admission cannot follow */
		asm volatile("" : : "r"(payload) : "memory");
		return;
	}
	for (int i = 0; i < VLAN_TAGS_MAX && (type == P_8021Q || type == P_8021AD); i++) {
		__be16 tag[2];

		if (load(ctx, is_xdp, at, tag, 4))
			return;
		type = bpf_ntohs(tag[1]);
		at += 4;
	}
	if (type == P_8021Q || type == P_8021AD)
		return;
	p->ether_type = type;
	if (type == P_IPV4) {
		bad = load(ctx, is_xdp, at, &head.v4.ip, sizeof(head.v4.ip)) ||
		      parse_ipv4(ctx, is_xdp, p, &head.v4.ip, at);
	} else if (type == P_IPV6) {
		bad = parse_ipv6(ctx, is_xdp, p, at);
	} else {
		p->kind = PACKET_OTHER;
		return;
	}
	if (bad)
		p->kind = PACKET_MALFORMED;
}

/*
 * Every way through parse() leaves other constants behind, and the verifier would walk what follows once for each of
 * them. `unknown` comes from a map and is 0, which the verifier does not know: from here on all ways are one.
 */
static __always_inline void merge_paths(struct packet *p, __u32 unknown)
{
	p->kind += unknown;
	p->ether_type += unknown;
	p->protocol += unknown;
	p->has_ports += unknown;
	p->fragment += unknown;
	p->source_port += unknown;
	p->destination_port += unknown;
	p->hop_limit += unknown;
	for (int i = 0; i < 4; i++) {
		p->source32[i] += unknown;
		p->destination32[i] += unknown;
	}
}

/* The three programs of an object, for the hooks that see either direction. `run` says 0: drop, else: pass. */
#define NETWORK_PROGRAMS(name, run)                                                        \
	SEC("xdp") int name##_xdp(struct xdp_md *ctx)                                      \
	{                                                                                  \
		return run(ctx, 1, HT_NET_OUT) ? XDP_PASS : XDP_DROP;                      \
	}                                                                                  \
	SEC("tc/ingress") int name##_out(struct __sk_buff *ctx)                            \
	{                                                                                  \
		return run(ctx, 0, HT_NET_OUT) ? TC_ACT_UNSPEC : TC_ACT_SHOT;              \
	}                                                                                  \
	SEC("tc/egress") int name##_in(struct __sk_buff *ctx)                              \
	{                                                                                  \
		return run(ctx, 0, HT_NET_IN) ? TC_ACT_UNSPEC : TC_ACT_SHOT;               \
	}                                                                                  \
	char LICENSE[] SEC("license") = "GPL"

#endif
