// SPDX-License-Identifier: GPL-2.0
/*
 * hyperturtle_fuzz.ko: a hostile kernel of an L1, for tests of L0. Just before an L2 is entered it scribbles over what L0
 * reads in that L2's faults: words of the arena, entries of the nested page table; and over the arena while L2 runs
 * on another CPU. It breaks the L1 it is loaded in sooner or later, so it loads only where throw_away=1 says that nobody
 * minds. Numbers come from `seed`: the same seed asks for the same operations in the same order.
 *
 * The arena is ours alone: hyperturtle_guest.ko would free frames that we made up.
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/panic_notifier.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/tracepoint.h>
#include <asm/smp.h>
#include "fuzz.h"

static bool htf_throw_away;
module_param_named(throw_away, htf_throw_away, bool, 0444);
MODULE_PARM_DESC(throw_away, "this machine may break: must be given");

static unsigned long long htf_seed = 1;
module_param_named(seed, htf_seed, ullong, 0444);
MODULE_PARM_DESC(seed, "of the operations (default: 1)");

static unsigned int htf_batch;
module_param_named(batch, htf_batch, uint, 0644);
MODULE_PARM_DESC(batch, "operations at each entry of an L2 (default: 0, nothing is done)");

static bool htf_quiet;
module_param_named(quiet, htf_quiet, bool, 0644);
MODULE_PARM_DESC(quiet, "leaves are emptied and nothing else: a tenant that has many faults and does no harm");

u64 htf_first_gfn = 512, htf_pages = 2048;
module_param_named(first_gfn, htf_first_gfn, ullong, 0444);
module_param_named(pages, htf_pages, ullong, 0444);
MODULE_PARM_DESC(pages, "of L2, from first_gfn on: which words and entries are live");

const char *const htf_kind_names[HTF_KINDS] = {
	"header", "cpu", "l2", "pool", "index", "granule", "exit", "zap", "leaf", "upper",
};
/* How often each is chosen, of 128; what is left over is HTF_INDEX. */
static const u8 htf_weights[HTF_KINDS] = {
	[HTF_HEADER] = 2, [HTF_CPU] = 2, [HTF_L2] = 8, [HTF_POOL] = 16, [HTF_GRANULE] = 8, [HTF_EXIT] = 12,
	[HTF_ZAP] = 24, [HTF_LEAF] = 12, [HTF_UPPER] = 1,
};

static atomic64_t htf_done[HTF_KINDS];
static atomic64_t htf_entries, htf_beside;
static DEFINE_RAW_SPINLOCK(htf_lock);	/* htf_entry_random, and what npt.c has overwritten: with interrupts off */
static struct htf_random htf_entry_random, htf_thread_random;
static struct task_struct *htf_thread;
static int htf_running;		/* vCPUs in L2, about */

static enum htf_kind htf_choose(struct htf_random *r)
{
	unsigned int n = htf_below(r, 128);
	int kind;

	for (kind = 0; kind < HTF_KINDS; kind++) {
		if (n < htf_weights[kind])
			return kind;
		n -= htf_weights[kind];
	}
	return HTF_INDEX;
}

/*
 * An L2 is about to run: interrupts are off, and no code of KVM in this L1 looks at its table before it comes back. Each
 * operation is on something that L0 reads in L2's next faults and exits.
 */
static void htf_kvm_entry(void *data, struct kvm_vcpu *vcpu)
{
	unsigned int i, n = READ_ONCE(htf_batch), apicid = cpu_physical_id(smp_processor_id());

	raw_spin_lock(&htf_lock);
	htf_npt_restore(NULL); /* an entry that came to nothing */
	if (!n)
		goto out;
	atomic64_inc(&htf_entries);
	htf_npt_remember(vcpu);
	if (READ_ONCE(htf_quiet) || htf_below(&htf_entry_random, 4))
		htf_arena_repair(&htf_entry_random, apicid, vcpu->arch.mmu->root.hpa & HT_PFN_MASK);
	for (i = 0; i < n; i++) {
		enum htf_kind kind = READ_ONCE(htf_quiet) ? HTF_ZAP : htf_choose(&htf_entry_random);
		bool done = kind >= HTF_ZAP ? htf_npt_op(&htf_entry_random, kind, vcpu) :
					      htf_arena_op(&htf_entry_random, kind, apicid);

		if (done && !READ_ONCE(htf_quiet))
			atomic64_inc(&htf_done[kind]);
	}
out:
	WRITE_ONCE(htf_running, 1);
	raw_spin_unlock(&htf_lock);
}

static void htf_kvm_exit(void *data, struct kvm_vcpu *vcpu)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&htf_lock, flags);
	WRITE_ONCE(htf_running, 0);
	htf_npt_restore(vcpu);
	raw_spin_unlock_irqrestore(&htf_lock, flags);
}

extern struct tracepoint __tracepoint_kvm_entry, __tracepoint_kvm_exit;

/* On another CPU than L2's: words of the arena change while L0 works on a fault. */
static int htf_beside_l2(void *unused)
{
	unsigned int i;

	while (!kthread_should_stop()) {
		if (!READ_ONCE(htf_batch) || READ_ONCE(htf_quiet) || !READ_ONCE(htf_running)) {
			usleep_range(2000, 4000);
			continue;
		}
		for (i = 0; i < 32 && READ_ONCE(htf_running); i++) {
			enum htf_kind kind = htf_choose(&htf_thread_random);

			if (kind < HTF_ZAP && htf_arena_op(&htf_thread_random, kind, 0)) {
				atomic64_inc(&htf_done[kind]);
				atomic64_inc(&htf_beside);
			}
		}
		usleep_range(500, 1000);
	}
	return 0;
}

static char htf_words[512];	/* counters as one line of JSON: of the reader of the file, or of a panic */

static const char *htf_counters(void)
{
	int kind, n;

	n = scnprintf(htf_words, sizeof(htf_words), "{\"entries\":%lld,\"beside\":%lld", atomic64_read(&htf_entries),
		      atomic64_read(&htf_beside));
	for (kind = 0; kind < HTF_KINDS; kind++)
		n += scnprintf(htf_words + n, sizeof(htf_words) - n, ",\"%s\":%lld", htf_kind_names[kind],
			       atomic64_read(&htf_done[kind]));
	scnprintf(htf_words + n, sizeof(htf_words) - n, "}");
	return htf_words;
}

static int htf_show(struct seq_file *s, void *unused)
{
	seq_printf(s, "%s\n", htf_counters());
	return 0;
}

/* This machine ends by what was done to it: what it did until then counts, so the console is told. */
static int htf_on_panic(struct notifier_block *block, unsigned long event, void *what)
{
	pr_emerg("hyperturtle_fuzz: counted %s\n", htf_counters());
	return NOTIFY_DONE;
}

static struct notifier_block htf_panic_block = { .notifier_call = htf_on_panic, .priority = INT_MAX };

static int __init htf_init(void)
{
	int ret;

	if (!htf_throw_away) {
		pr_err("hyperturtle_fuzz: this breaks the machine it is loaded in: say throw_away=1\n");
		return -EPERM;
	}
	htf_entry_random.state = htf_seed ?: 1;
	htf_thread_random.state = ~htf_seed ?: 1;
	ret = htf_arena_init();
	if (ret)
		return ret;
	ret = -ENOMEM;
	if (!proc_create_single("hyperturtle_fuzz", 0400, NULL, htf_show))
		goto arena;
	htf_thread = kthread_run(htf_beside_l2, NULL, "hyperturtle_fuzz");
	if (IS_ERR(htf_thread)) {
		ret = PTR_ERR(htf_thread);
		goto proc;
	}
	ret = tracepoint_probe_register(&__tracepoint_kvm_exit, htf_kvm_exit, NULL);
	if (ret)
		goto thread;
	ret = tracepoint_probe_register(&__tracepoint_kvm_entry, htf_kvm_entry, NULL);
	if (!ret) {
		atomic_notifier_chain_register(&panic_notifier_list, &htf_panic_block);
		return 0;
	}
	tracepoint_probe_unregister(&__tracepoint_kvm_exit, htf_kvm_exit, NULL);
	tracepoint_synchronize_unregister();
thread:
	kthread_stop(htf_thread);
proc:
	remove_proc_entry("hyperturtle_fuzz", NULL);
arena:
	htf_arena_exit();
	return ret;
}

static void __exit htf_exit(void)
{
	unsigned long flags;

	atomic_notifier_chain_unregister(&panic_notifier_list, &htf_panic_block);
	tracepoint_probe_unregister(&__tracepoint_kvm_entry, htf_kvm_entry, NULL);
	tracepoint_probe_unregister(&__tracepoint_kvm_exit, htf_kvm_exit, NULL);
	tracepoint_synchronize_unregister();
	raw_spin_lock_irqsave(&htf_lock, flags);
	htf_npt_restore(NULL);
	raw_spin_unlock_irqrestore(&htf_lock, flags);
	kthread_stop(htf_thread);
	remove_proc_entry("hyperturtle_fuzz", NULL);
	htf_arena_exit();
}

module_init(htf_init);
module_exit(htf_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("HyperTurtle: a hostile L1, for tests of its host");
