// SPDX-License-Identifier: GPL-2.0
/* What both modules are made with, as this one's own: they share no symbols. */
#include "kmod/lookup_name.c"
#include "kmod/direct_hook.c"
