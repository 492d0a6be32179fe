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
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "host.h"

/* by enum ht_hook; NULL: there is no such hook */
static const struct ht_hook_ops *const ht_hooks[HT_HOOKS] = {
	[HT_HOOK_NPF] = &ht_npf_ops,
	[HT_HOOK_EXIT] = &ht_exit_ops,
	[HT_HOOK_SAMPLE] = &ht_sample_ops,
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
	kfree(l);
}

/* Of one that was linked: nobody runs it any more. */
static void ht_linked_end(struct ht_vm *vm, struct ht_linked *l)
{
	l->ops->unlink(vm, l);
	ht_linked_free(l);
}

static void ht_vm_free(struct ht_vm *vm)
{
	int i;

	for (i = 0; i < HT_HOOKS; i++)
		free_percpu(vm->stats[i]);
	cleanup_srcu_struct(&vm->srcu);
	kvm_put_kvm(vm->kvm);
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
	l->prog = bpf_prog_get_type_dev(req->prog_fd, BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, false);
	if (IS_ERR(l->prog)) {
		ret = PTR_ERR(l->prog);
		kfree(l);
		return ret;
	}
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
	if (old && !(req->flags & HT_LINK_REPLACE))
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

long ht_vm_stats(struct ht_vm *vm, struct ht_stats *st)
{
	struct ht_linked *l;
	int cpu, i;

	if (st->hook >= HT_HOOKS)
		return -EINVAL;
	memset(&st->s, 0, sizeof(st->s));
	for_each_possible_cpu(cpu) {
		const u64 *from = (const u64 *)per_cpu_ptr(vm->stats[st->hook], cpu);
		u64 *to = (u64 *)&st->s;

		for (i = 0; i < sizeof(st->s) / sizeof(u64); i++)
			to[i] += READ_ONCE(from[i]);
	}
	st->pid = vm->pid;
	mutex_lock(&vm->lock);
	l = rcu_dereference_protected(vm->linked[st->hook], lockdep_is_held(&vm->lock));
	st->linked = !!l;
	st->prog_id = l ? l->prog->aux->id : 0;
	mutex_unlock(&vm->lock);
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

/* Test runs: the linked program on a context of the caller's. Programs only touch their context and maps. */
static long ht_vm_run(struct ht_vm *vm, struct ht_run *run)
{
	const struct ht_hook_ops *ops;
	struct ht_linked *l;
	long ret = 0;
	void *in;
	int idx;
	u32 i;
	u64 t;

	if (run->hook >= HT_HOOKS || !ht_hooks[run->hook] || !run->repeat || run->repeat > 1000000)
		return -EINVAL;
	ops = ht_hooks[run->hook];
	in = kmemdup(run->ctx, ops->ctx_bytes, GFP_KERNEL);
	if (!in)
		return -ENOMEM;
	idx = srcu_read_lock(&vm->srcu);
	l = srcu_dereference(vm->linked[run->hook], &vm->srcu);
	if (!l) {
		ret = -ENOENT;
		goto out;
	}
	t = ktime_get_ns();
	for (i = 0; i < run->repeat; i++) {
		memcpy(run->ctx, in, ops->ctx_bytes);
		ops->reset(run->ctx);
		ht_prog_run(l->prog, run->ctx);
		if (!(i & 0xff)) {
			cond_resched();
			if (fatal_signal_pending(current)) {
				ret = -EINTR;
				break;
			}
		}
	}
	run->ns = ktime_get_ns() - t;
out:
	srcu_read_unlock(&vm->srcu, idx);
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
	default:
		return -ENOTTY;
	}
	if (!ret && copy_to_user(up, &u, _IOC_SIZE(cmd)))
		ret = -EFAULT;
	return ret;
}

static int ht_vm_release(struct inode *inode, struct file *file)
{
	struct ht_vm *vm = file->private_data;
	int i;

	mutex_lock(&ht_vms_lock);
	hash_del_rcu(&vm->node);
	mutex_unlock(&ht_vms_lock);
	synchronize_rcu();	/* nobody finds it any more */
	synchronize_srcu(&vm->srcu); /* nobody who found it uses it any more */
	for (i = 0; i < HT_HOOKS; i++) {
		struct ht_linked *l = rcu_dereference_protected(vm->linked[i], true);

		if (l)
			ht_linked_end(vm, l);
	}
	ht_vm_free(vm);
	return 0;
}

static const struct file_operations ht_vm_fops = {
	.owner = THIS_MODULE,
	.release = ht_vm_release,
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
	kvm_file = fget(req->vm_fd);
	if (!kvm_file || !file_is_kvm(kvm_file)) {
		if (kvm_file)
			fput(kvm_file);
		kfree(vm);
		return -EBADF;
	}
	vm->kvm = kvm_file->private_data;
	kvm_get_kvm(vm->kvm);
	fput(kvm_file);
	vm->pid = vm->kvm->userspace_pid;
	ret = init_srcu_struct(&vm->srcu);
	if (ret) {
		kvm_put_kvm(vm->kvm);
		kfree(vm);
		return ret;
	}
	ret = -ENOMEM;
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
	mutex_unlock(&ht_vms_lock);
	fd_install(fd, file);
	return fd;

put_fd:
	put_unused_fd(fd);
free:
	ht_vm_free(vm);
	return ret;
}
