/* SPDX-License-Identifier: GPL-2.0 */
/* Of the hooks of l2.c. They are called when slots change, VMs go and tables are shadowed, so look for their L2 in C. */
#include "kmod/trampoline.h"

HT_HOOK_CALL_ON
HT_TRAMPOLINE htg_flush
HT_TRAMPOLINE htg_prepare
HT_TRAMPOLINE htg_commit
HT_TRAMPOLINE htg_destroy
HT_TRAMPOLINE htg_track
