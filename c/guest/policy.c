// SPDX-License-Identifier: GPL-2.0
/*
 * From which pool, so from which NUMA node, an L2 gets its frames: as the kernel would decide for a fault of the thread
 * that runs the vCPU. The mapping's own policy (mbind(), as QEMU's host-nodes= does) goes before that of the thread
 * (set_mempolicy(), numactl), and the thread's cpuset bounds both.
 *
 *   default, local       the node of the CPU
 *   preferred            that node; the CPU's where the cpuset forbids it
 *   bind, preferred-many a node of the mask, the nearest to the CPU, or to the policy's home node
 *   interleave           the nodes of the mask in turn, whatever their weights: a turn for each entry of the L2, between
 *                        which L0 gives whole groups, so that shares can be far from even
 *
 * A pool that is empty, or a node that has none, sends the fault to L1, whose allocator goes by the same policy and by
 * what else it knows (fallback to other nodes, exact interleaving). A thread's policy and its cpuset hold from its next
 * entry of the L2 on. Of a mapping's policy we keep a copy, made when slots are exported and when mbind() comes; when a
 * cpuset moves its nodes, what the copy and the cpuset have in common holds, be that nothing.
 *
 * Read in Linux 6.1 and 6.12, mm/mempolicy.c: get_vma_policy, policy_node, policy_nodemask, alloc_pages_mpol.
 */
#include <linux/cpuset.h>
#include <linux/mempolicy.h>
#include <linux/nodemask.h>
#include <linux/sched.h>
#include <linux/topology.h>
#include "guest.h"

#ifdef CONFIG_NUMA

/* Those pools whose nodes are in the mask, as bits. */
static u64 htg_pools_in(const nodemask_t *nodes)
{
	unsigned int pool;
	u64 pools = 0;

	for (pool = 0; pool < htg_pool_count; pool++)
		if (node_isset(htg_pool_nodes[pool], *nodes))
			pools |= 1ull << pool;
	return pools;
}

/* The pool of `pools` whose node is nearest to `node`; a->pools, which is empty, if there is none. */
static unsigned int htg_nearest(const struct htg_arena *a, u64 pools, int node)
{
	unsigned int pool, best = a->pools;
	int nearest = INT_MAX;

	for (pool = 0; pool < a->pools; pool++) {
		int distance = node_distance(node, htg_pool_nodes[pool]);

		if ((pools >> pool & 1) && distance < nearest) {
			nearest = distance;
			best = pool;
		}
	}
	return best;
}

/* The CPU's node; where that has no memory, the nearest that has. One that has memory and no pool has nothing to give. */
static unsigned int htg_local(const struct htg_arena *a, u64 allowed)
{
	int node = numa_node_id();
	unsigned int pool;

	for (pool = 0; pool < a->pools && htg_pool_nodes[pool] != node; pool++)
		;
	if (pool == a->pools ? node_state(node, N_MEMORY) && node_isset(node, current->mems_allowed) : allowed >> pool & 1)
		return pool;
	return htg_nearest(a, allowed, node);
}

/* The pool after `turn`, round and round. */
static unsigned int htg_next(const struct htg_arena *a, u64 pools, unsigned int turn)
{
	unsigned int i, pool;

	for (i = 1; i <= a->pools; i++) {
		pool = (turn + i) % a->pools;
		if (pools >> pool & 1)
			return pool;
	}
	return a->pools;
}

static struct htg_policy htg_policy_from(const struct mempolicy *pol)
{
	if (!pol)
		return (struct htg_policy){ .mode = MPOL_DEFAULT };
	return (struct htg_policy){
		.mode = READ_ONCE(pol->mode), .pools = htg_pools_in(&pol->nodes), .home = READ_ONCE(pol->home_node),
	};
}

/* Caller holds mmap_lock. */
struct htg_policy htg_policy_of(const struct vm_area_struct *vma)
{
	return htg_policy_from(vma->vm_policy);
}

/*
 * For a page of a mapping with the policy `own`, or NULL, that this thread is about to use; `turn` is the pool before,
 * where pools take turns. Callable with interrupts off: the thread's own policy is changed by nobody else, but for its
 * nodes, with its cpuset; read in the middle of that, they are of one of both.
 */
unsigned int htg_policy_pool(const struct htg_arena *a, const struct htg_policy *own, unsigned int turn)
{
	struct htg_policy task;
	u64 allowed;

	if (a->pools == 1)
		return 0;
	if (!own || own->mode == MPOL_DEFAULT) {
		task = htg_policy_from(current->mempolicy);
		own = &task;
	}
	allowed = htg_pools_in(&current->mems_allowed);
	switch (own->mode) {
	case MPOL_DEFAULT:
	case MPOL_LOCAL:
		return htg_local(a, allowed);
	case MPOL_PREFERRED:
		if (own->pools && !(own->pools & allowed))
			return htg_local(a, allowed);
		return htg_nearest(a, own->pools & allowed, numa_node_id());
	case MPOL_BIND:
	case MPOL_PREFERRED_MANY:
		return htg_nearest(a, own->pools & allowed, own->home == NUMA_NO_NODE ? numa_node_id() : own->home);
	default: /* of interleaving there is more than one kind */
		return htg_next(a, own->pools & allowed, turn);
	}
}

#else

struct htg_policy htg_policy_of(const struct vm_area_struct *vma)
{
	return (struct htg_policy){};
}

unsigned int htg_policy_pool(const struct htg_arena *a, const struct htg_policy *own, unsigned int turn)
{
	return 0;
}

#endif
