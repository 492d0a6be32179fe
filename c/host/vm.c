// SPDX-License-Identifier: GPL-2.0
/*
 * Attached VMs: the file that ATTACH_VM returns owns everything done for one VM, and the programs linked to
 * its hooks. Hooks look a VM up without a lock and hold the VM's own SRCU while they use its programs, so
 * nothing that one VM does can hold up another.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hashtable.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "run.h"
#include "fill.h"
#include "kvm_calls.h"
#include "kmod/direct_hook.h"

/* by enum ht_hook; NULL: there is no such hook */
static const struct ht_hook_ops *const ht_hooks[HT_HOOKS] = {
	[HT_HOOK_NPF] = &ht_npf_ops,
	[HT_HOOK_EXIT] = &ht_exit_ops,
	[HT_HOOK_SAMPLE] = &ht_sample_ops,
	[HT_HOOK_CALL] = &ht_call_ops,
};

static DEFINE_HASHTABLE(ht_vms, 8);
static DEFINE_MUTEX(ht_vms_lock);

/* Finds the VM of a struct kvm and holds it until ht_vm_leave(); NULL if nobody attached it. */
struct ht_vm *ht_vm_enter(struct kvm *kvm, int *idx)
{
	struct ht_vm *vm;

	rcu_read_lock();
	hash_for_each_possible_rcu(ht_vms, vm, node, (unsigned long)kvm) {
		if (vm->kvm == kvm) {
			*idx = srcu_read_lock(&vm->srcu);
			rcu_read_unlock();
			return vm;
		}
	}
	rcu_read_unlock();
	return NULL;
}

void ht_vm_leave(struct ht_vm *vm, int idx)
{
	srcu_read_unlock(&vm->srcu, idx);
}

static void ht_linked_free(struct ht_linked *l)
{
	bpf_prog_put(l->prog);
	if (l->arena)
		bpf_map_put(l->arena);
	ht_run_free(l);
	kfree(l);
}

/* Leaves word for the owner of the VM's file that the module has ended a link, and why. */
static void ht_vm_tell_end(struct ht_vm *vm, const struct ht_linked *l)
{
	struct ht_link_ended e = { .hook = l->hook, .prog_id = l->prog->aux->id,
				   .ns = READ_ONCE(vm->overruns[l->hook].took), .limit_ns = ht_run_limit_ns(l->hook) };
	int cpu;

	for_each_possible_cpu(cpu)
		e.overruns += READ_ONCE(per_cpu_ptr(vm->stats[l->hook], cpu)->overruns);
	spin_lock(&vm->ends_lock);
	e.ends = vm->ends[l->hook].ends + 1;
	vm->ends[l->hook] = e;
	__set_bit(l->hook, &vm->fresh);
	spin_unlock(&vm->ends_lock);
	wake_up_interruptible(&vm->wait);
	/* a tenant chooses how often */
	pr_warn_ratelimited("hyperturtle: ended the link of program %u to hook %u of the VM of process %d: runs too long, the last %llu us of at most %llu\n",
			    e.prog_id, e.hook, vm->pid, e.ns / NSEC_PER_USEC, e.limit_ns / NSEC_PER_USEC);
}

/* Of one that was linked: nobody runs it any more. Under vm->lock. */
static void ht_linked_end(struct ht_vm *vm, struct ht_linked *l)
{
	l->ops->unlink(vm, l);
	WRITE_ONCE(vm->longest_ns[l->hook], ht_run_longest_ns(l));
	if (READ_ONCE(l->state) == HT_RUN_ENDED)
		ht_vm_tell_end(vm, l);
	ht_linked_free(l);
}

/* Takes off what runs too long: ht_overrun() has seen to it that it does not run again until then. */
static void ht_vm_end_links(struct work_struct *work)
{
	struct ht_vm *vm = container_of(work, struct ht_vm, end_work);
	int i;

	mutex_lock(&vm->lock);
	for (i = 0; i < HT_HOOKS; i++) {
		struct ht_linked *l = rcu_dereference_protected(vm->linked[i], lockdep_is_held(&vm->lock));

		/* replaced or unlinked in between: then that one's end was told there */
		if (!l || READ_ONCE(l->state) != HT_RUN_ENDED)
			continue;
		rcu_assign_pointer(vm->linked[i], NULL);
		synchronize_srcu(&vm->srcu);
		ht_linked_end(vm, l);
	}
	mutex_unlock(&vm->lock);
}

static void ht_vm_free(struct ht_vm *vm)
{
	int i;

	for (i = 0; i < HT_HOOKS; i++)
		free_percpu(vm->stats[i]);
	free_percpu(vm->rest);
	kvfree(vm->armed);
	cleanup_srcu_struct(&vm->srcu);
	ht_kvm(kvm_put_kvm)(vm->kvm);
	kfree(vm);
}

static bool ht_prog_uses(const struct bpf_prog *prog, const struct bpf_map *map)
{
	u32 i;

	for (i = 0; i < prog->aux->used_map_cnt; i++)
		if (prog->aux->used_maps[i] == map)
			return true;
	return false;
}

static long ht_link_arena(struct ht_linked *l, int fd)
{
	struct bpf_map *map = bpf_map_get(fd);
	u64 addr;
	int ret;

	if (IS_ERR(map))
		return PTR_ERR(map);
	ret = -EINVAL;
	if (map->map_type != BPF_MAP_TYPE_ARRAY || !(map->map_flags & BPF_F_MMAPABLE) ||
	    map->max_entries != 1 || !ht_prog_uses(l->prog, map))
		goto put;
	ret = map->ops->map_direct_value_addr(map, &addr, 0);
	if (ret)
		goto put;
	l->arena = map;
	l->words = (u64 *)(unsigned long)addr;
	l->bytes = map->value_size;
	return 0;
put:
	bpf_map_put(map);
	return ret;
}

static long ht_vm_link(struct ht_vm *vm, const struct ht_link *req)
{
	struct ht_linked *l, *old;
	long ret;

	if (req->hook >= HT_HOOKS || !ht_hooks[req->hook])
		return -EOPNOTSUPP;
	if (req->flags & ~HT_LINK_REPLACE)
		return -EINVAL;
	l = kzalloc(sizeof(*l), GFP_KERNEL);
	if (!l)
		return -ENOMEM;
	l->ops = ht_hooks[req->hook];
	l->vm = vm;
	l->hook = req->hook;
	l->prog = bpf_prog_get_type_dev(req->prog_fd, BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, false);
	if (IS_ERR(l->prog)) {
		ret = PTR_ERR(l->prog);
		kfree(l);
		return ret;
	}
	ret = ht_run_alloc(l);
	if (ret)
		goto free;
	/* the verifier knows how far the program reaches into the context, we know how large that is */
	ret = -E2BIG;
	if (l->prog->aux->max_tp_access > l->ops->ctx_bytes)
		goto free;
	if (req->arena_fd >= 0) {
		ret = ht_link_arena(l, req->arena_fd);
		if (ret)
			goto free;
	}
	mutex_lock(&vm->lock);
	old = rcu_dereference_protected(vm->linked[req->hook], lockdep_is_held(&vm->lock));
	ret = -EBUSY;
	/* one that was ended and is still to be taken off is none */
	if (old && READ_ONCE(old->state) != HT_RUN_ENDED && !(req->flags & HT_LINK_REPLACE))
		goto unlock;
	ret = l->ops->link(vm, l, req);
	if (ret)
		goto unlock;
	rcu_assign_pointer(vm->linked[req->hook], l);
	if (old) {
		synchronize_srcu(&vm->srcu);
		ht_linked_end(vm, old);
	}
	mutex_unlock(&vm->lock);
	return 0;
unlock:
	mutex_unlock(&vm->lock);
free:
	ht_linked_free(l);
	return ret;
}

static long ht_vm_unlink(struct ht_vm *vm, u32 hook)
{
	struct ht_linked *l;

	if (hook >= HT_HOOKS)
		return -EINVAL;
	mutex_lock(&vm->lock);
	l = rcu_replace_pointer(vm->linked[hook], NULL, lockdep_is_held(&vm->lock));
	if (l) {
		synchronize_srcu(&vm->srcu);
		ht_linked_end(vm, l);
	}
	mutex_unlock(&vm->lock);
	return l ? 0 : -ENOENT;
}

/*
 * Takes no lock that waits: anyone who links or unlinks has vm->lock for a grace period, and the daemon asks for all its VMs
 * on one thread. SRCU keeps the program that is found; while one is just being taken off, max_ns may be that of the one
 * before it. longest_ns is written under vm->lock, an aligned word at once.
 */
long ht_vm_stats(struct ht_vm *vm, struct ht_stats *st)
{
	struct ht_linked *l;
	u64 longest = 0;
	int cpu, i, idx;

	if (st->hook >= HT_HOOKS)
		return -EINVAL;
	memset(&st->s, 0, sizeof(st->s));
	for_each_possible_cpu(cpu) {
		const struct ht_hook_stats *of = per_cpu_ptr(vm->stats[st->hook], cpu);
		const u64 *from = (const u64 *)of;
		u64 *to = (u64 *)&st->s;

		for (i = 0; i < sizeof(st->s) / sizeof(u64); i++)
			to[i] += READ_ONCE(from[i]);
		longest = max(longest, READ_ONCE(of->counts[HT_NPF_C_FILL_MAX_NS]));
	}
	if (st->hook == HT_HOOK_NPF) {
		st->s.counts[HT_NPF_C_FILL_MAX_NS] = longest;	/* not a sum */
		st->s.counts[HT_NPF_C_FILL_LIMIT_NS] = ht_fill_limit_ns();
	}
	st->pid = vm->pid;
	idx = srcu_read_lock(&vm->srcu);
	l = srcu_dereference(vm->linked[st->hook], &vm->srcu);
	st->linked = l && READ_ONCE(l->state) != HT_RUN_ENDED;
	st->prog_id = l ? l->prog->aux->id : 0;
	st->s.max_ns = l ? ht_run_longest_ns(l) : READ_ONCE(vm->longest_ns[st->hook]);
	st->s.limit_ns = ht_run_limit_ns(st->hook);
	srcu_read_unlock(&vm->srcu, idx);
	return 0;
}

long ht_vm_stats_by_pid(struct ht_stats *st)
{
	struct ht_vm *vm;
	long ret = -ENOENT;
	int bkt;

	mutex_lock(&ht_vms_lock);
	hash_for_each(ht_vms, bkt, vm, node) {
		if (vm->pid == st->pid) {
			ret = ht_vm_stats(vm, st);
			break;
		}
	}
	mutex_unlock(&ht_vms_lock);
	return ret;
}

/* The linked program on a context of the caller's, again and again. */
static long ht_vm_run_linked(struct ht_vm *vm, const struct ht_linked *l, const void *in, struct ht_run *run)
{
	u64 t = ktime_get_ns();
	u32 i;

	if (l->arena && ht_arena_in_use(l->arena))
		return -EBUSY;
	for (i = 0; i < run->repeat; i++) {
		if (READ_ONCE(l->state) == HT_RUN_ENDED)
			return -ENOENT;
		memcpy(run->ctx, in, l->ops->ctx_bytes);
		l->ops->reset(run->ctx);
		ht_run(l, run->ctx);
		if (!(i & 0xff)) {
			cond_resched();
			if (fatal_signal_pending(current))
				return -EINTR;
		}
	}
	run->ns = ktime_get_ns() - t;
	return 0;
}

/*
 * Test runs. Programs only touch their context and maps; but what L1 keeps in an arena rests on programs running in exits of
 * its vCPUs only, one at a time on each: one grace period of L1's ends them, and each vCPU has words of its own. So
 * not for a VM that has vCPUs (it gets none meanwhile: KVM makes them under kvm->lock), nor with an arena that
 * another VM may have. kvm->lock is the first to be taken.
 */
static long ht_vm_run(struct ht_vm *vm, struct ht_run *run)
{
	struct ht_linked *l;
	long ret;
	void *in;
	int idx;

	if (run->hook >= HT_HOOKS || !ht_hooks[run->hook] || !run->repeat || run->repeat > 1000000)
		return -EINVAL;
	in = kmemdup(run->ctx, ht_hooks[run->hook]->ctx_bytes, GFP_KERNEL);
	if (!in)
		return -ENOMEM;
	ret = mutex_lock_killable(&vm->kvm->lock);
	if (ret)
		goto free;
	ret = -EBUSY;
	if (!vm->kvm->created_vcpus) {
		idx = srcu_read_lock(&vm->srcu);
		l = srcu_dereference(vm->linked[run->hook], &vm->srcu);
		ret = l ? ht_vm_run_linked(vm, l, in, run) : -ENOENT;
		srcu_read_unlock(&vm->srcu, idx);
	}
	mutex_unlock(&vm->kvm->lock);
free:
	kfree(in);
	return ret;
}

static long ht_vm_run_user(struct ht_vm *vm, void __user *up)
{
	struct ht_run *run = memdup_user(up, sizeof(*run)); /* too large for the stack */
	long ret;

	if (IS_ERR(run))
		return PTR_ERR(run);
	ret = ht_vm_run(vm, run);
	if (!ret && copy_to_user(up, run, sizeof(*run)))
		ret = -EFAULT;
	kfree(run);
	return ret;
}

static long ht_vm_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct ht_vm *vm = file->private_data;
	void __user *up = (void __user *)arg;
	union {
		struct ht_link link;
		struct ht_stats stats;
		struct ht_vm_call call;
	} u;
	long ret;

	if (cmd == HT_VM_RUN)
		return ht_vm_run_user(vm, up);
	if (_IOC_TYPE(cmd) != HT_IOC || _IOC_SIZE(cmd) > sizeof(u))
		return -ENOTTY;
	if (copy_from_user(&u, up, _IOC_SIZE(cmd)))
		return -EFAULT;
	switch (cmd) {
	case HT_VM_LINK:
		return ht_vm_link(vm, &u.link);
	case HT_VM_UNLINK:
		return ht_vm_unlink(vm, u.link.hook);
	case HT_GET_STATS:
		ret = ht_vm_stats(vm, &u.stats);
		break;
	case HT_VM_CALL:
		ret = ht_vm_call(vm, &u.call);
		break;
	default:
		return -ENOTTY;
	}
	if (!ret && copy_to_user(up, &u, _IOC_SIZE(cmd)))
		ret = -EFAULT;
	return ret;
}

static bool ht_vm_next_end(struct ht_vm *vm, struct ht_link_ended *e)
{
	unsigned long hook;

	spin_lock(&vm->ends_lock);
	hook = find_first_bit(&vm->fresh, HT_HOOKS);
	if (hook < HT_HOOKS) {
		__clear_bit(hook, &vm->fresh);
		*e = vm->ends[hook];
	}
	spin_unlock(&vm->ends_lock);
	return hook < HT_HOOKS;
}

static ssize_t ht_vm_read(struct file *file, char __user *to, size_t bytes, loff_t *pos)
{
	struct ht_vm *vm = file->private_data;
	struct ht_link_ended e;
	size_t done = 0;
	int ret;

	if (bytes < sizeof(e))
		return -EINVAL;
	while (!READ_ONCE(vm->fresh)) {
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		ret = wait_event_interruptible(vm->wait, READ_ONCE(vm->fresh));
		if (ret)
			return ret;
	}
	while (bytes - done >= sizeof(e) && ht_vm_next_end(vm, &e)) {
		if (copy_to_user(to + done, &e, sizeof(e)))
			return -EFAULT;
		done += sizeof(e);
	}
	return done ?: -EAGAIN;	/* another reader has it */
}

static __poll_t ht_vm_poll(struct file *file, struct poll_table_struct *wait)
{
	struct ht_vm *vm = file->private_data;

	poll_wait(file, &vm->wait, wait);
	return READ_ONCE(vm->fresh) ? EPOLLIN | EPOLLRDNORM : 0;
}

static int ht_vm_release(struct inode *inode, struct file *file)
{
	struct ht_vm *vm = file->private_data;
	int i;

	mutex_lock(&ht_vms_lock);
	hash_del_rcu(&vm->node);
	ht_hook_unmark(ht_hook_marks, vm->kvm);
	mutex_unlock(&ht_vms_lock);
	synchronize_rcu();	/* nobody finds it any more */
	mutex_lock(&vm->lock);	/* end_work may be at it */
	for (i = 0; i < HT_HOOKS; i++) {
		/* samplers have the VM without finding it: to them no program is linked */
		struct ht_linked *l = rcu_replace_pointer(vm->linked[i], NULL, lockdep_is_held(&vm->lock));

		synchronize_srcu(&vm->srcu); /* nobody who found it uses it any more */
		if (l)
			ht_linked_end(vm, l);
	}
	mutex_unlock(&vm->lock);
	cancel_work_sync(&vm->end_work); /* no program runs any more that could queue it */
	ht_vm_free(vm);
	return 0;
}

static const struct file_operations ht_vm_fops = {
	.owner = THIS_MODULE,
	.release = ht_vm_release,
	.read = ht_vm_read,
	.poll = ht_vm_poll,
	.unlocked_ioctl = ht_vm_ioctl,
	.llseek = noop_llseek,
};

/* Returns a file descriptor that owns the attachment, or an error: EBADF not a KVM vm, EBUSY attached already. */
int ht_vm_attach(const struct ht_attach_vm *req)
{
	struct ht_vm *vm, *other;
	struct file *kvm_file, *file;
	int fd, i, ret;

	if (req->flags)
		return -EINVAL;
	vm = kzalloc(sizeof(*vm), GFP_KERNEL);
	if (!vm)
		return -ENOMEM;
	mutex_init(&vm->lock);
	raw_spin_lock_init(&vm->overruns_lock);
	INIT_WORK(&vm->end_work, ht_vm_end_links);
	spin_lock_init(&vm->ends_lock);
	init_waitqueue_head(&vm->wait);
	kvm_file = fget(req->vm_fd);
	if (!kvm_file || !ht_kvm(file_is_kvm)(kvm_file)) {
		if (kvm_file)
			fput(kvm_file);
		kfree(vm);
		return -EBADF;
	}
	vm->kvm = kvm_file->private_data;
	ht_kvm(kvm_get_kvm)(vm->kvm);
	fput(kvm_file);
	vm->pid = vm->kvm->userspace_pid;
	ret = init_srcu_struct(&vm->srcu);
	if (ret) {
		ht_kvm(kvm_put_kvm)(vm->kvm);
		kfree(vm);
		return ret;
	}
	ret = -ENOMEM;
	vm->rest = alloc_percpu(struct ht_fill_rest);
	vm->armed = kvcalloc(KVM_MAX_VCPUS, sizeof(*vm->armed), GFP_KERNEL_ACCOUNT);
	if (!vm->rest || !vm->armed)
		goto free;
	for (i = 0; i < HT_HOOKS; i++) {
		vm->stats[i] = alloc_percpu(struct ht_hook_stats);
		if (!vm->stats[i])
			goto free;
	}
	fd = ret = get_unused_fd_flags(O_CLOEXEC);
	if (ret < 0)
		goto free;
	file = anon_inode_getfile("hyperturtle-vm", &ht_vm_fops, vm, O_RDWR);
	if (IS_ERR(file)) {
		ret = PTR_ERR(file);
		goto put_fd;
	}
	mutex_lock(&ht_vms_lock);
	hash_for_each_possible(ht_vms, other, node, (unsigned long)vm->kvm) {
		if (other->kvm == vm->kvm) {
			mutex_unlock(&ht_vms_lock);
			fput(file);	/* an unhashed node is nothing to hash_del_rcu() */
			put_unused_fd(fd);
			return -EBUSY;
		}
	}
	hash_add_rcu(ht_vms, &vm->node, (unsigned long)vm->kvm);
	ht_hook_mark(ht_hook_marks, vm->kvm);
	mutex_unlock(&ht_vms_lock);
	fd_install(fd, file);
	return fd;

put_fd:
	put_unused_fd(fd);
free:
	ht_vm_free(vm);
	return ret;
}
