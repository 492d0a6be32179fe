/**
 * The verifier logs the addresses of maps and values (`r1 = 0xffff888106758338`). Its words go to a tenant, who must
 * not learn where the host's kernel keeps things.
 */

/** From the lowest address of kernel memory (5-level page tables) to where small negative numbers begin. */
const LOWEST = 0xff00_0000_0000_0000n;
const BEYOND = 0xffff_ffff_ff00_0000n;
const LOW_HALF = 0xffff_ffffn;

/** The text with each number that may be a kernel address replaced by `<address>`; masks stay. */
export function withoutAddresses(text: string): string {
  return text.replace(/\b(0x)?(ff[0-9a-f]{14})\b/gi, (whole, _, digits: string) => {
    const n = BigInt(`0x${digits}`);
    return n >= LOWEST && n < BEYOND && (n & LOW_HALF) !== 0n ? '<address>' : whole;
  });
}
