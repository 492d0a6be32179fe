/** C sources of small hyperupcalls for tests of admission and loading. They go through compileBpf. */

export interface SourceParts {
  /** Before the program: maps, functions. */
  before?: string;
  section?: string;
}

/** A program for the npf hook with this body; `ctx` and `zero` are there. */
export function hyperupcall(body: string, parts: SourceParts = {}): string {
  return `
#pragma clang diagnostic ignored "-Wunused"
${parts.before ?? ''}
SEC("${parts.section ?? 'raw_tp.w/hyperturtle_npf'}") int npf(struct bpf_raw_tracepoint_args *args)
{
	struct ht_npf_ctx *ctx = (void *)args->args[0];
	__u32 zero = 0;
	${body}
	return 0;
}`;
}
