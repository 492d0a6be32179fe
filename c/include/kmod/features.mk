# SPDX-License-Identifier: GPL-2.0
# What the headers of the kernel that is built for have: distributions take changes back to older versions, so a version says
# little. A dot stands for parentheses, which make would count. $(call ht-has,HEADER,REGULAR EXPRESSION,MACRO)
ht-has = $(shell grep -qsE '$(2)' $(srctree)/$(1) && echo -D$(3))

ht-kvm := arch/x86/include/asm/kvm_host.h
ht-features := \
	$(call ht-has,include/linux/device/class.h,class_create.const char,HT_HAS_CLASS_CREATE_NAME) \
	$(call ht-has,include/linux/fs.h,getattr. *.struct mnt_idmap,HT_HAS_IDMAP) \
	$(call ht-has,include/linux/fs.h,simple_inode_init_ts.,HT_HAS_INODE_TIMES) \
	$(call ht-has,include/linux/fs.h,generic_fillattr.struct mnt_idmap.*u32,HT_HAS_FILLATTR_MASK) \
	$(call ht-has,include/linux/fs.h,inode_just_drop.,HT_HAS_INODE_JUST_DROP) \
	$(call ht-has,include/linux/fs.h,struct dentry *\*..mkdir,HT_HAS_MKDIR_DENTRY) \
	$(call ht-has,include/linux/fs.h,[^_]copy_splice_read.,HT_HAS_COPY_SPLICE_READ) \
	$(call ht-has,include/linux/dcache.h,d_make_persistent.,HT_HAS_PERSISTENT_DENTRIES) \
	$(call ht-has,include/linux/bpf.h,map_mmap_fault..struct bpf_map,HT_HAS_MAP_MMAP_FAULT) \
	$(call ht-has,include/linux/mm.h,vm_flags_set.,HT_HAS_VM_FLAGS_SET) \
	$(call ht-has,include/linux/mm_types.h,struct percpu_counter rss_stat,HT_HAS_RSS_PER_CPU) \
	$(call ht-has,include/linux/memcontrol.h,memcg_kmem_online.,HT_HAS_MEMCG_KMEM_ONLINE) \
	$(call ht-has,include/linux/memcontrol.h,obj_cgroup_is_root.,HT_HAS_OBJCG_PER_NODE) \
	$(call ht-has,include/linux/memcontrol.h,CONFIG_MEMCG_KMEM,HT_HAS_MEMCG_KMEM_OPTION) \
	$(call ht-has,include/linux/shrinker.h,shrinker_alloc.,HT_HAS_SHRINKER_ALLOC) \
	$(call ht-has,include/linux/workqueue.h,system_dfl_wq;,HT_HAS_DFL_WQ) \
	$(call ht-has,include/linux/kthread.h,kthread_run_worker.,HT_HAS_KTHREAD_RUN_WORKER) \
	$(call ht-has,include/linux/kvm_host.h,pid_lock;,HT_HAS_VCPU_PID_LOCK) \
	$(call ht-has,arch/x86/include/asm/hardirq.h,IRQ_COUNT_RESCHEDULE,HT_HAS_IRQ_COUNTS) \
	$(call ht-has,$(ht-kvm),struct kvm_pagewalk \*w;,HT_HAS_KVM_PAGEWALK) \
	$(call ht-has,$(ht-kvm),VCPU_REG_RIP\>,HT_HAS_VCPU_RIP) \
	$(call ht-has,$(ht-kvm),bool tdp_mmu_enabled;,HT_HAS_KVM_TDP_MMU_ENABLED) \
	$(call ht-has,$(ht-kvm),kvm_get_msr.struct kvm_vcpu,HT_HAS_KVM_GET_MSR) \
	$(call ht-has,$(ht-kvm),PFERR_PRIVATE_ACCESS,HT_HAS_FAULT_ERROR_U64)

ccflags-y += $(ht-features)
