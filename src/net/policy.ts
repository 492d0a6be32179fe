/**
 * What the maps of a network program hold as long as an L1 wants it, as data: it is kept with the object, so that it is
 * in force again before the program runs on a NIC again.
 */
import { z } from 'zod';
import { applyFirewall, readFirewall } from './firewall.ts';
import { PolicyInput, inputOf, policyOf } from './firewall-rules.ts';
import type { MapAccess } from './maps.ts';
import { RateLimitInput, applyRateLimit, hasRateLimit, limitsOf } from './rate-limit.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

/** Policy of one object: what it is depends on the program. */
export const ObjectPolicy = lazy(() =>
  z.union([z.strictObject({ firewall: PolicyInput() }), z.strictObject({ rateLimit: RateLimitInput() })], {
    error: 'either firewall: {...} or rateLimit: {...} expected',
  }),
);
export type ObjectPolicy = Output<typeof ObjectPolicy>;

/** The form that is kept: two policies that mean the same are the same text. Throws HT_USAGE for one that means nothing. */
export function canonical(policy: ObjectPolicy): ObjectPolicy {
  if ('firewall' in policy) return { firewall: inputOf(policyOf(policy.firewall)) };
  limitsOf(policy.rateLimit); // throws
  return { rateLimit: { out: policy.rateLimit.out ?? {}, in: policy.rateLimit.in ?? {} } };
}

/**
 * Puts it in force at once, unless it is in force already: counters and buckets then stay as they are. True when
 * something was changed. Throws what `applyFirewall` and `applyRateLimit` throw.
 */
export async function applyPolicy(maps: MapAccess, policy: ObjectPolicy): Promise<boolean> {
  if ('firewall' in policy) {
    const now = await readFirewall(maps);
    const wanted = inputOf(policyOf(policy.firewall));
    if (now !== undefined && JSON.stringify(inputOf(policyOf(now))) === JSON.stringify(wanted)) return false;
    await applyFirewall(maps, wanted);
    return true;
  }
  if (await hasRateLimit(maps, policy.rateLimit)) return false;
  await applyRateLimit(maps, policy.rateLimit);
  return true;
}
