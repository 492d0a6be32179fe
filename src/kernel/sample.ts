/** Mirror of c/include/hyperturtle/sample.h. */
import { struct, u32 } from './struct.ts';

export const HT_SAMPLE_ARGS = struct('struct ht_sample_args', {
  hz: u32,
  flags: u32,
  depth: u32,
  reserved: u32,
});
