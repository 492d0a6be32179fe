/** The file in which `bench matrix` keeps what it has found. */
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { readInput } from '../../core/files.ts';
import { firstIssue } from '../../wire/text.ts';
import { matrixSchema } from './run.ts';
import type { MatrixCell } from './run.ts';

/**
 * Cells of earlier runs; none where there is no such file. Throws HT_CONFIG for one with something else, and what readInput throws
 * for one that cannot be read: it would be overwritten.
 */
export function readCells(file: string): MatrixCell[] {
  let text: string;
  try {
    text = readInput(file, "cells of 'hyperturtle bench matrix' expected").toString('utf8');
  } catch (e) {
    if (isHyperturtleError(e, 'HT_NOT_FOUND')) return [];
    throw e;
  }
  const bad = (why: string, cause: unknown): HyperturtleError =>
    new HyperturtleError('HT_CONFIG', `${file}: cells of 'hyperturtle bench matrix' expected: ${why}`, {
      cause,
    });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (e) {
    throw bad(messageOf(e), e);
  }
  const cells = matrixSchema().safeParse(json);
  if (!cells.success) throw bad(firstIssue(cells.error), cells.error);
  return cells.data;
}
