/** The part of <linux/bpf.h> that we use: constants and the heads of the info structs. */
import { aligned, array, count, struct, text, u32, u64 } from './struct.ts';

export const BPF_MAP_TYPE_HASH = 1;
export const BPF_MAP_TYPE_ARRAY = 2;
export const BPF_MAP_TYPE_PERCPU_HASH = 5;
export const BPF_MAP_TYPE_PERCPU_ARRAY = 6;
export const BPF_MAP_TYPE_LRU_HASH = 9;
export const BPF_MAP_TYPE_PROG_ARRAY = 3;
export const BPF_MAP_TYPE_RINGBUF = 27;
export const BPF_F_MMAPABLE = 1 << 10;
export const BPF_PROG_TYPE_SCHED_CLS = 3;
export const BPF_PROG_TYPE_XDP = 6;
export const BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE = 24;
/** Longest name the kernel keeps, without the NUL. */
export const BPF_NAME_MAX = 15;
/** ELF machine number of eBPF objects. */
export const EM_BPF = 247;

/** Map types whose values are one for each possible CPU. */
export const PER_CPU_MAP_TYPES: ReadonlySet<number> = new Set([5, 6, 10, 21]);

/** By number, as bpftool writes them. */
const MAP_TYPE_NAMES =
  'unspec hash array prog_array perf_event_array percpu_hash percpu_array stack_trace cgroup_array lru_hash lru_percpu_hash lpm_trie array_of_maps hash_of_maps devmap sockmap cpumap xskmap sockhash cgroup_storage reuseport_sockarray percpu_cgroup_storage queue stack sk_storage devmap_hash struct_ops ringbuf inode_storage task_storage bloom_filter user_ringbuf cgrp_storage arena'.split(
    ' ',
  );

/** `percpu_array`, or `type 77`. */
export function mapTypeName(type: number): string {
  return MAP_TYPE_NAMES[type] ?? `type ${type}`;
}

/** Up to `verified_insns` (Linux 5.16): older kernels leave what they do not know zero. */
export const BPF_PROG_INFO = struct('struct bpf_prog_info', {
  type: u32,
  id: u32,
  tag: aligned(1, array(u32, 2)),
  jited_prog_len: u32,
  xlated_prog_len: u32,
  jited_prog_insns: u64,
  xlated_prog_insns: u64,
  load_time: count,
  created_by_uid: u32,
  nr_map_ids: u32,
  map_ids: u64,
  name: text(16),
  ifindex: u32,
  gpl: u32,
  netns_dev: u64,
  netns_ino: u64,
  nr_jited_ksyms: u32,
  nr_jited_func_lens: u32,
  jited_ksyms: u64,
  jited_func_lens: u64,
  btf_id: u32,
  func_info_rec_size: u32,
  func_info: u64,
  nr_func_info: u32,
  nr_line_info: u32,
  line_info: u64,
  jited_line_info: u64,
  nr_jited_line_info: u32,
  line_info_rec_size: u32,
  jited_line_info_rec_size: u32,
  nr_prog_tags: u32,
  prog_tags: u64,
  run_time_ns: count,
  run_cnt: count,
  recursion_misses: count,
  verified_insns: u32,
  attach_btf_obj_id: u32,
});

export const BPF_MAP_INFO = struct('struct bpf_map_info', {
  type: u32,
  id: u32,
  key_size: u32,
  value_size: u32,
  max_entries: u32,
  map_flags: u32,
  name: text(16),
});

/** `struct bpf_map_create_opts` of libbpf 1.x, up to the fields of 1.0; libbpf reads no further than `sz`. */
export const BPF_MAP_CREATE_OPTS = struct('struct bpf_map_create_opts', {
  sz: count,
  btf_fd: u32,
  btf_key_type_id: u32,
  btf_value_type_id: u32,
  btf_vmlinux_value_type_id: u32,
  inner_map_fd: u32,
  map_flags: u32,
  map_extra: u64,
  numa_node: u32,
  map_ifindex: u32,
});
