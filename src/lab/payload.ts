/** The payload disk. */
import type { BuiltPayload } from './artifacts.ts';
import type { ImageContext } from './images.ts';
export function buildPayload(c: ImageContext): Promise<BuiltPayload> {
  return Promise.reject(new Error(c.cacheRoot));
}
