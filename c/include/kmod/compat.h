/* SPDX-License-Identifier: GPL-2.0 */
/* Differences between the kernels that both modules build for. features.mk says what their headers have. */
#ifndef HYPERTURTLE_COMPAT_H
#define HYPERTURTLE_COMPAT_H

#include <linux/device.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/percpu_counter.h>
#include <linux/shrinker.h>

/* 6.4 dropped the owner argument of class_create */
#ifdef HT_HAS_CLASS_CREATE_NAME
#define ht_class_create(name) class_create(name)
#else
#define ht_class_create(name) class_create(THIS_MODULE, name)
#endif

/*
 * struct kvm_page_fault is private to KVM (arch/x86/kvm/mmu/mmu_internal.h). Its first members were read
 * in 6.1 (u32 error_code) and in 6.12 and 7.3 (u64); all are const there. What follows:
 * fill.c.
 */
struct ht_kvm_page_fault {
	gpa_t addr;
#ifdef HT_HAS_FAULT_ERROR_U64
	u64 error_code;
#else
	u32 error_code;
#endif
	bool prefetch;
	/* of error_code, as KVM takes it apart */
	bool exec;
	bool write;
	bool present;
	bool rsvd;
	bool user;
};

/* 6.3 replaced the user namespace of inode operations by an idmap */
#ifdef HT_HAS_IDMAP
#define ht_idmap mnt_idmap
#define ht_nop_idmap (&nop_mnt_idmap)
#else
#define ht_idmap user_namespace
#define ht_nop_idmap (&init_user_ns)
#endif

/* 6.6 and 6.7 hid the time stamps of inodes behind accessors */
static inline void ht_inode_init_times(struct inode *inode)
{
#ifdef HT_HAS_INODE_TIMES
	simple_inode_init_ts(inode);
#else
	inode->i_atime = inode->i_mtime = inode->i_ctime = current_time(inode);
#endif
}

static inline void ht_inode_touch(struct inode *inode)
{
#ifdef HT_HAS_INODE_TIMES
	inode_set_mtime_to_ts(inode, inode_set_ctime_current(inode));
#else
	inode->i_mtime = inode->i_ctime = current_time(inode);
#endif
}

#ifdef HT_HAS_FILLATTR_MASK
#define ht_generic_fillattr(idmap, mask, inode, stat) generic_fillattr(idmap, mask, inode, stat)
#else
#define ht_generic_fillattr(idmap, mask, inode, stat) generic_fillattr(idmap, inode, stat)
#endif

/* 6.3 locks a mapping on its own before its flags change. Caller holds mmap_lock for writing. */
static inline void ht_vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
#ifdef HT_HAS_VM_FLAGS_SET
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

/*
 * To the resident pages of an address space. As add_mm_counter(), whose tracepoint is not exported. 6.2 made these counters
 * per CPU.
 */
static inline void ht_mm_counter_add(struct mm_struct *mm, int member, long n)
{
#ifdef HT_HAS_RSS_PER_CPU
	percpu_counter_add(&mm->rss_stat[member], n);
#else
	atomic_long_add(n, &mm->rss_stat.count[member]);
#endif
}

#if IS_ENABLED(CONFIG_MEMCG)
/* What a memory cgroup charges bytes by. 7.x has one a node, all of the same counter: always that of one node, so one. Under RCU. */
#ifdef HT_HAS_OBJCG_PER_NODE
#define ht_memcg_objcg(memcg) rcu_dereference((memcg)->nodeinfo[first_online_node]->objcg)
#else
#define ht_memcg_objcg(memcg) rcu_dereference((memcg)->objcg)
#endif
#endif

/* 6.3 has another name for: some memory cgroup counts memory of the kernel */
static inline bool ht_memcg_kmem(void)
{
#ifdef HT_HAS_MEMCG_KMEM_ONLINE
	return memcg_kmem_online();
#else
	return memcg_kmem_enabled();
#endif
}

/* 6.7 made shrinkers dynamic */
#ifdef HT_HAS_SHRINKER_ALLOC
#define HT_SHRINKER_DYNAMIC 1
#else
#define HT_SHRINKER_DYNAMIC 0
#endif

/* Of work that may run on any CPU. The older name is there beside the newer one, with a warning for each work item. */
#ifdef HT_HAS_DFL_WQ
#define ht_unbound_wq system_dfl_wq
#else
#define ht_unbound_wq system_unbound_wq
#endif

/* 6.14 gave kthread_create_worker to workers that do not run yet */
#ifdef HT_HAS_KTHREAD_RUN_WORKER
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

#ifdef HT_HAS_VCPU_PID_LOCK
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

/* What an MMU's guest tables are walked by; since 7.x apart from what they are shadowed by */
#ifdef HT_HAS_KVM_PAGEWALK
#define ht_mmu_walk(mmu) ((mmu)->w)
#else
#define ht_mmu_walk(mmu) (mmu)
#endif

/* RIP was one of the general registers, and all had one bitmap of those that have been read */
#ifdef HT_HAS_VCPU_RIP
#define HT_REG_RIP VCPU_REG_RIP
#define HT_REG_CR3 VCPU_REG_CR3
#define HT_GENERAL_REGS NR_VCPU_GENERAL_PURPOSE_REGS
#define ht_vcpu_rip(vcpu) ((vcpu)->arch.rip)
#define ht_vcpu_regs_avail(vcpu) ((vcpu)->arch.regs_avail)
#else
#define HT_REG_RIP VCPU_REGS_RIP
#define HT_REG_CR3 VCPU_EXREG_CR3
#define HT_GENERAL_REGS NR_VCPU_REGS
#define ht_vcpu_rip(vcpu) ((vcpu)->arch.regs[VCPU_REGS_RIP])
#define ht_vcpu_regs_avail(vcpu) ((unsigned long *)&(vcpu)->arch.regs_avail)
#endif

/* the same function, once exported */
#ifdef HT_HAS_KVM_GET_MSR
#define ht_kvm_get_msr_fn kvm_get_msr
#else
#define ht_kvm_get_msr_fn __kvm_emulate_msr_read
int __kvm_emulate_msr_read(struct kvm_vcpu *vcpu, u32 index, u64 *data);
#endif

/* 6.18 gave it its third name */
#ifdef HT_HAS_INODE_JUST_DROP
#define ht_inode_drop inode_just_drop
#else
#define ht_inode_drop generic_delete_inode
#endif

/* A name that stays in memory until it is unlinked, although nobody has it open. */
static inline void ht_d_keep(struct dentry *dentry, struct inode *inode)
{
#ifdef HT_HAS_PERSISTENT_DENTRIES
	d_make_persistent(dentry, inode);
#else
	d_instantiate(dentry, inode);
	dget(dentry);
#endif
}

/* takes the names away that are kept */
#ifdef HT_HAS_PERSISTENT_DENTRIES
#define ht_kill_super kill_anon_super
#else
#define ht_kill_super kill_litter_super
#endif

/* Into pages of the pipe, by read_iter; before 6.5 it was a kind of iov_iter that did this. */
#ifdef HT_HAS_COPY_SPLICE_READ
#define ht_splice_read copy_splice_read
#else
#define ht_splice_read generic_file_splice_read
#endif

static inline bool ht_memslot_is_gmem(const struct kvm_memory_slot *slot)
{
#ifdef KVM_MEM_GUEST_MEMFD
	return slot->flags & KVM_MEM_GUEST_MEMFD;
#else
	return false;
#endif
}

#endif
