/* SPDX-License-Identifier: GPL-2.0 */
/* Differences between the kernels that both modules build for. Everything version-dependent is here. */
#ifndef HYPERTURTLE_COMPAT_H
#define HYPERTURTLE_COMPAT_H

#include <linux/device.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/shrinker.h>
#include <linux/version.h>

/* 6.4 dropped the owner argument of class_create */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
#define ht_class_create(name) class_create(name)
#else
#define ht_class_create(name) class_create(THIS_MODULE, name)
#endif

/*
 * struct kvm_page_fault is private to KVM (arch/x86/kvm/mmu/mmu_internal.h). Its first two members were read
 * in 6.1 (addr, u32 error_code) and in 6.12 (addr, u64 error_code); both are const there.
 */
struct ht_kvm_page_fault {
	const gpa_t addr;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	const u64 error_code;
#else
	const u32 error_code;
#endif
};

/* 6.3 replaced the user namespace of inode operations by an idmap */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#define ht_idmap mnt_idmap
#define ht_nop_idmap (&nop_mnt_idmap)
#else
#define ht_idmap user_namespace
#define ht_nop_idmap (&init_user_ns)
#endif

/* 6.6 and 6.7 hid the time stamps of inodes behind accessors */
static inline void ht_inode_init_times(struct inode *inode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	simple_inode_init_ts(inode);
#else
	inode->i_atime = inode->i_mtime = inode->i_ctime = current_time(inode);
#endif
}

static inline void ht_inode_touch(struct inode *inode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	inode_set_mtime_to_ts(inode, inode_set_ctime_current(inode));
#else
	inode->i_mtime = inode->i_ctime = current_time(inode);
#endif
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#define ht_generic_fillattr(idmap, mask, inode, stat) generic_fillattr(idmap, mask, inode, stat)
#else
#define ht_generic_fillattr(idmap, mask, inode, stat) generic_fillattr(idmap, inode, stat)
#endif

/* 6.3 locks a mapping on its own before its flags change. Caller holds mmap_lock for writing. */
static inline void ht_vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

/* 6.7 made shrinkers dynamic */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
#define HT_SHRINKER_DYNAMIC 1
#else
#define HT_SHRINKER_DYNAMIC 0
#endif

/* 6.14 gave kthread_create_worker to workers that do not run yet */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
#define ht_kthread_worker(name) kthread_run_worker(0, name)
#else
#define ht_kthread_worker(name) kthread_create_worker(0, name)
#endif

/* memory of a VM that its host cannot read has no business here */
static inline bool ht_kvm_private_mem(struct kvm *kvm)
{
#ifdef kvm_arch_has_private_mem
	return kvm_arch_has_private_mem(kvm);
#else
	return false;
#endif
}

/* The thread that last ran a vCPU, referenced; NULL before the first. Its pointer is under a lock since 6.14. */
static inline struct pid *ht_vcpu_thread(struct kvm_vcpu *vcpu)
{
	struct pid *thread;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
	read_lock(&vcpu->pid_lock);
	thread = get_pid(vcpu->pid);
	read_unlock(&vcpu->pid_lock);
#else
	rcu_read_lock();
	thread = get_pid(rcu_dereference(vcpu->pid));
	rcu_read_unlock();
#endif
	return thread;
}

static inline bool ht_memslot_is_gmem(const struct kvm_memory_slot *slot)
{
#ifdef KVM_MEM_GUEST_MEMFD
	return slot->flags & KVM_MEM_GUEST_MEMFD;
#else
	return false;
#endif
}

#endif
