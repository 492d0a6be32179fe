/** Short words about what another side sent: safe in a log line and in an answer. */
import { shortLine } from '../core/visible.ts';
import type { z } from 'zod';

/** The first thing wrong, with the path to it, in a bounded number of visible characters. */
export function firstIssue(e: z.ZodError): string {
  const issue = e.issues[0];
  if (issue === undefined) return 'not as documented';
  const at = issue.path.map(String).join('.');
  return printable(at === '' ? issue.message : `${at}: ${issue.message}`);
}

export function printable(text: string): string {
  return shortLine(text, 200);
}
