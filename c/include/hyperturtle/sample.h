/* SPDX-License-Identifier: GPL-2.0 */
/* The sample hook: what a link to it asks for. */
#ifndef HYPERTURTLE_SAMPLE_H
#define HYPERTURTLE_SAMPLE_H

#include "types.h"

struct ht_sample_args { /* of a link */
	__u32 hz;              /* samples a second of each vCPU thread */
	__u32 flags;
	__u32 depth;           /* most return addresses of one stack */
	__u32 reserved;
};

#endif
