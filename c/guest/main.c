// SPDX-License-Identifier: GPL-2.0
/*
 * hyperturtle_guest.ko: L1's side. Binds the arena, keeps the pool, serves guest RAM as turtlefs files, and
 * tells programs in L0 which L2 has which RAM and runs where. /dev/hyperturtle-guest is root's.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include "guest.h"
#include "kmod/direct_hook.h"
#include "kmod/lookup_name.h"

struct htg_counters htg_count;

static void htg_get_info(struct htg_info *info)
{
	struct htg_arena *a;

	memset(info, 0, sizeof(*info));
	info->abi = HTG_ABI;
	mutex_lock(&htg_lock);
	a = rcu_dereference_protected(htg_arena, lockdep_is_held(&htg_lock));
	if (a) {
		info->arena_bound = 1;
		info->arena_bytes = a->bytes;
		info->enabled = READ_ONCE(a->h->enabled);
		info->group_max = READ_ONCE(a->h->group_max);
		info->pool_entries = a->h->pool_entries * a->pools;
		info->pool_low = htg_pool_low();
		info->pool_high = htg_pool_high();
		info->pool_level = htg_pool_level(a);
		info->index_words = a->h->index_words;
		info->index_used = htg_index_used();
		info->large_frames = htg_large_most(a);
		info->large_level = htg_large_level(a);
		htg_large_poke(a); /* anyone who waits for a full pool sees it become so */
	}
	mutex_unlock(&htg_lock);
	info->memcg = htg_memcg();
	info->large_auto = htg_large_frames < 0;
	info->large_back = atomic64_read(&htg_count.large_back);
	info->l2_count = htg_l2_count();
	info->frames_allocated = atomic64_read(&htg_count.frames_allocated);
	info->frames_freed = atomic64_read(&htg_count.frames_freed);
	info->faults = atomic64_read(&htg_count.faults);
	info->faults_lost = atomic64_read(&htg_count.faults_lost);
	info->faults_found = atomic64_read(&htg_count.faults_found);
	info->refills = atomic64_read(&htg_count.refills);
	info->shrunk = atomic64_read(&htg_count.shrunk);
	info->grace_periods = atomic64_read(&htg_count.grace_periods);
	info->interrupted = atomic64_read(&htg_count.interrupted);
}

static int htg_set(const struct htg_set *set)
{
	struct htg_arena *a;
	int ret = 0;

	if (set->mask & ~(HTG_SET_ENABLED | HTG_SET_GROUP_MAX | HTG_SET_POOL | HTG_SET_EXACT | HTG_SET_INEXACT) ||
	    set->enabled > 1)
		return -EINVAL;
	if ((set->mask & HTG_SET_GROUP_MAX) && (!set->group_max || set->group_max > HT_GROUP_MAX))
		return -EINVAL;
	if (set->mask & HTG_SET_POOL)
		ret = htg_pool_set(set->pool_low, set->pool_high);
	if (ret)
		return ret;
	mutex_lock(&htg_lock);
	a = rcu_dereference_protected(htg_arena, lockdep_is_held(&htg_lock));
	if (!a)
		ret = -ENODEV;
	if (a && (set->mask & HTG_SET_GROUP_MAX))
		WRITE_ONCE(a->h->group_max, set->group_max);
	if (a && (set->mask & (HTG_SET_EXACT | HTG_SET_INEXACT)))
		WRITE_ONCE(a->h->exact, !!(set->mask & HTG_SET_EXACT));
	if (a && (set->mask & HTG_SET_ENABLED)) {
		WRITE_ONCE(a->h->enabled, set->enabled);
		if (!set->enabled)
			htg_grace();	/* off means off when we return */
	}
	mutex_unlock(&htg_lock);
	return ret;
}

static long htg_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *up = (void __user *)arg;
	union {
		struct htg_info info;
		struct htg_set set;
		struct htg_register reg;
		struct htg_pool pool;
		struct htg_call call;
	} u;
	int ret;

	switch (cmd) {
	case HTG_GET_INFO:
		htg_get_info(&u.info);
		return copy_to_user(up, &u.info, sizeof(u.info)) ? -EFAULT : 0;
	case HTG_SET:
		return copy_from_user(&u.set, up, sizeof(u.set)) ? -EFAULT : htg_set(&u.set);
	case HTG_REGISTER:
		if (copy_from_user(&u.reg, up, sizeof(u.reg)))
			return -EFAULT;
		htg_l2_known();
		return htg_l2_register(&u.reg);
	case HTG_WATCH_VMS:
		htg_l2_known();
		return htg_watch_open();
	case HTG_GET_POOL:
		if (copy_from_user(&u.pool, up, sizeof(u.pool)))
			return -EFAULT;
		ret = htg_pool_get(&u.pool);
		return ret ?: copy_to_user(up, &u.pool, sizeof(u.pool)) ? -EFAULT : 0;
	case HTG_CALL:
		if (copy_from_user(&u.call, up, sizeof(u.call)))
			return -EFAULT;
		ret = htg_call(&u.call);
		return ret ?: copy_to_user(up, &u.call, sizeof(u.call)) ? -EFAULT : 0;
	default:
		return -ENOTTY;
	}
}

static const struct file_operations htg_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = htg_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice htg_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "hyperturtle-guest",
	.fops = &htg_fops,
	.mode = 0600,
};

static int __init htg_init(void)
{
	int ret = ht_check_kernel();

	ret = ret ?: ht_hooks_stay_on();
	if (ret)
		return ret;
	ret = ht_lookup_init();
	if (ret)
		goto ftrace;
	htg_account_init();
	ret = htg_pool_init();
	if (ret)
		goto ftrace;
	ret = htg_l2_init();
	if (ret)
		goto pool;
	ret = htg_arena_init();
	if (ret)
		goto l2;
	ret = htg_fs_init();
	if (ret)
		goto arena;
	ret = misc_register(&htg_misc);
	if (ret)
		goto fs;
	return 0;
fs:
	htg_fs_exit();
arena:
	htg_arena_exit();
l2:
	htg_l2_exit();
pool:
	htg_pool_exit();
	htg_account_exit();
ftrace:
	ht_hooks_stay_off();
	return ret;
}

/* Mounts, open files and registrations hold the module, so none is left here. */
static void __exit htg_exit(void)
{
	misc_deregister(&htg_misc);
	htg_fs_exit();
	htg_arena_exit();
	htg_l2_exit();
	htg_pool_exit();
	htg_account_exit();
	ht_hooks_stay_off();
}

module_init(htg_init);
module_exit(htg_exit);
MODULE_SOFTDEP("pre: kvm_amd kvm_intel"); /* no symbol of theirs is used, so modprobe would not know */
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("HyperTurtle: hyperupcalls of nested hypervisors, guest side");
