/** C sources of small hyperupcalls for tests of admission and loading. They go through compileBpf. */

export interface SourceParts {
  /** Before the program: maps, functions. */
  before?: string;
  section?: string;
}

/** A program for the npf hook with this body; `ctx` and `zero` are there. */
export function hyperupcall(body: string, parts: SourceParts = {}): string {
  return `
${parts.before ?? ''}
SEC("${parts.section ?? 'raw_tp.w/hyperturtle_npf'}") int npf(struct bpf_raw_tracepoint_args *args)
{
	struct ht_npf_ctx *ctx = (void *)args->args[0];
	__u32 zero = 0;
	asm volatile("" : "+r"(zero) : "r"(bpf_map_lookup_elem));
	${body}
	return 0;
}`;
}
