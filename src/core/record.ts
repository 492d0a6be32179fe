/** Records whose names are somebody's choice, as a schema. */
import { z } from 'zod';

/** `z.record()` that keeps an entry named `__proto__`, which zod leaves out in silence. Look up in it by `own()`. */
export function recordOf<K extends z.ZodType<string, string>, V extends z.ZodType>(key: K, value: V) {
  return z
    .custom<Record<string, z.input<V>>>(isRecord, { error: 'a mapping of names expected' })
    .transform((input, context): Record<string, z.output<V>> => {
      const entries = Object.entries(input).map(([name, v]) => {
        const [k, checked] = [key.safeParse(name), value.safeParse(v)];
        for (const issue of [...(k.error?.issues ?? []), ...(checked.error?.issues ?? [])])
          context.issues.push({ ...issue, path: [name, ...issue.path], input: v } as z.core.$ZodRawIssue);
        return [name, checked.data] as const;
      });
      // defines its properties: `__proto__` is one like the others
      return Object.fromEntries(entries) as Record<string, z.output<V>>;
    });
}

const isRecord = (v: unknown): boolean => typeof v === 'object' && v !== null && !Array.isArray(v);
